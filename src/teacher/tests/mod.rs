//! Tests of the client against servers of this process.

mod client;
mod fuzz;
