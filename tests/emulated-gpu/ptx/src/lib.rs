//! Executes PTX, the assembly language of NVIDIA's GPUs, on the CPU.
//!
//! [`Module::parse`] reads a text, [`Kernel::compile`] turns the instructions of a kernel into closures, [`launch`] runs
//! them. An instruction that is not supported is an error that names the kernel and the instruction.

#![allow(unsafe_code, reason = "registers and device memory are raw memory")]
#![allow(clippy::inline_always, reason = "these run once per thread and instruction")]
#![allow(clippy::cast_ptr_alignment, reason = "every address is checked for alignment before its use")]

mod async_copy;
mod atomic;
mod block_races;
mod compare;
mod convert;
mod directed_rounding;
mod execute;
mod float;
mod half_float;
mod inline;
mod integer;
mod load_store;
mod machine;
mod matrix;
mod memory;
mod mov;
mod parse;
mod program;
mod rows;
mod shared_races;
mod space;
mod statement;
mod translate;
mod types;
mod warp;

pub use execute::launch;
pub use inline::DeviceFunction;
pub use machine::{Launch, Order, Outcome};
pub use memory::{Buffer, READ, Span, Spans, WRITE};
pub use parse::{Kernel, Module, Param};
pub use program::Program;
