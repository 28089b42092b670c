//! `rollout`: several sampled responses per item.

use std::collections::BTreeSet;

use anyhow::Result;
use serde::Deserialize;

use crate::stages::common;
use crate::stages::loaded_model::Model;
use crate::stages::overlong::Long;
use crate::stages::sampling::{self, Asking, Take};
use ablate_core::stage::config::{self, ConfigError, schema_of};
use ablate_core::stage::{
    ArtifactKind, Input, Kind, Manifest, OutputSpec, Pool, Reference, Stage, StageContext, Summary,
};
use ablate_data::jsonl;
use ablate_data::prompts::PromptTemplate;
use ablate_data::records::{FinishReason, Rollout};

pub static KIND: Kind = Kind {
    name: "rollout",
    version: 4,
    about: "several sampled responses per item",
    outputs: &[OutputSpec::new("rollouts.jsonl", ArtifactKind::Rollouts)],
    fan_out: &[],
    seeded: true,
    pool: Pool::Model,
    parse,
    schema: schema_of::<Table>,
};

/// The keys of the kind. Defaults are the paper's where it has them: chain of thought, 32 samples at temperature 1.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Table {
    model: Reference,
    items: Reference,
    prompt: Option<PromptTemplate>,
    samples: Option<usize>,
    temperature: Option<f64>,
    top_k: Option<usize>,
    top_p: Option<f64>,
    max_tokens: Option<usize>,
    /// Texts that end a response.
    #[serde(default)]
    stop: Vec<String>,
    /// Of tokens that a sequence has already; left out: the checkpoint's own.
    repetition_penalty: Option<f64>,
    datasets: Option<BTreeSet<String>>,
    take: Option<Take>,
    /// What becomes of items whose prompt leaves the model no room for an answer.
    #[serde(default)]
    too_long: Long,
}

#[derive(Debug)]
struct RolloutStage {
    model: Reference,
    items: Reference,
    asking: Asking,
    datasets: Option<BTreeSet<String>>,
    take: Option<Take>,
}

fn parse(table: &serde_json::Value) -> Result<Box<dyn Stage>, Vec<ConfigError>> {
    let Table {
        model,
        items,
        prompt,
        samples,
        temperature,
        top_k,
        top_p,
        max_tokens,
        stop,
        repetition_penalty,
        datasets,
        take,
        too_long,
    } = config::parse(table)?;
    let asking = Asking {
        prompt: prompt.unwrap_or_else(PromptTemplate::cot),
        samples: samples.unwrap_or(32),
        temperature: temperature.unwrap_or(1.0),
        top_k: top_k.unwrap_or(0),
        top_p: top_p.unwrap_or(1.0),
        max_tokens: max_tokens.unwrap_or(256),
        stop,
        repetition_penalty,
        too_long,
    };
    let mut errors = asking.check(take);
    common::check_datasets(&mut errors, datasets.as_ref());
    if errors.is_empty() { Ok(Box::new(RolloutStage { model, items, asking, datasets, take })) } else { Err(errors) }
}

impl Stage for RolloutStage {
    fn identify(&self, manifest: &mut Manifest) {
        let RolloutStage { model: _, items: _, asking, datasets, take } = self;
        asking.identify(manifest);
        manifest.value_unless("take", take, &None);
        manifest.value_unless("datasets", datasets, &None);
    }

    fn inputs(&self) -> Vec<Input> {
        vec![
            common::input("model", &self.model, &[ArtifactKind::Checkpoint]),
            common::input("items", &self.items, &[ArtifactKind::Items]),
        ]
    }

    fn run(&self, ctx: &StageContext) -> Result<Summary> {
        let model = Model::read(ctx, "model")?;
        let items = sampling::take(ctx, "items", self.datasets.as_ref(), self.take)?;
        let asked = self.asking.lay_out(&model, items)?;
        let rollouts: Vec<Rollout> = self.asking.ask(ctx, &model, &asked)?;
        jsonl::write(&ctx.output("rollouts.jsonl"), &rollouts)?;
        let samples = || rollouts.iter().flat_map(|rollout| &rollout.samples);
        let stopped = samples().filter(|sample| sample.finish == FinishReason::Stop).count();
        Ok(Summary::default()
            .with("items", rollouts.len())
            .with("samples", samples().count())
            .with("tokens", samples().map(|sample| u64::from(sample.tokens)).sum::<u64>())
            .with("stopped", stopped as f64 / samples().count().max(1) as f64)
            .with("device", crate::stages::training_common::resources(ctx)?.device.to_string())
            .with_warnings(asked.warnings))
    }
}
