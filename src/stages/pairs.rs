//! `pairs`: preference pairs from judged samples, cut to the reasoning's beginning.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::common::{self, Truncate, check_range};
use crate::base::files;
use crate::data::jsonl;
use crate::data::pairs::{self, Selection};
use crate::data::records::Judged;
use crate::data::tokenizer::Tokenizer;
use crate::stage::config::{self, ConfigError, schema_of};
use crate::stage::{ArtifactKind, Input, Kind, Manifest, OutputSpec, Pool, Reference, Stage, StageContext, Summary};

pub static KIND: Kind = Kind {
    name: "pairs",
    version: 1,
    about: "preference pairs of a right and a wrong sample",
    outputs: &[
        OutputSpec::new("pairs.jsonl", ArtifactKind::Pairs),
        OutputSpec::new("dev.jsonl", ArtifactKind::Pairs),
        OutputSpec::new("pairs.json", ArtifactKind::Facts),
    ],
    fan_out: &[],
    seeded: true,
    pool: Pool::Light,
    parse,
    schema: schema_of::<Pairs>,
};

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Pairs {
    judged: Reference,
    /// Share of right samples that a question must have.
    #[serde(default = "band")]
    band: [f64; 2],
    #[serde(default = "per_question")]
    per_question: usize,
    /// Share of the questions whose pairs are held out.
    #[serde(default = "dev")]
    dev: f64,
    #[serde(default = "truncate")]
    truncate: Truncate,
    #[serde(default)]
    unreadable: Unreadable,
    /// Counts the tokens of `truncate = { tokens = ... }`.
    tokenizer: Option<Reference>,
}

/// What becomes of wrong samples without a readable answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Unreadable {
    /// They may be the rejected side of a pair.
    Reject,
    /// They count as wrong and are in no pair: what they would teach is the form.
    #[default]
    Skip,
}

// The paper's values; its share held out is 1.41k of 66.2k pairs.

fn band() -> [f64; 2] {
    [0.25, 0.85]
}

fn per_question() -> usize {
    3
}

fn dev() -> f64 {
    0.02
}

fn truncate() -> Truncate {
    Truncate::Words(90)
}

fn parse(table: &serde_json::Value) -> Result<Box<dyn Stage>, Vec<ConfigError>> {
    let stage: Pairs = config::parse(table)?;
    let mut errors = Vec::new();
    let [low, high] = stage.band;
    check_range(&mut errors, "band", low, 0.0, 1.0);
    check_range(&mut errors, "band", high, 0.0, 1.0);
    if low > high {
        errors.push(ConfigError::at("band", format!("the band is empty: {low} is more than {high}")));
    }
    check_range(&mut errors, "dev", stage.dev, 0.0, 1.0);
    if stage.per_question == 0 {
        errors.push(ConfigError::at("per_question", "no pairs: `per_question` is at least 1"));
    }
    let nothing = stage.truncate.check();
    match (stage.truncate, &stage.tokenizer) {
        _ if nothing.is_some() => errors.extend(nothing),
        (Truncate::Tokens(_), None) => errors.push(
            ConfigError::at("truncate", "tokens cannot be counted without a `tokenizer`")
                .help("name a tokenizer stage: `tokenizer = \"...\"`"),
        ),
        (Truncate::Words(_) | Truncate::None, Some(_)) => {
            errors.push(ConfigError::at("tokenizer", "`tokenizer` is for `truncate = { tokens = ... }` only"));
        }
        _ => {}
    }
    if errors.is_empty() { Ok(Box::new(stage)) } else { Err(errors) }
}

impl Stage for Pairs {
    fn identify(&self, manifest: &mut Manifest) {
        let Pairs { judged: _, band, per_question, dev, truncate, unreadable, tokenizer: _ } = self;
        manifest.value("band", band);
        manifest.value("per_question", per_question);
        manifest.value("dev", dev);
        manifest.value("truncate", truncate);
        manifest.value("unreadable", unreadable);
    }

    fn inputs(&self) -> Vec<Input> {
        let tokenizer = self.tokenizer.iter().map(|from| common::input("tokenizer", from, &[ArtifactKind::Tokenizer]));
        [common::input("judged", &self.judged, &[ArtifactKind::Judged])].into_iter().chain(tokenizer).collect()
    }

    fn run(&self, ctx: &StageContext) -> Result<Summary> {
        let judged: Vec<Judged> = jsonl::read(&ctx.input("judged")?.path)?;
        common::not_empty(&judged, "judged")?;
        let tokenizer = ctx.inputs.get("tokenizer").map(|input| Tokenizer::read(&input.path)).transpose()?;
        let selection = Selection {
            band: self.band,
            per_question: self.per_question,
            dev: self.dev,
            unreadable: self.unreadable == Unreadable::Reject,
        };
        let cut = |text: &str| self.truncate.cut(text, tokenizer.as_ref());
        let selected = pairs::select(&judged, &selection, ctx.seed, cut)?;
        if selected.train.is_empty() {
            let facts = &selected.facts;
            anyhow::bail!(
                "no pair: of {} questions {} are too hard and {} too easy for the band {:?}, and {} inside it have no \
                 right and wrong sample that differ",
                facts.questions,
                facts.too_hard,
                facts.too_easy,
                self.band,
                facts.without_pair
            );
        }
        jsonl::write(&ctx.output("pairs.jsonl"), &selected.train)?;
        jsonl::write(&ctx.output("dev.jsonl"), &selected.dev)?;
        files::write_json(&ctx.output("pairs.json"), &selected.facts)?;
        let facts = selected.facts;
        Ok(Summary::default()
            .with("pairs", facts.pairs)
            .with("dev_pairs", facts.dev_pairs)
            .with("in_band", facts.in_band)
            .with("questions", facts.questions)
            .with("accuracy", facts.accuracy))
    }
}
