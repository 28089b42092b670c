//! `generate`: prints a checkpoint's response to a question as it is generated. Needs no experiment and no store.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::json;

use super::shell::Shell;
use super::value_parsers::at_least_one;
use crate::stages::generate::{Generation, GenerationRequest, generate_text};
use ablate_core::base::progress::NoProgress;
use ablate_core::stage::HubRepository;
use ablate_experiment::hub_cache;

#[derive(Debug, Args)]
pub(super) struct GenerateArgs {
    /// The question. `-` reads it from stdin.
    #[arg(value_name = "QUESTION")]
    question: String,
    /// Folder of the checkpoint: in Hugging Face's layout, or a stage's output `model`; or `hf://org/name`, a snapshot in the
    /// hub's local cache.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// PNG, JPEG, WebP, GIF or BMP image for the question. Repeatable: each image stands at an `<image>` in the question, or all before it.
    #[arg(long = "image", value_name = "FILE")]
    images: Vec<PathBuf>,
    /// Do not apply the orientation in the image's EXIF data.
    #[arg(long, requires = "images")]
    ignore_exif_orientation: bool,
    /// Sampling temperature; 0 for greedy decoding.
    #[arg(long, default_value_t = 0.0, value_name = "T", allow_negative_numbers = true)]
    temperature: f64,
    /// Sample from the K most likely tokens; 0 for all.
    #[arg(long, default_value_t = 0, value_name = "K")]
    top_k: usize,
    /// Sample from the smallest set of tokens with at least this total probability.
    #[arg(long, default_value_t = 1.0, value_name = "P", allow_negative_numbers = true)]
    top_p: f64,
    /// Maximum number of generated tokens.
    #[arg(long, default_value_t = 512, value_name = "N")]
    max_tokens: usize,
    /// Stop generation at this text. Repeatable.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Repetition penalty [default: the checkpoint's own].
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    repetition_penalty: Option<f64>,
    /// Seed for sampling.
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// `auto`, `cpu` or `cuda:N`.
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    device: String,
    /// Number of CPU threads [default: all].
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    threads: Option<usize>,
}

/// The folder of the checkpoint. `hf://org/name` is a snapshot in the hub's local cache.
fn model_folder(model: &Path) -> Result<PathBuf> {
    match model.to_str().filter(|text| text.starts_with(hub_cache::SCHEME)) {
        Some(text) => hub_cache::resolve(text, HubRepository::Model).map_err(anyhow::Error::msg),
        None => Ok(model.to_path_buf()),
    }
}

pub(super) fn generate(shell: Shell, arguments: &GenerateArgs) -> Result<()> {
    let GenerateArgs { temperature, top_p, max_tokens, .. } = *arguments;
    if !temperature.is_finite() || temperature < 0.0 {
        bail!("`--temperature` must be at least 0, not {temperature}");
    }
    if top_p.is_nan() || top_p <= 0.0 || top_p > 1.0 {
        bail!("`--top-p` must be above 0 and at most 1, not {top_p}");
    }
    if max_tokens == 0 || arguments.stop.iter().any(String::is_empty) {
        bail!("`--max-tokens` must be at least 1, and `--stop` must not be empty");
    }
    if let Some(penalty) = arguments.repetition_penalty.filter(|penalty| !penalty.is_finite() || *penalty <= 0.0) {
        bail!("`--repetition-penalty` must be above 0, not {penalty}");
    }
    let text = match arguments.question.as_str() {
        "-" => std::io::read_to_string(std::io::stdin())?.trim_end().to_string(),
        text => text.to_string(),
    };
    let threads = arguments.threads.or(std::thread::available_parallelism().ok().map(usize::from));
    let request = GenerationRequest {
        model: model_folder(&arguments.model)?,
        images: arguments.images.clone(),
        exif_orientation: !arguments.ignore_exif_orientation,
        text,
        temperature,
        top_k: arguments.top_k,
        top_p,
        max_tokens,
        stop: arguments.stop.clone(),
        repetition_penalty: arguments.repetition_penalty,
        seed: arguments.seed,
        device: arguments.device.clone(),
        threads: threads.unwrap_or(1),
    };
    let started = Instant::now();
    let on_text = |piece: &str| {
        if !shell.json {
            shell.piece(piece);
        }
    };
    let generation = generate_text(&request, &NoProgress, &on_text)?;
    let seconds = started.elapsed().as_secs_f64();
    if !generation.unknown.is_empty() {
        let unknown = generation.unknown.join(", ");
        shell.status(&format!("warning: `config.json` has unknown fields, which were ignored: {unknown}"));
    }
    let Generation { text, finish, prompt_tokens, tokens, unknown: _, device } = generation;
    if shell.json {
        return shell.json(&json!({
            "text": text, "finish": finish, "prompt_tokens": prompt_tokens, "tokens": tokens,
            "device": device, "seconds": seconds,
        }));
    }
    shell.piece("\n");
    if shell.verbose > 0 {
        shell.status(&format!("{tokens} tokens in {seconds:.1} s, including the time to load the model"));
    }
    Ok(())
}
