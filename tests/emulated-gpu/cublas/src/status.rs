//! The status codes of cuBLAS.

pub(crate) const SUCCESS: u32 = 0;
pub(crate) const NOT_INITIALIZED: u32 = 1;
pub(crate) const INVALID_VALUE: u32 = 7;
pub(crate) const EXECUTION_FAILED: u32 = 13;
pub(crate) const NOT_SUPPORTED: u32 = 15;
