//! Scenarios of use: the real binary on real files, each in a folder of its own.

#![allow(clippy::unwrap_used)]

mod space;

mod caching;
mod commands;
mod inputs;
mod killing;
mod pipeline;
