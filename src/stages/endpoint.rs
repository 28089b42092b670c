//! An OpenAI-compatible endpoint as stages ask it: many items at a time, with the replies kept over a restart. What
//! `distill`'s teacher and `eval`'s remote models share. Judges nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::common::check_range;
use crate::base::{files, wrong_input};
use crate::data::images::ImagePacks;
use crate::data::jsonl;
use crate::data::records::{Finish, Item};
use crate::stage::{ConfigError, Manifest, StageContext};
use crate::teacher::{OpenAi, OpenAiConfig, Question};

/// Responses to one item.
pub(super) type Responses = Vec<(String, Finish)>;

const CONCURRENCY: usize = 8;
const TIMEOUT_SECONDS: u64 = 300;
const RETRIES: u32 = 5;

/// Where the endpoint is and how it is asked.
#[derive(Clone, Debug, Default)]
pub(super) struct Endpoint {
    pub(super) url: Option<String>,
    pub(super) model: Option<String>,
    pub(super) temperature: f64,
    pub(super) samples: usize,
    pub(super) max_tokens: u32,
    pub(super) key_env: Option<String>,
    pub(super) concurrency: Option<usize>,
    pub(super) timeout_seconds: Option<u64>,
    pub(super) retries: Option<u32>,
}

/// Replies that were paid for: kept in the scratch folder until the stage ends.
#[derive(Serialize, Deserialize)]
struct Saved {
    index: usize,
    responses: Responses,
}

impl Endpoint {
    /// Everything that is wrong with the table called `name`.
    pub(super) fn check(&self, name: &str) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        let mut wrong = |key: &str, message: String| errors.push(ConfigError::at(&format!("{name}.{key}"), message));
        for (key, value) in [("url", &self.url), ("model", &self.model)] {
            if value.as_deref().is_none_or(|value| value.trim().is_empty()) {
                wrong(key, format!("the api `openai` needs a `{key}`"));
            }
        }
        if self.url.as_deref().is_some_and(|url| !url.starts_with("http://") && !url.starts_with("https://")) {
            wrong("url", "the address begins with neither `http://` nor `https://`".to_string());
        }
        for (key, zero) in [
            ("samples", self.samples == 0),
            ("max_tokens", self.max_tokens == 0),
            ("concurrency", self.concurrency == Some(0)),
            ("timeout_seconds", self.timeout_seconds == Some(0)),
        ] {
            if zero {
                wrong(key, format!("`{key}` is at least 1"));
            }
        }
        check_range(&mut errors, &format!("{name}.temperature"), self.temperature, 0.0, f64::INFINITY);
        errors
    }

    /// What decides the replies. The address too: a model's name does not say which weights stand behind it.
    pub(super) fn identify(&self, name: &str, manifest: &mut Manifest) {
        let Endpoint {
            url,
            model,
            temperature,
            samples,
            max_tokens,
            key_env: _,
            concurrency: _,
            timeout_seconds: _,
            retries: _,
        } = self;
        manifest.value(&format!("{name}.url"), url);
        manifest.value(&format!("{name}.model"), model);
        manifest.value(&format!("{name}.temperature"), temperature);
        manifest.value(&format!("{name}.samples"), samples);
        manifest.value(&format!("{name}.max_tokens"), max_tokens);
    }

    /// The replies to every item, several requests at a time. Each reply is saved as it comes, so an interrupted stage
    /// asks only for what is missing.
    pub(super) fn ask(
        &self,
        items: &[Item],
        prompts: &[String],
        system: &str,
        ctx: &StageContext,
    ) -> Result<Vec<Responses>> {
        let path = ctx.scratch.join("replies.jsonl");
        let mut saved = read_saved(&path, items.len())?;
        if !saved.is_empty() {
            ctx.progress.note(format!("{} items were answered before the interruption", saved.len()));
        }
        let client = OpenAi::new(self.client_config())?;
        let packs = ImagePacks::open(&ctx.images)?;
        let missing: Vec<usize> = (0..items.len()).filter(|index| !saved.contains_key(index)).collect();
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
                        let one = Saved { index, responses };
                        writer.push(&one)?;
                        writer.flush()?;
                        saved.insert(one.index, one.responses);
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
        Ok(saved.into_values().collect())
    }

    fn client_config(&self) -> OpenAiConfig {
        OpenAiConfig {
            url: self.url.clone().unwrap_or_default(),
            model: self.model.clone().unwrap_or_default(),
            temperature: self.temperature,
            samples: self.samples,
            max_tokens: self.max_tokens,
            key_env: self.key_env.clone(),
            timeout: Duration::from_secs(self.timeout_seconds.unwrap_or(TIMEOUT_SECONDS)),
            retries: self.retries.unwrap_or(RETRIES),
            backoff: Duration::from_secs(1),
        }
    }
}

/// What an interrupted run left. A line that the interruption tore is asked for again.
fn read_saved(path: &Path, items: usize) -> Result<BTreeMap<usize, Responses>> {
    if !path.exists() {
        return Ok(BTreeMap::new());
    }
    let text = files::read_bytes(path)?;
    let whole: Vec<Saved> =
        text.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    let whole: Vec<Saved> = whole.into_iter().filter(|saved: &Saved| saved.index < items).collect();
    // Written anew, so that what is appended does not begin inside a torn line.
    jsonl::write(path, &whole)?;
    Ok(whole.into_iter().map(|saved| (saved.index, saved.responses)).collect())
}
