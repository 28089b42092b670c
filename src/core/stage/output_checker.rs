//! Checks the content of an output that a program wrote, before it is committed.

use std::path::Path;

use anyhow::Result;

/// Checks one output of a program. The engine has checked before that the output exists, is a plain file or folder, and
/// that its lines are JSON. Made by [`super::Stage::output_checker`].
pub trait OutputChecker {
    /// Checks the next line of an output with rows. The error names the field.
    fn row(&mut self, _line: &str) -> Result<()> {
        Ok(())
    }

    /// Checks an output that has no rows.
    fn file(&mut self, _path: &Path) -> Result<()> {
        Ok(())
    }

    /// Called after the last row. Returns warnings, such as fields that nothing reads.
    fn finish(&mut self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
}
