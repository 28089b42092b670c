//! `eval`: one response per item of a benchmark, judged. The model is a checkpoint, is served by an endpoint, or is a
//! baseline. The score of every item is kept, so that two evaluations can be compared item by item.

use std::borrow::Cow;
use std::collections::BTreeSet;

use anyhow::{Context, Result};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::stages::baseline::{Baseline, BaselineRollouts};
use crate::stages::common::{self, with_threads};
use crate::stages::image_input::{BlankImages, ImageInput};
use crate::stages::judge_model::{Candidate, JudgeModel, Judged};
use crate::stages::loaded_model::LoadedModel;
use crate::stages::remote_model::{RemoteModel, RemoteRollouts, SampledModel};
use crate::stages::sampling::{self, Sampling, Take, sampling_table};
use crate::stages::{metrics, training_common};
use ablate_core::base::wrong_input;
use ablate_core::stage::config::{self, ConfigError, schema_of};
use ablate_core::stage::{
    ArtifactKind, EstimateContext, Input, Kind, Manifest, ModelOrigin, OutputSpec, Pool, Reference, RequestEstimate,
    Stage, StageContext, Summary, Work,
};
use ablate_data::answers::{self, DEFAULT_THRESHOLD, judge};
use ablate_data::contamination::{QuestionRef, TrainingIndex};
use ablate_data::images::ImagePacks;
use ablate_data::prompts::{PromptTemplate, Style, bare_response};
use ablate_data::records::{FinishReason, Item, Overlap, Rollout, Sample, Score, Verdict};

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
    work: Work::sampling,
    parse,
    schema: schema_of::<Table<EvalModel>>,
};

sampling_table! {
/// The keys of the kind. Decoding is greedy unless a temperature is given.
struct Table<M> {
    model: M,
    benchmark: Reference,
    /// What the model receives of an item's image.
    #[serde(default)]
    image: ImageInput,
    /// A model that judges the answers instead of their rules.
    judge: Option<JudgeModel>,
}}

#[derive(Debug)]
struct Eval {
    model: EvalModel,
    benchmark: Reference,
    image: ImageInput,
    sampling: Sampling,
    datasets: Option<BTreeSet<String>>,
    take: Option<Take>,
    judge: Option<JudgeModel>,
}

/// The evaluated model.
#[derive(Debug)]
enum EvalModel {
    Sampled(SampledModel),
    Baseline(Baseline),
}

/// The responses of a model to the items of a benchmark.
struct Responded {
    rollouts: Vec<Rollout>,
    /// Overlap of each item with the training data; `None` if these are unknown.
    overlap: Option<Vec<Option<Overlap>>>,
    /// Facts about the model and its responses.
    summary: Summary,
}

/// The response to an item, and its verdict.
struct JudgedRollout {
    item: Item,
    prompt: String,
    sample: Sample,
    verdict: Verdict,
}

fn parse(table: &serde_json::Value) -> Result<Box<dyn Stage>, Vec<ConfigError>> {
    let defaults = Sampling::new(PromptTemplate::direct(), 1, 0.0);
    let eval = if Baseline::is_given(table) {
        let table: Table<Baseline> = config::parse(table)?;
        let sampling = table.sampling(defaults.clone());
        let errors = Baseline::check(&sampling, table.image);
        let sampling = Sampling { max_tokens: defaults.max_tokens, ..sampling };
        table.check(&sampling, errors)?.into_eval(sampling, EvalModel::Baseline)
    } else {
        let table: Table<SampledModel> = config::parse(table)?;
        let sampling = table.sampling(defaults);
        let (sampling, errors) = match &table.model {
            SampledModel::Checkpoint(_) => (sampling, Vec::new()),
            SampledModel::Remote(remote) => {
                let sampling = remote.sampling(sampling);
                let errors = remote.check(&sampling, table.image);
                (sampling, errors)
            }
        };
        table.check(&sampling, errors)?.into_eval(sampling, EvalModel::Sampled)
    };
    Ok(Box::new(eval))
}

impl<M> Table<M> {
    /// The table, if it has no mistakes. `errors` are those of its model.
    fn check(self, sampling: &Sampling, mut errors: Vec<ConfigError>) -> Result<Table<M>, Vec<ConfigError>> {
        errors.extend(sampling.check(self.take));
        common::check_datasets(&mut errors, self.datasets.as_ref());
        errors.extend(self.judge.iter().flat_map(|judge| judge.check("judge")));
        if errors.is_empty() { Ok(self) } else { Err(errors) }
    }

    fn into_eval(self, sampling: Sampling, model_of: impl Fn(M) -> EvalModel) -> Eval {
        let Table { model, benchmark, image, datasets, take, judge, .. } = self;
        Eval { model: model_of(model), benchmark, image, sampling, datasets, take, judge }
    }
}

impl Stage for Eval {
    fn identify(&self, manifest: &mut Manifest) {
        let Eval { model, benchmark: _, image, sampling, datasets, take, judge } = self;
        sampling.identify(manifest);
        manifest.value("prompt.style", &sampling.prompt.style);
        manifest.value_unless("image", image, &ImageInput::Given);
        manifest.value_unless("take", take, &None);
        manifest.value_unless("datasets", datasets, &None);
        match model {
            EvalModel::Sampled(SampledModel::Checkpoint(_)) => {}
            EvalModel::Sampled(SampledModel::Remote(remote)) => remote.identify(sampling, manifest),
            EvalModel::Baseline(baseline) => baseline.identify(manifest),
        }
        if let Some(judge) = judge {
            judge.identify("judge", manifest);
        }
    }

    fn inputs(&self) -> Vec<Input> {
        let model = match &self.model {
            EvalModel::Sampled(model) => model.input(),
            EvalModel::Baseline(baseline) => Some(baseline.input()),
        };
        let benchmark = common::stage_input("benchmark", &self.benchmark, &[ArtifactKind::Items]);
        model.into_iter().chain([benchmark]).collect()
    }

    fn pool(&self) -> Option<Pool> {
        match &self.model {
            EvalModel::Sampled(model) => model.pool(),
            EvalModel::Baseline(_) if self.judge.is_some() => Some(Pool::Teacher),
            EvalModel::Baseline(_) => Some(Pool::Light),
        }
    }

    fn variables(&self) -> Vec<String> {
        let of_model = match &self.model {
            EvalModel::Sampled(model) => model.variables(&self.sampling),
            EvalModel::Baseline(_) => Vec::new(),
        };
        let of_judge = self.judge.as_ref().map(JudgeModel::variables).unwrap_or_default();
        of_model.into_iter().chain(of_judge).collect::<BTreeSet<_>>().into_iter().collect()
    }

    fn model_origin(&self) -> Option<ModelOrigin> {
        Some(match &self.model {
            EvalModel::Sampled(model) => model.origin(),
            EvalModel::Baseline(_) => ModelOrigin::Elsewhere("a baseline without a model"),
        })
    }

    fn estimate_requests(&self, ctx: &EstimateContext) -> Result<Option<RequestEstimate>> {
        let items = sampling::select_items(ctx.input("benchmark")?, ctx.seed, self.datasets.as_ref(), self.take)?;
        let of_model = match &self.model {
            EvalModel::Sampled(SampledModel::Remote(remote)) => {
                Some(remote.estimate(&self.sampling, self.image, &items, ctx)?)
            }
            _ => None,
        };
        let Some(judge) = &self.judge else { return Ok(of_model) };
        let rollouts = match &self.model {
            EvalModel::Baseline(baseline) => {
                baseline.respond(&self.sampling, items, &common::read_items(ctx.input("model.items")?)?)?.rollouts
            }
            // The responses do not exist yet: they are estimated with the length of the gold answers.
            EvalModel::Sampled(_) => items.into_iter().map(|item| self.gold_rollout(item)).collect(),
        };
        let mut judged = self.judge_by_rule(rollouts)?;
        let of_judge = judge.estimate("judge", candidates(&mut judged), ctx)?;
        Ok(Some(match of_model {
            Some(of_model) => of_model.plus(&of_judge),
            None => of_judge,
        }))
    }

    fn run(&self, ctx: &StageContext) -> Result<Summary> {
        let items = sampling::select_items(ctx.input("benchmark")?, ctx.seed, self.datasets.as_ref(), self.take)?;
        common::check_not_empty(&items, "benchmark")?;
        let responded = match &self.model {
            EvalModel::Sampled(SampledModel::Checkpoint(_)) => self.sample_checkpoint(ctx, items)?,
            EvalModel::Sampled(SampledModel::Remote(remote)) => self.sample_remote(remote, ctx, items)?,
            EvalModel::Baseline(baseline) => self.answer_by_baseline(baseline, ctx, items)?,
        };
        let Responded { rollouts, overlap, mut summary } = responded;
        if self.image != ImageInput::Given && rollouts.iter().all(|rollout| rollout.item.images.is_empty()) {
            let warning = "no item of the benchmark has an image, so `image` has no effect";
            summary = summary.with_warnings([warning.to_string()]);
        }
        let checked = overlap.is_some();
        let overlap = overlap.unwrap_or_else(|| vec![None; rollouts.len()]);
        let mut judged = self.judge_by_rule(rollouts)?;
        let judge = match &self.judge {
            Some(judge) => {
                let Judged { facts, summary: requests } = judge.judge("judge", candidates(&mut judged), ctx)?;
                // `requests` of the summary are those of the evaluated model.
                let requests = Summary::default()
                    .with("judge_requests", &requests.0["requests"])
                    .with_warnings(requests.warnings().map(str::to_string));
                summary = summary.extended(requests);
                Some(facts)
            }
            None => None,
        };
        let scores: Vec<Score> =
            judged.into_iter().zip(overlap).map(|(judged, overlap)| self.score(judged, overlap)).collect();
        Ok(metrics::write(ctx, &scores, checked, judge)?.extended(summary))
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

    fn answer_by_baseline(&self, baseline: &Baseline, ctx: &StageContext, items: Vec<Item>) -> Result<Responded> {
        let known = common::read_items(ctx.input("model.items")?)?;
        let BaselineRollouts { rollouts, summary } = baseline.respond(&self.sampling, items, &known)?;
        Ok(Responded { rollouts, overlap: None, summary })
    }

    fn gold_rollout(&self, item: Item) -> Rollout {
        let answer = item.answers.first().map(String::as_str).unwrap_or_default();
        let text = bare_response(answer, self.sampling.prompt.style);
        let sample = Sample { text, finish: FinishReason::Stop, tokens: 0, thinking: 0 };
        Rollout { prompt: self.sampling.prompt.render(&item), item, samples: vec![sample] }
    }

    fn judge_by_rule(&self, rollouts: Vec<Rollout>) -> Result<Vec<JudgedRollout>> {
        let judged = |Rollout { item, prompt, samples }| {
            let sample = samples.into_iter().next();
            let sample =
                sample.with_context(|| format!("BUG: item `{}` of `{}` has no response", item.id, item.dataset))?;
            let style = self.sampling.prompt.style;
            let verdict = judge(&item, sample.answer(), sample.finish, style, DEFAULT_THRESHOLD);
            Ok(JudgedRollout { item, prompt, sample, verdict })
        };
        rollouts.into_iter().map(judged).collect()
    }

    fn score(&self, judged: JudgedRollout, overlap: Option<Overlap>) -> Score {
        let JudgedRollout { item, prompt, sample, verdict } = judged;
        let has_rationale = self.sampling.prompt.style == Style::Cot && matches!(self.model, EvalModel::Sampled(_));
        let failure = has_rationale.then(|| answers::failure(&item, &verdict)).flatten();
        Score {
            facts: if has_rationale { item.facts } else { Vec::new() },
            failure,
            id: item.id,
            dataset: item.dataset,
            images: item.images,
            prompt,
            gold: item.answers,
            response: sample.text,
            finish: Some(sample.finish),
            answer: verdict.answer,
            compliant: Some(verdict.compliant),
            unreadable: verdict.unreadable,
            score: verdict.score,
            seen: overlap,
        }
    }
}

fn candidates(judged: &mut [JudgedRollout]) -> Vec<Candidate<'_>> {
    let candidates = judged.iter_mut().map(|JudgedRollout { item, prompt: _, sample, verdict }| Candidate {
        item: &*item,
        response: sample.answer(),
        verdict,
    });
    candidates.collect()
}

impl JsonSchema for EvalModel {
    fn schema_name() -> Cow<'static, str> {
        "EvalModel".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "The checkpoint of another stage, the table of a model that an endpoint serves, or a baseline.",
            "anyOf": [generator.subschema_for::<SampledModel>(), generator.subschema_for::<Baseline>()],
        })
    }
}
