//! Tests of the driver through its functions.
