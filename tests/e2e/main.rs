//! End-to-end tests: the real binary on real files, each test in its own temporary project folder.

#![allow(clippy::disallowed_methods, reason = "tests change files as users do")]

#[allow(dead_code, reason = "unit tests use the rest")]
#[path = "../../src/teacher/tests/batch_server.rs"]
mod batch_server;
mod fault_server;
mod support;

mod adapters;
mod batches;
mod budgets;
mod caching;
mod chain;
mod commands;
mod compare;
mod compatibility;
mod concurrent_runs;
mod configuration;
mod crash;
mod data_sets;
mod default_experiment;
mod docs_keys;
mod doctor;
mod documents;
mod dropped_rows;
mod endpoint_faults;
mod endpoint_models;
mod endpoints;
mod formats;
mod full_disk;
mod gc;
mod gpu;
mod guide;
mod hostile_programs;
mod messages;
mod models;
mod new;
mod pools;
mod privacy;
mod programs;
mod remote;
mod requests;
mod results;
mod resume;
mod runs;
mod sandbox;
mod schema;
mod serve;
mod signals;
mod status_diff;
mod stop;
mod store_damage;
mod stored_replies;
mod studies;
mod supervisors;
mod time_estimates;
mod tools;
mod wrong_files;
mod wrong_input;
