//! `score`: the log-ratio of two models for every judged sample and for each of its tokens. With a model after DPO and
//! its reference, this is a verifier and a credit assignment (paper, sections 5.6 and 5.7).

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::stages::common::{self, Truncate};
use crate::stages::loaded_model::{self, LoadedModel};
use crate::stages::training_common;
use ablate_core::base::files;
use ablate_core::stage::config::{self, ConfigError, schema_of};
use ablate_core::stage::{
    ArtifactKind, Input, Kind, Manifest, ModelOrigin, OutputSpec, Pool, Reference, Stage, StageContext, Summary, Work,
};
use ablate_data::chat_prompt::ChatPrompt;
use ablate_data::jsonl;
use ablate_data::records::{CreditedItem, CreditedResponse, FinishReason, JudgedItem};
use ablate_data::token_credit::CreditStats;
use ablate_data::tokens::{ChatEncoder, TokenRow};
use ablate_nn::infer;
use ablate_nn::{Checkpoint, Precision};

pub static KIND: Kind = Kind {
    name: "score",
    version: 3,
    about: "the log-ratio of two models for every judged sample, token by token",
    outputs: &[
        OutputSpec::new("credits.jsonl", ArtifactKind::Credits),
        OutputSpec::new("credits.json", ArtifactKind::Facts),
    ],
    fan_out: &[],
    seeded: false,
    pool: Pool::Model,
    work: Work::of_rows,
    parse,
    schema: schema_of::<Scoring>,
};

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Scoring {
    policy: Reference,
    reference: Reference,
    judged: Reference,
    #[serde(default)]
    truncate: Truncate,
    #[serde(default)]
    normalise: Normalise,
    /// Number types of matrix products on a GPU. The CPU has "f32" only.
    #[serde(default)]
    precision: Precision,
}

/// The divisor of the sum of a response's log-ratios.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Normalise {
    /// None (paper, section 5.6): the sum grows with the length of the response.
    #[default]
    None,
    /// The number of its tokens.
    Tokens,
}

fn parse(table: &serde_json::Value) -> Result<Box<dyn Stage>, Vec<ConfigError>> {
    let stage: Scoring = config::parse(table)?;
    match stage.truncate.check() {
        Some(error) => Err(vec![error]),
        None => Ok(Box::new(stage)),
    }
}

impl Stage for Scoring {
    fn identify(&self, manifest: &mut Manifest) {
        let Scoring { policy: _, reference: _, judged: _, truncate, normalise, precision } = self;
        manifest.value("truncate", truncate);
        manifest.value("normalise", normalise);
        manifest.value_unless("precision", precision, &Precision::F32);
    }

    fn inputs(&self) -> Vec<Input> {
        vec![
            common::stage_input("policy", &self.policy, &[ArtifactKind::Checkpoint]),
            common::stage_input("reference", &self.reference, &[ArtifactKind::Checkpoint]),
            common::stage_input("judged", &self.judged, &[ArtifactKind::Judged]),
        ]
    }

    fn model_origin(&self) -> Option<ModelOrigin> {
        Some(ModelOrigin::Input("judged"))
    }

    fn run(&self, ctx: &StageContext) -> Result<Summary> {
        let policy = LoadedModel::load(ctx, "policy")?;
        let reference = loaded_model::check_reference(LoadedModel::load(ctx, "reference")?, &policy)?;
        let judged: Vec<JudgedItem> = jsonl::read(&ctx.input("judged")?.path)?;
        common::check_not_empty(&judged, "judged")?;
        let scored = ScoredRows::new(&judged, self.truncate, &policy.chat)?;
        let resources = training_common::resources(ctx, self.precision)?;
        let log_probs = |model: &Checkpoint| infer::log_probs(model, &scored.rows, &*policy.images, &resources);
        let (of_policy, of_reference) = (log_probs(&policy.checkpoint)?, log_probs(&reference)?);
        let credit = |row: usize| -> (f64, Vec<(String, f32)>) {
            let pairs = of_policy[row].iter().zip(&of_reference[row]);
            let ratios = pairs.map(|(policy, reference)| f64::from(*policy) - f64::from(*reference));
            let sum: f64 = ratios.clone().sum();
            let tokens: Vec<(String, f32)> =
                scored.pieces[row].iter().cloned().zip(ratios.map(|ratio| ratio as f32)).collect();
            match self.normalise {
                Normalise::Tokens if !tokens.is_empty() => (sum / tokens.len() as f64, tokens),
                _ => (sum, tokens),
            }
        };
        let mut credited = Vec::with_capacity(judged.len());
        for (JudgedItem { item, prompt, verdicts }, rows) in judged.into_iter().zip(&scored.row_of_verdict) {
            let mut responses = Vec::with_capacity(verdicts.len());
            for (verdict, &row) in verdicts.into_iter().zip(rows) {
                let (log_ratio, tokens) = credit(row);
                if !log_ratio.is_finite() {
                    bail!(
                        "item `{}` of `{}`: the log-ratio of a response is not a finite number",
                        item.id,
                        item.dataset
                    );
                }
                responses.push(CreditedResponse { verdict, log_ratio, tokens });
            }
            credited.push(CreditedItem { item, prompt, responses });
        }
        jsonl::write(&ctx.output("credits.jsonl"), &credited)?;
        let facts = CreditStats::of(&credited);
        files::write_json(&ctx.output("credits.json"), &facts)?;
        Ok(Summary::default()
            .with("responses", facts.responses)
            .with("scored", scored.rows.len())
            .with("auc", facts.auc)
            .with("auc_within_questions", facts.auc_within_questions)
            .with("tokens", scored.pieces.iter().map(Vec::len).sum::<usize>())
            .with("device", resources.device.to_string()))
    }
}

/// Encoded responses. Equal responses to an item have one row.
#[derive(Default)]
struct ScoredRows {
    rows: Vec<TokenRow>,
    /// The texts of the response tokens of each row.
    pieces: Vec<Vec<String>>,
    /// The row of every verdict of every item.
    row_of_verdict: Vec<Vec<usize>>,
}

impl ScoredRows {
    fn new(judged: &[JudgedItem], truncate: Truncate, chat: &ChatEncoder) -> Result<ScoredRows> {
        let mut scored = ScoredRows::default();
        for JudgedItem { item, prompt, verdicts } in judged {
            let mut known: BTreeMap<(&str, bool), usize> = BTreeMap::new();
            let mut rows = Vec::with_capacity(verdicts.len());
            for verdict in verdicts {
                // The end token is scored only if the model generated it.
                let open = verdict.finish == FinishReason::Length;
                if let Some(&row) = known.get(&(verdict.text.as_str(), open)) {
                    rows.push(row);
                    continue;
                }
                let (text, cut) = truncate.truncate(&verdict.text, Some(chat.tokenizer()))?;
                let prompt = ChatPrompt::new(&item.images, prompt);
                let row = chat.encode_sequence(&prompt, &text, open || cut, true);
                scored.rows.push(row.with_context(|| format!("a response to `{}` of `{}`", item.id, item.dataset))?);
                scored.pieces.push(chat.pieces(&prompt, &text, open || cut)?);
                known.insert((&verdict.text, open), scored.rows.len() - 1);
                rows.push(scored.rows.len() - 1);
            }
            scored.row_of_verdict.push(rows);
        }
        Ok(scored)
    }
}
