//! `tokenizer`: a tokenizer, trained on rows and items or imported from a `tokenizer.json`.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::stages::common;
use ablate_core::stage::config::{self, ConfigError, schema_of};
use ablate_core::stage::{
    ArtifactKind, HubRepository, Input, InputSource, Kind, Manifest, OutputSpec, Pool, Reference, Stage, StageContext,
    Summary, Work,
};
use ablate_data::jsonl;
use ablate_data::prompts::{PromptTemplate, cot_response};
use ablate_data::records::{Item, Row};
use ablate_data::tokenizer::{FILE, SPECIAL_TOKENS, Tokenizer};

pub static KIND: Kind = Kind {
    name: "tokenizer",
    version: 1,
    about: "a tokenizer, trained on rows and items or imported from a tokenizer.json",
    outputs: &[OutputSpec::new("tokenizer", ArtifactKind::Tokenizer)],
    fan_out: &[],
    seeded: false,
    pool: Pool::Light,
    work: Work::of_rows,
    parse,
    schema: schema_of::<TokenizerStage>,
};

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct TokenizerStage {
    /// Stages with the training texts.
    #[serde(default)]
    train_on: Vec<Reference>,
    /// An existing `tokenizer.json`, instead of training.
    path: Option<String>,
    algorithm: Option<Algorithm>,
    /// Largest number of tokens, with the special ones.
    vocab: Option<usize>,
    /// TokenPrompt templates for items, so that the vocabulary has the words of their prompts.
    prompts: Option<Vec<PromptTemplate>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Algorithm {
    /// Byte-level byte-pair encoding with one token per digit.
    Bpe,
    /// One token per word, for synthetic data with a fixed vocabulary.
    Word,
}

/// Default of `vocab`.
const VOCAB: usize = 4096;

/// Largest accepted `vocab`. It is above every published vocabulary; the trainer allocates memory for all of it.
const MAX_VOCAB: usize = 10_000_000;

fn parse(table: &serde_json::Value) -> Result<Box<dyn Stage>, Vec<ConfigError>> {
    let stage: TokenizerStage = config::parse(table)?;
    let mut errors = Vec::new();
    match &stage.path {
        None if stage.train_on.is_empty() => errors.push(
            ConfigError::at("", "`train_on` and `path` are missing: the stage needs one of them")
                .help("`train_on` lists stages with training texts, `path` imports a `tokenizer.json`"),
        ),
        Some(_) => {
            let given = [
                ("train_on", !stage.train_on.is_empty()),
                ("algorithm", stage.algorithm.is_some()),
                ("vocab", stage.vocab.is_some()),
                ("prompts", stage.prompts.is_some()),
            ];
            for (key, _) in given.into_iter().filter(|(_, given)| *given) {
                errors.push(ConfigError::at(
                    key,
                    format!("`{key}` is for training only, but `path` imports a tokenizer"),
                ));
            }
        }
        None => {}
    }
    let smallest = SPECIAL_TOKENS.len() + if stage.algorithm() == Algorithm::Bpe { 256 } else { 1 };
    if stage.path.is_none() && stage.vocab.is_some_and(|vocab| vocab < smallest) {
        errors
            .push(ConfigError::at("vocab", format!("the smallest vocabulary of this algorithm has {smallest} tokens")));
    }
    common::check_max(&mut errors, MAX_VOCAB, [("vocab", stage.vocab)]);
    if errors.is_empty() { Ok(Box::new(stage)) } else { Err(errors) }
}

impl Stage for TokenizerStage {
    fn identify(&self, manifest: &mut Manifest) {
        let TokenizerStage { train_on: _, path, algorithm: _, vocab: _, prompts: _ } = self;
        if path.is_none() {
            manifest.value("algorithm", &self.algorithm());
            manifest.value("vocab", &self.vocab());
            manifest.value("prompts", &self.prompts());
        }
    }

    fn inputs(&self) -> Vec<Input> {
        let path = self.path.iter().map(|path| Input {
            role: "path".to_string(),
            source: InputSource::External { path: path.clone(), hub: HubRepository::Model },
        });
        let accepts = &[ArtifactKind::Rows, ArtifactKind::Items];
        let trained = self
            .train_on
            .iter()
            .enumerate()
            .map(|(index, from)| common::stage_input(format!("train_on.{index}"), from, accepts));
        path.chain(trained).collect()
    }

    fn run(&self, ctx: &StageContext) -> Result<Summary> {
        let tokenizer = match ctx.inputs.get("path") {
            Some(input) => Tokenizer::read(&input.path)?,
            None => self.train(ctx)?,
        };
        tokenizer.write(&ctx.output("tokenizer").join(FILE))?;
        Ok(Summary::default().with("vocab", tokenizer.vocab_size()))
    }
}

impl TokenizerStage {
    fn algorithm(&self) -> Algorithm {
        self.algorithm.unwrap_or(Algorithm::Bpe)
    }

    fn vocab(&self) -> usize {
        self.vocab.unwrap_or(VOCAB)
    }

    fn prompts(&self) -> Vec<PromptTemplate> {
        self.prompts
            .clone()
            .unwrap_or_else(|| vec![PromptTemplate::direct(), PromptTemplate::cot(), PromptTemplate::bare()])
    }

    fn train(&self, ctx: &StageContext) -> Result<Tokenizer> {
        let mut texts = Vec::new();
        for index in 0..self.train_on.len() {
            let input = ctx.input(&format!("train_on.{index}"))?;
            if input.kind == Some(ArtifactKind::Items) {
                for item in jsonl::read::<Item>(&input.path)? {
                    texts.extend(self.prompts().iter().map(|template| template.render(&item)));
                    let answer = item.rationale_answer.as_ref().or(item.answers.first()).cloned().unwrap_or_default();
                    texts.extend(item.rationale.as_ref().map(|rationale| cot_response(rationale, &answer)));
                    texts.extend(item.answers);
                }
            } else {
                texts.extend(jsonl::read::<Row>(&input.path)?.into_iter().flat_map(|row| [row.prompt, row.response]));
            }
        }
        common::check_not_empty(&texts, "train_on")?;
        let texts = texts.iter().map(String::as_str);
        match self.algorithm() {
            Algorithm::Bpe => Tokenizer::train_bpe(texts, self.vocab()),
            Algorithm::Word => Tokenizer::train_word(texts, self.vocab()),
        }
    }
}
