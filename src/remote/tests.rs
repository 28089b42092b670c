//! Tests of remotes.
