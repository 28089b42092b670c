//! `rollout`: several sampled responses per item.

use std::collections::BTreeSet;

use anyhow::Result;

use crate::stages::image_input::ImageInput;
use crate::stages::loaded_model::LoadedModel;
use crate::stages::sampling::{self, Sampling, Take, sampling_table};
use crate::stages::{common, training_common};
use ablate_core::stage::config::{self, ConfigError, schema_of};
use ablate_core::stage::{
    ArtifactKind, Input, Kind, Manifest, ModelOrigin, OutputSpec, Pool, Reference, Stage, StageContext, Summary,
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

sampling_table! {
/// The keys of the kind. The defaults are the paper's where it states them: chain of thought, 32 samples, temperature
/// 1.
struct Table {
    model: Reference,
    items: Reference,
    /// Responses per item.
    samples: Option<usize>,
}}

#[derive(Debug)]
struct RolloutStage {
    model: Reference,
    items: Reference,
    sampling: Sampling,
    datasets: Option<BTreeSet<String>>,
    take: Option<Take>,
}

fn parse(table: &serde_json::Value) -> Result<Box<dyn Stage>, Vec<ConfigError>> {
    let table: Table = config::parse(table)?;
    let sampling = table.sampling(Sampling::new(PromptTemplate::cot(), table.samples.unwrap_or(32), 1.0));
    let mut errors = sampling.check(table.take);
    common::check_datasets(&mut errors, table.datasets.as_ref());
    if !errors.is_empty() {
        return Err(errors);
    }
    let Table { model, items, datasets, take, .. } = table;
    Ok(Box::new(RolloutStage { model, items, sampling, datasets, take }))
}

impl Stage for RolloutStage {
    fn identify(&self, manifest: &mut Manifest) {
        let RolloutStage { model: _, items: _, sampling, datasets, take } = self;
        sampling.identify(manifest);
        manifest.value_unless("take", take, &None);
        manifest.value_unless("datasets", datasets, &None);
    }

    fn inputs(&self) -> Vec<Input> {
        vec![
            common::stage_input("model", &self.model, &[ArtifactKind::Checkpoint]),
            common::stage_input("items", &self.items, &[ArtifactKind::Items]),
        ]
    }

    fn model_origin(&self) -> Option<ModelOrigin> {
        Some(ModelOrigin::Input("model"))
    }

    fn run(&self, ctx: &StageContext) -> Result<Summary> {
        let model = LoadedModel::load(ctx, "model")?;
        let items = sampling::select_items(ctx, "items", self.datasets.as_ref(), self.take)?;
        let prompts = self.sampling.encode_prompts(&model, items, ImageInput::Given)?;
        let rollouts: Vec<Rollout> = self.sampling.sample(ctx, &model, &prompts, &*model.images)?;
        jsonl::write(&ctx.output("rollouts.jsonl"), &rollouts)?;
        let samples = || rollouts.iter().flat_map(|rollout| &rollout.samples);
        let stopped = samples().filter(|sample| sample.finish == FinishReason::Stop).count();
        Ok(Summary::default()
            .with("items", rollouts.len())
            .with("samples", samples().count())
            .with("tokens", samples().map(|sample| u64::from(sample.tokens)).sum::<u64>())
            .with("stopped", stopped as f64 / samples().count().max(1) as f64)
            .with("device", training_common::resources(ctx, self.sampling.precision)?.device.to_string())
            .with_warnings(prompts.warnings))
    }
}
