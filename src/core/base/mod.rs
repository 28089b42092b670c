//! Utilities without domain concepts: hashes, diagnostics, files, seeds, progress.

pub mod alloc;
pub mod crash_point;
pub mod diagnostic;
pub mod error_chain;
pub mod escape;
pub mod file_system;
pub mod files;
pub mod hash;
pub mod listing;
pub mod modes;
pub mod progress;
pub mod regular_file;
pub mod resource_limits;
pub mod seed;
pub mod shared_str;
mod stop_request;
pub mod system_memory;

pub use diagnostic::{Diagnostic, Source, SourceId, Sources, Span};
pub use error_chain::{Detached, ErrorChain, wrong_input};
pub use hash::Hash;
pub use progress::{Money, Progress, RequestProgress, StageEvent};
pub use seed::Seed;
pub use shared_str::SharedStr;
pub use stop_request::{STOP, StopRequest};
