//! `eval`: one response per item of a benchmark, judged. The model is a checkpoint or is served by an endpoint. The
//! score of every item is kept, so that two evaluations can be compared item by item.

use std::collections::BTreeSet;

use anyhow::{Context, Result};

use crate::stages::common::{self, with_threads};
use crate::stages::image_input::{BlankImages, ImageInput};
use crate::stages::loaded_model::LoadedModel;
use crate::stages::remote_model::{RemoteModel, RemoteRollouts, SampledModel};
use crate::stages::sampling::{self, Sampling, Take, sampling_table};
use crate::stages::{metrics, training_common};
use ablate_core::base::wrong_input;
use ablate_core::stage::config::{self, ConfigError, schema_of};
use ablate_core::stage::{
    ArtifactKind, EstimateContext, Input, Kind, Manifest, ModelOrigin, OutputSpec, Pool, Reference, RequestEstimate, Stage,
    StageContext, Summary,
};
use ablate_data::answers::{self, DEFAULT_THRESHOLD, judge};
use ablate_data::contamination::{QuestionRef, TrainingIndex};
use ablate_data::images::ImagePacks;
use ablate_data::prompts::{PromptTemplate, Style};
use ablate_data::records::{Item, Overlap, Rollout, Score};

pub static KIND: Kind = Kind {
    name: "eval",
    version: 6,
    about: "a model's score on every item of a benchmark",
    outputs: &[
        OutputSpec::new("scores.jsonl", ArtifactKind::Scores),
        OutputSpec::new("metrics.json", ArtifactKind::Facts),
    ],
    fan_out: &["model", "benchmark", "prompt"],
    seeded: true,
    pool: Pool::Model,
    parse,
    schema: schema_of::<Table>,
};

sampling_table! {
/// The keys of the kind. Decoding is greedy unless a temperature is given.
struct Table {
    model: SampledModel,
    benchmark: Reference,
    /// What the model receives of an item's image.
    #[serde(default)]
    image: ImageInput,
}}

#[derive(Debug)]
struct Eval {
    model: SampledModel,
    benchmark: Reference,
    image: ImageInput,
    sampling: Sampling,
    datasets: Option<BTreeSet<String>>,
    take: Option<Take>,
}

/// The responses of a model to the items of a benchmark.
struct Responded {
    rollouts: Vec<Rollout>,
    /// Overlap of each item with the training data; `None` if these are unknown.
    overlap: Option<Vec<Option<Overlap>>>,
    /// Facts about the model and its responses.
    summary: Summary,
}

fn parse(table: &serde_json::Value) -> Result<Box<dyn Stage>, Vec<ConfigError>> {
    let table: Table = config::parse(table)?;
    let sampling = table.sampling(Sampling::new(PromptTemplate::direct(), 1, 0.0));
    let sampling = match &table.model {
        SampledModel::Checkpoint(_) => sampling,
        SampledModel::Remote(remote) => remote.sampling(sampling),
    };
    let mut errors = sampling.check(table.take);
    if let SampledModel::Remote(remote) = &table.model {
        errors = remote.check(&sampling, table.image).into_iter().chain(errors).collect();
    }
    common::check_datasets(&mut errors, table.datasets.as_ref());
    if !errors.is_empty() {
        return Err(errors);
    }
    let Table { model, benchmark, image, datasets, take, .. } = table;
    Ok(Box::new(Eval { model, benchmark, image, sampling, datasets, take }))
}

impl Stage for Eval {
    fn identify(&self, manifest: &mut Manifest) {
        let Eval { model, benchmark: _, image, sampling, datasets, take } = self;
        sampling.identify(manifest);
        manifest.value("prompt.style", &sampling.prompt.style);
        manifest.value_unless("image", image, &ImageInput::Given);
        manifest.value_unless("take", take, &None);
        manifest.value_unless("datasets", datasets, &None);
        if let SampledModel::Remote(remote) = model {
            remote.identify(sampling, manifest);
        }
    }

    fn inputs(&self) -> Vec<Input> {
        let benchmark = common::stage_input("benchmark", &self.benchmark, &[ArtifactKind::Items]);
        self.model.input().into_iter().chain([benchmark]).collect()
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
        let items = sampling::select_items(ctx.input("benchmark")?, ctx.seed, self.datasets.as_ref(), self.take)?;
        remote.estimate(&self.sampling, self.image, &items, ctx).map(Some)
    }

    fn run(&self, ctx: &StageContext) -> Result<Summary> {
        let items = sampling::select_items(ctx.input("benchmark")?, ctx.seed, self.datasets.as_ref(), self.take)?;
        common::check_not_empty(&items, "benchmark")?;
        let responded = match &self.model {
            SampledModel::Checkpoint(_) => self.sample_checkpoint(ctx, items)?,
            SampledModel::Remote(remote) => self.sample_remote(remote, ctx, items)?,
        };
        let Responded { rollouts, overlap, mut summary } = responded;
        if self.image != ImageInput::Given && rollouts.iter().all(|rollout| rollout.item.images.is_empty()) {
            let warning = "no item of the benchmark has an image, so `image` has no effect";
            summary = summary.with_warnings([warning.to_string()]);
        }
        let checked = overlap.is_some();
        let overlap = overlap.unwrap_or_else(|| vec![None; rollouts.len()]);
        let scores: Vec<Score> = rollouts
            .into_iter()
            .zip(overlap)
            .map(|(rollout, overlap)| self.score(rollout, overlap))
            .collect::<Result<_>>()?;
        Ok(metrics::write(ctx, &scores, checked)?.extended(summary))
    }
}

impl Eval {
    fn sample_checkpoint(&self, ctx: &StageContext, items: Vec<Item>) -> Result<Responded> {
        let model = LoadedModel::load(ctx, "model")?;
        let prompts = self.sampling.encode_prompts(&model, items, self.image)?;
        let overlap = Eval::overlap(ctx, &prompts.items)?;
        let device = training_common::resources(ctx, self.sampling.precision)?.device.to_string();
        let rollouts = if self.image == ImageInput::Blank {
            let blank = with_threads(ctx.threads, || BlankImages::new(&model.images, &prompts.items))??;
            self.sampling.sample(ctx, &model, &prompts, &blank)?
        } else {
            self.sampling.sample(ctx, &model, &prompts, &*model.images)?
        };
        let summary = Summary::default().with("device", device).with_warnings(prompts.warnings);
        Ok(Responded { rollouts, overlap, summary })
    }

    fn sample_remote(&self, remote: &RemoteModel, ctx: &StageContext, items: Vec<Item>) -> Result<Responded> {
        let total = items.len();
        let RemoteRollouts { rollouts, unanswered, bad, mut summary } =
            remote.sample(&self.sampling, self.image, items, ctx)?;
        if unanswered > 0 {
            let warning = format!("{unanswered} of {total} items have no response and count as wrong: {bad}");
            summary = summary.with("unanswered", unanswered).with_warnings([warning]);
        }
        Ok(Responded { rollouts, overlap: None, summary })
    }

    /// Overlap of each item with the checkpoint's training data; `None` if these are unknown.
    fn overlap(ctx: &StageContext, items: &[Item]) -> Result<Option<Vec<Option<Overlap>>>> {
        let index = TrainingIndex::read(&ctx.input("model")?.path).map_err(wrong_input).context("`model`")?;
        let Some(index) = index else { return Ok(None) };
        let packs = ImagePacks::open(&ctx.images)?;
        let questions: Vec<QuestionRef> = items.iter().map(QuestionRef::of_item).collect();
        with_threads(ctx.threads, || index.overlap(&questions, &|key| packs.encoded(key)))?.map(Some)
    }

    fn score(&self, rollout: Rollout, overlap: Option<Overlap>) -> Result<Score> {
        let item = &rollout.item;
        let sample = rollout.samples.into_iter().next();
        let sample =
            sample.with_context(|| format!("BUG: item `{}` of `{}` has no response", item.id, item.dataset))?;
        let verdict =
            judge(&rollout.item, sample.answer(), sample.finish, self.sampling.prompt.style, DEFAULT_THRESHOLD);
        let has_rationale = self.sampling.prompt.style == Style::Cot;
        let failure = has_rationale.then(|| answers::failure(item, &verdict)).flatten();
        Ok(Score {
            facts: if has_rationale { rollout.item.facts } else { Vec::new() },
            failure,
            id: rollout.item.id,
            dataset: rollout.item.dataset,
            images: rollout.item.images,
            prompt: rollout.prompt,
            gold: rollout.item.answers,
            response: sample.text,
            finish: Some(sample.finish),
            answer: verdict.answer,
            compliant: Some(verdict.compliant),
            unreadable: verdict.unreadable,
            score: verdict.score,
            seen: overlap,
        })
    }
}
