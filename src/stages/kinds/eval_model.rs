//! The `model` key of `eval`: a checkpoint of another stage, or a model behind an endpoint. Judges nothing.

use std::borrow::Cow;
use std::fmt;

use anyhow::Result;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::stages::endpoint::{Endpoint, Replies};
use crate::stages::overlong::Long;
use crate::stages::sampling::Asking;
use crate::teacher::Reply;
use ablate_core::stage::{ConfigError, Manifest, Reference, StageContext};
use ablate_data::records::{Item, Rollout, Sample};

/// Who is asked.
#[derive(Debug)]
pub(super) enum Model {
    Checkpoint(Reference),
    Remote(Box<Remote>),
}

/// A model behind an endpoint.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Remote {
    /// What it is called in the names of instances.
    pub(super) name: Option<String>,
    api: Api,
    pub(super) url: Option<String>,
    pub(super) model: Option<String>,
    temperature: Option<f64>,
    max_tokens: Option<u32>,
    #[serde(default)]
    system: String,
    key_env: Option<String>,
    concurrency: Option<usize>,
    timeout_seconds: Option<u64>,
    retries: Option<u32>,
}

#[derive(Debug, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Api {
    /// An OpenAI-compatible endpoint.
    Openai,
}

impl Remote {
    /// How this model is asked where the stage says `asking`: what its own table says comes first.
    pub(super) fn asking(&self, asking: Asking) -> Asking {
        let temperature = self.temperature.unwrap_or(asking.temperature);
        let max_tokens = self.max_tokens.map_or(asking.max_tokens, |tokens| tokens as usize);
        Asking { temperature, max_tokens, ..asking }
    }

    /// Everything that is wrong with the table, and with what the stage asks of it.
    pub(super) fn check(&self, asking: &Asking) -> Vec<ConfigError> {
        let mut errors = self.endpoint(asking).check("model");
        for (key, given) in [
            ("top_k", asking.top_k != 0),
            ("top_p", asking.top_p < 1.0),
            ("stop", !asking.stop.is_empty()),
            ("repetition_penalty", asking.repetition_penalty.is_some()),
            ("too_long", asking.too_long != Long::Error),
        ] {
            if given {
                let message = format!("`{key}` is for a checkpoint: an endpoint is asked with a temperature only");
                errors.push(ConfigError::at(key, message));
            }
        }
        errors
    }

    /// What decides the answers beside the prompt.
    pub(super) fn identify(&self, asking: &Asking, manifest: &mut Manifest) {
        let Remote {
            name: _,
            api,
            url: _,
            model: _,
            temperature: _,
            max_tokens: _,
            system,
            key_env: _,
            concurrency: _,
            timeout_seconds: _,
            retries: _,
        } = self;
        manifest.value("model.api", api);
        self.endpoint(asking).identify("model", manifest);
        manifest.value("model.system", system);
    }

    /// The environment variables that asking it takes.
    pub(super) fn variables(&self, asking: &Asking) -> Vec<String> {
        self.endpoint(asking).variables()
    }

    /// The model's answers, in the order of the items, and how many of them answer nothing.
    pub(super) fn ask(&self, asking: &Asking, items: Vec<Item>, ctx: &StageContext) -> Result<(Vec<Rollout>, usize)> {
        let prompts: Vec<String> = items.iter().map(|item| asking.prompt.render(item)).collect();
        // What answers nothing is asked again; a wrong answer is the model's, and so is one that was cut.
        let is_bad = |_: &Item, reply: &Reply| reply.fault.is_some();
        let replies = self.endpoint(asking).ask(&items, &prompts, &self.system, &is_bad, ctx)?;
        let unanswered = replies.iter().flatten().filter(|reply| reply.fault.is_some()).count();
        if unanswered > 0 {
            ctx.progress
                .note(format!("{unanswered} items have no answer: the model gave no text, refused, or was filtered"));
        }
        let rollout = |((item, prompt), replies): ((Item, String), Replies)| {
            let sample = |reply: Reply| Sample {
                text: reply.text.trim().to_string(),
                finish: reply.finish,
                tokens: 0,
                thinking: 0,
            };
            Rollout { item, prompt, samples: replies.into_iter().map(sample).collect() }
        };
        Ok((items.into_iter().zip(prompts).zip(replies).map(rollout).collect(), unanswered))
    }

    fn endpoint(&self, asking: &Asking) -> Endpoint {
        Endpoint {
            url: self.url.clone(),
            model: self.model.clone(),
            temperature: asking.temperature,
            samples: asking.samples,
            max_tokens: u32::try_from(asking.max_tokens).unwrap_or(u32::MAX),
            key_env: self.key_env.clone(),
            concurrency: self.concurrency,
            timeout_seconds: self.timeout_seconds,
            retries: self.retries,
        }
    }
}

impl JsonSchema for Model {
    fn schema_name() -> Cow<'static, str> {
        "Model".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "The checkpoint of another stage, or a table of a model behind an endpoint.",
            "anyOf": [generator.subschema_for::<Reference>(), generator.subschema_for::<Remote>()],
        })
    }
}

impl<'de> Deserialize<'de> for Model {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Model, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Model;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a reference or the table of an endpoint")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Model, E> {
                Reference::try_from(text.to_string()).map(Model::Checkpoint).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Model, A::Error> {
                Deserialize::deserialize(MapAccessDeserializer::new(map)).map(|remote| Model::Remote(Box::new(remote)))
            }
        }
        deserializer.deserialize_any(Either)
    }
}
