//! Scenarios of use: the real binary on real files, each in a folder of its own.

#![allow(clippy::disallowed_methods, reason = "a scenario may do to files what people do")]

mod space;

mod anchors;
mod caching;
mod cleaning;
mod commands;
mod compatibility;
mod crash;
mod damage;
mod devices;
mod disk;
mod documented;
mod endpoints;
mod history;
mod hostile;
mod inputs;
mod killing;
mod losses;
mod models;
mod pipeline;
mod pools;
mod privacy;
mod programs;
mod remote;
mod sandbox;
mod schema;
mod signals;
mod starting;
mod studies;
mod supervisors;
mod talking;
mod together;
mod wrong;
