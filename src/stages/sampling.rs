//! What `rollout` and `eval` share: items asked of a model, with finished prompts kept over a restart. Knows no kind.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::common::{self, MOST_ROWS, MOST_TIMES, check_counts, of_datasets};
use super::loaded_model::Model;
use super::overlong::{self, Fitted, Long, fit};
use super::training_common;
use ablate_core::base::{files, wrong_input};
use ablate_core::stage::{ConfigError, Manifest, StageContext};
use ablate_data::jsonl;
use ablate_data::prompts::PromptTemplate;
use ablate_data::records::{Item, Rollout, Sample};
use ablate_data::tokenizer::Tokenizer;
use ablate_data::tokens::{TokenPrompt, TooLong};
use ablate_nn::Device;
use ablate_nn::infer::{GenerateConfig, generate};

/// Sequences computed at once: per thread of the CPU,
const BATCH: usize = 64;
/// and on a GPU, which is idle with few.
const GPU_BATCH: usize = 512;

/// How items are asked.
#[derive(Clone, Debug)]
pub(super) struct Asking {
    pub(super) prompt: PromptTemplate,
    pub(super) samples: usize,
    pub(super) temperature: f64,
    pub(super) top_k: usize,
    pub(super) top_p: f64,
    pub(super) max_tokens: usize,
    /// Texts that end a response; what comes before is kept.
    pub(super) stop: Vec<String>,
    /// Of tokens that a sequence has already; none: the checkpoint's own.
    pub(super) repetition_penalty: Option<f64>,
    /// What becomes of prompts that leave the model no room for an answer.
    pub(super) too_long: Long,
}

/// Items as a model is asked about them.
pub(super) struct Asked {
    pub(super) items: Vec<Item>,
    texts: Vec<String>,
    prompts: Vec<TokenPrompt>,
    pub(super) warnings: Vec<String>,
}

/// Which items of a set are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Take {
    /// The first so many.
    First(usize),
    /// So many drawn by the stage's seed; a larger number keeps those of a smaller one.
    Random(usize),
}

impl Asking {
    pub(super) fn check(&self, take: Option<Take>) -> Vec<ConfigError> {
        let Asking { prompt: _, samples, temperature, top_k, top_p, max_tokens, stop, repetition_penalty, too_long: _ } =
            self;
        let mut errors = Vec::new();
        let mut need = |key: &str, holds: bool, message: String| {
            if !holds {
                errors.push(ConfigError::at(key, format!("`{key}` must be {message}")));
            }
        };
        need("samples", *samples > 0, "at least 1, not 0".to_string());
        need("max_tokens", *max_tokens > 0, "at least 1, not 0".to_string());
        let warm = temperature.is_finite() && *temperature >= 0.0;
        need("temperature", warm, format!("at least 0 (0 is greedy), not {temperature}"));
        need("top_p", *top_p > 0.0 && *top_p <= 1.0, format!("above 0 and at most 1, not {top_p}"));
        need("stop", !stop.iter().any(String::is_empty), "texts that are not empty".to_string());
        if let Some(penalty) = repetition_penalty {
            let fits = penalty.is_finite() && *penalty > 0.0;
            need("repetition_penalty", fits, format!("above 0 (1 is none), not {penalty}"));
        }
        let some = !matches!(take, Some(Take::First(0) | Take::Random(0)));
        need("take", some, "at least 1 item".to_string());
        check_counts(&mut errors, MOST_TIMES, [("samples", Some(*samples)), ("top_k", Some(*top_k))]);
        check_counts(&mut errors, MOST_ROWS, [("max_tokens", Some(*max_tokens))]);
        errors
    }

    pub(super) fn identify(&self, manifest: &mut Manifest) {
        let Asking { prompt, samples, temperature, top_k, top_p, max_tokens, stop, repetition_penalty, too_long } =
            self;
        // A template's name and style change no response; `eval` adds the style, which changes its verdicts.
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
        manifest.value_unless("too_long", too_long, &Long::Error);
    }

    /// Lays out what a model is asked. Without room for a token of the answer a prompt is too long.
    pub(super) fn lay_out(&self, model: &Model, items: Vec<Item>) -> Result<Asked> {
        let chat = &model.chat;
        let most = chat.max_tokens();
        let whole = |item: &Item| {
            let text = self.prompt.render(item);
            let prompt = chat.encode_prompt(&item.id, &text, item.image.as_deref())?;
            if prompt.tokens.len() >= most {
                let error = TooLong { tokens: prompt.tokens.len() + 1, most };
                return Err(anyhow::Error::from(error).context(format!("item `{}`, with its answer", item.id)));
            }
            Ok((text, prompt))
        };
        let room = self.max_tokens.min(most / 2).max(1);
        let cut = |item: &Item| chat.truncate_prompt(&item.id, &self.prompt.render(item), item.image.as_deref(), room);
        let Fitted { places, sequences, warnings } =
            fit(&items, ("items", "the beginning of their text"), self.too_long, whole, cut)?;
        let (texts, prompts) = sequences.into_iter().unzip();
        Ok(Asked { items: overlong::at(items, &places), texts, prompts, warnings })
    }

    /// Asks; the rollouts come in the order of the items.
    pub(super) fn ask(&self, ctx: &StageContext, model: &Model, asked: &Asked) -> Result<Vec<Rollout>> {
        let Asked { items, texts, prompts, warnings: _ } = asked;
        if items.is_empty() {
            bail!("there are no items to ask");
        }
        let path = ctx.scratch.join("rollouts.jsonl");
        let mut finished = resume(&path, items)?;
        if !finished.is_empty() {
            ctx.progress.note(format!("resumed with {} of {} items done", finished.len(), items.len()));
        }
        let open: Vec<usize> = (0..items.len()).filter(|index| !finished.contains_key(index)).collect();
        let prompts: Vec<TokenPrompt> = open.iter().map(|&index| prompts[index].clone()).collect();
        let resources = training_common::resources(ctx)?;
        let ends = Ends { tokenizer: model.chat.tokenizer(), texts: &self.stop };
        let watch = |_: usize, _: usize, tokens: &[u32]| ends.reached(tokens);
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
            &*model.images,
            &config,
            ctx.seed,
            &watch,
            &resources,
            &mut |at, responses| {
                let index = open[at];
                let samples = responses
                    .into_iter()
                    .map(|response| {
                        let text = ends.text(&response.tokens)?;
                        let text = text.trim().to_string();
                        let thinking = model.chat.thinking(&text);
                        Ok(Sample { text, finish: response.finish, tokens: response.count, thinking })
                    })
                    .collect::<Result<_>>()?;
                let rollout = Rollout { item: items[index].clone(), prompt: texts[index].clone(), samples };
                writer.push(&Done { index, rollout: rollout.clone() })?;
                writer.flush()?;
                finished.insert(index, rollout);
                ctx.progress.step(finished.len() as u64, total, "items");
                Ok(())
            },
        )?;
        Ok(finished.into_values().collect())
    }
}

/// The texts that end a response.
pub(super) struct Ends<'a> {
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) texts: &'a [String],
}

impl Ends<'_> {
    /// Whether one of them has just been written.
    pub(super) fn reached(&self, tokens: &[u32]) -> bool {
        let Some(longest) = self.texts.iter().map(String::len).max() else { return false };
        // A token stands for a byte at least, and one that is cut in a character for three more.
        let tail = &tokens[tokens.len().saturating_sub(longest + 4)..];
        self.tokenizer.decode(tail).is_ok_and(|tail| self.texts.iter().any(|text| tail.contains(text)))
    }

    /// Whether a text ends in what may be the beginning of one of them.
    pub(super) fn begins(&self, text: &str) -> bool {
        let starts = |end: &String| (1..end.len()).any(|at| end.is_char_boundary(at) && text.ends_with(&end[..at]));
        self.texts.iter().any(starts)
    }

    /// The text of a response, up to the first of them.
    pub(super) fn text(&self, tokens: &[u32]) -> Result<String> {
        let mut text = self.tokenizer.decode(tokens)?;
        if let Some(end) = self.texts.iter().filter_map(|end| text.find(end)).min() {
            text.truncate(end);
        }
        Ok(text)
    }
}

/// Of the items of an input those of these data sets that `take` asks for, in the order of the set.
pub(super) fn take(
    ctx: &StageContext,
    role: &str,
    datasets: Option<&BTreeSet<String>>,
    take: Option<Take>,
) -> Result<Vec<Item>> {
    let items = of_datasets(common::read_items(ctx.input(role)?)?, datasets, "item", |item| &item.dataset)
        .map_err(wrong_input)?;
    let count = match take {
        None => return Ok(items),
        Some(Take::First(count) | Take::Random(count)) => count,
    };
    if count > items.len() {
        bail!("`take`: {count} of {} items", items.len());
    }
    let mut chosen: Vec<usize> = (0..items.len()).collect();
    if let Some(Take::Random(_)) = take {
        ablate_data::rng::shuffle(&mut chosen, &mut ctx.seed.stream("take"));
    }
    chosen.truncate(count);
    chosen.sort_unstable();
    let mut items: Vec<Option<Item>> = items.into_iter().map(Some).collect();
    Ok(chosen.into_iter().filter_map(|index| items[index].take()).collect())
}

/// A line of the file that a restart reads.
#[derive(Serialize, Deserialize)]
struct Done {
    index: usize,
    rollout: Rollout,
}

/// What an interrupted run had finished. Its last line may be torn: that one is asked again.
fn resume(path: &Path, items: &[Item]) -> Result<BTreeMap<usize, Rollout>> {
    let mut finished = BTreeMap::new();
    if !path.exists() {
        return Ok(finished);
    }
    let bytes = files::read_bytes(path)?;
    let mut whole = Vec::new();
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let Ok(Done { index, rollout }) = serde_json::from_slice(line) else { break };
        if !line.ends_with(b"\n") || items.get(index) != Some(&rollout.item) {
            break;
        }
        whole.extend_from_slice(line);
        finished.insert(index, rollout);
    }
    if whole.len() < bytes.len() {
        files::write_atomic(path, &whole).context("cannot drop a torn line")?;
    }
    Ok(finished)
}
