//! `dpo`: preference optimization on pairs, with the DPO, hinge or IPO loss.

use anyhow::Result;
use serde::Deserialize;

use crate::stages::common::{self, check_responses};
use crate::stages::loaded_model::{self, LoadedModel};
use crate::stages::too_long::{self, Encoded, TooLongAction, encode};
use crate::stages::training_common;
use crate::stages::training_table::{self, CheckpointInterval, training_table};
use ablate_core::base::wrong_input;
use ablate_core::stage::config::{self, ConfigError, schema_of};
use ablate_core::stage::{
    ArtifactKind, Input, Kind, Manifest, ModelOrigin, OutputSpec, Pool, Reference, Stage, StageContext, Summary,
    Training, Work,
};
use ablate_data::jsonl;
use ablate_data::records::Pair;
use ablate_nn::train::{self, DpoConfig, Freeze, OptimizerConfig, PreferenceLoss, TokenWeights};
use ablate_nn::{ParamGroup, Precision};

pub static KIND: Kind = Kind {
    name: "dpo",
    version: 7,
    about: "direct preference optimization on pairs",
    outputs: &[
        OutputSpec::new(training_common::MODEL, ArtifactKind::Checkpoint),
        OutputSpec::new("curve.jsonl", ArtifactKind::Curve),
    ],
    fan_out: &[],
    seeded: true,
    pool: Pool::Model,
    work: Work::training,
    parse,
    schema: schema_of::<Table>,
};

training_table! {
/// The keys of the kind. The defaults are the paper's: one epoch, batches of 32 pairs, a learning rate of 5e-7, beta
/// 0.1, no cross-entropy term, vision tower and projector frozen.
struct Table {
    policy: Reference,
    /// The policy before training, if it is not given.
    reference: Option<Reference>,
    pairs: Reference,
    /// What happens to pairs that exceed the context length.
    #[serde(default)]
    too_long: TooLongAction,
    loss: Option<LossName>,
    label_smoothing: Option<f64>,
    beta: Option<f64>,
    token_weights: Option<TokenWeights>,
    sft_weight: Option<f64>,
}}

#[derive(Clone, Copy, Debug, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
enum LossName {
    Sigmoid,
    Hinge,
    Ipo,
}

#[derive(Debug)]
struct Dpo {
    policy: Reference,
    reference: Option<Reference>,
    pairs: Reference,
    too_long: TooLongAction,
    train: DpoConfig,
    precision: Precision,
    interval: CheckpointInterval,
}

fn parse(table: &serde_json::Value) -> Result<Box<dyn Stage>, Vec<ConfigError>> {
    let table: Table = config::parse(table)?;
    let batches = table.batches();
    let (beta, sft_weight) = (table.beta.unwrap_or(0.1), table.sft_weight.unwrap_or(0.0));
    let freeze = [ParamGroup::Vision, ParamGroup::Projector].map(Freeze::Group).to_vec();
    let optimizer = table.optimizer(OptimizerConfig { lr: 5e-7, freeze, ..OptimizerConfig::default() });
    let (tuning, interval) = (table.tuning(), table.checkpoint_interval());
    let mut errors = training_table::check_training(&table.lengths(), &batches, &optimizer, &tuning, interval);
    for (key, value) in [("beta", beta), ("sft_weight", sft_weight)] {
        if !value.is_finite() || value < 0.0 {
            errors.push(ConfigError::at(key, format!("`{key}` must be at least 0, not {value}")));
        }
    }
    let loss = loss(&table, &mut errors);
    if beta == 0.0 && loss == PreferenceLoss::Ipo {
        errors.push(ConfigError::at(
            "beta",
            "`beta` must be above 0 with `loss = \"ipo\"`, whose target is 1 / (2 beta)",
        ));
    } else if beta == 0.0 && sft_weight == 0.0 {
        let error = ConfigError::at("beta", "`beta` and `sft_weight` are both 0, so the loss is constant");
        errors.push(
            error.help("`beta = 0` with a `sft_weight` above 0 is supervised fine-tuning on the chosen responses"),
        );
    }
    if let Some(TokenWeights::Cosine(0) | TokenWeights::Linear(0)) = table.token_weights {
        errors
            .push(ConfigError::at("token_weights", "all weights would be 0: the number of tokens must be at least 1"));
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let token_weights = table.token_weights;
    let train = DpoConfig { batches, loss, beta, token_weights, sft_weight, optimizer, tuning };
    let Table { policy, reference, pairs, too_long, precision, .. } = table;
    Ok(Box::new(Dpo { policy, reference, pairs, too_long, train, precision, interval }))
}

/// The loss that the table names. `label_smoothing` is for the sigmoid loss only.
fn loss(table: &Table, errors: &mut Vec<ConfigError>) -> PreferenceLoss {
    let label_smoothing = table.label_smoothing.unwrap_or(0.0);
    let loss = match table.loss.unwrap_or(LossName::Sigmoid) {
        LossName::Sigmoid => PreferenceLoss::Sigmoid { label_smoothing },
        LossName::Hinge => PreferenceLoss::Hinge,
        LossName::Ipo => PreferenceLoss::Ipo,
    };
    if !(0.0..0.5).contains(&label_smoothing) {
        let message = format!("`label_smoothing` must be at least 0 and below 0.5, not {label_smoothing}");
        errors.push(ConfigError::at("label_smoothing", message));
    } else if table.label_smoothing.is_some() && !matches!(loss, PreferenceLoss::Sigmoid { .. }) {
        errors.push(ConfigError::at("label_smoothing", "`label_smoothing` is for `loss = \"sigmoid\"` only"));
    }
    loss
}

impl Stage for Dpo {
    fn identify(&self, manifest: &mut Manifest) {
        let Dpo { policy: _, reference: _, pairs: _, too_long, train, precision, interval: _ } = self;
        let DpoConfig { batches, loss, beta, token_weights, sft_weight, optimizer, tuning } = train;
        training_common::identify_batches(manifest, batches);
        manifest.value("beta", beta);
        manifest.value("sft_weight", sft_weight);
        training_common::identify_optimizer(manifest, optimizer);
        training_common::identify_tuning(manifest, tuning);
        manifest.value_unless("precision", precision, &Precision::F32);
        match loss {
            PreferenceLoss::Sigmoid { label_smoothing } => {
                manifest.value_unless("label_smoothing", label_smoothing, &0.0);
            }
            PreferenceLoss::Hinge => manifest.value("loss", "hinge"),
            PreferenceLoss::Ipo => manifest.value("loss", "ipo"),
        }
        manifest.value_unless("token_weights", token_weights, &None);
        manifest.value_unless("too_long", too_long, &TooLongAction::Error);
    }

    fn inputs(&self) -> Vec<Input> {
        let mut inputs = vec![common::stage_input("policy", &self.policy, &[ArtifactKind::Checkpoint])];
        inputs.extend(
            self.reference
                .iter()
                .map(|reference| common::stage_input("reference", reference, &[ArtifactKind::Checkpoint])),
        );
        inputs.push(common::stage_input("pairs", &self.pairs, &[ArtifactKind::Pairs]));
        inputs
    }

    fn model_origin(&self) -> Option<ModelOrigin> {
        Some(ModelOrigin::Input("policy"))
    }

    fn base_input(&self, output: &str) -> Option<&'static str> {
        training_common::base_input(&self.train.tuning, output, "policy")
    }

    fn training(&self) -> Option<Training> {
        Some(training_common::training(&self.train.batches))
    }

    fn run(&self, ctx: &StageContext) -> Result<Summary> {
        let policy = LoadedModel::load(ctx, "policy")?;
        let reference = match self.reference {
            Some(_) => loaded_model::check_reference(LoadedModel::load(ctx, "reference")?, &policy)?,
            None => policy.checkpoint.clone(),
        };
        let pairs: Vec<Pair> = jsonl::read(&ctx.input("pairs")?.path)?;
        check_responses(pairs.iter().map(|pair| (&pair.id, &pair.dataset, &pair.chosen)))?;
        let (chat, words) = (&policy.chat, ("pairs", "the end of their responses"));
        let Encoded { indices, sequences, warnings } =
            encode(&pairs, words, self.too_long, |pair| chat.encode_pair(pair), |pair| chat.truncate_pair(pair))?;
        let sampler = self.train.sampler(&sequences, ctx.seed).map_err(wrong_input)?;
        let pairs = too_long::select(pairs, &indices);
        let seen = training_common::training_index(ctx, "policy", &policy, &pairs, |pair| &pair.dataset, &sampler)?;
        drop(pairs);
        let resources = training_common::resources(ctx, self.precision)?;
        let state = self.interval.train_state(ctx);
        let LoadedModel { checkpoint, images, chat: _ } = policy;
        let trained =
            train::dpo(checkpoint, reference, &sequences, &*images, &self.train, ctx.seed, &state, &resources)?;
        let last = trained.curve.last();
        Ok(training_common::write_outputs(ctx, &trained, "policy", &seen, resources.device)?
            .with("pairs", sequences.len())
            .with("reward_accuracy", last.and_then(|point| point.reward_accuracy))
            .with("reward_margin", last.and_then(|point| point.reward_margin))
            .with_warnings(warnings))
    }
}
