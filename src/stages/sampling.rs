//! Samples responses to items from a checkpoint, for `rollout` and `eval`. Finished prompts are saved, so that an
//! interrupted stage resumes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::common::{self, MAX_COUNT, MAX_ROWS, check_max, filter_datasets};
use super::image_input::ImageInput;
use super::loaded_model::LoadedModel;
use super::too_long::{self, Encoded, TooLongAction, encode};
use super::training_common;
use ablate_core::base::{Seed, files, wrong_input};
use ablate_core::stage::{ConfigError, InputPath, Manifest, StageContext};
use ablate_data::chat_prompt::ChatPrompt;
use ablate_data::jsonl;
use ablate_data::prompts::PromptTemplate;
use ablate_data::records::{Item, Rollout, Sample};
use ablate_data::tokenizer::Tokenizer;
use ablate_data::tokens::{TokenPrompt, TooLong};
use ablate_nn::infer::{GenerateConfig, generate};
use ablate_nn::{Device, PixelSource, Precision};

/// Sequences per batch and thread on the CPU.
const BATCH: usize = 64;
/// Sequences per batch on a GPU, which small batches do not fill.
const GPU_BATCH: usize = 512;

/// How responses are sampled.
#[derive(Clone, Debug)]
pub(super) struct Sampling {
    pub(super) prompt: PromptTemplate,
    pub(super) samples: usize,
    pub(super) temperature: f64,
    pub(super) top_k: usize,
    pub(super) top_p: f64,
    pub(super) max_tokens: usize,
    /// Stop strings. The response ends before the first of them.
    pub(super) stop: Vec<String>,
    /// Repetition penalty; `None`: that of the checkpoint.
    pub(super) repetition_penalty: Option<f64>,
    pub(super) precision: Precision,
    /// What happens to prompts that fill the context and leave no token for the response.
    pub(super) too_long: TooLongAction,
}

/// Declares the table of a kind that samples responses: its own keys and those of sampling. A macro, since a struct
/// with serde's `flatten` cannot refuse unknown keys.
macro_rules! sampling_table {
    ($(#[$attribute:meta])* struct $name:ident $(<$model:ident>)? { $($own_keys:tt)* }) => {
        $(#[$attribute])*
        #[derive(Debug, serde::Deserialize, schemars::JsonSchema)]
        #[serde(deny_unknown_fields)]
        struct $name $(<$model>)? {
            $($own_keys)*
            prompt: Option<ablate_data::prompts::PromptTemplate>,
            temperature: Option<f64>,
            top_k: Option<usize>,
            top_p: Option<f64>,
            max_tokens: Option<usize>,
            /// Strings that end a response.
            #[serde(default)]
            stop: Vec<String>,
            /// Repetition penalty; that of the checkpoint, if it is not given.
            repetition_penalty: Option<f64>,
            /// Number types of matrix products on a GPU. The CPU has "f32" only.
            #[serde(default)]
            precision: ablate_nn::Precision,
            /// Uses only the items of these data sets.
            datasets: Option<std::collections::BTreeSet<String>>,
            take: Option<$crate::stages::sampling::Take>,
            /// What happens to items whose prompt leaves no token for the response.
            #[serde(default)]
            too_long: $crate::stages::too_long::TooLongAction,
        }

        impl $(<$model>)? $name $(<$model>)? {
            /// The sampling keys; missing ones are taken from `defaults`.
            fn sampling(&self, defaults: $crate::stages::sampling::Sampling) -> $crate::stages::sampling::Sampling {
                $crate::stages::sampling::Sampling {
                    prompt: self.prompt.clone().unwrap_or(defaults.prompt),
                    samples: defaults.samples,
                    temperature: self.temperature.unwrap_or(defaults.temperature),
                    top_k: self.top_k.unwrap_or(defaults.top_k),
                    top_p: self.top_p.unwrap_or(defaults.top_p),
                    max_tokens: self.max_tokens.unwrap_or(defaults.max_tokens),
                    stop: self.stop.clone(),
                    repetition_penalty: self.repetition_penalty,
                    precision: self.precision,
                    too_long: self.too_long,
                }
            }
        }
    };
}
pub(super) use sampling_table;

/// Items with their encoded prompts.
pub(super) struct Prompts {
    pub(super) items: Vec<Item>,
    texts: Vec<String>,
    encoded: Vec<TokenPrompt>,
    pub(super) warnings: Vec<String>,
}

/// The key `take`: which items are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Take {
    /// The first ones.
    First(usize),
    /// A sample drawn with the stage's seed. A larger sample contains a smaller one.
    Random(usize),
}

impl Sampling {
    /// The defaults of the keys that no kind sets itself.
    pub(super) fn new(prompt: PromptTemplate, samples: usize, temperature: f64) -> Sampling {
        Sampling {
            prompt,
            samples,
            temperature,
            top_k: 0,
            top_p: 1.0,
            max_tokens: 256,
            stop: Vec::new(),
            repetition_penalty: None,
            precision: Precision::F32,
            too_long: TooLongAction::Error,
        }
    }

    pub(super) fn check(&self, take: Option<Take>) -> Vec<ConfigError> {
        let Sampling {
            prompt: _,
            samples,
            temperature,
            top_k,
            top_p,
            max_tokens,
            stop,
            repetition_penalty,
            precision: _,
            too_long: _,
        } = self;
        let mut errors = Vec::new();
        let mut need = |key: &str, holds: bool, message: String| {
            if !holds {
                errors.push(ConfigError::at(key, format!("`{key}` must be {message}")));
            }
        };
        need("samples", *samples > 0, "at least 1, not 0".to_string());
        need("max_tokens", *max_tokens > 0, "at least 1, not 0".to_string());
        let valid = temperature.is_finite() && *temperature >= 0.0;
        need("temperature", valid, format!("at least 0 (0 is greedy), not {temperature}"));
        need("top_p", *top_p > 0.0 && *top_p <= 1.0, format!("above 0 and at most 1, not {top_p}"));
        need("stop", !stop.iter().any(String::is_empty), "a list without empty texts".to_string());
        if let Some(penalty) = repetition_penalty {
            let valid = penalty.is_finite() && *penalty > 0.0;
            need("repetition_penalty", valid, format!("above 0 (1 is none), not {penalty}"));
        }
        let valid = !matches!(take, Some(Take::First(0) | Take::Random(0)));
        need("take", valid, "at least 1 item".to_string());
        check_max(&mut errors, MAX_COUNT, [("samples", Some(*samples)), ("top_k", Some(*top_k))]);
        check_max(&mut errors, MAX_ROWS, [("max_tokens", Some(*max_tokens))]);
        errors
    }

    pub(super) fn identify(&self, manifest: &mut Manifest) {
        let Sampling {
            prompt,
            samples,
            temperature,
            top_k,
            top_p,
            max_tokens,
            stop,
            repetition_penalty,
            precision,
            too_long,
        } = self;
        // The template's name and style do not change responses. `eval` adds the style, which changes its scores.
        manifest.value("prompt.text", &prompt.text);
        manifest.value("prompt.letter", &prompt.letter);
        manifest.value("samples", samples);
        manifest.value("temperature", temperature);
        manifest.value("top_k", top_k);
        manifest.value("top_p", top_p);
        manifest.value("max_tokens", max_tokens);
        let mut stop = stop.clone();
        stop.sort_unstable();
        stop.dedup();
        manifest.value_unless("stop", &stop, &Vec::new());
        manifest.value_unless("repetition_penalty", repetition_penalty, &None);
        manifest.value_unless("precision", precision, &Precision::F32);
        manifest.value_unless("too_long", too_long, &TooLongAction::Error);
    }

    /// Encodes the prompts. A prompt is too long if it leaves no token for the response.
    pub(super) fn encode_prompts(&self, model: &LoadedModel, items: Vec<Item>, image: ImageInput) -> Result<Prompts> {
        let chat = &model.chat;
        let context_length = chat.max_tokens();
        let whole = |item: &Item| {
            let text = self.prompt.render(item);
            let (images, sent) = image.apply(&item.images, &text);
            let prompt = chat.encode_prompt(&item.id, &ChatPrompt::new(images, &sent))?;
            if prompt.tokens.len() >= context_length {
                let error = TooLong { tokens: prompt.tokens.len() + 1, max: context_length };
                return Err(
                    anyhow::Error::from(error).context(format!("item `{}`, with one token for its response", item.id))
                );
            }
            Ok((text, prompt))
        };
        let reserved = self.max_tokens.min(context_length / 2).max(1);
        let cut = |item: &Item| {
            let text = self.prompt.render(item);
            let (images, sent) = image.apply(&item.images, &text);
            let cut = chat.truncate_prompt(&item.id, &ChatPrompt::new(images, &sent), reserved)?;
            // The text is that of the item's prompt, in which literal placeholders are escaped.
            let escaped = |text: String| if images.is_empty() { item.images.escape(&text) } else { text };
            Ok(cut.map(|(text, prompt)| (escaped(text), prompt)))
        };
        let Encoded { indices, sequences, warnings } =
            encode(&items, ("items", "the beginning of their text"), self.too_long, whole, cut)?;
        let (texts, encoded) = sequences.into_iter().unzip();
        Ok(Prompts { items: too_long::select(items, &indices), texts, encoded, warnings })
    }

    /// Samples responses. The rollouts have the order of the items.
    pub(super) fn sample(
        &self,
        ctx: &StageContext,
        model: &LoadedModel,
        prompts: &Prompts,
        images: &dyn PixelSource,
    ) -> Result<Vec<Rollout>> {
        let Prompts { items, texts, encoded, warnings: _ } = prompts;
        if items.is_empty() {
            bail!("there are no items");
        }
        let path = ctx.scratch.join("rollouts.jsonl");
        let mut finished = read_finished(&path, items)?;
        if !finished.is_empty() {
            ctx.progress.choice(format!("resumes with {} of {} items done", finished.len(), items.len()));
        }
        let pending: Vec<usize> = (0..items.len()).filter(|index| !finished.contains_key(index)).collect();
        let prompts: Vec<TokenPrompt> = pending.iter().map(|&index| encoded[index].clone()).collect();
        let resources = training_common::resources(ctx, self.precision)?;
        let stop_strings = StopStrings { tokenizer: model.chat.tokenizer(), strings: &self.stop };
        let is_finished = |_: usize, _: usize, tokens: &[u32]| stop_strings.found(tokens);
        let config = GenerateConfig {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            max_tokens: self.max_tokens,
            samples: self.samples,
            stop: model.chat.stop_tokens().to_vec(),
            repetition_penalty: self.repetition_penalty.unwrap_or_else(|| model.chat.repetition_penalty()),
            batch: if resources.device == Device::Cpu { BATCH } else { GPU_BATCH },
        };
        let mut writer = jsonl::Writer::append(&path)?;
        let total = items.len() as u64;
        generate(
            &model.checkpoint,
            &prompts,
            images,
            &config,
            ctx.seed,
            &is_finished,
            &resources,
            &mut |at, responses| {
                let index = pending[at];
                let samples = responses
                    .into_iter()
                    .map(|response| {
                        let text = stop_strings.decode(&response.tokens)?;
                        let text = text.trim().to_string();
                        let thinking = model.chat.thinking(&text);
                        Ok(Sample { text, finish: response.finish, tokens: response.count, thinking })
                    })
                    .collect::<Result<_>>()?;
                let rollout = Rollout { item: items[index].clone(), prompt: texts[index].clone(), samples };
                writer.push(&Finished { index, rollout: rollout.clone() })?;
                writer.flush()?;
                finished.insert(index, rollout);
                ctx.progress.step(finished.len() as u64, total, "items");
                Ok(())
            },
        )?;
        Ok(finished.into_values().collect())
    }
}

/// The strings that end a response.
pub(super) struct StopStrings<'a> {
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) strings: &'a [String],
}

impl StopStrings<'_> {
    /// Whether the last tokens contain one of them.
    pub(super) fn found(&self, tokens: &[u32]) -> bool {
        let Some(longest) = self.strings.iter().map(String::len).max() else { return false };
        // A token has at least one byte. The first one may begin inside a character, whose other bytes are up to 3 more
        // tokens.
        let tail = &tokens[tokens.len().saturating_sub(longest + 4)..];
        self.tokenizer.decode(tail).is_ok_and(|tail| self.strings.iter().any(|string| tail.contains(string)))
    }

    /// Whether a text ends with the beginning of one of them.
    pub(super) fn ends_in_prefix(&self, text: &str) -> bool {
        let starts = |end: &String| (1..end.len()).any(|at| end.is_char_boundary(at) && text.ends_with(&end[..at]));
        self.strings.iter().any(starts)
    }

    /// The text of a response up to the first of them.
    pub(super) fn decode(&self, tokens: &[u32]) -> Result<String> {
        let mut text = self.tokenizer.decode(tokens)?;
        if let Some(end) = self.strings.iter().filter_map(|end| text.find(end)).min() {
            text.truncate(end);
        }
        Ok(text)
    }
}

/// The items of an input that `datasets` and `take` select, in the order of the input.
pub(super) fn select_items(
    input: &InputPath,
    seed: Seed,
    datasets: Option<&BTreeSet<String>>,
    take: Option<Take>,
) -> Result<Vec<Item>> {
    let items =
        filter_datasets(common::read_items(input)?, datasets, "item", |item| &item.dataset).map_err(wrong_input)?;
    let count = match take {
        None => return Ok(items),
        Some(Take::First(count) | Take::Random(count)) => count,
    };
    if count > items.len() {
        bail!("`take` asks for {count} of {} items", items.len());
    }
    let mut chosen: Vec<usize> = (0..items.len()).collect();
    if let Some(Take::Random(_)) = take {
        ablate_data::rng::shuffle(&mut chosen, &mut seed.stream("take"));
    }
    chosen.truncate(count);
    chosen.sort_unstable();
    let mut items: Vec<Option<Item>> = items.into_iter().map(Some).collect();
    Ok(chosen.into_iter().filter_map(|index| items[index].take()).collect())
}

/// A line of `rollouts.jsonl` in the scratch folder.
#[derive(Serialize, Deserialize)]
struct Finished {
    index: usize,
    rollout: Rollout,
}

/// The rollouts that an interrupted run finished. Its last line may be truncated, and is then dropped.
fn read_finished(path: &Path, items: &[Item]) -> Result<BTreeMap<usize, Rollout>> {
    let mut finished = BTreeMap::new();
    if !path.exists() {
        return Ok(finished);
    }
    let bytes = files::read_bytes(path)?;
    let mut complete = Vec::new();
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let Ok(Finished { index, rollout }) = serde_json::from_slice(line) else { break };
        if !line.ends_with(b"\n") || items.get(index) != Some(&rollout.item) {
            break;
        }
        complete.extend_from_slice(line);
        finished.insert(index, rollout);
    }
    if complete.len() < bytes.len() {
        files::write_atomic(path, &complete).context("cannot drop a truncated line")?;
    }
    Ok(finished)
}
