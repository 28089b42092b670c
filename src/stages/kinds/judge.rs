//! `judge`: a verdict on every sample of a rollout, by the rule of the item's answer type or by a model behind an endpoint.
//! The rollouts may also come from a program.

use anyhow::Result;
use serde::Deserialize;

use crate::stages::common::{self, check_range, ratio};
use crate::stages::judge_model::{Candidate, JudgeModel, Judged};
use ablate_core::stage::config::{self, ConfigError, schema_of};
use ablate_core::stage::{
    ArtifactKind, EstimateContext, Input, InputPath, Kind, Manifest, ModelOrigin, OutputSpec, Pool, Reference,
    RequestEstimate, Stage, StageContext, Summary, Work,
};
use ablate_data::answers::{self, DEFAULT_THRESHOLD};
use ablate_data::jsonl;
use ablate_data::prompts::Style;
use ablate_data::records::{JudgedItem, Rollout, Sample, Verdict};

pub static KIND: Kind = Kind {
    name: "judge",
    version: 2,
    about: "right, wrong or unreadable for every sample of a rollout",
    outputs: &[OutputSpec::new("judged.jsonl", ArtifactKind::Judged)],
    fan_out: &[],
    seeded: false,
    pool: Pool::Light,
    work: Work::of_rows,
    parse,
    schema: schema_of::<Judge>,
};

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Judge {
    rollouts: Reference,
    /// The form of response that the rollouts' prompt requests.
    #[serde(default = "cot")]
    style: Style,
    /// A sample is right if its score is at least this.
    #[serde(default = "correct_from")]
    threshold: f64,
    /// A model that judges the answers instead of their rules.
    model: Option<JudgeModel>,
}

fn cot() -> Style {
    Style::Cot
}

fn correct_from() -> f64 {
    DEFAULT_THRESHOLD
}

fn parse(table: &serde_json::Value) -> Result<Box<dyn Stage>, Vec<ConfigError>> {
    let judge: Judge = config::parse(table)?;
    let mut errors = Vec::new();
    check_range(&mut errors, "threshold", judge.threshold, 0.0, 1.0);
    if judge.threshold == 0.0 {
        errors.push(ConfigError::at("threshold", "the threshold must be above 0: with 0 every sample is right"));
    }
    errors.extend(judge.model.iter().flat_map(|model| model.check("model")));
    if errors.is_empty() { Ok(Box::new(judge)) } else { Err(errors) }
}

impl Stage for Judge {
    fn identify(&self, manifest: &mut Manifest) {
        let Judge { rollouts: _, style, threshold, model } = self;
        manifest.value("style", style);
        manifest.value("threshold", threshold);
        if let Some(model) = model {
            model.identify("model", manifest);
        }
    }

    fn inputs(&self) -> Vec<Input> {
        vec![common::stage_input("rollouts", &self.rollouts, &[ArtifactKind::Rollouts])]
    }

    fn pool(&self) -> Option<Pool> {
        self.model.is_some().then_some(Pool::Teacher)
    }

    fn variables(&self) -> Vec<String> {
        self.model.as_ref().map(JudgeModel::variables).unwrap_or_default()
    }

    fn model_origin(&self) -> Option<ModelOrigin> {
        Some(ModelOrigin::Input("rollouts"))
    }

    fn estimate_requests(&self, ctx: &EstimateContext) -> Result<Option<RequestEstimate>> {
        let Some(model) = &self.model else { return Ok(None) };
        let mut judged = self.judge_by_rule(ctx.input("rollouts")?)?;
        model.estimate("model", candidates(&mut judged), ctx).map(Some)
    }

    fn run(&self, ctx: &StageContext) -> Result<Summary> {
        let mut judged = self.judge_by_rule(ctx.input("rollouts")?)?;
        let by_model = match &self.model {
            Some(model) => Some(model.judge("model", candidates(&mut judged), ctx)?),
            None => None,
        };
        let judged: Vec<JudgedItem> = judged.into_iter().map(|(_, judged)| judged).collect();
        jsonl::write(&ctx.output("judged.jsonl"), &judged)?;
        let verdicts = || judged.iter().flat_map(|judged| &judged.verdicts);
        let samples = verdicts().count();
        let share = |holds: fn(&Verdict) -> bool| ratio(verdicts().filter(|verdict| holds(verdict)).count(), samples);
        let summary = Summary::default()
            .with("samples", samples)
            .with("accuracy", share(|verdict| verdict.correct))
            .with("compliance", share(|verdict| verdict.compliant))
            .with("readable", share(|verdict| !verdict.unreadable));
        Ok(match by_model {
            Some(Judged { facts, summary: requests }) => summary.with("judge", facts).extended(requests),
            None => summary,
        })
    }
}

impl Judge {
    /// The verdicts of the answer types' rules, and the samples.
    fn judge_by_rule(&self, input: &InputPath) -> Result<Vec<(Vec<Sample>, JudgedItem)>> {
        let rollouts: Vec<Rollout> = jsonl::read(&input.path)?;
        common::check_not_empty(&rollouts, "rollouts")?;
        common::check_items(rollouts.iter().map(|rollout| &rollout.item))?;
        let judge = |Rollout { item, prompt, samples }| {
            let verdict =
                |sample: &Sample| answers::judge(&item, sample.answer(), sample.finish, self.style, self.threshold);
            let verdicts = samples.iter().map(verdict).collect();
            (samples, JudgedItem { item, prompt, verdicts })
        };
        Ok(rollouts.into_iter().map(judge).collect())
    }
}

/// All responses with their verdicts.
fn candidates(judged: &mut [(Vec<Sample>, JudgedItem)]) -> Vec<Candidate<'_>> {
    let mut candidates = Vec::new();
    for (samples, JudgedItem { item, verdicts, .. }) in judged {
        let item = &*item;
        let responses = samples.iter().map(Sample::answer).zip(verdicts);
        candidates.extend(responses.map(|(response, verdict)| Candidate { item, response, verdict }));
    }
    candidates
}
