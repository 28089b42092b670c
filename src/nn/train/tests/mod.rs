//! Training against its guarantees, and against PyTorch, TRL and PEFT.

#[cfg(feature = "cuda")]
mod gpu;
mod golden;
mod parity;
mod support;
mod training;
mod tuning;
