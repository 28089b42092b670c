//! Fuzzing: damaged stores, and invalid lines between engine, supervisor and child.

mod protocol;
mod store;
