//! The key `model` of the kinds that sample responses: the checkpoint of another stage, or a model behind an endpoint.

use std::borrow::Cow;
use std::fmt;

use anyhow::Result;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};

use super::common::stage_input;
use super::endpoint::Endpoint;
use super::endpoint_table::endpoint_table;
use super::image_input::ImageInput;
use super::requests::{Question, Replied, Response};
use super::sampling::Sampling;
use super::too_long::TooLongAction;
use ablate_core::stage::{
    ArtifactKind, ConfigError, EstimateContext, Input, Manifest, ModelOrigin, Pool, Reference, RequestEstimate,
    StageContext, Summary,
};
use ablate_data::records::{Item, Rollout, Sample};
use ablate_nn::Precision;
use ablate_store::Fault;

/// The model that responds.
#[derive(Debug)]
pub(super) enum SampledModel {
    Checkpoint(Reference),
    Remote(Box<RemoteModel>),
}

endpoint_table! {
/// A model behind an endpoint.
pub(super) struct RemoteModel {
    /// Its label in the names of instances.
    name: Option<String>,
    api: Api,
}}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Api {
    /// An OpenAI-compatible endpoint.
    Openai,
}

/// The responses of a model behind an endpoint.
pub(super) struct RemoteRollouts {
    pub(super) rollouts: Vec<Rollout>,
    /// Samples without a text of the model.
    pub(super) unanswered: usize,
    /// The kinds of bad replies with their numbers, as text.
    pub(super) bad: String,
    /// Facts about the model and the requests.
    pub(super) summary: Summary,
}

impl SampledModel {
    pub(super) fn input(&self) -> Option<Input> {
        match self {
            SampledModel::Checkpoint(model) => Some(stage_input("model", model, &[ArtifactKind::Checkpoint])),
            SampledModel::Remote(_) => None,
        }
    }

    /// The pool, if it is not that of the kind.
    pub(super) fn pool(&self) -> Option<Pool> {
        matches!(self, SampledModel::Remote(_)).then_some(Pool::Teacher)
    }

    /// The environment variables that the client of an endpoint reads.
    pub(super) fn variables(&self, sampling: &Sampling) -> Vec<String> {
        match self {
            SampledModel::Checkpoint(_) => Vec::new(),
            SampledModel::Remote(remote) => remote.endpoint(sampling).variables(),
        }
    }

    pub(super) fn origin(&self) -> ModelOrigin {
        match self {
            SampledModel::Checkpoint(_) => ModelOrigin::Input("model"),
            SampledModel::Remote(_) => ModelOrigin::Elsewhere("a model behind an endpoint"),
        }
    }
}

impl RemoteModel {
    /// The stage's sampling keys, overridden by those of the model's own table.
    pub(super) fn sampling(&self, sampling: Sampling) -> Sampling {
        let temperature = self.temperature.unwrap_or(sampling.temperature);
        let max_tokens = self.max_tokens.map_or(sampling.max_tokens, |tokens| tokens as usize);
        Sampling { temperature, max_tokens, ..sampling }
    }

    /// The mistakes in the table, and the keys of the stage that no endpoint supports.
    pub(super) fn check(&self, sampling: &Sampling, image: ImageInput) -> Vec<ConfigError> {
        let mut errors = self.endpoint(sampling).check("model");
        if image == ImageInput::Blank {
            let message = "`image = \"blank\"` is for a checkpoint only; an endpoint has `image = \"none\"`";
            errors.push(ConfigError::at("image", message));
        }
        for (key, given) in
            [("top_k", sampling.top_k != 0), ("repetition_penalty", sampling.repetition_penalty.is_some())]
        {
            if given {
                let message = format!(
                    "`{key}` is not a field of OpenAI's API; if the server has such a field, write it in `model.parameters`"
                );
                errors.push(ConfigError::at(key, message));
            }
        }
        for (key, given) in [
            ("precision", sampling.precision != Precision::F32),
            ("too_long", sampling.too_long != TooLongAction::Error),
        ] {
            if given {
                errors.push(ConfigError::at(key, format!("`{key}` is for a checkpoint only")));
            }
        }
        for field in sampling_fields(sampling).keys() {
            if self.parameters.as_ref().is_some_and(|parameters| parameters.contains_key(field)) {
                let message = format!("`{field}` is given twice: here and as a key of the stage; remove one of them");
                errors.push(ConfigError::at(&format!("model.parameters.{field}"), message));
            }
        }
        errors
    }

    /// Adds what determines the responses apart from the prompt.
    pub(super) fn identify(&self, sampling: &Sampling, manifest: &mut Manifest) {
        manifest.value("model.api", &self.api);
        self.endpoint(sampling).identify("model", manifest);
        manifest.value("model.system", self.system());
    }

    /// Samples responses. The rollouts have the order of the items. A sample without a text of the model is empty.
    pub(super) fn sample(
        &self,
        sampling: &Sampling,
        image: ImageInput,
        items: Vec<Item>,
        ctx: &StageContext,
    ) -> Result<RemoteRollouts> {
        let prompts = render(sampling, &items);
        let replied = self.endpoint(sampling).ask(&self.questions(&items, &prompts), image, &|_, _| true, ctx)?;
        let unanswered = replied.responses.iter().flatten().filter(|response| response.fault.is_some()).count();
        let name = self.name.clone().or(self.model.clone()).unwrap_or_default();
        let summary = replied.summarize(Summary::default()).with("model", name);
        let bad = replied.bad();
        let Replied { responses, .. } = replied;
        let rollouts = items.into_iter().zip(prompts).zip(responses);
        let rollouts = rollouts.map(|((item, prompt), responses)| Rollout {
            item,
            prompt,
            samples: responses.iter().map(sample_of).collect(),
        });
        Ok(RemoteRollouts { rollouts: rollouts.collect(), unanswered, bad, summary })
    }

    /// The requests that [`RemoteModel::sample`] would send.
    pub(super) fn estimate(
        &self,
        sampling: &Sampling,
        image: ImageInput,
        items: &[Item],
        ctx: &EstimateContext,
    ) -> Result<RequestEstimate> {
        let prompts = render(sampling, items);
        self.endpoint(sampling).estimate(&self.questions(items, &prompts), image, &|_, _| true, ctx)
    }

    fn system(&self) -> &str {
        self.system.as_deref().unwrap_or_default()
    }

    fn questions<'a>(&'a self, items: &'a [Item], prompts: &'a [String]) -> Vec<Question<'a>> {
        items.iter().zip(prompts).map(|(item, prompt)| Question::new(item, self.system(), prompt)).collect()
    }

    fn endpoint(&self, sampling: &Sampling) -> Endpoint {
        let mut keys = self.endpoint_keys();
        let fields = sampling_fields(sampling);
        if !fields.is_empty() {
            keys.parameters.get_or_insert_default().extend(fields);
        }
        Endpoint {
            keys,
            temperature: sampling.temperature,
            samples: sampling.samples,
            max_tokens: u32::try_from(sampling.max_tokens).unwrap_or(u32::MAX),
            ..Endpoint::default()
        }
    }
}

/// The keys of a stage that are sent only if they are given, as fields of the request.
fn sampling_fields(sampling: &Sampling) -> Map<String, Value> {
    let mut fields = Map::new();
    if sampling.top_p < 1.0 {
        fields.insert("top_p".to_string(), json!(sampling.top_p));
    }
    let mut stop = sampling.stop.clone();
    stop.sort_unstable();
    stop.dedup();
    if !stop.is_empty() {
        fields.insert("stop".to_string(), json!(stop));
    }
    fields
}

fn render(sampling: &Sampling, items: &[Item]) -> Vec<String> {
    items.iter().map(|item| sampling.prompt.render(item)).collect()
}

fn sample_of(response: &Response) -> Sample {
    // The text of a fault is not the model's, except of a refusal.
    let is_model_text = matches!(response.fault, None | Some(Fault::Refused));
    let text = if is_model_text { response.text.trim().to_string() } else { String::new() };
    Sample { text, finish: response.finish, tokens: response.tokens, thinking: 0 }
}

impl JsonSchema for SampledModel {
    fn schema_name() -> Cow<'static, str> {
        "SampledModel".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "The checkpoint of another stage, or the table of a model that an endpoint serves.",
            "anyOf": [generator.subschema_for::<Reference>(), generator.subschema_for::<RemoteModel>()],
        })
    }
}

impl<'de> Deserialize<'de> for SampledModel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<SampledModel, D::Error> {
        struct ReferenceOrTable;
        impl<'de> Visitor<'de> for ReferenceOrTable {
            type Value = SampledModel;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a reference or the table of an endpoint")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<SampledModel, E> {
                Reference::try_from(text.to_string()).map(SampledModel::Checkpoint).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<SampledModel, A::Error> {
                let remote = Deserialize::deserialize(MapAccessDeserializer::new(map));
                remote.map(|remote| SampledModel::Remote(Box::new(remote)))
            }
        }
        deserializer.deserialize_any(ReferenceOrTable)
    }
}
