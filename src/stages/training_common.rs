//! Shared by the training kinds: device and threads, the keys of optimizer and adapter, the outputs.

use anyhow::{Context, Result, anyhow};

use super::common::{self, with_threads};
use super::loaded_model::LoadedModel;
use ablate_core::base::wrong_input;
use ablate_core::stage::{ConfigError, Manifest, StageContext, Summary};
use ablate_data::contamination::{QuestionRef, TrainingIndex};
use ablate_nn::hub::Dtype;
use ablate_nn::train::{LearningRates, MicroBatch, OptimizerConfig, TrainState, Trained, Tuning};
use ablate_nn::{Device, DeviceChoice, LoraConfig, Pattern, Resources};

/// Folder of a LoRA adapter inside the model's folder. The model's weights have the adapter merged.
pub(super) const ADAPTER_FOLDER: &str = "adapter";

/// The device and the threads of the stage.
pub(super) fn resources<'a>(ctx: &'a StageContext) -> Result<Resources<'a>> {
    if ctx.device.contains(',') {
        return Err(wrong_input(anyhow!("a model runs on one GPU: remove `limits.gpu`, or set it to 1")));
    }
    let device = DeviceChoice::resolve(&ctx.device)?;
    Ok(Resources { device, threads: ctx.threads.max(1), progress: ctx.progress })
}

/// Default of `length_window`.
pub(super) const LENGTH_WINDOW: usize = 32;

/// How often training saves a checkpoint to resume from. It does not change the result.
#[derive(Clone, Copy, Debug)]
pub(super) struct CheckpointInterval {
    pub(super) steps: u64,
    pub(super) seconds: f64,
}

impl CheckpointInterval {
    pub(super) fn train_state(self, ctx: &StageContext) -> TrainState {
        TrainState { folder: Some(ctx.scratch.clone()), every_steps: self.steps, every_seconds: self.seconds }
    }
}

/// The training index of a role's model, with the rows of this training added.
pub(super) fn training_index<'a, T>(
    ctx: &StageContext,
    role: &str,
    model: &LoadedModel,
    rows: &'a [T],
) -> Result<TrainingIndex>
where
    QuestionRef<'a>: From<&'a T>,
{
    let folder = &ctx.input(role)?.path;
    let mut index =
        TrainingIndex::read(folder).map_err(wrong_input).with_context(|| format!("`{role}`"))?.unwrap_or_default();
    let rows: Vec<QuestionRef> = rows.iter().map(QuestionRef::from).collect();
    with_threads(ctx.threads, || index.add(&rows, &|key| model.images.encoded(key)))??;
    Ok(index)
}

/// Writes the outputs of training and returns its summary.
pub(super) fn write_outputs(
    ctx: &StageContext,
    trained: &Trained,
    role: &str,
    index: &TrainingIndex,
    device: Device,
) -> Result<Summary> {
    let folder = ctx.output("model");
    LoadedModel::write(&trained.checkpoint, &ctx.input(role)?.path, &folder)?;
    if let Some(adapter) = &trained.adapter {
        // PEFT cannot use the parameter names of ablate's own layout, so only the merged weights are written.
        if !trained.checkpoint.is_own() {
            let has_vision = trained.checkpoint.architecture.vision.is_some();
            adapter.write(&folder.join(ADAPTER_FOLDER), has_vision, None, Dtype::F32)?;
        }
    }
    index.write(&folder)?;
    ablate_data::jsonl::write(&ctx.output("curve.jsonl"), &trained.curve)?;
    let loss = trained.curve.last().map(|point| point.loss);
    Ok(Summary::default()
        .with("steps", trained.steps)
        .with("tokens", trained.tokens)
        .with("flops", trained.flops)
        .with("final_loss", loss)
        .with("parameters", trained.checkpoint.parameters())
        .with("device", device.to_string()))
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

/// The keys of a LoRA adapter (Hu et al. 2021). The defaults are PEFT's.
#[derive(Clone, Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LoraTable {
    rank: Option<usize>,
    /// The adapter's output is multiplied by `alpha / rank`.
    alpha: Option<f64>,
    /// Dropout probability of its inputs in training.
    dropout: Option<f64>,
    /// Linear layers with an adapter, by name or pattern.
    targets: Option<Vec<Pattern>>,
}

impl LoraTable {
    pub(super) fn config(&self) -> LoraConfig {
        let targets = || ["q_proj", "v_proj"].map(|name| Pattern(name.to_string())).to_vec();
        LoraConfig {
            rank: self.rank.unwrap_or(8),
            alpha: self.alpha.unwrap_or(8.0),
            dropout: self.dropout.unwrap_or(0.0),
            targets: self.targets.clone().unwrap_or_else(targets),
        }
    }
}

/// Adds micro-batches and adapter to the manifest. The size of micro-batches changes the last bits of gradient sums.
pub(super) fn identify_tuning(manifest: &mut Manifest, tuning: &Tuning) {
    let Tuning { micro_batch, lora } = tuning;
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

/// Declares the table of a training kind: its own keys and those of every training. A macro, since a struct with
/// serde's `flatten` cannot refuse unknown keys.
macro_rules! training_table {
    ($(#[$attribute:meta])* struct $name:ident { $($own_keys:tt)* }) => {
        $(#[$attribute])*
        #[derive(serde::Deserialize, schemars::JsonSchema)]
        #[serde(deny_unknown_fields)]
        struct $name {
            $($own_keys)*
            /// Passes over the data.
            epochs: Option<usize>,
            /// Rows per step.
            batch: Option<usize>,
            /// Number of batches whose rows are sorted by length together; 1: no sorting.
            length_window: Option<usize>,
            /// Peak learning rate.
            lr: Option<f64>,
            /// Learning rates of vision tower, projector and decoder, if they differ from `lr`.
            lr_parts: Option<ablate_nn::train::LearningRates>,
            /// Decay rates of the first and the second moment.
            betas: Option<[f64; 2]>,
            /// Added to the square root of the second moment.
            eps: Option<f64>,
            /// Decoupled weight decay, multiplied by the learning rate at each step. Applies to matrices only.
            weight_decay: Option<f64>,
            /// Largest global gradient norm; longer gradients are scaled down. 0: no clipping.
            clip: Option<f64>,
            /// Learning rate schedule after the warm-up.
            schedule: Option<ablate_nn::train::Schedule>,
            /// Share of the steps over which the learning rate rises from 0.
            warmup: Option<f64>,
            /// Learning rate at the last step, as a share of `lr`.
            final_lr: Option<f64>,
            /// Frozen parameters: parts of the model, or patterns of parameter names.
            freeze: Option<Vec<ablate_nn::train::Freeze>>,
            /// Rows per forward and backward pass, or "auto" for as many as fit into memory. Gradients are accumulated
            /// over the batch.
            micro_batch: Option<ablate_nn::train::MicroBatch>,
            /// Trains a low-rank adapter instead of the model's own parameters.
            lora: Option<$crate::stages::training_common::LoraTable>,
            /// Steps between checkpoints to resume from. Does not change the result.
            keep_steps: Option<u64>,
            /// Seconds between checkpoints to resume from. Does not change the result.
            keep_seconds: Option<f64>,
        }

        impl $name {
            /// The optimizer's keys; missing ones are taken from `defaults`.
            fn optimizer(&self, defaults: ablate_nn::train::OptimizerConfig) -> ablate_nn::train::OptimizerConfig {
                ablate_nn::train::OptimizerConfig {
                    lr: self.lr.unwrap_or(defaults.lr),
                    lr_parts: self.lr_parts.unwrap_or(defaults.lr_parts),
                    betas: self.betas.unwrap_or(defaults.betas),
                    eps: self.eps.unwrap_or(defaults.eps),
                    weight_decay: self.weight_decay.unwrap_or(defaults.weight_decay),
                    clip: self.clip.unwrap_or(defaults.clip),
                    schedule: self.schedule.unwrap_or(defaults.schedule),
                    warmup: self.warmup.unwrap_or(defaults.warmup),
                    final_lr: self.final_lr.unwrap_or(defaults.final_lr),
                    freeze: self.freeze.clone().unwrap_or(defaults.freeze),
                }
            }

            /// Micro-batches and adapter.
            fn tuning(&self) -> ablate_nn::train::Tuning {
                ablate_nn::train::Tuning {
                    // Micro-batches of the whole batch are the default.
                    micro_batch: self.micro_batch.filter(|micro| {
                        *micro != ablate_nn::train::MicroBatch::Rows(self.batch.unwrap_or(32))
                    }),
                    lora: self.lora.as_ref().map($crate::stages::training_common::LoraTable::config),
                }
            }

            fn checkpoint_interval(&self) -> $crate::stages::training_common::CheckpointInterval {
                $crate::stages::training_common::CheckpointInterval {
                    steps: self.keep_steps.unwrap_or(500),
                    seconds: self.keep_seconds.unwrap_or(30.0),
                }
            }
        }
    };
}
pub(super) use training_table;

/// Adds the mistakes of micro-batches and adapter.
fn check_tuning(tuning: &Tuning, batch: usize, errors: &mut Vec<ConfigError>) {
    let mut need = |key: &str, holds: bool, message: String| {
        if !holds {
            errors.push(ConfigError::at(key, format!("`{key}` must be {message}")));
        }
    };
    if let Some(MicroBatch::Rows(micro)) = tuning.micro_batch {
        need("micro_batch", (1..=batch).contains(&micro), format!("from 1 to `batch` ({batch}), not {micro}"));
    }
    let Some(LoraConfig { rank, alpha, dropout, targets }) = &tuning.lora else { return };
    need("lora.rank", (1..=4096).contains(rank), format!("from 1 to 4096, not {rank}"));
    need("lora.alpha", alpha.is_finite() && *alpha > 0.0, format!("above 0, not {alpha}"));
    need("lora.dropout", (0.0..1.0).contains(dropout), format!("at least 0 and below 1, not {dropout}"));
    need("lora.targets", !targets.is_empty(), "a list of at least one layer".to_string());
}

/// The mistakes of the keys that every training kind has.
pub(super) fn check_training(
    optimizer: &OptimizerConfig,
    tuning: &Tuning,
    epochs: usize,
    batch: usize,
    length_window: usize,
    interval: CheckpointInterval,
) -> Vec<ConfigError> {
    let mut errors: Vec<ConfigError> = optimizer
        .check()
        .into_iter()
        .map(|(key, message)| ConfigError::at(&key, format!("`{key}` {message}")))
        .collect();
    for (key, value) in [("epochs", epochs as u64), ("batch", batch as u64), ("keep_steps", interval.steps)] {
        if value == 0 {
            errors.push(ConfigError::at(key, format!("`{key}` must be at least 1, not 0")));
        }
    }
    let counts = [("epochs", Some(epochs)), ("batch", Some(batch)), ("length_window", Some(length_window))];
    common::check_max(&mut errors, common::MAX_COUNT, counts);
    check_tuning(tuning, batch, &mut errors);
    if interval.seconds.is_nan() || interval.seconds <= 0.0 {
        errors
            .push(ConfigError::at("keep_seconds", format!("`keep_seconds` must be above 0, not {}", interval.seconds)));
    }
    errors
}
