//! `eval`: one response per item of a benchmark, judged. The model is a checkpoint or is served by an endpoint. The
//! score of every item is kept, so that two evaluations can be compared item by item.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use anyhow::{Context, Result};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::stages::common::{self, with_threads};
use crate::stages::endpoint::Endpoint;
use crate::stages::endpoint_table::endpoint_table;
use crate::stages::image_input::{BlankImages, ImageInput};
use crate::stages::loaded_model::LoadedModel;
use crate::stages::requests::{Question, Response};
use crate::stages::sampling::{self, Sampling, Take, sampling_table};
use crate::stages::too_long::TooLongAction;
use crate::stages::{metrics, training_common};
use ablate_core::base::wrong_input;
use ablate_core::stage::config::{self, ConfigError, schema_of};
use ablate_core::stage::{
    ArtifactKind, Input, Kind, Manifest, ModelOrigin, OutputSpec, Pool, Reference, Stage, StageContext, Summary,
};
use ablate_data::answers::{self, DEFAULT_THRESHOLD, judge};
use ablate_data::contamination::{QuestionRef, TrainingIndex};
use ablate_data::images::ImagePacks;
use ablate_data::prompts::{PromptTemplate, Style};
use ablate_data::records::{Item, Overlap, Rollout, Sample, Score};
use ablate_nn::Precision;
use ablate_store::Fault;

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
    model: EvalModel,
    benchmark: Reference,
    /// What the model receives of an item's image.
    #[serde(default)]
    image: ImageInput,
}}

#[derive(Debug)]
struct Eval {
    model: EvalModel,
    benchmark: Reference,
    image: ImageInput,
    sampling: Sampling,
    datasets: Option<BTreeSet<String>>,
    take: Option<Take>,
}

/// The evaluated model.
#[derive(Debug)]
enum EvalModel {
    Checkpoint(Reference),
    Remote(Box<RemoteModel>),
}

endpoint_table! {
/// A model that an endpoint serves.
struct RemoteModel {
    /// Its label in the names of instances.
    name: Option<String>,
    api: Api,
}}

#[derive(Debug, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Api {
    /// An OpenAI-compatible endpoint.
    Openai,
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
        EvalModel::Checkpoint(_) => sampling,
        EvalModel::Remote(remote) => remote.sampling(sampling),
    };
    let mut errors = sampling.check(table.take);
    if let EvalModel::Remote(remote) = &table.model {
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
        if let EvalModel::Remote(remote) = model {
            remote.identify(sampling, manifest);
        }
    }

    fn inputs(&self) -> Vec<Input> {
        let model = match &self.model {
            EvalModel::Checkpoint(model) => Some(common::stage_input("model", model, &[ArtifactKind::Checkpoint])),
            EvalModel::Remote(_) => None,
        };
        let benchmark = common::stage_input("benchmark", &self.benchmark, &[ArtifactKind::Items]);
        model.into_iter().chain([benchmark]).collect()
    }

    fn pool(&self) -> Option<Pool> {
        matches!(self.model, EvalModel::Remote(_)).then_some(Pool::Teacher)
    }

    fn variables(&self) -> Vec<String> {
        match &self.model {
            EvalModel::Checkpoint(_) => Vec::new(),
            EvalModel::Remote(remote) => remote.endpoint(&self.sampling).variables(),
        }
    }

    fn model_origin(&self) -> Option<ModelOrigin> {
        Some(match self.model {
            EvalModel::Checkpoint(_) => ModelOrigin::Input("model"),
            EvalModel::Remote(_) => ModelOrigin::Elsewhere("a model behind an endpoint"),
        })
    }

    fn run(&self, ctx: &StageContext) -> Result<Summary> {
        let items = sampling::select_items(ctx, "benchmark", self.datasets.as_ref(), self.take)?;
        common::check_not_empty(&items, "benchmark")?;
        let responded = match &self.model {
            EvalModel::Checkpoint(_) => self.sample_checkpoint(ctx, items)?,
            EvalModel::Remote(remote) => remote.sample(&self.sampling, self.image, items, ctx)?,
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

impl RemoteModel {
    /// The stage's sampling keys, overridden by those of the model's own table.
    fn sampling(&self, sampling: Sampling) -> Sampling {
        let temperature = self.temperature.unwrap_or(sampling.temperature);
        let max_tokens = self.max_tokens.map_or(sampling.max_tokens, |tokens| tokens as usize);
        Sampling { temperature, max_tokens, ..sampling }
    }

    /// The mistakes in the table, and the keys that no endpoint supports.
    fn check(&self, sampling: &Sampling, image: ImageInput) -> Vec<ConfigError> {
        let mut errors = self.endpoint(sampling).check("model");
        if image == ImageInput::Blank {
            let message = "`image = \"blank\"` is for a checkpoint only; an endpoint has `image = \"none\"`";
            errors.push(ConfigError::at("image", message));
        }
        for (key, given) in [
            ("top_k", sampling.top_k != 0),
            ("top_p", sampling.top_p < 1.0),
            ("stop", !sampling.stop.is_empty()),
            ("repetition_penalty", sampling.repetition_penalty.is_some()),
            ("precision", sampling.precision != Precision::F32),
            ("too_long", sampling.too_long != TooLongAction::Error),
        ] {
            if given {
                let message = format!("`{key}` is for a checkpoint only; an endpoint has the key `temperature`");
                errors.push(ConfigError::at(key, message));
            }
        }
        errors
    }

    /// Adds what determines the responses apart from the prompt.
    fn identify(&self, sampling: &Sampling, manifest: &mut Manifest) {
        manifest.value("model.api", &self.api);
        self.endpoint(sampling).identify("model", manifest);
        manifest.value("model.system", self.system());
    }

    fn system(&self) -> &str {
        self.system.as_deref().unwrap_or_default()
    }

    fn sample(
        &self,
        sampling: &Sampling,
        image: ImageInput,
        items: Vec<Item>,
        ctx: &StageContext,
    ) -> Result<Responded> {
        let prompts: Vec<String> = items.iter().map(|item| sampling.prompt.render(item)).collect();
        let questions = self.questions(&items, &prompts);
        let replied = self.endpoint(sampling).ask(&questions, image, &|_, _| true, ctx)?;
        let has_fault = |response: &Response| response.fault.is_some();
        let unanswered = replied.responses.iter().flatten().filter(|response| has_fault(response)).count();
        let mut summary = replied.summarize(Summary::default());
        if unanswered > 0 {
            let bad = replied.bad();
            let warning = format!("{unanswered} of {} items have no response and count as wrong: {bad}", items.len());
            summary = summary.with("unanswered", unanswered).with_warnings([warning]);
        }
        let rollout = |((item, prompt), responses): ((Item, String), Vec<Response>)| {
            let sample = |response: Response| {
                // The text of a fault is not the model's, except of a refusal.
                let text =
                    if has_fault(&response) && response.fault != Some(Fault::Refused) { "" } else { &*response.text };
                Sample { text: text.trim().to_string(), finish: response.finish, tokens: response.tokens, thinking: 0 }
            };
            Rollout { item, prompt, samples: responses.into_iter().map(sample).collect() }
        };
        let rollouts = items.into_iter().zip(prompts).zip(replied.responses).map(rollout).collect();
        let name = self.name.clone().or(self.model.clone()).unwrap_or_default();
        Ok(Responded { rollouts, overlap: None, summary: summary.with("model", name) })
    }

    fn questions<'a>(&'a self, items: &'a [Item], prompts: &'a [String]) -> Vec<Question<'a>> {
        items.iter().zip(prompts).map(|(item, prompt)| Question::new(item, self.system(), prompt)).collect()
    }

    fn endpoint(&self, sampling: &Sampling) -> Endpoint {
        Endpoint {
            keys: self.endpoint_keys(),
            temperature: sampling.temperature,
            samples: sampling.samples,
            max_tokens: u32::try_from(sampling.max_tokens).unwrap_or(u32::MAX),
            ..Endpoint::default()
        }
    }
}

impl JsonSchema for EvalModel {
    fn schema_name() -> Cow<'static, str> {
        "EvalModel".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "The checkpoint of another stage, or the table of a model that an endpoint serves.",
            "anyOf": [generator.subschema_for::<Reference>(), generator.subschema_for::<RemoteModel>()],
        })
    }
}

impl<'de> Deserialize<'de> for EvalModel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<EvalModel, D::Error> {
        struct ReferenceOrTable;
        impl<'de> Visitor<'de> for ReferenceOrTable {
            type Value = EvalModel;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a reference or the table of an endpoint")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<EvalModel, E> {
                Reference::try_from(text.to_string()).map(EvalModel::Checkpoint).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<EvalModel, A::Error> {
                let remote = Deserialize::deserialize(MapAccessDeserializer::new(map));
                remote.map(|remote| EvalModel::Remote(Box::new(remote)))
            }
        }
        deserializer.deserialize_any(ReferenceOrTable)
    }
}
