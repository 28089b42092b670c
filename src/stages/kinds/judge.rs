//! `judge`: a verdict on every sample of a rollout. The rollouts may also come from a program.

use anyhow::Result;
use serde::Deserialize;

use crate::stages::common::{self, check_range, ratio};
use ablate_core::stage::config::{self, ConfigError, schema_of};
use ablate_core::stage::{
    ArtifactKind, Input, Kind, Manifest, ModelOrigin, OutputSpec, Pool, Reference, Stage, StageContext, Summary,
};
use ablate_data::answers::{self, DEFAULT_THRESHOLD};
use ablate_data::jsonl;
use ablate_data::prompts::Style;
use ablate_data::records::{JudgedItem, Rollout};

pub static KIND: Kind = Kind {
    name: "judge",
    version: 2,
    about: "right, wrong or unreadable for every sample of a rollout",
    outputs: &[OutputSpec::new("judged.jsonl", ArtifactKind::Judged)],
    fan_out: &[],
    seeded: false,
    pool: Pool::Light,
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
    if errors.is_empty() { Ok(Box::new(judge)) } else { Err(errors) }
}

impl Stage for Judge {
    fn identify(&self, manifest: &mut Manifest) {
        let Judge { rollouts: _, style, threshold } = self;
        manifest.value("style", style);
        manifest.value("threshold", threshold);
    }

    fn inputs(&self) -> Vec<Input> {
        vec![common::stage_input("rollouts", &self.rollouts, &[ArtifactKind::Rollouts])]
    }

    fn model_origin(&self) -> Option<ModelOrigin> {
        Some(ModelOrigin::Input("rollouts"))
    }

    fn run(&self, ctx: &StageContext) -> Result<Summary> {
        let rollouts: Vec<Rollout> = jsonl::read(&ctx.input("rollouts")?.path)?;
        common::check_not_empty(&rollouts, "rollouts")?;
        common::check_items(rollouts.iter().map(|rollout| &rollout.item))?;
        let (mut samples, mut compliant, mut readable, mut correct) = (0, 0, 0, 0);
        let mut writer = jsonl::Writer::create(&ctx.output("judged.jsonl"))?;
        for Rollout { item, prompt, samples: texts } in rollouts {
            let verdicts: Vec<_> = texts
                .iter()
                .map(|sample| answers::judge(&item, sample.answer(), sample.finish, self.style, self.threshold))
                .collect();
            samples += verdicts.len();
            compliant += verdicts.iter().filter(|verdict| verdict.compliant).count();
            readable += verdicts.iter().filter(|verdict| !verdict.unreadable).count();
            correct += verdicts.iter().filter(|verdict| verdict.correct).count();
            writer.push(&JudgedItem { item, prompt, verdicts })?;
        }
        writer.finish()?;
        Ok(Summary::default()
            .with("samples", samples)
            .with("accuracy", ratio(correct, samples))
            .with("compliance", ratio(compliant, samples))
            .with("readable", ratio(readable, samples)))
    }
}
