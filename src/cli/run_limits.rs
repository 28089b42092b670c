//! `--max-time`, `--max-gpu-hours`, `--max-cost`: refuse a run before it starts if the prediction exceeds them.

use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;

use super::args::{ExperimentArgs, Global};
use super::format::{duration, money};
use super::request_estimates::{RequestEstimates, RequestTotal, sum};
use super::resources::ResourceArgs;
use super::session::{Need, Session};
use super::shell::Shell;
use super::time_estimates::{self, EarlierExperiments, unknown_kinds};
use super::value_parsers::{amount, time_span};
use ablate_core::stage::Range;
use ablate_engine::{Selection, TimeEstimate};

#[expect(clippy::struct_field_names, reason = "the names of the options")]
#[derive(Debug, Args)]
pub(super) struct LimitArgs {
    /// Start nothing if the predicted time of the run is longer, for example `90min` or `2h`.
    #[arg(long, value_name = "TIME", value_parser = time_span)]
    max_time: Option<Duration>,
    /// Start nothing if the run is predicted to take more GPU hours.
    #[arg(long, value_name = "HOURS", value_parser = amount)]
    max_gpu_hours: Option<f64>,
    /// Start nothing if the requests to endpoints are predicted to cost more, in the currency of their prices.
    #[arg(long, value_name = "AMOUNT", value_parser = amount)]
    max_cost: Option<f64>,
}

/// The predictions of several experiments, which run one after another.
#[derive(Default)]
struct Predicted {
    seconds: Range,
    gpu_hours: f64,
    cost: RequestTotal,
    unknown: Vec<String>,
    waiting: Vec<String>,
}

impl LimitArgs {
    pub(super) fn any(&self) -> bool {
        self.max_time.is_some() || self.max_gpu_hours.is_some() || self.max_cost.is_some()
    }

    /// Fails if the prediction for the experiments exceeds a limit, or if there is no prediction.
    pub(super) fn check(
        &self,
        shell: Shell,
        global: &Global,
        experiments: &[ExperimentArgs],
        selection: &Selection,
        force: &[String],
        resources: &ResourceArgs,
    ) -> Result<()> {
        let configuration = global.configuration()?;
        let (mut predicted, mut earlier) = (Predicted::default(), EarlierExperiments::default());
        for experiment in experiments {
            let session = Session::open(global, experiment, Need::Instances)?;
            let plan = session.plan_forcing(force)?;
            let selected = session.chosen(selection)?;
            let time = time_estimates::estimate(&session, &plan, &selected, resources, &configuration, &mut earlier)?;
            predicted.unknown.extend(unknown_kinds(&time));
            let TimeEstimate { seconds, gpu_hours, .. } = time;
            predicted.seconds = sum(predicted.seconds, seconds);
            predicted.gpu_hours += gpu_hours.map_or(0.0, |hours| hours.expected);
            let requests = RequestEstimates::new(shell, &session, &plan, &selected.iter().copied().collect::<Vec<_>>());
            predicted.cost.merge(&requests.total);
            predicted.waiting.extend(requests.waiting_stages());
        }
        self.compare(&predicted)
    }

    fn compare(&self, predicted: &Predicted) -> Result<()> {
        let timed = self.max_time.is_some() || self.max_gpu_hours.is_some();
        if let (true, [first, ..]) = (timed, &predicted.unknown[..]) {
            bail!(
                "the time of this run cannot be predicted: {first}\nhelp: run a part of it first, for example with `--until`, or omit \
                 `--max-time` and `--max-gpu-hours`"
            );
        }
        let seconds = predicted.seconds.expected;
        if let Some(limit) = self.max_time.map(|limit| limit.as_secs_f64()).filter(|limit| seconds > *limit) {
            bail!(
                "the run is predicted to take {}, longer than `--max-time` allows ({}): nothing was started",
                time_estimates::duration_range(&predicted.seconds),
                duration(limit)
            );
        }
        if let Some(limit) = self.max_gpu_hours.filter(|limit| predicted.gpu_hours > *limit) {
            bail!(
                "the run is predicted to take {:.2} GPU hours, more than `--max-gpu-hours` allows ({limit}): nothing was started",
                predicted.gpu_hours
            );
        }
        if let Some(limit) = self.max_cost {
            if let [first, ..] = &predicted.waiting[..] {
                bail!(
                    "the cost of this run cannot be predicted: the prompts of `{first}` depend on stages that have not run\nhelp: run \
                     those first with `--until`, or set `budget` at the endpoint"
                );
            }
            if let Some(count) = predicted.cost.requests_without_cost() {
                bail!(
                    "the cost of this run cannot be predicted: {count} requests have no price\nhelp: add `prices` to the endpoint"
                );
            }
            let exceeded = predicted.cost.costs().find(|(_, cost)| cost.expected > limit);
            if let Some((currency, cost)) = exceeded {
                bail!(
                    "the requests are predicted to cost {}, more than `--max-cost` allows ({}): nothing was started",
                    money(cost.expected, currency),
                    money(limit, currency)
                );
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn limits(time: Option<u64>, hours: Option<f64>, cost: Option<f64>) -> LimitArgs {
        LimitArgs { max_time: time.map(Duration::from_secs), max_gpu_hours: hours, max_cost: cost }
    }

    #[test]
    fn limits_refuse_what_exceeds_them_and_what_is_unknown() {
        let seconds = Range { low: 80.0, expected: 100.0, high: 140.0 };
        let known = Predicted { seconds, gpu_hours: 3.0, ..Predicted::default() };
        let unknown = Predicted { unknown: vec!["1 stage of the kind `sft`".to_string()], ..Predicted::default() };
        let waiting = Predicted { waiting: vec!["teach".to_string()], ..Predicted::default() };
        assert!(limits(Some(100), Some(3.0), Some(0.0)).compare(&known).is_ok());
        assert!(limits(None, None, Some(1.0)).compare(&unknown).is_ok());
        let errors = [
            limits(Some(99), None, None).compare(&known),
            limits(None, Some(2.9), None).compare(&known),
            limits(Some(1000), None, None).compare(&unknown),
            limits(None, None, Some(5.0)).compare(&waiting),
        ];
        let errors: Vec<String> = errors.into_iter().map(|result| result.unwrap_err().to_string()).collect();
        expect![[r#"
            the run is predicted to take 1 min 40 s (1 min 20 s to 2 min 20 s), longer than `--max-time` allows (1 min 39 s): nothing was started
            the run is predicted to take 3.00 GPU hours, more than `--max-gpu-hours` allows (2.9): nothing was started
            the time of this run cannot be predicted: 1 stage of the kind `sft`
            help: run a part of it first, for example with `--until`, or omit `--max-time` and `--max-gpu-hours`
            the cost of this run cannot be predicted: the prompts of `teach` depend on stages that have not run
            help: run those first with `--until`, or set `budget` at the endpoint"#]].assert_eq(&errors.join("\n"));
    }
}
