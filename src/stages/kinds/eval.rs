//! `eval`: one response per item of a benchmark, judged. Every item's score is kept, so that any two evaluations can
//! be compared item by item.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::eval_model::Model;
use crate::stages::common::{self, with_threads};
use crate::stages::metrics;
use crate::stages::overlong::Long;
use crate::stages::sampling::{self, Asking, Take};
use crate::stages::training_common;
use ablate_core::base::wrong_input;
use ablate_core::stage::config::{self, ConfigError, schema_of};
use ablate_core::stage::{
    ArtifactKind, Input, Kind, Manifest, OutputSpec, Pool, Reference, Stage, StageContext, Summary,
};
use ablate_data::answers::{DEFAULT_THRESHOLD, judge};
use ablate_data::contamination::{QuestionRef, TrainingIndex};
use ablate_data::images::ImagePacks;
use ablate_data::prompts::PromptTemplate;
use ablate_data::records::{Item, Overlap, Rollout, Score};

pub static KIND: Kind = Kind {
    name: "eval",
    version: 5,
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

/// The keys of the kind. Decoding is greedy unless a temperature is given.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Table {
    model: Model,
    benchmark: Reference,
    prompt: Option<PromptTemplate>,
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
struct Eval {
    model: Model,
    benchmark: Reference,
    asking: Asking,
    datasets: Option<BTreeSet<String>>,
    take: Option<Take>,
}

fn parse(table: &serde_json::Value) -> Result<Box<dyn Stage>, Vec<ConfigError>> {
    let Table {
        model,
        benchmark,
        prompt,
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
        prompt: prompt.unwrap_or_else(PromptTemplate::direct),
        samples: 1,
        temperature: temperature.unwrap_or(0.0),
        top_k: top_k.unwrap_or(0),
        top_p: top_p.unwrap_or(1.0),
        max_tokens: max_tokens.unwrap_or(256),
        stop,
        repetition_penalty,
        too_long,
    };
    let asking = match &model {
        Model::Checkpoint(_) => asking,
        Model::Remote(remote) => remote.asking(asking),
    };
    let mut errors = asking.check(take);
    if let Model::Remote(remote) = &model {
        errors = remote.check(&asking).into_iter().chain(errors).collect();
    }
    common::check_datasets(&mut errors, datasets.as_ref());
    if errors.is_empty() { Ok(Box::new(Eval { model, benchmark, asking, datasets, take })) } else { Err(errors) }
}

impl Stage for Eval {
    fn identify(&self, manifest: &mut Manifest) {
        let Eval { model, benchmark: _, asking, datasets, take } = self;
        asking.identify(manifest);
        manifest.value("prompt.style", &asking.prompt.style);
        manifest.value_unless("take", take, &None);
        manifest.value_unless("datasets", datasets, &None);
        if let Model::Remote(remote) = model {
            remote.identify(asking, manifest);
        }
    }

    fn inputs(&self) -> Vec<Input> {
        let model = match &self.model {
            Model::Checkpoint(model) => Some(common::input("model", model, &[ArtifactKind::Checkpoint])),
            Model::Remote(_) => None,
        };
        model.into_iter().chain([common::input("benchmark", &self.benchmark, &[ArtifactKind::Items])]).collect()
    }

    fn pool(&self) -> Option<Pool> {
        matches!(self.model, Model::Remote(_)).then_some(Pool::Teacher)
    }

    fn variables(&self) -> Vec<String> {
        match &self.model {
            Model::Checkpoint(_) => Vec::new(),
            Model::Remote(remote) => remote.variables(&self.asking),
        }
    }

    fn run(&self, ctx: &StageContext) -> Result<Summary> {
        let items = sampling::take(ctx, "benchmark", self.datasets.as_ref(), self.take)?;
        common::not_empty(&items, "benchmark")?;
        let (rollouts, overlap, asked, unanswered, warnings) = match &self.model {
            Model::Checkpoint(_) => {
                let model = crate::stages::loaded_model::Model::read(ctx, "model")?;
                let asked = self.asking.lay_out(&model, items)?;
                let overlap = Eval::overlap(ctx, &asked.items)?;
                let device = training_common::resources(ctx)?.device.to_string();
                (self.asking.ask(ctx, &model, &asked)?, overlap, ("device", device), 0, asked.warnings)
            }
            Model::Remote(remote) => {
                let name = remote.name.clone().or(remote.model.clone()).unwrap_or_default();
                let (rollouts, unanswered) = remote.ask(&self.asking, items, ctx)?;
                let told = || format!("{unanswered} of {} items have no answer and count as wrong", rollouts.len());
                let warnings = (unanswered > 0).then(told).into_iter().collect();
                (rollouts, None, ("model", name), unanswered, warnings)
            }
        };
        let known = overlap.is_some();
        let overlap = overlap.unwrap_or_else(|| vec![None; rollouts.len()]);
        let scores: Vec<Score> = rollouts
            .into_iter()
            .zip(overlap)
            .map(|(rollout, seen)| self.score(rollout, seen))
            .collect::<Result<_>>()?;
        let summary = metrics::write(ctx, &scores, known)?.with(asked.0, asked.1).with_warnings(warnings);
        Ok(if unanswered == 0 { summary } else { summary.with("unanswered", unanswered) })
    }
}

impl Eval {
    /// What of each item the checkpoint was trained on; none where that is not known.
    fn overlap(ctx: &StageContext, items: &[Item]) -> Result<Option<Vec<Option<Overlap>>>> {
        let seen = TrainingIndex::read(&ctx.input("model")?.path).map_err(wrong_input).context("`model`")?;
        let Some(seen) = seen else { return Ok(None) };
        let packs = ImagePacks::open(&ctx.images)?;
        let asked: Vec<QuestionRef> = items.iter().map(QuestionRef::from).collect();
        with_threads(ctx.threads, || seen.overlap(&asked, &|key| packs.encoded(key)))?.map(Some)
    }

    fn score(&self, rollout: Rollout, seen: Option<Overlap>) -> Result<Score> {
        let item = &rollout.item;
        let sample = rollout.samples.into_iter().next();
        let sample =
            sample.with_context(|| format!("BUG: item `{}` of `{}` has no response", item.id, item.dataset))?;
        let verdict = judge(&rollout.item, sample.answer(), sample.finish, self.asking.prompt.style, DEFAULT_THRESHOLD);
        Ok(Score {
            id: rollout.item.id,
            dataset: rollout.item.dataset,
            image: rollout.item.image,
            prompt: rollout.prompt,
            gold: rollout.item.answers,
            response: sample.text,
            finish: sample.finish,
            answer: verdict.answer,
            compliant: verdict.compliant,
            unreadable: verdict.unreadable,
            score: verdict.score,
            seen,
        })
    }
}
