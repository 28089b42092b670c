//! The `teacher` table of `distill`: who is asked, how, and how an interrupted run goes on. Judges nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::common::check_range;
use crate::base::{Seed, files, wrong_input};
use crate::data::images::ImagePacks;
use crate::data::jsonl;
use crate::data::records::{Finish, Item};
use crate::stage::{ConfigError, Manifest, StageContext};
use crate::teacher::{OpenAi, OpenAiConfig, Question, oracle};

/// Responses of the teacher to one item.
pub(super) type Responses = Vec<(String, Finish)>;

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Teacher {
    pub(super) api: Api,
    /// Share of the oracle's responses that are made wrong.
    pub(super) wrong: Option<f64>,
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
const CONCURRENCY: usize = 8;
const TIMEOUT_SECONDS: u64 = 300;
const RETRIES: u32 = 5;

/// Replies that were paid for: kept in the scratch folder until the stage ends.
#[derive(Serialize, Deserialize)]
struct Saved {
    key: String,
    responses: Responses,
}

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
                if self.wrong.is_some() {
                    wrong("wrong", "`wrong` is for the oracle only".to_string());
                }
                for (key, value) in [("url", &self.url), ("model", &self.model)] {
                    if value.as_deref().is_none_or(|value| value.trim().is_empty()) {
                        wrong(key, format!("the api `openai` needs a `{key}`"));
                    }
                }
                if self.url.as_deref().is_some_and(|url| !url.starts_with("http://") && !url.starts_with("https://")) {
                    wrong("url", "the address begins with neither `http://` nor `https://`".to_string());
                }
                for (key, zero) in [
                    ("samples", self.samples == Some(0)),
                    ("max_tokens", self.max_tokens == Some(0)),
                    ("concurrency", self.concurrency == Some(0)),
                    ("timeout_seconds", self.timeout_seconds == Some(0)),
                ] {
                    if zero {
                        wrong(key, format!("`{key}` is at least 1"));
                    }
                }
            }
        }
        check_range(&mut errors, "teacher.temperature", self.temperature.unwrap_or(TEMPERATURE), 0.0, f64::INFINITY);
        errors
    }

    /// What decides the replies. The address too: a model's name does not say which weights stand behind it.
    pub(super) fn identify(&self, manifest: &mut Manifest, default_system: &str, default_instruction: &str) {
        let Teacher {
            api,
            wrong,
            url,
            model,
            temperature,
            samples,
            max_tokens,
            system,
            instruction,
            key_env: _,
            concurrency: _,
            timeout_seconds: _,
            retries: _,
        } = self;
        manifest.value("teacher.api", api);
        match api {
            Api::Oracle => manifest.value("teacher.wrong", &wrong.unwrap_or(0.0)),
            Api::Openai => {
                manifest.value("teacher.url", url);
                manifest.value("teacher.model", model);
                manifest.value("teacher.temperature", &temperature.unwrap_or(TEMPERATURE));
                manifest.value("teacher.samples", &samples.unwrap_or(SAMPLES));
                manifest.value("teacher.max_tokens", &max_tokens.unwrap_or(MAX_TOKENS));
                manifest.value("teacher.system", system.as_deref().unwrap_or(default_system));
                manifest.value("teacher.instruction", instruction.as_deref().unwrap_or(default_instruction));
            }
        }
    }

    /// The items' own rationales; none for an item without.
    pub(super) fn ask_oracle(&self, items: &[Item], seed: Seed) -> Vec<Responses> {
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
                oracle::respond(item, others, wrong, seed).map(|text| (text, Finish::Stop)).into_iter().collect()
            })
            .collect()
    }

    /// The endpoint's replies, several requests at a time. Each reply is saved as it comes, so an interrupted stage
    /// asks only for what is missing.
    pub(super) fn ask_openai(
        &self,
        items: &[Item],
        prompts: &[String],
        system: &str,
        ctx: &StageContext,
    ) -> Result<Vec<Responses>> {
        let path = ctx.scratch.join("replies.jsonl");
        let mut saved = read_saved(&path)?;
        if !saved.is_empty() {
            ctx.progress.note(format!("{} items were answered before the interruption", saved.len()));
        }
        let client = OpenAi::new(self.client_config())?;
        let packs = ImagePacks::open(&ctx.images)?;
        let missing: Vec<usize> = (0..items.len()).filter(|&index| !saved.contains_key(&key(&items[index]))).collect();
        let ask = |index: usize| -> Result<Responses> {
            let image = items[index].image.as_deref().map(|key| packs.encoded(key)).transpose()?;
            let question = Question { system: system.to_string(), prompt: prompts[index].clone(), image };
            let replies =
                client.ask(&question).map_err(wrong_input).with_context(|| format!("item `{}`", items[index].id))?;
            Ok(replies.into_iter().map(|reply| (reply.text, reply.finish)).collect())
        };
        let mut writer = jsonl::Writer::append(&path)?;
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let (sender, receiver) = mpsc::channel();
        let threads = self.concurrency.unwrap_or(CONCURRENCY).min(missing.len());
        std::thread::scope(|scope| -> Result<()> {
            for _ in 0..threads {
                let sender = sender.clone();
                let (ask, missing, next, stop) = (&ask, &missing, &next, &stop);
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed)
                        && let Some(&index) = missing.get(next.fetch_add(1, Ordering::Relaxed))
                    {
                        if sender.send((index, ask(index))).is_err() {
                            break;
                        }
                    }
                });
            }
            drop(sender);
            let mut outcome = Ok(());
            for (index, responses) in receiver {
                match responses {
                    Ok(responses) => {
                        let one = Saved { key: key(&items[index]), responses };
                        writer.push(&one)?;
                        writer.flush()?;
                        saved.insert(one.key, one.responses);
                        ctx.progress.step(saved.len() as u64, items.len() as u64, "items");
                    }
                    Err(error) if outcome.is_ok() => {
                        // The replies that are under way are still worth saving.
                        stop.store(true, Ordering::Relaxed);
                        outcome = Err(error);
                    }
                    Err(_) => {}
                }
            }
            outcome
        })?;
        writer.finish()?;
        Ok(items.iter().map(|item| saved.remove(&key(item)).unwrap_or_default()).collect())
    }

    fn client_config(&self) -> OpenAiConfig {
        OpenAiConfig {
            url: self.url.clone().unwrap_or_default(),
            model: self.model.clone().unwrap_or_default(),
            temperature: self.temperature.unwrap_or(TEMPERATURE),
            samples: self.samples.unwrap_or(SAMPLES),
            max_tokens: self.max_tokens.unwrap_or(MAX_TOKENS),
            key_env: self.key_env.clone(),
            timeout: Duration::from_secs(self.timeout_seconds.unwrap_or(TIMEOUT_SECONDS)),
            retries: self.retries.unwrap_or(RETRIES),
            backoff: Duration::from_secs(1),
        }
    }
}

fn key(item: &Item) -> String {
    format!("{}/{}", item.dataset, item.id)
}

/// What an interrupted run left. A line that the interruption tore is asked for again.
fn read_saved(path: &std::path::Path) -> Result<BTreeMap<String, Responses>> {
    if !path.exists() {
        return Ok(BTreeMap::new());
    }
    let text = files::read_bytes(path)?;
    let whole: Vec<Saved> =
        text.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    // Written anew, so that what is appended does not begin inside a torn line.
    jsonl::write(path, &whole)?;
    Ok(whole.into_iter().map(|saved| (saved.key, saved.responses)).collect())
}
