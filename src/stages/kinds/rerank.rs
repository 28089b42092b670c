//! `rerank`: one response per item, selected from its first `n` samples by votes or by a verifier, and scored as in
//! `eval`.

use anyhow::{Result, anyhow};
use serde::Deserialize;

use crate::stages::{common, metrics};
use ablate_core::base::wrong_input;
use ablate_core::stage::config::{self, ConfigError, schema_of};
use ablate_core::stage::{
    ArtifactKind, Input, Kind, Manifest, ModelOrigin, OutputSpec, Pool, Reference, Stage, StageContext, Summary, Work,
};
use ablate_data::jsonl;
use ablate_data::records::{CreditedItem, Score};
use ablate_data::rerank::{Strategy, VoteWeight, pick};

pub static KIND: Kind = Kind {
    name: "rerank",
    version: 2,
    about: "one response per item selected from several, and scored",
    outputs: &[
        OutputSpec::new("scores.jsonl", ArtifactKind::Scores),
        OutputSpec::new("metrics.json", ArtifactKind::Facts),
    ],
    fan_out: &["strategy", "n"],
    seeded: false,
    pool: Pool::Light,
    work: Work::of_rows,
    parse,
    schema: schema_of::<Rerank>,
};

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Rerank {
    credits: Reference,
    strategy: Strategy,
    /// Number of samples to select from.
    n: usize,
    /// For the strategy `weighted`. Other strategies ignore it, so that a list of strategies may contain `weighted`.
    #[serde(default)]
    weight: VoteWeight,
}

fn parse(table: &serde_json::Value) -> Result<Box<dyn Stage>, Vec<ConfigError>> {
    let stage: Rerank = config::parse(table)?;
    if stage.n == 0 {
        return Err(vec![ConfigError::at("n", "`n` must be at least 1")]);
    }
    Ok(Box::new(stage))
}

impl Stage for Rerank {
    fn identify(&self, manifest: &mut Manifest) {
        let Rerank { credits: _, strategy, n, weight } = self;
        manifest.value("strategy", strategy);
        manifest.value("n", n);
        if *strategy == Strategy::Weighted {
            manifest.value("weight", weight);
        }
    }

    fn inputs(&self) -> Vec<Input> {
        vec![common::stage_input("credits", &self.credits, &[ArtifactKind::Credits])]
    }

    fn model_origin(&self) -> Option<ModelOrigin> {
        Some(ModelOrigin::Input("credits"))
    }

    fn run(&self, ctx: &StageContext) -> Result<Summary> {
        let credited: Vec<CreditedItem> = jsonl::read(&ctx.input("credits")?.path)?;
        common::check_not_empty(&credited, "credits")?;
        let too_few: Vec<&CreditedItem> = credited.iter().filter(|one| one.responses.len() < self.n).collect();
        if let Some(CreditedItem { item, responses, .. }) = too_few.iter().min_by_key(|one| one.responses.len()) {
            return Err(wrong_input(anyhow!(
                "`n` = {} is more than the number of samples: {} of {} items have fewer, `{}` of `{}` has {}",
                self.n,
                too_few.len(),
                credited.len(),
                item.id,
                item.dataset,
                responses.len()
            )));
        }
        let mut scores = Vec::with_capacity(credited.len());
        for CreditedItem { item, prompt, mut responses } in credited {
            responses.truncate(self.n);
            let Some(index) = pick(&item, &responses, self.strategy, self.weight) else { continue };
            let verdict = responses.swap_remove(index).verdict;
            scores.push(Score {
                id: item.id,
                dataset: item.dataset,
                images: item.images,
                prompt,
                gold: item.answers,
                response: verdict.text,
                finish: Some(verdict.finish),
                answer: verdict.answer,
                compliant: Some(verdict.compliant),
                unreadable: verdict.unreadable,
                score: verdict.score,
                facts: Vec::new(),
                failure: None,
                seen: None,
            });
        }
        // Samples have no record of the policy's training data.
        metrics::write(ctx, &scores, false, None)
    }
}
