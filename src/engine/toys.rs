//! Toy kinds for the engine's tests: they write text, count how often they ran, and fail when told to.
