//! `score`: how much more likely one model finds every judged sample than another does, whole and token by token. With a
//! model after DPO and its reference this is a verifier and a credit assignment (paper 5.6 and 5.7).

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::stages::common::{self, Truncate};
use crate::stages::loaded_model::{self, Model};
use crate::stages::training_common;
use ablate_core::base::files;
use ablate_core::stage::config::{self, ConfigError, schema_of};
use ablate_core::stage::{
    ArtifactKind, Input, Kind, Manifest, OutputSpec, Pool, Reference, Stage, StageContext, Summary,
};
use ablate_data::jsonl;
use ablate_data::records::{CreditedItem, CreditedResponse, FinishReason, JudgedItem};
use ablate_data::token_credit::CreditStats;
use ablate_data::tokens::{ChatEncoder, TokenRow};
use ablate_nn::Checkpoint;
use ablate_nn::infer;

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
}

/// What the sum of a response's log-ratios is divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Normalise {
    /// Nothing (paper 5.6): a longer response has more to gain and to lose.
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
        let Scoring { policy: _, reference: _, judged: _, truncate, normalise } = self;
        manifest.value("truncate", truncate);
        manifest.value("normalise", normalise);
    }

    fn inputs(&self) -> Vec<Input> {
        vec![
            common::input("policy", &self.policy, &[ArtifactKind::Checkpoint]),
            common::input("reference", &self.reference, &[ArtifactKind::Checkpoint]),
            common::input("judged", &self.judged, &[ArtifactKind::Judged]),
        ]
    }

    fn run(&self, ctx: &StageContext) -> Result<Summary> {
        let policy = Model::read(ctx, "policy")?;
        let reference = loaded_model::comparable(Model::read(ctx, "reference")?, &policy)?;
        let judged: Vec<JudgedItem> = jsonl::read(&ctx.input("judged")?.path)?;
        common::not_empty(&judged, "judged")?;
        let asked = Asked::new(&judged, self.truncate, &policy.chat)?;
        let resources = training_common::resources(ctx)?;
        let log_probs = |model: &Checkpoint| infer::log_probs(model, &asked.rows, &*policy.images, &resources);
        let (ours, theirs) = (log_probs(&policy.checkpoint)?, log_probs(&reference)?);
        let credit = |row: usize| -> (f64, Vec<(String, f32)>) {
            let ratios = ours[row].iter().zip(&theirs[row]).map(|(one, other)| f64::from(*one) - f64::from(*other));
            let sum: f64 = ratios.clone().sum();
            let tokens: Vec<(String, f32)> =
                asked.pieces[row].iter().cloned().zip(ratios.map(|ratio| ratio as f32)).collect();
            match self.normalise {
                Normalise::Tokens if !tokens.is_empty() => (sum / tokens.len() as f64, tokens),
                _ => (sum, tokens),
            }
        };
        let mut credited = Vec::with_capacity(judged.len());
        for (JudgedItem { item, prompt, verdicts }, places) in judged.into_iter().zip(&asked.places) {
            let mut responses = Vec::with_capacity(verdicts.len());
            for (verdict, &row) in verdicts.into_iter().zip(places) {
                let (log_ratio, tokens) = credit(row);
                if !log_ratio.is_finite() {
                    bail!("item `{}` of `{}`: the log-ratio of a response is no number", item.id, item.dataset);
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
            .with("scored", asked.rows.len())
            .with("auc", facts.auc)
            .with("auc_within_questions", facts.auc_within_questions)
            .with("tokens", asked.pieces.iter().map(Vec::len).sum::<usize>())
            .with("device", resources.device.to_string()))
    }
}

/// Responses as the models read them. Equal ones of a question are read once.
#[derive(Default)]
struct Asked {
    rows: Vec<TokenRow>,
    /// The texts of each row's loss tokens.
    pieces: Vec<Vec<String>>,
    /// The row of every verdict, by question.
    places: Vec<Vec<usize>>,
}

impl Asked {
    fn new(judged: &[JudgedItem], truncate: Truncate, chat: &ChatEncoder) -> Result<Asked> {
        let mut asked = Asked::default();
        for JudgedItem { item, prompt, verdicts } in judged {
            let mut known: BTreeMap<(&str, bool), usize> = BTreeMap::new();
            let mut places = Vec::with_capacity(verdicts.len());
            for verdict in verdicts {
                // The end of the turn counts where the model chose it.
                let open = verdict.finish == FinishReason::Length;
                if let Some(&row) = known.get(&(verdict.text.as_str(), open)) {
                    places.push(row);
                    continue;
                }
                let (text, cut) = truncate.cut(&verdict.text, Some(chat.tokenizer()))?;
                let row = chat.encode_sequence(item.image.as_deref(), prompt, &text, open || cut);
                asked.rows.push(row.with_context(|| format!("a response to `{}` of `{}`", item.id, item.dataset))?);
                asked.pieces.push(chat.pieces(item.image.as_deref(), prompt, &text, open || cut)?);
                known.insert((&verdict.text, open), asked.rows.len() - 1);
                places.push(asked.rows.len() - 1);
            }
            asked.places.push(places);
        }
        Ok(asked)
    }
}
