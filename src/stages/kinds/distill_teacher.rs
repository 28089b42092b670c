//! The `teacher` table of `distill`: who is asked, and how. Judges nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::stages::endpoint::{Endpoint, Replies};
use crate::teacher::{Reply, oracle};
use ablate_core::base::Seed;
use ablate_core::stage::{ConfigError, Manifest};
use ablate_data::records::{FinishReason, Item};

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Teacher {
    pub(super) api: Api,
    /// Share of the oracle's responses that are made wrong.
    pub(super) wrong: Option<f64>,
    /// Share of the items that may be without a rationale for the oracle.
    pub(super) max_lost: Option<f64>,
    url: Option<String>,
    model: Option<String>,
    temperature: Option<f64>,
    samples: Option<usize>,
    max_tokens: Option<u32>,
    pub(super) system: Option<String>,
    pub(super) instruction: Option<String>,
    key_env: Option<String>,
    concurrency: Option<usize>,
    timeout_seconds: Option<u64>,
    retries: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Api {
    /// The item's own rationale.
    Oracle,
    /// An OpenAI-compatible endpoint.
    Openai,
}

const TEMPERATURE: f64 = 0.0;
const SAMPLES: usize = 1;
const MAX_TOKENS: u32 = 1024;

impl Teacher {
    /// Everything that is wrong with the table.
    pub(super) fn check(&self) -> Vec<ConfigError> {
        let remote = [
            ("url", self.url.is_some()),
            ("model", self.model.is_some()),
            ("temperature", self.temperature.is_some()),
            ("samples", self.samples.is_some()),
            ("max_tokens", self.max_tokens.is_some()),
            ("system", self.system.is_some()),
            ("instruction", self.instruction.is_some()),
            ("key_env", self.key_env.is_some()),
            ("concurrency", self.concurrency.is_some()),
            ("timeout_seconds", self.timeout_seconds.is_some()),
            ("retries", self.retries.is_some()),
        ];
        let mut errors = Vec::new();
        let mut wrong = |key: &str, message: String| errors.push(ConfigError::at(&format!("teacher.{key}"), message));
        match self.api {
            Api::Oracle => {
                for (key, _) in remote.into_iter().filter(|(_, given)| *given) {
                    wrong(key, format!("`{key}` is for a remote teacher, and the oracle asks nobody"));
                }
            }
            Api::Openai => {
                for (key, given) in [("wrong", self.wrong.is_some()), ("max_lost", self.max_lost.is_some())] {
                    if given {
                        wrong(key, format!("`{key}` is for the oracle only"));
                    }
                }
                errors.extend(self.endpoint().check("teacher"));
            }
        }
        errors
    }

    /// What decides the replies. The address too: a model's name does not say which weights stand behind it.
    pub(super) fn identify(&self, manifest: &mut Manifest, default_system: &str, default_instruction: &str) {
        let Teacher {
            api,
            wrong,
            max_lost,
            url: _,
            model: _,
            temperature: _,
            samples: _,
            max_tokens: _,
            system,
            instruction,
            key_env: _,
            concurrency: _,
            timeout_seconds: _,
            retries: _,
        } = self;
        manifest.value("teacher.api", api);
        match api {
            Api::Oracle => {
                manifest.value("teacher.wrong", &wrong.unwrap_or(0.0));
                manifest.value_unless("teacher.max_lost", &max_lost.unwrap_or(0.0), &0.0);
            }
            Api::Openai => {
                self.endpoint().identify("teacher", manifest);
                manifest.value("teacher.system", system.as_deref().unwrap_or(default_system));
                manifest.value("teacher.instruction", instruction.as_deref().unwrap_or(default_instruction));
            }
        }
    }

    /// The items' own rationales; none for an item without.
    pub(super) fn ask_oracle(&self, items: &[Item], seed: Seed) -> Vec<Replies> {
        let mut answers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for item in items {
            let known = answers.entry(&item.dataset).or_default();
            known.extend(item.answers.first().map(String::as_str));
        }
        for known in answers.values_mut() {
            known.sort_unstable();
            known.dedup();
        }
        let wrong = self.wrong.unwrap_or(0.0);
        items
            .iter()
            .map(|item| {
                let others = answers.get(item.dataset.as_str()).map_or(&[][..], Vec::as_slice);
                let reply = |text| Reply { text, finish: FinishReason::Stop, fault: None };
                oracle::respond(item, others, wrong, seed).map(reply).into_iter().collect()
            })
            .collect()
    }

    /// The endpoint that is asked by `openai`.
    pub(super) fn endpoint(&self) -> Endpoint {
        Endpoint {
            url: self.url.clone(),
            model: self.model.clone(),
            temperature: self.temperature.unwrap_or(TEMPERATURE),
            samples: self.samples.unwrap_or(SAMPLES),
            max_tokens: self.max_tokens.unwrap_or(MAX_TOKENS),
            key_env: self.key_env.clone(),
            concurrency: self.concurrency,
            timeout_seconds: self.timeout_seconds,
            retries: self.retries,
        }
    }
}
