//! The stage kinds, one file each. Knows no engine and no store.

use crate::stage::{Kind, Registry};

/// Every kind that an experiment may name.
pub static KINDS: &Registry = &[] as &[&'static Kind];
