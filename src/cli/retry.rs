//! `retry`: requests bad replies of endpoints again, then runs what depends on them.

use anyhow::Result;
use clap::Args;
use clap::builder::PossibleValuesParser;

use super::args::{ExperimentArgs, Global};
use super::run::{Choice, ExecutionArgs, run_experiments};
use super::shell::Shell;
use ablate_core::stage::BAD_REPLIES;
use ablate_engine::Selection;

#[derive(Debug, Args)]
pub(super) struct RetryArgs {
    #[command(flatten)]
    experiment: ExperimentArgs,
    /// Stages or instances that send requests to an endpoint: `teach`, `judge@model=dpo`, `judge*`.
    #[arg(value_name = "TARGET", required = true)]
    targets: Vec<String>,
    /// Request the replies of these kinds again, separated by commas. Without a value: all kinds.
    #[arg(long, value_name = "KINDS", required = true, num_args = 0..=1, value_delimiter = ',')]
    #[arg(value_parser = PossibleValuesParser::new(BAD_REPLIES))]
    bad: Vec<String>,
    /// Of the stages that depend on the targets, run only those that this stage or instance needs. Repeatable.
    #[arg(long, value_name = "TARGET")]
    until: Vec<String>,
    #[command(flatten)]
    execution: ExecutionArgs,
}

pub(super) fn retry(shell: Shell, global: &Global, arguments: &RetryArgs) -> Result<u8> {
    let RetryArgs { experiment, targets, bad, until, execution } = arguments;
    let all = || BAD_REPLIES.iter().map(ToString::to_string).collect();
    let choice = Choice {
        selection: Selection { until: until.clone(), downstream_of: targets.clone(), ..Selection::default() },
        force: targets.clone(),
        retry: if bad.is_empty() { all() } else { bad.iter().cloned().collect() },
    };
    run_experiments(shell, global, std::slice::from_ref(experiment), &choice, execution)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ablate_store::Fault;

    #[test]
    fn every_fault_of_a_reply_can_be_named() {
        use Fault::{Empty, Filtered, Malformed, Refused, Rejected, TooLong};
        for fault in [Empty, Refused, Filtered, Malformed, TooLong, Rejected] {
            assert!(BAD_REPLIES.contains(&fault.name()), "{fault:?}");
        }
    }
}
