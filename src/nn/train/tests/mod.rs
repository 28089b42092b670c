//! Training against its guarantees, and against PyTorch, TRL and PEFT.

mod golden;
mod parity;
mod support;
mod training;
mod tuning;
