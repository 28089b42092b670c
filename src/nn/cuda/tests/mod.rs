//! Tests on a GPU, or on the emulated one of `tests/emulated-gpu`: `cargo test -p ablate-nn --features cuda -- --ignored gpu_`.

mod generation;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Keeps other tests from the GPU: its counts and its memory belong to the process.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static GPU: Mutex<()> = Mutex::new(());
    GPU.lock().unwrap_or_else(PoisonError::into_inner)
}
