//! What every layer may lean on: hashes, diagnostics, files, seeds, progress. Knows no word of the domain.

pub mod alloc;
pub mod causes;
pub mod confined;
pub mod diagnostic;
pub mod escape;
pub mod files;
pub mod hash;
pub mod modes;
pub mod plain;
pub mod progress;
pub mod seed;
pub mod text;

pub use causes::{Causes, wrong_input};
pub use diagnostic::{Diagnostic, Origin, Source, SourceId, Sources};
pub use hash::Hash;
pub use progress::{Event, Progress};
pub use seed::Seed;
pub use text::Text;
