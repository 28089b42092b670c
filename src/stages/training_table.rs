//! The keys that every training kind has, and their checks.

use super::common;
use ablate_core::stage::{ConfigError, StageContext};
use ablate_data::batches::{self, BatchConfig, Budget};
use ablate_nn::train::{MicroBatch, OptimizerConfig, TrainState, Tuning};
use ablate_nn::{LoraConfig, Pattern};

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

/// Declares the table of a training kind: its own keys and those of every training. A macro, since a struct with
/// serde's `flatten` cannot refuse unknown keys.
macro_rules! training_table {
    ($(#[$attribute:meta])* struct $name:ident { $($own_keys:tt)* }) => {
        $(#[$attribute])*
        #[derive(serde::Deserialize, schemars::JsonSchema)]
        #[serde(deny_unknown_fields)]
        struct $name {
            $($own_keys)*
            /// Passes over the data; 1 without `steps` and `tokens`.
            epochs: Option<usize>,
            /// Number of optimizer steps, instead of `epochs`.
            steps: Option<usize>,
            /// Training ends with the first step that reaches this number of tokens, instead of `epochs`.
            tokens: Option<usize>,
            /// Rows per step.
            batch: Option<usize>,
            /// Whether the rows of an epoch that do not fill a batch are a smaller batch or are left out.
            last_batch: Option<ablate_nn::train::LastBatch>,
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
            /// Share of the steps over which the learning rate rises to `lr`.
            warmup: Option<f64>,
            /// Learning rate that is reached after the last step, as a share of `lr`.
            final_lr: Option<f64>,
            /// Frozen parameters: parts of the model, or patterns of parameter names.
            freeze: Option<Vec<ablate_nn::train::Freeze>>,
            /// Rows per forward and backward pass, or "auto" for as many as fit into memory. Gradients are accumulated
            /// over the batch.
            micro_batch: Option<ablate_nn::train::MicroBatch>,
            /// Keeps only the inputs of a model's blocks for the backward pass and computes the blocks again: less memory for a
            /// third more time. Does not change the result.
            #[serde(default)]
            gradient_checkpointing: bool,
            /// Number types of matrix products on a GPU. The CPU has "f32" only.
            #[serde(default)]
            precision: ablate_nn::Precision,
            /// Trains a low-rank adapter instead of the model's own parameters.
            lora: Option<$crate::stages::training_table::LoraTable>,
            /// Steps between checkpoints to resume from. Does not change the result.
            keep_steps: Option<u64>,
            /// Seconds between checkpoints to resume from. Does not change the result.
            keep_seconds: Option<f64>,
        }

        impl $name {
            /// The given keys of the length of training.
            fn lengths(&self) -> Vec<&'static str> {
                let keys = [("epochs", self.epochs), ("steps", self.steps), ("tokens", self.tokens)];
                keys.into_iter().filter(|(_, value)| value.is_some()).map(|(key, _)| key).collect()
            }

            /// The keys of the batches.
            fn batches(&self) -> ablate_nn::train::BatchConfig {
                use ablate_nn::train::Budget;
                ablate_nn::train::BatchConfig {
                    budget: match (self.steps, self.tokens) {
                        (Some(steps), _) => Budget::Steps(steps),
                        (None, Some(tokens)) => Budget::Tokens(tokens),
                        (None, None) => Budget::Epochs(self.epochs.unwrap_or(1)),
                    },
                    batch: self.batch.unwrap_or(32),
                    last_batch: self.last_batch.unwrap_or_default(),
                    length_window: self.length_window.unwrap_or(32),
                }
            }

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
                    gradient_checkpointing: self.gradient_checkpointing,
                    lora: self.lora.as_ref().map($crate::stages::training_table::LoraTable::config),
                }
            }

            fn checkpoint_interval(&self) -> $crate::stages::training_table::CheckpointInterval {
                $crate::stages::training_table::CheckpointInterval {
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

/// Largest accepted number of training tokens. A larger one is a typing error.
const MAX_TOKENS: usize = 1_000_000_000_000_000;

/// The mistakes of the keys of the batches.
fn check_batches(lengths: &[&str], batches: &BatchConfig, errors: &mut Vec<ConfigError>) {
    let BatchConfig { budget, batch, last_batch: _, length_window } = *batches;
    if let [first, others @ ..] = lengths {
        errors.extend(others.iter().map(|key| {
            ConfigError::at(key, format!("`{first}` and `{key}` are both given: write one of them"))
                .help(format!("`{first} = \"remove\"` or `{key} = \"remove\"` removes a key of an extended file"))
        }));
    }
    let (key, length, max) = match budget {
        Budget::Epochs(epochs) => ("epochs", epochs, common::MAX_COUNT),
        Budget::Steps(steps) => ("steps", steps, batches::MAX_STEPS),
        Budget::Tokens(tokens) => ("tokens", tokens, MAX_TOKENS),
    };
    for (key, value) in [(key, length), ("batch", batch)] {
        if value == 0 {
            errors.push(ConfigError::at(key, format!("`{key}` must be at least 1, not 0")));
        }
    }
    common::check_max(errors, max, [(key, Some(length))]);
    common::check_max(errors, common::MAX_COUNT, [("batch", Some(batch)), ("length_window", Some(length_window))]);
}

/// The mistakes of the keys that every training kind has. `lengths` are the given keys among `epochs`, `steps` and `tokens`.
pub(super) fn check_training(
    lengths: &[&str],
    batches: &BatchConfig,
    optimizer: &OptimizerConfig,
    tuning: &Tuning,
    interval: CheckpointInterval,
) -> Vec<ConfigError> {
    let mut errors: Vec<ConfigError> = optimizer
        .check()
        .into_iter()
        .map(|(key, message)| ConfigError::at(&key, format!("`{key}` {message}")))
        .collect();
    check_batches(lengths, batches, &mut errors);
    if interval.steps == 0 {
        errors.push(ConfigError::at("keep_steps", "`keep_steps` must be at least 1, not 0"));
    }
    check_tuning(tuning, batches.batch, &mut errors);
    if interval.seconds.is_nan() || interval.seconds <= 0.0 {
        errors
            .push(ConfigError::at("keep_seconds", format!("`keep_seconds` must be above 0, not {}", interval.seconds)));
    }
    errors
}
