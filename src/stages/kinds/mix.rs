//! `mix`: training rows drawn from several sources in stated amounts.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::mix_rows::{self, Candidates, Shape};
use crate::stages::common::{self, check_range};
use crate::stages::lost_rows::check_most;
use ablate_core::base::{files, wrong_input};
use ablate_core::stage::config::{self, ConfigError, schema_of};
use ablate_core::stage::{
    ArtifactKind, Input, Kind, Manifest, OutputSpec, Pool, Reference, Stage, StageContext, Summary,
};
use ablate_data::jsonl;
use ablate_data::mix::{self, Amount, MixSize, MixSource, SourceStats};
use ablate_data::prompts::PromptTemplate;
use ablate_data::records::Row;
use ablate_data::rng::shuffle;
use ablate_data::tokenizer::Tokenizer;

pub static KIND: Kind = Kind {
    name: "mix",
    version: 2,
    about: "training rows drawn from several sources in stated amounts",
    outputs: &[OutputSpec::new("rows.jsonl", ArtifactKind::Rows), OutputSpec::new("mix.json", ArtifactKind::Facts)],
    fan_out: &[],
    seeded: true,
    pool: Pool::Light,
    parse,
    schema: schema_of::<Mix>,
};

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Mix {
    sources: BTreeMap<String, SourceTable>,
    /// Rows of the mix; with neither `rows` nor `tokens` it is all that the sources give.
    rows: Option<usize>,
    /// Text tokens of the mix.
    tokens: Option<u64>,
    /// No source may be repeated more often.
    max_epochs: Option<f64>,
    /// Counts text tokens.
    tokenizer: Option<Reference>,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(transform = crate::stages::common::or_remove)]
struct SourceTable {
    from: Reference,
    /// What becomes of an item.
    #[serde(default, rename = "as")]
    shape: Shape,
    weight: Option<f64>,
    tokens: Option<u64>,
    rows: Option<usize>,
    epochs: Option<f64>,
    keep: Option<f64>,
    /// So many rows of each data set.
    per_dataset: Option<usize>,
    /// Whether rows may come again when there are too few.
    #[serde(default)]
    replace: bool,
    /// Only rows of these data sets.
    datasets: Option<BTreeSet<String>>,
    /// The template that items are asked with, instead of the one that belongs to `as`.
    prompt: Option<PromptTemplate>,
    /// `as = "correct"`: so many different right samples of a question at most.
    per_question: Option<usize>,
    /// Share of its records that may lack an answer, a rationale or a response.
    max_lost: Option<f64>,
}

/// What `mix.json` says.
#[derive(Serialize)]
struct MixFacts {
    rows: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<u64>,
    sources: BTreeMap<String, SourceStats>,
}

fn parse(table: &Value) -> Result<Box<dyn Stage>, Vec<ConfigError>> {
    let mut table = table.clone();
    if let Some(sources) = table.get_mut("sources").and_then(Value::as_object_mut) {
        sources.retain(|_, source| source.as_str() != Some("remove"));
    }
    let mix: Mix = config::parse(&table)?;
    let mut errors = Vec::new();
    if mix.sources.is_empty() {
        errors.push(ConfigError::at("sources", "the mix has no sources"));
    }
    if mix.rows.is_some() && mix.tokens.is_some() {
        errors.push(ConfigError::at("tokens", "the size of the mix is `rows` or `tokens`, and both are given"));
    }
    if mix.rows == Some(0) || mix.tokens == Some(0) {
        let key = if mix.rows == Some(0) { "rows" } else { "tokens" };
        errors.push(ConfigError::at(key, "the mix would be empty"));
    }
    if let Some(most) = mix.max_epochs {
        check_range(&mut errors, "max_epochs", most, 0.0, f64::INFINITY);
    }
    common::check_counts(&mut errors, common::MOST_ROWS, [("rows", mix.rows)]);
    for (name, source) in &mix.sources {
        source.check(&format!("sources.{name}"), &mut errors);
        let counts = [("rows", source.rows), ("per_dataset", source.per_dataset)];
        let counts = counts.map(|(key, count)| (format!("sources.{name}.{key}"), count));
        common::check_counts(&mut errors, common::MOST_ROWS, counts.iter().map(|(key, count)| (&**key, *count)));
    }
    let counted = mix.tokens.is_some() || mix.sources.values().any(|source| source.tokens.is_some());
    if counted && mix.tokenizer.is_none() {
        errors.push(
            ConfigError::at("", "tokens cannot be counted without a `tokenizer`")
                .help("name a tokenizer stage: `tokenizer = \"...\"`"),
        );
    }
    let amounts = mix.sources.iter().map(|(name, source)| (name.as_str(), source.amount()));
    if errors.is_empty()
        && let Err(misfit) = mix::check(amounts, mix.size())
    {
        let amount = misfit.source.as_ref().map(|(source, unit)| format!("sources.{source}.{unit}"));
        errors.push(ConfigError::at(amount.as_deref().unwrap_or("sources"), misfit.to_string()));
    }
    if errors.is_empty() { Ok(Box::new(mix)) } else { Err(errors) }
}

impl Stage for Mix {
    fn identify(&self, manifest: &mut Manifest) {
        let Mix { sources, rows: _, tokens: _, max_epochs: _, tokenizer: _ } = self;
        manifest.value("size", &self.size());
        for (name, source) in sources {
            source.identify(&format!("sources.{name}"), manifest);
        }
    }

    fn inputs(&self) -> Vec<Input> {
        let accepts = &[ArtifactKind::Rows, ArtifactKind::Items, ArtifactKind::Judged];
        let sources = self
            .sources
            .iter()
            .map(|(name, source)| common::input(format!("sources.{name}.from"), &source.from, accepts));
        let tokenizer = self.tokenizer.iter().map(|from| common::input("tokenizer", from, &[ArtifactKind::Tokenizer]));
        sources.chain(tokenizer).collect()
    }

    fn run(&self, ctx: &StageContext) -> Result<Summary> {
        let tokenizer = ctx.inputs.get("tokenizer").map(|input| Tokenizer::read(&input.path)).transpose()?;
        let mut sources = Vec::new();
        let mut candidates = Vec::new();
        let mut warnings = Vec::new();
        for (name, table) in &self.sources {
            let found = table.read(name, ctx)?;
            let whose = format!("source `{name}`");
            warnings.extend(found.losses.check(&whose, "max_lost", table.max_lost.unwrap_or(0.0))?);
            let tokens =
                tokenizer.as_ref().map(|tokenizer| mix_rows::count_tokens(&found.rows, tokenizer)).transpose()?;
            sources.push(MixSource {
                name: name.clone(),
                keys: found.keys.clone(),
                datasets: found.rows.iter().map(|row| row.dataset.clone()).collect(),
                tokens,
                amount: table.amount(),
                replace: table.replace,
            });
            candidates.push(found);
        }
        let drawn = mix::sample(&sources, self.size(), self.max_epochs, ctx.seed).map_err(wrong_input)?;
        let mut rows: Vec<Row> = Vec::new();
        let mut facts = BTreeMap::new();
        for ((source, taken), Candidates { rows: found, dropped, .. }) in sources.iter().zip(drawn).zip(candidates) {
            rows.extend(taken.iter().map(|&row| Row { source: source.name.clone(), ..found[row].clone() }));
            facts.insert(source.name.clone(), mix::source_stats(source, &taken, dropped));
        }
        if rows.is_empty() {
            anyhow::bail!("the mix is empty: no source gives a row");
        }
        shuffle(&mut rows, &mut ctx.seed.stream("mix/order"));
        jsonl::write(&ctx.output("rows.jsonl"), &rows)?;
        let tokens = facts.values().map(|source| source.tokens).sum::<Option<u64>>();
        let summary = MixFacts { rows: rows.len(), tokens, sources: facts };
        files::write_json(&ctx.output("mix.json"), &summary)?;
        Ok(Summary::default()
            .with("rows", summary.rows)
            .with("tokens", tokens)
            .with("sources", &summary.sources)
            .with_warnings(warnings))
    }
}

impl Mix {
    fn size(&self) -> MixSize {
        match (self.rows, self.tokens) {
            (Some(rows), _) => MixSize::Rows(rows),
            (None, Some(tokens)) => MixSize::Tokens(tokens),
            (None, None) => MixSize::All,
        }
    }
}

impl SourceTable {
    fn amounts(&self) -> Vec<(&'static str, Amount)> {
        [
            self.weight.map(|weight| ("weight", Amount::Weight(weight))),
            self.tokens.map(|tokens| ("tokens", Amount::Tokens(tokens))),
            self.rows.map(|rows| ("rows", Amount::Rows(rows))),
            self.epochs.map(|epochs| ("epochs", Amount::Epochs(epochs))),
            self.keep.map(|share| ("keep", Amount::Keep(share))),
            self.per_dataset.map(|rows| ("per_dataset", Amount::PerDataset(rows))),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// What the source gives: all of it, if it does not say.
    fn amount(&self) -> Amount {
        self.amounts().first().map_or(Amount::Keep(1.0), |(_, amount)| *amount)
    }

    fn check(&self, path: &str, errors: &mut Vec<ConfigError>) {
        if let [(first, _), (second, _), ..] = self.amounts().as_slice() {
            let message = format!("`{first}` and `{second}` are both given: a source states its amount in one unit");
            errors.push(ConfigError::at(&format!("{path}.{second}"), message));
        }
        for (unit, value) in [("weight", self.weight), ("epochs", self.epochs), ("keep", self.keep)] {
            if let Some(value) = value {
                check_range(errors, &format!("{path}.{unit}"), value, 0.0, f64::INFINITY);
            }
        }
        if let Some(prompt) = &self.prompt {
            match self.shape.style() {
                Some(style) if style != prompt.style => {
                    let message = format!("the template `{}` asks for another form than `as`", prompt.name);
                    errors.push(ConfigError::at(&format!("{path}.prompt"), message));
                }
                Some(_) => {}
                None => errors.push(ConfigError::at(
                    &format!("{path}.prompt"),
                    "`prompt` is for items: with `as = \"correct\"` the prompt is the one that was sampled from",
                )),
            }
        }
        if self.per_question.is_some() && self.shape != Shape::Correct {
            errors.push(ConfigError::at(
                &format!("{path}.per_question"),
                "`per_question` is for `as = \"correct\"` only",
            ));
        }
        if self.per_question == Some(0) {
            errors.push(ConfigError::at(&format!("{path}.per_question"), "no rows: `per_question` is at least 1"));
        }
        check_most(errors, &format!("{path}.max_lost"), self.max_lost);
        if self.datasets.as_ref().is_some_and(BTreeSet::is_empty) {
            errors.push(ConfigError::at(&format!("{path}.datasets"), "the list of data sets is empty"));
        }
    }

    fn identify(&self, path: &str, manifest: &mut Manifest) {
        let SourceTable {
            from: _,
            shape,
            weight: _,
            tokens: _,
            rows: _,
            epochs: _,
            keep: _,
            per_dataset: _,
            // Whether rows may repeat decides between an error and a result, not between two results.
            replace: _,
            datasets,
            prompt: _,
            per_question,
            max_lost,
        } = self;
        manifest.value(&format!("{path}.as"), shape);
        manifest.value(path, &self.amount());
        manifest.value_unless(&format!("{path}.datasets"), datasets, &None);
        if let Some(template) = self.template() {
            // What it is called changes no row, and its style is that of `as`.
            let PromptTemplate { name: _, style: _, text, letter } = template;
            manifest.value(&format!("{path}.prompt.text"), &text);
            manifest.value(&format!("{path}.prompt.letter"), &letter);
        }
        manifest.value_unless(&format!("{path}.per_question"), per_question, &None);
        // A result that lost rows is not found again where none may be lost.
        manifest.value_unless(&format!("{path}.max_lost"), &max_lost.unwrap_or(0.0), &0.0);
    }

    /// The template that items are asked with.
    fn template(&self) -> Option<PromptTemplate> {
        self.prompt.clone().or(self.shape.template())
    }

    fn read(&self, name: &str, ctx: &StageContext) -> Result<Candidates> {
        let input = ctx.input(&format!("sources.{name}.from"))?;
        let (template, datasets) = (self.template(), self.datasets.as_ref());
        mix_rows::read(input, self.shape, template.as_ref(), self.per_question, datasets)
            .map_err(|error| error.context(format!("source `{name}`")))
    }
}
