//! `eval`: one response per item of a benchmark, judged. Every item's score is kept, so that any two evaluations can
//! be compared item by item.

use anyhow::Result;
use serde::Deserialize;

use super::common;
use super::metrics;
use super::models::Model;
use super::sampling::{self, Asking, Take};
use crate::data::answers::judge;
use crate::data::jsonl;
use crate::data::prompts::PromptTemplate;
use crate::data::records::{Item, Score};
use crate::stage::config::{self, ConfigError, schema_of};
use crate::stage::{ArtifactKind, Input, Kind, Manifest, OutputSpec, Pool, Reference, Stage, StageContext, Summary};

pub static KIND: Kind = Kind {
    name: "eval",
    version: 1,
    about: "a model's score on every item of a benchmark",
    outputs: &[
        OutputSpec::new("scores.jsonl", ArtifactKind::Scores),
        OutputSpec::new("metrics.json", ArtifactKind::Facts),
    ],
    fan_out: &["model", "benchmark", "prompt"],
    seeded: true,
    pool: Pool::Model,
    parse,
    schema: schema_of::<Table>,
};

/// The keys of the kind. Decoding is greedy unless a temperature is given.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Table {
    model: Reference,
    benchmark: Reference,
    prompt: Option<PromptTemplate>,
    temperature: Option<f64>,
    top_k: Option<usize>,
    top_p: Option<f64>,
    max_tokens: Option<usize>,
    take: Option<Take>,
}

#[derive(Debug)]
struct Eval {
    model: Reference,
    benchmark: Reference,
    asking: Asking,
    take: Option<Take>,
}

fn parse(table: &serde_json::Value) -> Result<Box<dyn Stage>, Vec<ConfigError>> {
    let Table { model, benchmark, prompt, temperature, top_k, top_p, max_tokens, take } = config::parse(table)?;
    let asking = Asking {
        prompt: prompt.unwrap_or_else(PromptTemplate::direct),
        samples: 1,
        temperature: temperature.unwrap_or(0.0),
        top_k: top_k.unwrap_or(0),
        top_p: top_p.unwrap_or(1.0),
        max_tokens: max_tokens.unwrap_or(256),
    };
    let errors = asking.check(take);
    if errors.is_empty() { Ok(Box::new(Eval { model, benchmark, asking, take })) } else { Err(errors) }
}

impl Stage for Eval {
    fn identify(&self, manifest: &mut Manifest) {
        let Eval { model: _, benchmark: _, asking, take } = self;
        asking.identify(manifest);
        manifest.value("prompt.style", &asking.prompt.style);
        manifest.value_unless("take", take, &None);
    }

    fn inputs(&self) -> Vec<Input> {
        vec![
            common::input("model", &self.model, &[ArtifactKind::Checkpoint]),
            common::input("benchmark", &self.benchmark, &[ArtifactKind::Items]),
        ]
    }

    fn run(&self, ctx: &StageContext) -> Result<Summary> {
        let model = Model::read(ctx, "model")?;
        let items: Vec<Item> = jsonl::read(&ctx.input("benchmark")?.path)?;
        let rollouts = self.asking.ask(ctx, &model, &sampling::take(ctx, items, self.take)?)?;
        let mut scores = Vec::with_capacity(rollouts.len());
        for rollout in rollouts {
            let Some(sample) = rollout.samples.into_iter().next() else { continue };
            let verdict = judge(&rollout.item, &sample.text, sample.finish, self.asking.prompt.style);
            scores.push(Score {
                id: rollout.item.id,
                dataset: rollout.item.dataset,
                image: rollout.item.image,
                prompt: rollout.prompt,
                gold: rollout.item.answers,
                response: sample.text,
                finish: sample.finish,
                answer: verdict.answer,
                compliant: verdict.compliant,
                score: verdict.score,
            });
        }
        Ok(metrics::write(ctx, &scores)?.with("device", super::models::resources(ctx)?.device.to_string()))
    }
}
