//! [`LoadedModel`] against transformers, on the checkpoints of `tests/golden/hub` or, for `just parity`, of
//! `ABLATE_PARITY`: pixel values, prompts, the text of greedy answers, and exported checkpoints. `just parity` lets
//! transformers read the exported ones.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;

use crate::stages::checkpoint_folders::copy_companion_files;
use crate::stages::loaded_model::LoadedModel;
use ablate_core::base::progress::NoProgress;
use ablate_core::base::{Seed, files};
use ablate_data::chat_prompt::ChatPrompt;
use ablate_data::image_keys::ImageKeys;
use ablate_data::images::ImageLoader;
use ablate_data::records::Exchange;
use ablate_data::tokenizer::FILE;
use ablate_data::tokens::{TokenPrompt, TokenRow};
use ablate_nn::checkpoint::Rounding;
use ablate_nn::hub::WeightFiles;
use ablate_nn::infer::{GenerateConfig, generate};
use ablate_nn::{Device, PixelSource, Precision, Resources};

/// Largest difference of a pixel value.
const PIXEL_TOLERANCE: f64 = 1e-6;

#[derive(Deserialize)]
struct Expected {
    images: BTreeMap<String, Value>,
    sequences: BTreeMap<String, Sequence>,
    chats: BTreeMap<String, Chat>,
}

#[derive(Deserialize)]
struct Sequence {
    images: Vec<String>,
    ids: Vec<u32>,
    greedy_text: Option<String>,
}

#[derive(Deserialize)]
struct Chat {
    messages: Vec<Value>,
    add_generation_prompt: bool,
    images: Vec<String>,
    ids: Vec<u32>,
    /// Which ids the assistant wrote, if the template has `{% generation %}` blocks.
    assistant: Option<Vec<u8>>,
}

fn open(folder: &Path) -> Result<LoadedModel> {
    let paths = files::list_paths(&folder.with_file_name("images"))?;
    let keys: Vec<String> = paths.iter().map(|path| files::name_of(&path.with_extension(""))).collect();
    let images: Vec<(&str, &Path)> = keys.iter().map(String::as_str).zip(paths.iter().map(|path| &**path)).collect();
    LoadedModel::load_folder(folder, |processor| ImageLoader::from_files(&images, true, processor))
}

/// The pixel values of every image: as many as transformers has, and within the tolerance.
fn pixels(folder: &Path, model: &LoadedModel, expected: &Expected) -> Result<()> {
    let arrays = WeightFiles::open_file(&folder.join("expected.safetensors"))?;
    for key in expected.images.keys() {
        let name = format!("{key}.pixel_values");
        let (ours, theirs) = (model.images.pixel_values(key)?.values, arrays.array(&name, arrays.shape(&name)?)?);
        let differences = ours.iter().zip(&theirs).map(|(a, b)| f64::from((a - b).abs()));
        let largest = differences.fold(0.0, f64::max);
        if ours.len() != theirs.len() || largest > PIXEL_TOLERANCE {
            bail!("the pixels of `{key}`: {} values, expected {}; off by {largest:.1e}", ours.len(), theirs.len());
        }
    }
    Ok(())
}

/// The prompt of every chat: a whole one that ends with the user's turn, or what precedes the last response.
fn prompts(model: &LoadedModel, expected: &Expected) -> Result<()> {
    for (name, chat) in &expected.chats {
        let texts: Vec<&str> = chat.messages.iter().map(text_of).collect::<Result<_>>()?;
        let (system, turns) = match chat.messages[0]["role"].as_str() {
            Some("system") => (Some(texts[0]), &texts[1..]),
            _ => (None, &texts[..]),
        };
        let (turns, prompt) = match turns {
            [turns @ .., prompt] if chat.add_generation_prompt => (turns, *prompt),
            [turns @ .., prompt, _] => (turns, *prompt),
            _ => bail!("a chat without a user's turn"),
        };
        let exchange = |turn: &[&str]| Exchange { prompt: turn[0].to_string(), response: turn[1].to_string() };
        let history: Vec<Exchange> = turns.chunks_exact(2).map(exchange).collect();
        let images = chat.images.first().cloned().map_or(ImageKeys::None, ImageKeys::Leading);
        let prompt = ChatPrompt { images: &images, system, history: &history, prompt };
        let tokens = model.chat.encode_prompt("question", &prompt)?.tokens;
        // The last token of an opening may be another one before a given answer (LLaVA's template with SigLIP).
        let common = tokens.len() - usize::from(!chat.add_generation_prompt);
        if !chat.ids.starts_with(&tokens[..common]) || chat.add_generation_prompt && tokens.len() != chat.ids.len() {
            bail!("the prompt of {name} is {tokens:?}, expected {:?}", chat.ids);
        }
        if let (Some(assistant), Some(last)) = (&chat.assistant, chat.messages.last()) {
            let row = model.chat.encode_sequence(&prompt, text_of(last)?, false, false)?;
            check_earlier_responses(model, &row, assistant, common).with_context(|| format!("the mask of {name}"))?;
        }
    }
    Ok(())
}

/// Compares the loss mask before the last response with the mask of transformers, which follows `{% generation %}` blocks.
/// The white space around a response differs, and theirs do not have the token that ends it.
fn check_earlier_responses(model: &LoadedModel, row: &TokenRow, assistant: &[u8], end: usize) -> Result<()> {
    let is_space = |id| Ok::<_, anyhow::Error>(model.chat.tokenizer().decode(&[id])?.trim().is_empty());
    let mut both = 0;
    for (at, &id) in row.tokens[..end].iter().enumerate() {
        let expected = match (row.loss[at], assistant[at] == 1) {
            (true, false) => model.chat.stop_tokens().contains(&id) || is_space(id)?,
            (false, true) => is_space(id)?,
            (ours, _) => {
                both += usize::from(ours);
                true
            }
        };
        if !expected {
            bail!("token {at} ({id}): {}, expected {}", row.loss[at], assistant[at]);
        }
    }
    if (both == 0) != (assistant[..end].iter().all(|&mark| mark == 0)) {
        bail!("no token of an earlier response");
    }
    Ok(())
}

/// The text of a message.
fn text_of(message: &Value) -> Result<&str> {
    let content = &message["content"];
    let text = content.as_array().and_then(|parts| parts.last()).map_or(content, |part| &part["text"]);
    text.as_str().context("a message without text")
}

/// The text of greedy answers, without special tokens.
fn answers(folder: &Path, model: &LoadedModel, expected: &Expected) -> Result<()> {
    let texts = || expected.sequences.iter().filter_map(|(key, text)| Some((key, text, text.greedy_text.as_ref()?)));
    let prompt = |(key, Sequence { images, ids, .. }, _): (&String, &Sequence, _)| TokenPrompt {
        key: key.clone(),
        tokens: ids.clone(),
        images: images.clone(),
    };
    let prompts: Vec<TokenPrompt> = texts().map(prompt).collect();
    let config = GenerateConfig {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        max_tokens: 64,
        samples: 1,
        stop: model.chat.stop_tokens().to_vec(),
        repetition_penalty: 1.0,
        batch: 16,
    };
    let resources = Resources { device: Device::Cpu, precision: Precision::F32, threads: 1, progress: &NoProgress };
    let mut responses = BTreeMap::new();
    let mut done = |index, mut response: Vec<_>| {
        responses.insert(index, response.remove(0));
        Ok(())
    };
    let (checkpoint, images) = (&model.checkpoint, &*model.images);
    generate(checkpoint, &prompts, images, &config, Seed(5), &|_, _, _| false, &resources, &mut done)?;
    let tokenizer: Value = files::read_json(&folder.join(FILE))?;
    let added = tokenizer["added_tokens"].as_array().context("no `added_tokens`")?.iter();
    let special: BTreeSet<u64> =
        added.filter(|token| token["special"] == Value::Bool(true)).filter_map(|token| token["id"].as_u64()).collect();
    for ((key, _, text), response) in texts().zip(responses.into_values()) {
        let tokens: Vec<u32> = response.tokens.into_iter().filter(|&id| !special.contains(&u64::from(id))).collect();
        let ours = model.chat.tokenizer().decode(&tokens)?;
        if ours != *text {
            bail!("the answer to `{key}` is {ours:?}, expected {text:?}");
        }
    }
    Ok(())
}

/// Exports a checkpoint as the stage `export` does: every array has the same bits and number type, and its tokenizer,
/// chat template and image processor go with it. With `ABLATE_PARITY` the folder is kept for transformers.
fn exported(folder: &Path, model: &LoadedModel, root: Option<&Path>) -> Result<()> {
    let temporary = tempfile::tempdir()?;
    let copy = root.unwrap_or(temporary.path()).join("exported").join(files::name_of(folder));
    if copy.exists() {
        files::remove_dir(&copy)?;
    }
    model.checkpoint.write_rounded(&copy, Rounding::AsImported)?;
    copy_companion_files(&model.checkpoint, folder, &copy)?;
    let (source, written) = (WeightFiles::open(folder)?, WeightFiles::open(&copy)?);
    if !source.names().eq(written.names()) {
        bail!("the exported checkpoint has other arrays");
    }
    for name in source.names() {
        let shape = source.shape(name)?;
        let bits = |file: &WeightFiles| -> Result<Vec<u32>> {
            Ok(file.array(name, shape)?.into_iter().map(f32::to_bits).collect())
        };
        if source.dtype(name)? != written.dtype(name)? || bits(&source)? != bits(&written)? {
            bail!("`{name}` has changed");
        }
    }
    LoadedModel::load_folder(&copy, |processor| ImageLoader::from_files(&[], true, processor))
        .context("the exported checkpoint")?;
    Ok(())
}

#[test]
fn models_match_transformers() {
    let root = std::env::var_os("ABLATE_PARITY").map(PathBuf::from);
    let golden = || Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let hub = root.clone().unwrap_or_else(golden).join("hub");
    let mut folders: Vec<PathBuf> = files::list_paths(&hub).unwrap();
    folders.retain(|folder| folder.join("config.json").exists());
    assert!(folders.len() > 10, "only {} checkpoints in `{}`", folders.len(), hub.display());
    let mut wrong = Vec::new();
    for folder in folders {
        let name = files::name_of(&folder);
        let expected: Expected = files::read_json(&folder.join("expected.json")).unwrap();
        let model = open(&folder).unwrap_or_else(|error| panic!("{name}: {error:#}"));
        let results = [
            pixels(&folder, &model, &expected),
            prompts(&model, &expected),
            answers(&folder, &model, &expected),
            exported(&folder, &model, root.as_deref()),
        ];
        wrong.extend(results.into_iter().filter_map(Result::err).map(|error| format!("{name}: {error:#}")));
    }
    assert!(wrong.is_empty(), "{} comparisons failed:\n{}", wrong.len(), wrong.join("\n"));
}
