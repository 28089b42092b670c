//! Generates one response from a checkpoint in a folder, outside any experiment.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, anyhow, bail};
use serde::Serialize;

use super::loaded_model::LoadedModel;
use super::sampling::StopStrings;
use ablate_core::base::{Progress, Seed};
use ablate_data::chat_prompt::ChatPrompt;
use ablate_data::image_keys::ImageKeys;
use ablate_data::image_placeholders::{self, PLACEHOLDER};
use ablate_data::images::ImageLoader;
use ablate_data::import;
use ablate_data::records::FinishReason;
use ablate_nn::infer::{GenerateConfig, generate};
use ablate_nn::{DeviceChoice, Precision, Resources};

/// The model, the prompt and the sampling options.
#[derive(Clone, Debug)]
pub struct GenerationRequest {
    /// Folder of the checkpoint, in Hugging Face's or ablate's layout.
    pub model: PathBuf,
    /// The images. One stands before the text; of several, each stands at a placeholder in the text.
    pub images: Vec<PathBuf>,
    /// Whether images are rotated according to their EXIF orientation.
    pub exif_orientation: bool,
    pub text: String,
    /// 0: greedy decoding.
    pub temperature: f64,
    pub top_k: usize,
    pub top_p: f64,
    /// Longest response in tokens.
    pub max_tokens: usize,
    /// Strings that end the response.
    pub stop: Vec<String>,
    /// `None`: that of the checkpoint.
    pub repetition_penalty: Option<f64>,
    pub seed: u64,
    pub device: String,
    pub threads: usize,
}

/// A generated response.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Generation {
    pub text: String,
    pub finish: FinishReason,
    /// Tokens of the prompt, with those of the image.
    pub prompt_tokens: usize,
    /// Generated tokens, with the end token.
    pub tokens: u32,
    /// Fields of the checkpoint's files that are unknown, and ignored.
    pub unknown: Vec<String>,
    pub device: String,
}

/// Generates a response and streams its text to `on_text`. The concatenated pieces are the response.
pub fn generate_text(
    request: &GenerationRequest,
    progress: &dyn Progress,
    on_text: &(dyn Fn(&str) + Sync),
) -> Result<Generation> {
    let GenerationRequest { temperature, top_k, top_p, max_tokens, ref stop, .. } = *request;
    // The keys appear in error messages, so they are the paths.
    let keys: Vec<String> = request.images.iter().map(|path| path.display().to_string()).collect();
    let images = |processor| {
        // An image may be given twice.
        let files: BTreeMap<&str, &Path> =
            keys.iter().map(String::as_str).zip(request.images.iter().map(PathBuf::as_path)).collect();
        ImageLoader::from_files(&files.into_iter().collect::<Vec<_>>(), request.exif_orientation, processor)
    };
    let model = LoadedModel::load_folder(&request.model, images)?;
    if !keys.is_empty() && model.checkpoint.architecture.vision.is_none() {
        bail!("`{}` is a language model and takes no image", request.model.display());
    }
    let (images, text) = question(&request.text, keys).map_err(|what| anyhow!("{what}"))?;
    let prompt = model.chat.encode_prompt("question", &ChatPrompt::new(&images, &text))?;
    let device = DeviceChoice::resolve(&request.device)?;
    let resources = Resources { device, precision: Precision::F32, threads: request.threads.max(1), progress };
    let config = GenerateConfig {
        temperature,
        top_k,
        top_p,
        max_tokens,
        samples: 1,
        stop: model.chat.stop_tokens().to_vec(),
        repetition_penalty: request.repetition_penalty.unwrap_or_else(|| model.chat.repetition_penalty()),
        batch: 1,
    };
    let stop_strings = StopStrings { tokenizer: model.chat.tokenizer(), strings: stop };
    let streamed = Mutex::new(String::new());
    let stream = |text: &str| {
        let mut streamed = streamed.lock().unwrap_or_else(PoisonError::into_inner);
        // The text is not an extension if an incomplete character has changed.
        if let Some(new) = text.strip_prefix(streamed.as_str()).filter(|new| !new.is_empty()) {
            on_text(new);
            streamed.push_str(new);
        }
    };
    let is_finished = |_: usize, _: usize, tokens: &[u32]| {
        let found = stop_strings.found(tokens);
        if let Ok(text) = stop_strings.decode(tokens)
            && !text.ends_with(char::REPLACEMENT_CHARACTER)
            && !stop_strings.ends_in_prefix(&text)
        {
            stream(text.trim_start());
        }
        found
    };
    let mut response = None;
    let prompts = [prompt];
    let (checkpoint, images) = (&model.checkpoint, &*model.images);
    let mut done = |_: usize, responses: Vec<ablate_nn::infer::Generated>| {
        response = responses.into_iter().next();
        Ok(())
    };
    generate(checkpoint, &prompts, images, &config, Seed(request.seed), &is_finished, &resources, &mut done)?;
    let response = response.context("BUG: `generate` returned no response")?;
    let text = stop_strings.decode(&response.tokens)?.trim_start().to_string();
    stream(&text);
    Ok(Generation {
        text,
        finish: response.finish,
        prompt_tokens: prompts[0].tokens.len(),
        tokens: response.count,
        unknown: model.checkpoint.unknown_fields().to_vec(),
        device: device.to_string(),
    })
}

/// The images of a question, and its text as a user's turn. Several images without a placeholder stand before the text.
fn question(text: &str, keys: Vec<String>) -> Result<(ImageKeys, String), String> {
    if keys.len() < 2 {
        let text = import::parse_question(text, !keys.is_empty())?;
        return Ok((keys.into_iter().next().map_or(ImageKeys::None, ImageKeys::Leading), text));
    }
    let text = text.trim();
    let text = match image_placeholders::count(text) {
        0 => format!("{}{text}", PLACEHOLDER.repeat(keys.len())),
        count if count == keys.len() => text.to_string(),
        count => {
            return Err(format!(
                "the question has {count} `{PLACEHOLDER}` for {} images: write one where each image stands, or none to \
                 put all images before the text",
                keys.len()
            ));
        }
    };
    Ok((ImageKeys::Placed(keys), text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_stand_at_their_placeholders() {
        let ask = |text: &str, keys: &[&str]| question(text, keys.iter().map(ToString::to_string).collect());
        let placed = ImageKeys::Placed(vec!["a".into(), "b".into()]);
        assert_eq!(ask("How many?", &[]), Ok((ImageKeys::None, "How many?".into())));
        assert_eq!(ask("<image> How many?", &["a"]), Ok((ImageKeys::Leading("a".into()), "How many?".into())));
        assert_eq!(ask(" Same?", &["a", "b"]), Ok((placed.clone(), "<image><image>Same?".into())));
        assert_eq!(ask("Is <image> in <image>?", &["a", "b"]), Ok((placed, "Is <image> in <image>?".into())));
        let message = "the question has 1 `<image>` for 2 images: write one where each image stands, or none to put all \
                       images before the text";
        assert_eq!(ask("<image>?", &["a", "b"]), Err(message.to_string()));
    }
}
