//! Training against its guarantees, and against PyTorch, TRL and PEFT.

mod golden;
#[cfg(feature = "cuda")]
mod gpu;
mod parity;
mod support;
mod training;
mod tuning;
