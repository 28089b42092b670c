//! `rollout`: several sampled responses per item, of a checkpoint or of a model behind an endpoint.

use std::collections::BTreeSet;

use anyhow::Result;

use crate::stages::image_input::ImageInput;
use crate::stages::loaded_model::LoadedModel;
use crate::stages::remote_model::{RemoteModel, RemoteRollouts, SampledModel};
use crate::stages::sampling::{self, Sampling, Take, sampling_table};
use crate::stages::{common, training_common};
use ablate_core::stage::config::{self, ConfigError, schema_of};
use ablate_core::stage::{
    ArtifactKind, EstimateContext, Input, Kind, Manifest, ModelOrigin, OutputSpec, Pool, Reference, RequestEstimate,
    Stage, StageContext, Summary, Work,
};
use ablate_data::jsonl;
use ablate_data::prompts::PromptTemplate;
use ablate_data::records::{FinishReason, Item, Rollout};

pub static KIND: Kind = Kind {
    name: "rollout",
    version: 4,
    about: "several sampled responses per item",
    outputs: &[OutputSpec::new("rollouts.jsonl", ArtifactKind::Rollouts)],
    fan_out: &[],
    seeded: true,
    pool: Pool::Model,
    work: Work::sampling,
    parse,
    schema: schema_of::<Table>,
};

sampling_table! {
/// The keys of the kind. The defaults are the paper's where it states them: chain of thought, 32 samples, temperature
/// 1.
struct Table {
    model: SampledModel,
    items: Reference,
    /// Responses per item.
    samples: Option<usize>,
}}

#[derive(Debug)]
struct RolloutStage {
    model: SampledModel,
    items: Reference,
    sampling: Sampling,
    datasets: Option<BTreeSet<String>>,
    take: Option<Take>,
}

fn parse(table: &serde_json::Value) -> Result<Box<dyn Stage>, Vec<ConfigError>> {
    let table: Table = config::parse(table)?;
    let sampling = table.sampling(Sampling::new(PromptTemplate::cot(), table.samples.unwrap_or(32), 1.0));
    let sampling = match &table.model {
        SampledModel::Checkpoint(_) => sampling,
        SampledModel::Remote(remote) => remote.sampling(sampling),
    };
    let mut errors = sampling.check(table.take);
    if let SampledModel::Remote(remote) = &table.model {
        errors = remote.check(&sampling, ImageInput::Given).into_iter().chain(errors).collect();
    }
    common::check_datasets(&mut errors, table.datasets.as_ref());
    if !errors.is_empty() {
        return Err(errors);
    }
    let Table { model, items, datasets, take, .. } = table;
    Ok(Box::new(RolloutStage { model, items, sampling, datasets, take }))
}

/// The samples of a model, and facts about the model.
struct Sampled {
    rollouts: Vec<Rollout>,
    summary: Summary,
}

impl Stage for RolloutStage {
    fn identify(&self, manifest: &mut Manifest) {
        let RolloutStage { model, items: _, sampling, datasets, take } = self;
        sampling.identify(manifest);
        manifest.value_unless("take", take, &None);
        manifest.value_unless("datasets", datasets, &None);
        if let SampledModel::Remote(remote) = model {
            remote.identify(sampling, manifest);
        }
    }

    fn inputs(&self) -> Vec<Input> {
        let items = common::stage_input("items", &self.items, &[ArtifactKind::Items]);
        self.model.input().into_iter().chain([items]).collect()
    }

    fn pool(&self) -> Option<Pool> {
        self.model.pool()
    }

    fn variables(&self) -> Vec<String> {
        self.model.variables(&self.sampling)
    }

    fn model_origin(&self) -> Option<ModelOrigin> {
        Some(self.model.origin())
    }

    fn estimate_requests(&self, ctx: &EstimateContext) -> Result<Option<RequestEstimate>> {
        let SampledModel::Remote(remote) = &self.model else { return Ok(None) };
        let items = sampling::select_items(ctx.input("items")?, ctx.seed, self.datasets.as_ref(), self.take)?;
        remote.estimate(&self.sampling, ImageInput::Given, &items, ctx).map(Some)
    }

    fn run(&self, ctx: &StageContext) -> Result<Summary> {
        let items = sampling::select_items(ctx.input("items")?, ctx.seed, self.datasets.as_ref(), self.take)?;
        let Sampled { rollouts, summary } = match &self.model {
            SampledModel::Checkpoint(_) => self.sample_checkpoint(ctx, items)?,
            SampledModel::Remote(remote) => self.sample_remote(remote, ctx, items)?,
        };
        jsonl::write(&ctx.output("rollouts.jsonl"), &rollouts)?;
        let samples = || rollouts.iter().flat_map(|rollout| &rollout.samples);
        let stopped = samples().filter(|sample| sample.finish == FinishReason::Stop).count();
        Ok(Summary::default()
            .with("items", rollouts.len())
            .with("samples", samples().count())
            .with("tokens", samples().map(|sample| u64::from(sample.tokens)).sum::<u64>())
            .with("stopped", stopped as f64 / samples().count().max(1) as f64)
            .extended(summary))
    }
}

impl RolloutStage {
    fn sample_checkpoint(&self, ctx: &StageContext, items: Vec<Item>) -> Result<Sampled> {
        let model = LoadedModel::load(ctx, "model")?;
        let prompts = self.sampling.encode_prompts(&model, items, ImageInput::Given)?;
        let rollouts = self.sampling.sample(ctx, &model, &prompts, &*model.images)?;
        let device = training_common::resources(ctx, self.sampling.precision)?.device.to_string();
        Ok(Sampled { rollouts, summary: Summary::default().with("device", device).with_warnings(prompts.warnings) })
    }

    fn sample_remote(&self, remote: &RemoteModel, ctx: &StageContext, items: Vec<Item>) -> Result<Sampled> {
        common::check_not_empty(&items, "items")?;
        let total = items.len() * self.sampling.samples;
        let RemoteRollouts { rollouts, unanswered, bad, mut summary } =
            remote.sample(&self.sampling, ImageInput::Given, items, ctx)?;
        if unanswered > 0 {
            let warning = format!("{unanswered} of {total} samples have no response and are empty: {bad}");
            summary = summary.with("unanswered", unanswered).with_warnings([warning]);
        }
        Ok(Sampled { rollouts, summary })
    }
}
