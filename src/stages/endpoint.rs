//! Samples responses to items from an OpenAI-compatible endpoint, with concurrent requests that resume after an
//! interruption. Used by `distill` and by `eval` for remote models.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};

use super::common::{MAX_COUNT, check_max, check_range};
use super::image_input::ImageInput;
use crate::teacher::{ChatRequest, ContentPart, OpenAi, OpenAiConfig, Response};
use ablate_core::base::{files, wrong_input};
use ablate_core::stage::{ConfigError, Manifest, StageContext};
use ablate_data::chat_prompt::ChatPrompt;
use ablate_data::image_placeholders::Part;
use ablate_data::images::ImagePacks;
use ablate_data::jsonl;
use ablate_data::records::Item;

/// The responses to one item.
pub(super) type Responses = Vec<Response>;

const CONCURRENCY: usize = 8;
const TIMEOUT_SECONDS: u64 = 300;
const MAX_CONCURRENCY: usize = 1024;
/// One year.
const MAX_TIMEOUT_SECONDS: usize = 366 * 24 * 60 * 60;
const RETRIES: u32 = 5;

/// The keys of a table that describes an endpoint.
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

/// A line of `replies.jsonl` in the scratch folder: the responses to one item so far. An interrupted stage reads them
/// instead of paying for them again.
#[derive(Serialize, Deserialize)]
struct Saved {
    index: usize,
    #[serde(rename = "replies")]
    responses: Responses,
}

impl Endpoint {
    /// The mistakes in the table called `name`.
    pub(super) fn check(&self, name: &str) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        let mut mistake = |key: &str, message: String| errors.push(ConfigError::at(&format!("{name}.{key}"), message));
        for (key, value) in [("url", &self.url), ("model", &self.model)] {
            if value.as_deref().is_none_or(|value| value.trim().is_empty()) {
                mistake(key, format!("the api `openai` needs a `{key}`"));
            }
        }
        if let Some(url) = &self.url
            && let Err(message) = check_url(url)
        {
            mistake("url", message.to_string());
        }
        for (key, zero) in [
            ("samples", self.samples == 0),
            ("max_tokens", self.max_tokens == 0),
            ("concurrency", self.concurrency == Some(0)),
            ("timeout_seconds", self.timeout_seconds == Some(0)),
        ] {
            if zero {
                mistake(key, format!("`{key}` must be at least 1"));
            }
        }
        let path = |key: &str| format!("{name}.{key}");
        check_max(&mut errors, MAX_COUNT, [(&*path("samples"), Some(self.samples))]);
        // Each concurrent request has a thread.
        check_max(&mut errors, MAX_CONCURRENCY, [(&*path("concurrency"), self.concurrency)]);
        let timeout = self.timeout_seconds.map(|seconds| usize::try_from(seconds).unwrap_or(usize::MAX));
        check_max(&mut errors, MAX_TIMEOUT_SECONDS, [(&*path("timeout_seconds"), timeout)]);
        check_range(&mut errors, &format!("{name}.temperature"), self.temperature, 0.0, f64::INFINITY);
        errors
    }

    /// Adds what determines the responses. This includes the URL, since servers give different weights the same model
    /// name.
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

    /// The environment variables that the client reads.
    pub(super) fn variables(&self) -> Vec<String> {
        OpenAi::variables(self.key_env.as_deref())
    }

    /// Samples responses to every item with concurrent requests. Each response is saved when it arrives, so a stage
    /// that was interrupted or failed requests only the missing ones, and those again for which `is_bad` is true.
    pub(super) fn sample(
        &self,
        items: &[Item],
        prompts: &[String],
        system: &str,
        image: ImageInput,
        is_bad: &dyn Fn(&Item, &Response) -> bool,
        ctx: &StageContext,
    ) -> Result<Vec<Responses>> {
        let path = ctx.scratch.join("replies.jsonl");
        let mut saved = read_saved(&path, items.len())?;
        let mut bad = 0;
        for (index, responses) in &mut saved {
            let before = responses.len();
            responses.retain(|response| !is_bad(&items[*index], response));
            bad += before - responses.len();
        }
        let is_done = |responses: &Responses| responses.len() >= self.samples;
        let done = saved.values().filter(|responses| is_done(responses)).count();
        if !saved.is_empty() {
            let again = if bad > 0 { format!("; {bad} bad responses are requested again") } else { String::new() };
            ctx.progress.note(format!("{done} items have responses from an earlier attempt{again}"));
        }
        let client = OpenAi::new(self.client_config(), &ctx.variables)?;
        let packs = ImagePacks::open(&ctx.images)?;
        let known = |index: usize| saved.get(&index).map_or(0, Vec::len);
        let missing: Vec<(usize, usize)> = (0..items.len())
            .filter_map(|index| Some((index, self.samples.checked_sub(known(index)).filter(|count| *count > 0)?)))
            .collect();
        let complete = |index: usize, count: usize| -> Result<Responses> {
            let (images, prompt) = image.apply(&items[index].images, &prompts[index]);
            images
                .check([&*prompt])
                .map_err(|message| wrong_input(anyhow!("item `{}`: {message}", items[index].id)))?;
            let mut keys = images.keys().iter();
            let content = |part| match part {
                Part::Text(text) => Ok(ContentPart::Text(text.into_owned())),
                Part::Image => {
                    let key = keys.next().context("BUG: an item with more placeholders than images")?;
                    packs.encoded(key).map(ContentPart::Image)
                }
            };
            let parts = ChatPrompt::new(images, &prompt).parts().into_iter().flatten();
            let content = parts.map(content).collect::<Result<_>>()?;
            let request = ChatRequest { system: system.to_string(), content };
            client.complete(&request, count).with_context(|| format!("item `{}`", items[index].id))
        };
        let mut writer = jsonl::Writer::append(&path)?;
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let (sender, receiver) = mpsc::channel();
        let threads = self.concurrency.unwrap_or(CONCURRENCY).min(missing.len());
        std::thread::scope(|scope| -> Result<()> {
            for _ in 0..threads {
                let sender = sender.clone();
                let (complete, missing, next, stop) = (&complete, &missing, &next, &stop);
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed)
                        && let Some(&(index, count)) = missing.get(next.fetch_add(1, Ordering::Relaxed))
                    {
                        let responses = complete(index, count);
                        // The receiver would set this too late: this thread would pay for one more response.
                        if responses.is_err() {
                            stop.store(true, Ordering::Relaxed);
                        }
                        if sender.send((index, responses)).is_err() {
                            break;
                        }
                    }
                });
            }
            drop(sender);
            let mut outcome = Ok(());
            let mut done = done as u64;
            for (index, responses) in receiver {
                match responses {
                    Ok(more) => {
                        let responses = saved.entry(index).or_default();
                        responses.extend(more);
                        writer.push(&Saved { index, responses: responses.clone() })?;
                        writer.flush()?;
                        done += 1;
                        ctx.progress.step(done, items.len() as u64, "requests");
                    }
                    // The loop continues in order to save the responses to requests in flight.
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

/// Refuses a URL with credentials, since messages and records contain the URL, and one to which `/chat/completions`
/// cannot be appended.
fn check_url(url: &str) -> Result<(), &'static str> {
    let Some(rest) = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://")) else {
        return Err("the URL must begin with `http://` or `https://`");
    };
    if rest.split('/').next().is_some_and(|host| host.contains('@')) {
        return Err(
            "the URL contains a user or a password: name an environment variable with the API key in `key_env`",
        );
    }
    if rest.contains(['?', '#']) {
        return Err("the URL contains `?` or `#`: write the base URL, to which `/chat/completions` is appended");
    }
    Ok(())
}

/// The responses that an earlier attempt saved. A truncated line is dropped.
fn read_saved(path: &Path, items: usize) -> Result<BTreeMap<usize, Responses>> {
    if !path.exists() {
        return Ok(BTreeMap::new());
    }
    let text = files::read_bytes(path)?;
    let lines = text.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
    // The last line of an item also has the good responses of its earlier lines.
    let saved: BTreeMap<usize, Responses> = lines
        .filter(|saved: &Saved| saved.index < items)
        .map(|Saved { index, responses }| (index, responses))
        .collect();
    // The file is rewritten so that the next append does not continue a truncated line.
    let complete: Vec<Saved> =
        saved.iter().map(|(index, responses)| Saved { index: *index, responses: responses.clone() }).collect();
    jsonl::write(path, &complete)?;
    Ok(saved)
}
