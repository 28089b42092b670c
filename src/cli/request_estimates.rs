//! The requests to endpoints that a run would send, as `plan` prints them.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::{Value, json};

use super::format::{counted, grouped, money_range};
use super::session::Session;
use super::shell::Shell;
use ablate_core::stage::{Pool, Range, RequestEstimate};
use ablate_engine::{Plan, PlanState};
use ablate_experiment::InstanceId;

/// The estimates of the selected instances of a plan.
#[derive(Default)]
pub(super) struct RequestEstimates {
    /// The instances with an estimate.
    pub(super) instances: BTreeMap<InstanceId, RequestEstimate>,
    pub(super) total: RequestTotal,
    /// Stages in the order of the plan, each with the total of its instances.
    stages: Vec<(String, RequestTotal)>,
    /// Stages that send requests and wait for other stages, with the names of these.
    waiting: Vec<(String, BTreeSet<String>)>,
}

/// The sum of several estimates. Equal requests of two instances are counted twice.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct RequestTotal {
    #[serde(skip)]
    instances: usize,
    requests: u64,
    stored: u64,
    /// Tokens of the requests, except those of `without_tokens`.
    tokens: Range,
    /// Cost of the requests by currency, except that of `without_cost`.
    cost: BTreeMap<String, Range>,
    /// Requests whose tokens are not known.
    without_tokens: u64,
    /// Requests whose cost is not known.
    without_cost: u64,
    #[serde(skip)]
    basis: Vec<String>,
}

impl RequestTotal {
    fn add(&mut self, estimate: &RequestEstimate) {
        let RequestEstimate { requests, stored, tokens, cost, currency, basis } = estimate;
        let mut one = RequestTotal { instances: 1, requests: *requests, stored: *stored, ..RequestTotal::default() };
        match tokens {
            Some(tokens) => one.tokens = *tokens,
            None => one.without_tokens = *requests,
        }
        match (cost, currency) {
            (Some(cost), Some(currency)) => drop(one.cost.insert(currency.clone(), *cost)),
            _ => one.without_cost = *requests,
        }
        if *requests > 0 && !basis.is_empty() {
            one.basis.push(basis.clone());
        }
        self.merge(&one);
    }

    pub(super) fn merge(&mut self, other: &RequestTotal) {
        let RequestTotal { instances, requests, stored, tokens, cost, without_tokens, without_cost, basis } = other;
        self.instances += instances;
        self.requests += requests;
        self.stored += stored;
        self.tokens = sum(self.tokens, *tokens);
        for (currency, amount) in cost {
            let sum_of_currency = self.cost.entry(currency.clone()).or_default();
            *sum_of_currency = sum(*sum_of_currency, *amount);
        }
        self.without_tokens += without_tokens;
        self.without_cost += without_cost;
        let new: Vec<String> = basis.iter().filter(|text| !self.basis.contains(text)).cloned().collect();
        self.basis.extend(new);
    }

    /// The number of requests whose cost is not known; `None` if there are none.
    pub(super) fn requests_without_cost(&self) -> Option<u64> {
        (self.without_cost > 0).then_some(self.without_cost)
    }

    /// The cost of the requests by currency.
    pub(super) fn costs(&self) -> impl Iterator<Item = (&str, &Range)> {
        self.cost.iter().map(|(currency, cost)| (currency.as_str(), cost))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.instances == 0
    }

    /// Such as `180 of 200 replies are not in the store; about 54,000 tokens (40,000 to 71,000), about $1.10 (0.80 to 1.50)`.
    pub(super) fn render(&self) -> String {
        let all = self.requests + self.stored;
        if self.requests == 0 {
            return match all {
                0 => "no requests".to_string(),
                1 => "the reply is in the store".to_string(),
                _ => format!("all {} replies are in the store", grouped(all)),
            };
        }
        let at_most = if self.instances > 1 { "at most " } else { "" };
        let verb = if self.requests == 1 { "is" } else { "are" };
        let replies = counted(all, "reply", "replies");
        let mut text = format!("{at_most}{} of {replies} {verb} not in the store", grouped(self.requests));
        let mut expected = Vec::new();
        if self.without_tokens < self.requests {
            let tokens = |number: f64| grouped(number.round() as u64);
            let Range { low, expected: middle, high } = self.tokens;
            let range = if low < high { format!(" ({} to {})", tokens(low), tokens(high)) } else { String::new() };
            expected.push(format!("about {} tokens{range}", tokens(middle)));
        }
        expected.extend(self.cost.iter().map(|(currency, cost)| format!("about {}", money_range(cost, currency))));
        for (count, what) in [(self.without_tokens, "tokens"), (self.without_cost, "cost")] {
            if count > 0 && count < self.requests {
                expected.push(format!("{what} of {} not known", counted(count, "request", "requests")));
            }
        }
        if !expected.is_empty() {
            text.push_str(&format!("; {}", expected.join(", ")));
        }
        text
    }

    /// [`RequestTotal::render`] and what the estimates are computed from.
    fn render_with_basis(&self) -> String {
        [&[self.render()], self.basis.as_slice()].concat().join("; ")
    }
}

pub(super) fn sum(a: Range, b: Range) -> Range {
    Range { low: a.low + b.low, expected: a.expected + b.expected, high: a.high + b.high }
}

impl RequestEstimates {
    /// The stages that send requests and wait for other stages.
    pub(super) fn waiting_stages(&self) -> impl Iterator<Item = String> {
        self.waiting.iter().map(|(stage, _)| stage.clone())
    }

    /// Estimates the requests of the selected instances. An estimate that fails is a warning.
    pub(super) fn new(shell: Shell, session: &Session, plan: &Plan, selected: &[InstanceId]) -> RequestEstimates {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let mut estimates = RequestEstimates::default();
        for id in selected {
            let instance = session.expansion.get(*id);
            match &plan.get(*id).state {
                PlanState::Waiting(above) if instance.pool == Pool::Teacher => {
                    let above = above.iter().map(|id| session.expansion.get(*id).stage.clone());
                    estimates.add_waiting(&instance.stage, above);
                }
                PlanState::Fresh | PlanState::Waiting(_) => {}
                PlanState::Dirty(_) => {
                    let (expansion, store) = (&session.expansion, &session.store);
                    match ablate_engine::estimate_requests(expansion, store, plan, *id, threads) {
                        Ok(Some(estimate)) => estimates.add(*id, &instance.stage, estimate),
                        Ok(None) => {}
                        Err(error) => shell.warning(&format!(
                            "the requests of `{}` cannot be estimated: {}",
                            instance.name,
                            super::render_error(&error)
                        )),
                    }
                }
            }
        }
        estimates
    }

    fn add(&mut self, id: InstanceId, stage: &str, estimate: RequestEstimate) {
        self.total.add(&estimate);
        let place = self.stages.iter().position(|(name, _)| name == stage).unwrap_or_else(|| {
            self.stages.push((stage.to_string(), RequestTotal::default()));
            self.stages.len() - 1
        });
        self.stages[place].1.add(&estimate);
        self.instances.insert(id, estimate);
    }

    fn add_waiting(&mut self, stage: &str, above: impl Iterator<Item = String>) {
        let place = self.waiting.iter().position(|(name, _)| name == stage).unwrap_or_else(|| {
            self.waiting.push((stage.to_string(), BTreeSet::new()));
            self.waiting.len() - 1
        });
        self.waiting[place].1.extend(above);
    }

    /// One line per stage, and a total; empty if no stage sends requests.
    pub(super) fn render(&self) -> String {
        let mut text = String::new();
        for (stage, total) in &self.stages {
            let instances =
                if total.instances > 1 { format!(" ({} instances)", total.instances) } else { String::new() };
            text.push_str(&format!("  {stage}{instances}: {}\n", total.render_with_basis()));
        }
        for (stage, above) in &self.waiting {
            let above: Vec<&str> = above.iter().map(String::as_str).collect();
            let above = above.join(", ");
            text.push_str(&format!("  {stage}: the number depends on stages that have to run first: {above}\n"));
        }
        if self.stages.len() > 1 {
            let known = if self.waiting.is_empty() { "total" } else { "total of the known ones" };
            text.push_str(&format!("  {known}: {}\n", self.total.render()));
        }
        if text.is_empty() { text } else { format!("requests to endpoints:\n{text}") }
    }

    /// The total, and the stages whose requests are not known yet.
    pub(super) fn json(&self) -> Value {
        let waiting: Vec<&str> = self.waiting.iter().map(|(stage, _)| stage.as_str()).collect();
        json!({ "total": self.total, "waiting": waiting })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn range(low: f64, expected: f64, high: f64) -> Range {
        Range { low, expected, high }
    }

    fn estimate(requests: u64, stored: u64) -> RequestEstimate {
        RequestEstimate { requests, stored, ..RequestEstimate::default() }
    }

    #[test]
    fn stages_and_their_total_are_listed() {
        let mut estimates = RequestEstimates::default();
        let teach = RequestEstimate {
            tokens: Some(range(40_000.4, 54_000.0, 71_000.0)),
            cost: Some(range(0.8, 1.1, 1.5)),
            currency: Some("USD".to_string()),
            basis: "replies of 20 stored ones".to_string(),
            ..estimate(180, 20)
        };
        estimates.add(InstanceId(0), "teach", teach.clone());
        expect![[r#"
            requests to endpoints:
              teach: 180 of 200 replies are not in the store; about 54,000 tokens (40,000 to 71,000), about $1.10 (0.80 to 1.50); replies of 20 stored ones
        "#]]
        .assert_eq(&estimates.render());
        for id in 1..=2 {
            let free = RequestEstimate { cost: None, currency: None, ..teach.clone() };
            estimates.add(
                InstanceId(id),
                "judge",
                RequestEstimate { tokens: Some(range(500.0, 500.0, 500.0)), ..free },
            );
        }
        let euros = RequestEstimate { currency: Some("EUR".to_string()), tokens: None, ..teach };
        estimates.add(InstanceId(3), "eval", RequestEstimate { basis: String::new(), requests: 1, stored: 0, ..euros });
        estimates.add(InstanceId(4), "old", estimate(0, 1200));
        estimates.add_waiting("score", ["sft", "dpo", "sft"].map(str::to_string).into_iter());
        expect![[r#"
            requests to endpoints:
              teach: 180 of 200 replies are not in the store; about 54,000 tokens (40,000 to 71,000), about $1.10 (0.80 to 1.50); replies of 20 stored ones
              judge (2 instances): at most 360 of 400 replies are not in the store; about 1,000 tokens; replies of 20 stored ones
              eval: 1 of 1 reply is not in the store; about 1.10 EUR (0.80 to 1.50)
              old: all 1,200 replies are in the store
              score: the number depends on stages that have to run first: dpo, sft
              total of the known ones: at most 541 of 1,801 replies are not in the store; about 55,000 tokens (41,000 to 72,000), about 1.10 EUR (0.80 to 1.50), about $1.10 (0.80 to 1.50), tokens of 1 request not known, cost of 360 requests not known
        "#]]
        .assert_eq(&estimates.render());
        let json = estimates.json();
        assert_eq!((&json["total"]["requests"], &json["waiting"]), (&541.into(), &json!(["score"])));
        assert_eq!(json["total"]["cost"]["EUR"]["high"], 1.5);
    }

    #[test]
    fn an_experiment_without_requests_has_no_text() {
        assert_eq!(RequestEstimates::default().render(), "");
    }
}
