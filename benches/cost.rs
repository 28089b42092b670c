//! The computed cost of training and generation on a GPU, for `cuda.py`. Needs no GPU and reads no weights. Prints JSON.

use std::path::PathBuf;

use ablate_nn::cost::{
    BatchShape, Card, GenerationShape, Memory, Prediction, Trainable, Work, Workload, generation, parameter_count,
    training,
};
use ablate_nn::{Checkpoint, Pattern, Precision};
use anyhow::{Context, Result};
use clap::Parser;
use serde_json::{Value, json};

/// Work, memory and the time that is expected on an H200.
#[derive(Parser)]
struct Arguments {
    /// A checkpoint, of which only config.json is read.
    #[arg(long)]
    model: PathBuf,
    /// `f32`, `tf32` or `bf16`.
    #[arg(long, default_value = "f32")]
    precision: String,
    /// Rows of a training batch.
    #[arg(long, default_value_t = 1)]
    rows: usize,
    /// Positions of a row.
    #[arg(long, default_value_t = 512)]
    positions: usize,
    /// Targets of a row [default: all positions].
    #[arg(long)]
    targets: Option<usize>,
    /// Images of a row and of a prompt, each of one tile.
    #[arg(long, default_value_t = 0)]
    tiles: usize,
    /// Trains an adapter of this rank on all linear layers of the decoder.
    #[arg(long)]
    lora: Option<usize>,
    /// Keeps only the inputs of the blocks for the backward pass.
    #[arg(long)]
    gradient_checkpointing: bool,
    #[arg(long, default_value_t = 1)]
    prompts: usize,
    /// Responses to each prompt.
    #[arg(long, default_value_t = 1)]
    samples: usize,
    #[arg(long, default_value_t = 64)]
    prompt_tokens: usize,
    /// Tokens of a response.
    #[arg(long, default_value_t = 128)]
    new_tokens: usize,
}

#[expect(clippy::print_stdout, reason = "the result")]
fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let architecture = Checkpoint::read_architecture(&arguments.model)?;
    let precision: Precision =
        serde_json::from_value(arguments.precision.as_str().into()).with_context(|| arguments.precision.clone())?;
    let trainable = match arguments.lora {
        None => Trainable::Model { frozen: Vec::new() },
        Some(rank) => Trainable::Lora { rank, targets: vec![Pattern("model.layers.*".to_string())] },
    };
    let gradient_checkpointing = arguments.gradient_checkpointing;
    let workload = Workload { architecture: &architecture, precision, trainable, gradient_checkpointing };
    let Arguments { rows, positions, tiles, prompts, samples, prompt_tokens, new_tokens, .. } = arguments;
    let targets = arguments.targets.unwrap_or(positions);
    let step = training(&workload, &BatchShape { rows, positions, tiles, targets })?;
    let shape = GenerationShape { prompts, samples, prompt_tokens, new_tokens, tiles };
    let generated = generation(&architecture, precision, &shape)?;
    println!(
        "{}",
        json!({
            "parameters": parameter_count(&architecture),
            "card": Card::H200,
            "training": describe(&step.step(), precision, Some(&step.memory)),
            "forward": describe(&step.forward, precision, None),
            "backward": describe(&step.backward, precision, None),
            "optimizer": describe(&step.optimizer, precision, None),
            "prefill": describe(&generated.prefill, precision, None),
            "step": describe(&generated.step, precision, Some(&generated.memory)),
        })
    );
    Ok(())
}

fn describe(work: &Work, precision: Precision, memory: Option<&Memory>) -> Value {
    let memory = memory.map(|memory| json!({ "total": memory.total(), "parts": memory }));
    json!({
        "launches": work.launches(), "products": work.products(), "flops": work.flops(), "bytes": work.bytes(),
        "copied": work.copied(), "items": work.items(), "memory": memory,
        "predicted": Prediction::new(work, precision, &Card::H200),
    })
}
