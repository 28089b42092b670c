//! Inputs of a program that do not lie in the store as the program reads them: models that build on others. The kind of the
//! stage writes them into the sandbox, because the engine does not know what a model is, in a process of its own, because that
//! needs the memory of a model and may fail.

use anyhow::Result;

use super::input_paths::input_paths;
use super::launcher::{ExecutionContext, ExecutionResult, Work};
use super::sandbox::Sandbox;
use super::task::Task;
use ablate_core::base::files;

impl Task<'_> {
    /// Executes the work. A program starts when its inputs are complete.
    pub(super) fn execute(&self, work: &Work, context: &ExecutionContext) -> Result<ExecutionResult> {
        if let Work::Program(sandbox) = work {
            match self.write_program_inputs(sandbox, context)? {
                None | Some(ExecutionResult::Done(_)) => {}
                Some(result) => return Ok(result),
            }
        }
        Ok(self.launcher.execute(work, context))
    }

    /// Lets the kind write those inputs of a program that build on other checkpoints, in a process of its own. `None` if there
    /// are none.
    fn write_program_inputs(&self, sandbox: &Sandbox, context: &ExecutionContext) -> Result<Option<ExecutionResult>> {
        let mut inputs = input_paths(self.instance, &self.identity, &self.artifacts, self.store)?;
        inputs.retain(|role, _| self.artifacts.get(role).is_some_and(|artifact| !artifact.bases.is_empty()));
        if inputs.is_empty() {
            return Ok(None);
        }
        // Outside of the sandbox, where the program would see it.
        let folder = self.store.sandbox_path(self.identity.fingerprint);
        files::create_dir(&folder)?;
        let job = self.job(inputs, sandbox.out.clone(), folder.clone())?;
        let context = ExecutionContext { job: &folder.join("job.json"), ..*context };
        let result = self.launcher.execute(&Work::BuiltIn(Box::new(job)), &context);
        files::remove_dir(&folder)?;
        Ok(Some(result))
    }
}
