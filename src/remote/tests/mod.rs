//! Tests of remotes in memory, on a server that fails on purpose.

mod bases;
mod fetch;
mod gc;
mod push;
mod support;
