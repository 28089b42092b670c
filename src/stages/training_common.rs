//! Shared by the training kinds: device and threads, the values of the manifest, the training index, the outputs.

use std::collections::BTreeSet;

use anyhow::{Context, Result, anyhow};

use super::checkpoint_folders::{CheckpointFolders, copy_companion_files, write_adapter};
use super::common::with_threads;
use super::loaded_model::LoadedModel;
use ablate_core::base::wrong_input;
use ablate_core::stage::{Manifest, StageContext, Summary, Training, TrainingLength};
use ablate_data::batches::{BatchConfig, BatchSampler, Budget, LastBatch};
use ablate_data::contamination::{QuestionRef, Questions, TrainingIndex};
use ablate_nn::train::{LearningRates, OptimizerConfig, Trained, Tuning};
use ablate_nn::{Device, DeviceChoice, LoraConfig, Precision, Resources};

/// The output with the trained model.
pub(super) const MODEL: &str = "model";

/// The device and the threads of the stage.
pub(super) fn resources<'a>(ctx: &'a StageContext, precision: Precision) -> Result<Resources<'a>> {
    if ctx.device.contains(',') {
        return Err(wrong_input(anyhow!("a model runs on one GPU: remove `limits.gpu`, or set it to 1")));
    }
    let device = DeviceChoice::resolve(&ctx.device)?;
    let resources = Resources { device, precision, threads: ctx.threads.max(1), progress: ctx.progress };
    resources.check().map_err(wrong_input)?;
    Ok(resources)
}

/// What a training draws from its data.
#[derive(Clone, Copy, Debug)]
pub(super) struct DrawnData {
    /// Rows or pairs of the data.
    all: usize,
    /// Rows or pairs drawn, with repetition.
    examples: u64,
    /// Different questions among them.
    questions: usize,
}

/// The training index of a role's model, with the rows that this training draws, and their numbers. A question is
/// identified by its data set, its text and the content of its images.
pub(super) fn training_index<T: Questions>(
    ctx: &StageContext,
    role: &str,
    model: &LoadedModel,
    rows: &[T],
    dataset: fn(&T) -> &str,
    sampler: &BatchSampler,
) -> Result<(TrainingIndex, DrawnData)> {
    let folder = &ctx.input(role)?.path;
    let mut index =
        TrainingIndex::read(folder).map_err(wrong_input).with_context(|| format!("`{role}`"))?.unwrap_or_default();
    let draws = sampler.draws();
    let drawn: Vec<&T> = rows.iter().zip(&draws).filter(|(_, draws)| **draws > 0).map(|(row, _)| row).collect();
    let refs = drawn.iter().flat_map(|&row| row.questions().into_iter().map(move |question| (dataset(row), question)));
    let (datasets, refs): (Vec<&str>, Vec<QuestionRef>) = refs.unzip();
    let hashes = with_threads(ctx.threads, || index.add(&refs, &|key| model.images.encoded(key)))??;
    let questions: BTreeSet<(&str, u128)> = datasets.into_iter().zip(hashes).collect();
    let examples = draws.iter().map(|&draws| u64::from(draws)).sum();
    Ok((index, DrawnData { all: rows.len(), examples, questions: questions.len() }))
}

/// Writes the outputs of training and returns its summary. With `lora`, the model is an adapter that builds on the role's
/// model.
pub(super) fn write_outputs(
    ctx: &StageContext,
    trained: &Trained,
    role: &str,
    (index, drawn): &(TrainingIndex, DrawnData),
    device: Device,
) -> Result<Summary> {
    let folder = ctx.output(MODEL);
    if let Some(adapter) = &trained.adapter {
        write_adapter(adapter, &trained.checkpoint, ctx.input(role)?, &folder)?;
    } else {
        trained.checkpoint.write(&folder)?;
        let base = CheckpointFolders::of_input(ctx, role)?;
        copy_companion_files(&trained.checkpoint, &base.weights, &folder)?;
    }
    index.write(&folder)?;
    ablate_data::jsonl::write(&ctx.output("curve.jsonl"), &trained.curve)?;
    let loss = trained.curve.last().map(|point| point.loss);
    let DrawnData { all, examples, questions } = *drawn;
    Ok(Summary::default()
        .with("steps", trained.steps)
        .with("tokens", trained.tokens)
        .with("flops", trained.flops)
        .with("epochs", examples as f64 / all as f64)
        .with("examples", examples)
        .with("questions", questions)
        .with("final_loss", loss)
        .with("parameters", trained.checkpoint.parameters())
        .with("device", device.to_string()))
}

/// The role that the model of a training builds on: with `lora`, the one that it trains.
pub(super) fn base_input(tuning: &Tuning, output: &str, role: &'static str) -> Option<&'static str> {
    (tuning.lora.is_some() && output == MODEL).then_some(role)
}

/// How long a stage with these batches trains.
pub(super) fn training(batches: &BatchConfig) -> Training {
    let length = match batches.budget {
        Budget::Epochs(epochs) => TrainingLength::Epochs(epochs as u64),
        Budget::Steps(steps) => TrainingLength::Steps(steps as u64),
        Budget::Tokens(tokens) => TrainingLength::Tokens(tokens as u64),
    };
    Training { length, batch: batches.batch as u64 }
}

/// Adds the values of the batches to the manifest.
pub(super) fn identify_batches(manifest: &mut Manifest, batches: &BatchConfig) {
    let BatchConfig { budget, batch, last_batch, length_window } = batches;
    match budget {
        Budget::Epochs(epochs) => manifest.value("epochs", epochs),
        Budget::Steps(steps) => manifest.value("steps", steps),
        Budget::Tokens(tokens) => manifest.value("tokens", tokens),
    }
    manifest.value("batch", batch);
    manifest.value_unless("last_batch", last_batch, &LastBatch::Keep);
    manifest.value("length_window", length_window);
}

/// Adds the optimizer's values to the manifest, under the user's keys.
pub(super) fn identify_optimizer(manifest: &mut Manifest, optimizer: &OptimizerConfig) {
    let OptimizerConfig { lr, lr_parts, betas, eps, weight_decay, clip, schedule, warmup, final_lr, freeze } =
        optimizer;
    let LearningRates { vision, projector, decoder } = lr_parts;
    manifest.value("lr", lr);
    for (part, value) in [("vision", vision), ("projector", projector), ("decoder", decoder)] {
        manifest.value_unless(&format!("lr_parts.{part}"), value, &None);
    }
    manifest.value("betas", betas);
    manifest.value("eps", eps);
    manifest.value("weight_decay", weight_decay);
    manifest.value("clip", clip);
    manifest.value("schedule", schedule);
    manifest.value("warmup", warmup);
    manifest.value("final_lr", final_lr);
    let mut freeze = freeze.clone();
    freeze.sort_unstable();
    freeze.dedup();
    manifest.value("freeze", &freeze);
}

/// Adds micro-batches and adapter to the manifest. The size of micro-batches changes the last bits of gradient sums; gradient
/// checkpointing changes no bit.
pub(super) fn identify_tuning(manifest: &mut Manifest, tuning: &Tuning) {
    let Tuning { micro_batch, gradient_checkpointing: _, lora } = tuning;
    manifest.value_unless("micro_batch", micro_batch, &None);
    let Some(LoraConfig { rank, alpha, dropout, targets }) = lora else { return };
    manifest.value("lora.rank", rank);
    manifest.value("lora.alpha", alpha);
    manifest.value("lora.dropout", dropout);
    let mut targets = targets.clone();
    targets.sort_unstable();
    targets.dedup();
    manifest.value("lora.targets", &targets);
}
