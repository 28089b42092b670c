//! Tests of the client and of batches against servers of this process.

mod batch;
mod batch_server;
mod client;
mod fuzz;
