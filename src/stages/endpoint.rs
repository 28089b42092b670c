//! An OpenAI-compatible endpoint as stages ask it: many items at a time, with the replies kept over a restart. What
//! `distill`'s teacher and `eval`'s remote models share. Judges nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::common::{MOST_TIMES, check_counts, check_range};
use crate::teacher::{OpenAi, OpenAiConfig, Question, Reply};
use ablate_core::base::files;
use ablate_core::stage::{ConfigError, Manifest, StageContext};
use ablate_data::images::ImagePacks;
use ablate_data::jsonl;
use ablate_data::records::Item;

/// Replies to one item.
pub(super) type Replies = Vec<Reply>;

const CONCURRENCY: usize = 8;
const TIMEOUT_SECONDS: u64 = 300;
const MOST_REQUESTS: usize = 1024;
/// A year.
const LONGEST_TIMEOUT: usize = 366 * 24 * 60 * 60;
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
    replies: Replies,
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
        if let Some(url) = &self.url
            && let Err(message) = check_url(url)
        {
            wrong("url", message.to_string());
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
        let most = |key: &str| format!("{name}.{key}");
        check_counts(&mut errors, MOST_TIMES, [(&*most("samples"), Some(self.samples))]);
        // A thread each.
        check_counts(&mut errors, MOST_REQUESTS, [(&*most("concurrency"), self.concurrency)]);
        let timeout = self.timeout_seconds.map(|seconds| usize::try_from(seconds).unwrap_or(usize::MAX));
        check_counts(&mut errors, LONGEST_TIMEOUT, [(&*most("timeout_seconds"), timeout)]);
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

    /// The environment variables that asking it takes.
    pub(super) fn variables(&self) -> Vec<String> {
        OpenAi::variables(self.key_env.as_deref())
    }

    /// The replies to every item, several requests at a time. Each reply is saved as it comes, so a stage that was
    /// interrupted or has failed asks only for what is missing, and again for what `is_bad`.
    pub(super) fn ask(
        &self,
        items: &[Item],
        prompts: &[String],
        system: &str,
        is_bad: &dyn Fn(&Item, &Reply) -> bool,
        ctx: &StageContext,
    ) -> Result<Vec<Replies>> {
        let path = ctx.scratch.join("replies.jsonl");
        let mut saved = read_saved(&path, items.len())?;
        let mut bad = 0;
        for (index, replies) in &mut saved {
            let before = replies.len();
            replies.retain(|reply| !is_bad(&items[*index], reply));
            bad += before - replies.len();
        }
        let is_done = |replies: &Replies| replies.len() >= self.samples;
        let done = saved.values().filter(|replies| is_done(replies)).count();
        if !saved.is_empty() {
            let again = if bad > 0 { format!("; {bad} bad replies are asked for again") } else { String::new() };
            ctx.progress.note(format!("{done} items were answered by an earlier attempt{again}"));
        }
        let client = OpenAi::new(self.client_config(), &ctx.variables)?;
        let packs = ImagePacks::open(&ctx.images)?;
        let known = |index: usize| saved.get(&index).map_or(0, Vec::len);
        let missing: Vec<(usize, usize)> = (0..items.len())
            .filter_map(|index| Some((index, self.samples.checked_sub(known(index)).filter(|count| *count > 0)?)))
            .collect();
        let ask = |index: usize, count: usize| -> Result<Replies> {
            let image = items[index].image.as_deref().map(|key| packs.encoded(key)).transpose()?;
            let question = Question { system: system.to_string(), prompt: prompts[index].clone(), image };
            client.ask(&question, count).with_context(|| format!("item `{}`", items[index].id))
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
                        && let Some(&(index, count)) = missing.get(next.fetch_add(1, Ordering::Relaxed))
                    {
                        let replies = ask(index, count);
                        // Here and not where the error is read: meanwhile this thread would pay for one more reply.
                        if replies.is_err() {
                            stop.store(true, Ordering::Relaxed);
                        }
                        if sender.send((index, replies)).is_err() {
                            break;
                        }
                    }
                });
            }
            drop(sender);
            let mut outcome = Ok(());
            let mut done = done as u64;
            for (index, replies) in receiver {
                match replies {
                    Ok(more) => {
                        let replies = saved.entry(index).or_default();
                        replies.extend(more);
                        writer.push(&Saved { index, replies: replies.clone() })?;
                        writer.flush()?;
                        done += 1;
                        ctx.progress.step(done, items.len() as u64, "requests");
                    }
                    // The replies that are under way are still worth saving.
                    Err(error) if outcome.is_ok() => outcome = Err(error),
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
            max_tokens: self.max_tokens,
            key_env: self.key_env.clone(),
            timeout: Duration::from_secs(self.timeout_seconds.unwrap_or(TIMEOUT_SECONDS)),
            retries: self.retries.unwrap_or(RETRIES),
            backoff: Duration::from_secs(1),
        }
    }
}

/// An address stands in messages and records, so it must hold no secret; and `/chat/completions` is put at its end.
fn check_url(url: &str) -> Result<(), &'static str> {
    let Some(rest) = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://")) else {
        return Err("the address begins with neither `http://` nor `https://`");
    };
    if rest.split('/').next().is_some_and(|host| host.contains('@')) {
        return Err("the address holds a user or a password: put a key into a variable and name it with `key_env`");
    }
    if rest.contains(['?', '#']) {
        return Err("the address holds a `?` or a `#`: it is a base, to which `/chat/completions` is added");
    }
    Ok(())
}

/// What an earlier attempt left. A line that its end tore is asked for again.
fn read_saved(path: &Path, items: usize) -> Result<BTreeMap<usize, Replies>> {
    if !path.exists() {
        return Ok(BTreeMap::new());
    }
    let text = files::read_bytes(path)?;
    let lines = text.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
    // The last line of an item counts: it holds the good replies of those before it.
    let saved: BTreeMap<usize, Replies> =
        lines.filter(|saved: &Saved| saved.index < items).map(|Saved { index, replies }| (index, replies)).collect();
    // Written anew, so that what is appended does not begin inside a torn line.
    let whole: Vec<Saved> =
        saved.iter().map(|(index, replies)| Saved { index: *index, replies: replies.clone() }).collect();
    jsonl::write(path, &whole)?;
    Ok(saved)
}
