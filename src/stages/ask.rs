//! One question to a checkpoint in a folder, outside any experiment. Knows no kind and no store.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, anyhow, bail};
use serde::Serialize;

use super::loaded_model::Model;
use super::sampling::Ends;
use ablate_core::base::{Progress, Seed};
use ablate_data::external_rows;
use ablate_data::images::ImageLoader;
use ablate_data::records::FinishReason;
use ablate_nn::infer::{GenerateConfig, generate};
use ablate_nn::{DeviceChoice, Resources};

/// What is asked of whom, and how it is answered.
#[derive(Clone, Debug)]
pub struct Question {
    /// Folder of the checkpoint: Hugging Face's layout or ours.
    pub model: PathBuf,
    pub image: Option<PathBuf>,
    /// Whether the image is turned as its EXIF data say.
    pub exif_orientation: bool,
    pub text: String,
    /// 0: the likeliest token each time.
    pub temperature: f64,
    pub top_k: usize,
    pub top_p: f64,
    /// Longest answer in tokens.
    pub max_tokens: usize,
    /// Texts that end an answer.
    pub stop: Vec<String>,
    /// Of tokens that the sequence has already; none: the checkpoint's own.
    pub repetition_penalty: Option<f64>,
    pub seed: u64,
    pub device: String,
    pub threads: usize,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answer {
    pub text: String,
    pub finish: FinishReason,
    /// Tokens of the question, those of the image included.
    pub prompt_tokens: usize,
    /// Tokens that were generated, the one that ends the answer included.
    pub tokens: u32,
    /// What of the checkpoint's files is not known, and was ignored.
    pub unknown: Vec<String>,
    pub device: String,
}

/// Asks, and hands every new piece of the answer to `heard` as it comes; joined they are the answer.
pub fn ask(question: &Question, progress: &dyn Progress, heard: &(dyn Fn(&str) + Sync)) -> Result<Answer> {
    let Question { temperature, top_k, top_p, max_tokens, ref stop, .. } = *question;
    // Errors name the file.
    let key = question.image.as_ref().map(|path| path.display().to_string());
    let images = |processor| {
        let image = key.as_deref().zip(question.image.as_deref());
        ImageLoader::from_files(&image.into_iter().collect::<Vec<_>>(), question.exif_orientation, processor)
    };
    let model = Model::open(&question.model, images)?;
    if question.image.is_some() && model.checkpoint.architecture.vision.is_none() {
        bail!("`{}` is a language model, which takes no image", question.model.display());
    }
    let text = external_rows::parse_question(&question.text, key.is_some()).map_err(|what| anyhow!("{what}"))?;
    let prompt = model.chat.encode_prompt("question", &text, key.as_deref())?;
    let device = DeviceChoice::resolve(&question.device)?;
    let resources = Resources { device, threads: question.threads.max(1), progress };
    let config = GenerateConfig {
        temperature,
        top_k,
        top_p,
        max_tokens,
        samples: 1,
        stop: model.chat.stop_tokens().to_vec(),
        repetition_penalty: question.repetition_penalty.unwrap_or_else(|| model.chat.repetition_penalty()),
        batch: 1,
    };
    let ends = Ends { tokenizer: model.chat.tokenizer(), texts: stop };
    let told = Mutex::new(String::new());
    let tell = |text: &str| {
        let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
        // A character that is not whole yet may still change.
        if let Some(new) = text.strip_prefix(told.as_str()).filter(|new| !new.is_empty()) {
            heard(new);
            told.push_str(new);
        }
    };
    let watch = |_: usize, _: usize, tokens: &[u32]| {
        let reached = ends.reached(tokens);
        if let Ok(text) = ends.text(tokens)
            && !text.ends_with(char::REPLACEMENT_CHARACTER)
            && !ends.begins(&text)
        {
            tell(text.trim_start());
        }
        reached
    };
    let mut answer = None;
    let prompts = [prompt];
    let (checkpoint, images) = (&model.checkpoint, &*model.images);
    let mut done = |_: usize, responses: Vec<ablate_nn::infer::Generated>| {
        answer = responses.into_iter().next();
        Ok(())
    };
    generate(checkpoint, &prompts, images, &config, Seed(question.seed), &watch, &resources, &mut done)?;
    let answer = answer.context("BUG: no answer came")?;
    let text = ends.text(&answer.tokens)?.trim_start().to_string();
    tell(&text);
    Ok(Answer {
        text,
        finish: answer.finish,
        prompt_tokens: prompts[0].tokens.len(),
        tokens: answer.count,
        unknown: model.checkpoint.unknown_fields().to_vec(),
        device: device.to_string(),
    })
}
