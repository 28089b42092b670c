//! What the training kinds share: the device, the optimizer's keys, the outputs. Knows no kind.

use anyhow::{Context, Result, anyhow};

use super::common::{self, with_threads};
use super::loaded_model::Model;
use ablate_core::base::wrong_input;
use ablate_core::stage::{ConfigError, Manifest, StageContext, Summary};
use ablate_data::contamination::{QuestionRef, TrainingIndex};
use ablate_nn::hub::Dtype;
use ablate_nn::train::{LearningRates, MicroBatch, OptimizerConfig, TrainState, Trained, Tuning};
use ablate_nn::{Device, DeviceChoice, LoraConfig, Pattern, Resources};

/// Where the adapter of a training lies in the folder of its model, which has it merged in.
pub(super) const ADAPTER: &str = "adapter";

/// The device and the threads that the stage was given.
pub(super) fn resources<'a>(ctx: &'a StageContext) -> Result<Resources<'a>> {
    if ctx.device.contains(',') {
        return Err(wrong_input(anyhow!("a model computes on one GPU: leave `limits.gpu` out, or set it to 1")));
    }
    let device = DeviceChoice::resolve(&ctx.device)?;
    Ok(Resources { device, threads: ctx.threads.max(1), progress: ctx.progress })
}

/// Batches that are sorted by length together, unless the table says otherwise.
pub(super) const LENGTH_WINDOW: usize = 32;

/// How often a training keeps its state: none of it changes a result.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keep {
    pub(super) steps: u64,
    pub(super) seconds: f64,
}

impl Keep {
    pub(super) fn state(self, ctx: &StageContext) -> TrainState {
        TrainState { folder: Some(ctx.scratch.clone()), every_steps: self.steps, every_seconds: self.seconds }
    }
}

/// What the model of a role had seen before, and what it is asked in this training.
pub(super) fn seen<'a, T>(ctx: &StageContext, role: &str, model: &Model, asked: &'a [T]) -> Result<TrainingIndex>
where
    QuestionRef<'a>: From<&'a T>,
{
    let folder = &ctx.input(role)?.path;
    let mut seen =
        TrainingIndex::read(folder).map_err(wrong_input).with_context(|| format!("`{role}`"))?.unwrap_or_default();
    let asked: Vec<QuestionRef> = asked.iter().map(QuestionRef::from).collect();
    with_threads(ctx.threads, || seen.add(&asked, &|key| model.images.encoded(key)))??;
    Ok(seen)
}

/// Writes a training's outputs and sums it up.
pub(super) fn finish(
    ctx: &StageContext,
    trained: &Trained,
    role: &str,
    seen: &TrainingIndex,
    device: Device,
) -> Result<Summary> {
    let folder = ctx.output("model");
    Model::write(&trained.checkpoint, &ctx.input(role)?.path, &folder)?;
    if let Some(adapter) = &trained.adapter {
        // Names of ours mean nothing to PEFT: there the model with the adapter merged in is all there is.
        if !trained.checkpoint.is_own() {
            let eyes = trained.checkpoint.architecture.vision.is_some();
            adapter.write(&folder.join(ADAPTER), eyes, None, Dtype::F32)?;
        }
    }
    seen.write(&folder)?;
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

/// Adds the optimizer's values to what identifies a stage, under the keys that the user types.
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

/// The keys of an adapter (Hu et al. 2021); the defaults are PEFT's.
#[derive(Clone, Debug, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Lora {
    rank: Option<usize>,
    /// The adapter counts `alpha / rank` times.
    alpha: Option<f64>,
    /// Share of its inputs that are dropped in training.
    dropout: Option<f64>,
    /// Linear layers that get an adapter, by name or pattern.
    targets: Option<Vec<Pattern>>,
}

impl Lora {
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

/// Adds what is tuned to what identifies a stage. Micro-batches are identity: they change the last bits of a sum.
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

/// Declares a training kind's table: its own keys, and beside them the optimizer's, epochs, batch, and how often the
/// state is kept. Written out by a macro, since serde's `flatten` cannot refuse unknown keys.
macro_rules! training_table {
    ($(#[$attribute:meta])* struct $name:ident { $($own:tt)* }) => {
        $(#[$attribute])*
        #[derive(serde::Deserialize, schemars::JsonSchema)]
        #[serde(deny_unknown_fields)]
        struct $name {
            $($own)*
            /// Passes over the data.
            epochs: Option<usize>,
            /// Rows of a step.
            batch: Option<usize>,
            /// Batches whose rows are sorted by length together; 1 mixes all lengths.
            length_window: Option<usize>,
            /// Highest learning rate.
            lr: Option<f64>,
            /// Learning rates of single parts.
            lr_parts: Option<ablate_nn::train::LearningRates>,
            /// Decay of the first and of the second moment.
            betas: Option<[f64; 2]>,
            /// Added to the root of the second moment.
            eps: Option<f64>,
            /// Decoupled decay per step, times the learning rate. Matrices only.
            weight_decay: Option<f64>,
            /// Longest gradient: the global norm is cut to it. 0: no cut.
            clip: Option<f64>,
            /// How the learning rate moves after the warm-up.
            schedule: Option<ablate_nn::train::Schedule>,
            /// Share of the steps over which the learning rate rises from 0.
            warmup: Option<f64>,
            /// Learning rate at the last step, as a share of `lr`.
            final_lr: Option<f64>,
            /// What does not learn: parts, or patterns over the names of parameters.
            freeze: Option<Vec<ablate_nn::train::Freeze>>,
            /// Rows that are computed at once, or "auto": as many as there is memory for; their gradients are added up over
            /// the batch.
            micro_batch: Option<ablate_nn::train::MicroBatch>,
            /// A low-rank adapter learns instead of the model's own parameters.
            lora: Option<$crate::stages::training_common::Lora>,
            /// Steps after which the state is kept to resume from; not identity.
            keep_steps: Option<u64>,
            /// Seconds after which the state is kept to resume from; not identity.
            keep_seconds: Option<f64>,
        }

        impl $name {
            /// The optimizer's keys, with `defaults` for those that are not there.
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

            /// What is tuned, and in which portions.
            fn tuning(&self) -> ablate_nn::train::Tuning {
                ablate_nn::train::Tuning {
                    // As many as the batch has are no pieces.
                    micro_batch: self.micro_batch.filter(|micro| {
                        *micro != ablate_nn::train::MicroBatch::Rows(self.batch.unwrap_or(32))
                    }),
                    lora: self.lora.as_ref().map($crate::stages::training_common::Lora::config),
                }
            }

            fn keep(&self) -> $crate::stages::training_common::Keep {
                $crate::stages::training_common::Keep {
                    steps: self.keep_steps.unwrap_or(500),
                    seconds: self.keep_seconds.unwrap_or(30.0),
                }
            }
        }
    };
}
pub(super) use training_table;

/// Mistakes of what is tuned.
fn check_tuning(tuning: &Tuning, batch: usize, errors: &mut Vec<ConfigError>) {
    let mut need = |key: &str, holds: bool, message: String| {
        if !holds {
            errors.push(ConfigError::at(key, format!("`{key}` must be {message}")));
        }
    };
    if let Some(MicroBatch::Rows(micro)) = tuning.micro_batch {
        need("micro_batch", (1..=batch).contains(&micro), format!("from 1 to `batch`, which is {batch}, not {micro}"));
    }
    let Some(LoraConfig { rank, alpha, dropout, targets }) = &tuning.lora else { return };
    need("lora.rank", (1..=4096).contains(rank), format!("from 1 to 4096, not {rank}"));
    need("lora.alpha", alpha.is_finite() && *alpha > 0.0, format!("above 0, not {alpha}"));
    need("lora.dropout", (0.0..1.0).contains(dropout), format!("at least 0 and below 1, not {dropout}"));
    need("lora.targets", !targets.is_empty(), "a list of layers, and it is empty".to_string());
}

/// Mistakes of the optimizer's values and of the counts that every training has.
pub(super) fn check_training(
    optimizer: &OptimizerConfig,
    tuning: &Tuning,
    epochs: usize,
    batch: usize,
    length_window: usize,
    keep: Keep,
) -> Vec<ConfigError> {
    let mut errors: Vec<ConfigError> = optimizer
        .check()
        .into_iter()
        .map(|(key, message)| ConfigError::at(&key, format!("`{key}` {message}")))
        .collect();
    for (key, value) in [("epochs", epochs as u64), ("batch", batch as u64), ("keep_steps", keep.steps)] {
        if value == 0 {
            errors.push(ConfigError::at(key, format!("`{key}` must be at least 1, not 0")));
        }
    }
    let counts = [("epochs", Some(epochs)), ("batch", Some(batch)), ("length_window", Some(length_window))];
    common::check_counts(&mut errors, common::MOST_TIMES, counts);
    check_tuning(tuning, batch, &mut errors);
    if keep.seconds.is_nan() || keep.seconds <= 0.0 {
        errors.push(ConfigError::at("keep_seconds", format!("`keep_seconds` must be above 0, not {}", keep.seconds)));
    }
    errors
}
