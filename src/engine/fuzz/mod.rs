//! Fuzzing of the engine: damaged stores, and words on the wire that nobody meant.

mod damage;
mod wire;
