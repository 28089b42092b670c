//! `dpo`: preference optimization on pairs, with the loss of DPO or one of its relatives.

use anyhow::Result;
use serde::Deserialize;

use crate::stages::common::{self, check_responses};
use crate::stages::loaded_model::{self, Model};
use crate::stages::overlong::{self, Fitted, Long, fit};
use crate::stages::training_common::{self, Keep, training_table};
use ablate_core::stage::config::{self, ConfigError, schema_of};
use ablate_core::stage::{
    ArtifactKind, Input, Kind, Manifest, OutputSpec, Pool, Reference, Stage, StageContext, Summary,
};
use ablate_data::jsonl;
use ablate_data::records::Pair;
use ablate_nn::ParamGroup;
use ablate_nn::train::{self, DpoConfig, Freeze, OptimizerConfig, PreferenceLoss, TokenWeights};

pub static KIND: Kind = Kind {
    name: "dpo",
    version: 6,
    about: "direct preference optimization on pairs",
    outputs: &[OutputSpec::new("model", ArtifactKind::Checkpoint), OutputSpec::new("curve.jsonl", ArtifactKind::Curve)],
    fan_out: &[],
    seeded: true,
    pool: Pool::Model,
    parse,
    schema: schema_of::<Table>,
};

training_table! {
/// The keys of the kind. Defaults are the paper's: one epoch of batches of 32 pairs at 5e-7, beta 0.1, no
/// cross-entropy term, encoder and projector frozen.
struct Table {
    policy: Reference,
    /// The policy before training, if not given.
    reference: Option<Reference>,
    pairs: Reference,
    /// What becomes of pairs that are longer than the model takes.
    #[serde(default)]
    too_long: Long,
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
    too_long: Long,
    train: DpoConfig,
    keep: Keep,
}

fn parse(table: &serde_json::Value) -> Result<Box<dyn Stage>, Vec<ConfigError>> {
    let table: Table = config::parse(table)?;
    let (epochs, batch) = (table.epochs.unwrap_or(1), table.batch.unwrap_or(32));
    let length_window = table.length_window.unwrap_or(training_common::LENGTH_WINDOW);
    let (beta, sft_weight) = (table.beta.unwrap_or(0.1), table.sft_weight.unwrap_or(0.0));
    let freeze = [ParamGroup::Vision, ParamGroup::Projector].map(Freeze::Group).to_vec();
    let optimizer = table.optimizer(OptimizerConfig { lr: 5e-7, freeze, ..OptimizerConfig::default() });
    let (tuning, keep) = (table.tuning(), table.keep());
    let mut errors = training_common::check_training(&optimizer, &tuning, epochs, batch, length_window, keep);
    for (key, value) in [("beta", beta), ("sft_weight", sft_weight)] {
        if !value.is_finite() || value < 0.0 {
            errors.push(ConfigError::at(key, format!("`{key}` must be at least 0, not {value}")));
        }
    }
    let loss = loss(&table, &mut errors);
    if beta == 0.0 && loss == PreferenceLoss::Ipo {
        errors.push(ConfigError::at("beta", "with `loss = \"ipo\"`, whose target is 1 / (2 beta), `beta` is above 0"));
    } else if beta == 0.0 && sft_weight == 0.0 {
        let error = ConfigError::at("beta", "with `beta` and `sft_weight` both 0 there is nothing to learn");
        errors.push(error.help("`beta = 0` with a `sft_weight` is rejection fine-tuning on the chosen responses"));
    }
    if let Some(TokenWeights::Cosine(0) | TokenWeights::Linear(0)) = table.token_weights {
        errors.push(ConfigError::at("token_weights", "no token would count: the weights reach 0 at token 1 or later"));
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let token_weights = table.token_weights;
    let train = DpoConfig { epochs, batch, length_window, loss, beta, token_weights, sft_weight, optimizer, tuning };
    let Table { policy, reference, pairs, too_long, .. } = table;
    Ok(Box::new(Dpo { policy, reference, pairs, too_long, train, keep }))
}

/// The loss that the table names; its smoothing belongs to one of them.
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
        let Dpo { policy: _, reference: _, pairs: _, too_long, train, keep: _ } = self;
        let DpoConfig { epochs, batch, length_window, loss, beta, token_weights, sft_weight, optimizer, tuning } =
            train;
        manifest.value("epochs", epochs);
        manifest.value("batch", batch);
        manifest.value("length_window", length_window);
        manifest.value("beta", beta);
        manifest.value("sft_weight", sft_weight);
        training_common::identify_optimizer(manifest, optimizer);
        training_common::identify_tuning(manifest, tuning);
        match loss {
            PreferenceLoss::Sigmoid { label_smoothing } => {
                manifest.value_unless("label_smoothing", label_smoothing, &0.0);
            }
            PreferenceLoss::Hinge => manifest.value("loss", "hinge"),
            PreferenceLoss::Ipo => manifest.value("loss", "ipo"),
        }
        manifest.value_unless("token_weights", token_weights, &None);
        manifest.value_unless("too_long", too_long, &Long::Error);
    }

    fn inputs(&self) -> Vec<Input> {
        let mut inputs = vec![common::input("policy", &self.policy, &[ArtifactKind::Checkpoint])];
        inputs.extend(
            self.reference.iter().map(|reference| common::input("reference", reference, &[ArtifactKind::Checkpoint])),
        );
        inputs.push(common::input("pairs", &self.pairs, &[ArtifactKind::Pairs]));
        inputs
    }

    fn run(&self, ctx: &StageContext) -> Result<Summary> {
        let policy = Model::read(ctx, "policy")?;
        let reference = match self.reference {
            Some(_) => loaded_model::comparable(Model::read(ctx, "reference")?, &policy)?,
            None => policy.checkpoint.clone(),
        };
        let pairs: Vec<Pair> = jsonl::read(&ctx.input("pairs")?.path)?;
        check_responses(pairs.iter().map(|pair| (&pair.id, &pair.dataset, &pair.chosen)))?;
        let (chat, named) = (&policy.chat, ("pairs", "the end of their responses"));
        let Fitted { places, sequences, warnings } =
            fit(&pairs, named, self.too_long, |pair| chat.encode_pair(pair), |pair| chat.truncate_pair(pair))?;
        let seen = training_common::seen(ctx, "policy", &policy, &overlong::at(pairs, &places))?;
        let resources = training_common::resources(ctx)?;
        let state = self.keep.state(ctx);
        let Model { checkpoint, images, chat: _ } = policy;
        let trained =
            train::dpo(checkpoint, reference, &sequences, &*images, &self.train, ctx.seed, &state, &resources)?;
        let last = trained.curve.last();
        Ok(training_common::finish(ctx, &trained, "policy", &seen, resources.device)?
            .with("pairs", sequences.len())
            .with("reward_accuracy", last.and_then(|point| point.reward_accuracy))
            .with("reward_margin", last.and_then(|point| point.reward_margin))
            .with_warnings(warnings))
    }
}
