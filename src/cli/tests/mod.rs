//! Fuzz tests of experiment files with the built-in kinds.

mod fuzz;
