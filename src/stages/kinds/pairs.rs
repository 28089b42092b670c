//! `pairs`: preference pairs from judged samples or from published files, truncated to the beginning of the reasoning.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use crate::stages::common::{self, Truncate, check_range, with_threads};
use crate::stages::image_pack::{ImageReference, write_pack};
use ablate_core::base::{files, wrong_input};
use ablate_core::stage::config::{self, ConfigError, schema_of};
use ablate_core::stage::{
    ArtifactKind, Finding, HubRepository, Input, InputSource, Kind, Manifest, OutputSpec, Pool, Reference, Stage,
    StageContext, Summary, Work,
};
use ablate_data::images::image_key;
use ablate_data::import::preferences::{self, LocatedPair};
use ablate_data::import::{Located, RowImages};
use ablate_data::jsonl;
use ablate_data::pairs::{self, PairSelection};
use ablate_data::records::{JudgedItem, Pair};
use ablate_data::tokenizer::Tokenizer;

pub static KIND: Kind = Kind {
    name: "pairs",
    version: 3,
    about: "preference pairs of a right and a wrong sample, or published ones",
    outputs: OUTPUTS,
    fan_out: &[],
    seeded: true,
    pool: Pool::Light,
    work: Work::of_rows,
    parse,
    schema: schema_of::<Table>,
};

/// The outputs of every stage of the kind. With `path` a stage also has [`IMAGES`].
const OUTPUTS: &[OutputSpec] = &[
    OutputSpec::new("pairs.jsonl", ArtifactKind::Pairs),
    OutputSpec::new("dev.jsonl", ArtifactKind::Pairs),
    OutputSpec::new("pairs.json", ArtifactKind::Facts),
];
const IMAGES: OutputSpec = OutputSpec::new("images.tar", ArtifactKind::Images);

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Table {
    judged: Option<Reference>,
    /// A file or folder of published pairs instead: JSON, JSONL, CSV, TSV, Parquet or Arrow.
    path: Option<String>,
    /// The split of a folder with several.
    split: Option<String>,
    /// The folder that the image paths of `path` are relative to.
    images: Option<String>,
    /// Whether images are rotated according to their EXIF orientation. Default: `true`.
    exif_orientation: Option<bool>,
    band: Option<[f64; 2]>,
    per_question: Option<usize>,
    unreadable: Option<Unreadable>,
    /// Uses only the judged rollouts of these data sets.
    datasets: Option<BTreeSet<String>>,
    dev: Option<f64>,
    truncate: Option<Truncate>,
    /// The tokenizer that counts the tokens of `truncate = { tokens = ... }`.
    tokenizer: Option<Reference>,
}

#[derive(Debug)]
struct Pairs {
    source: Source,
    /// Share of the questions with held-out pairs.
    dev: f64,
    truncate: Truncate,
    tokenizer: Option<Reference>,
}

#[derive(Debug)]
enum Source {
    Judged(JudgedSource),
    Published { path: String, split: Option<String>, images: Option<String>, exif_orientation: bool },
}

#[derive(Debug)]
struct JudgedSource {
    judged: Reference,
    /// Smallest and largest share of right samples of a question.
    band: [f64; 2],
    per_question: usize,
    unreadable: Unreadable,
    datasets: Option<BTreeSet<String>>,
}

/// What happens to wrong samples without a readable answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Unreadable {
    /// They may be the rejected response of a pair.
    Reject,
    /// They are not used: they would teach the form of the answer only.
    #[default]
    Skip,
}

// The paper's values. It holds out 1.41k of 66.2k pairs.
const BAND: [f64; 2] = [0.25, 0.85];
const PER_QUESTION: usize = 3;
const DEV: f64 = 0.02;
const TRUNCATE: Truncate = Truncate::Words(90);

fn parse(table: &serde_json::Value) -> Result<Box<dyn Stage>, Vec<ConfigError>> {
    let table: Table = config::parse(table)?;
    let mut errors = Vec::new();
    let (dev, truncate) = (table.dev.unwrap_or(DEV), table.truncate.unwrap_or(TRUNCATE));
    let tokenizer = table.tokenizer.clone();
    let source = source(table, &mut errors);
    check_range(&mut errors, "dev", dev, 0.0, 1.0);
    let zero_limit = truncate.check();
    match (truncate, &tokenizer) {
        _ if zero_limit.is_some() => errors.extend(zero_limit),
        (Truncate::Tokens(_), None) => errors.push(
            ConfigError::at("truncate", "tokens cannot be counted without a `tokenizer`")
                .help("name a tokenizer stage: `tokenizer = \"...\"`"),
        ),
        (Truncate::Words(_) | Truncate::None, Some(_)) => {
            errors.push(ConfigError::at("tokenizer", "`tokenizer` is for `truncate = { tokens = ... }` only"));
        }
        _ => {}
    }
    match source {
        Some(source) if errors.is_empty() => Ok(Box::new(Pairs { source, dev, truncate, tokenizer })),
        _ => Err(errors),
    }
}

/// The source of the pairs with its keys; `None` if not exactly one source is given.
fn source(table: Table, errors: &mut Vec<ConfigError>) -> Option<Source> {
    let Table {
        judged,
        path,
        split,
        images,
        exif_orientation,
        band,
        per_question,
        unreadable,
        datasets,
        dev: _,
        truncate: _,
        tokenizer: _,
    } = table;
    match (judged, path) {
        (None, None) => {
            errors.push(
                ConfigError::at("", "`judged` and `path` are missing: the stage needs one of them")
                    .help("`judged` pairs right and wrong samples of a stage, `path` names a file of published pairs"),
            );
            None
        }
        (Some(_), Some(_)) => {
            errors.push(ConfigError::at("path", "`judged` and `path` are both given: write one of them"));
            None
        }
        (Some(judged), None) => {
            let [low, high] = band.unwrap_or(BAND);
            check_range(errors, "band", low, 0.0, 1.0);
            check_range(errors, "band", high, 0.0, 1.0);
            if low > high {
                errors.push(ConfigError::at("band", format!("the band is empty: {low} is more than {high}")));
            }
            if per_question == Some(0) {
                errors.push(ConfigError::at("per_question", "`per_question` must be at least 1"));
            }
            if split.is_some() {
                errors.push(ConfigError::at("split", "`split` is for `path` only"));
            }
            for (key, given) in [("images", images.is_some()), ("exif_orientation", exif_orientation.is_some())] {
                if given {
                    let message = format!("`{key}` is for `path` only; judged samples have their images");
                    errors.push(ConfigError::at(key, message));
                }
            }
            common::check_datasets(errors, datasets.as_ref());
            let (per_question, unreadable) = (per_question.unwrap_or(PER_QUESTION), unreadable.unwrap_or_default());
            Some(Source::Judged(JudgedSource { judged, band: [low, high], per_question, unreadable, datasets }))
        }
        (None, Some(path)) => {
            let given = [
                ("band", band.is_some()),
                ("per_question", per_question.is_some()),
                ("unreadable", unreadable.is_some()),
                ("datasets", datasets.is_some()),
            ];
            for (key, _) in given.into_iter().filter(|(_, given)| *given) {
                let message = format!("`{key}` is for `judged` only; published pairs are not filtered");
                errors.push(ConfigError::at(key, message));
            }
            Some(Source::Published { path, split, images, exif_orientation: exif_orientation.unwrap_or(true) })
        }
    }
}

impl Stage for Pairs {
    fn identify(&self, manifest: &mut Manifest) {
        let Pairs { source, dev, truncate, tokenizer: _ } = self;
        match source {
            Source::Judged(JudgedSource { judged: _, band, per_question, unreadable, datasets }) => {
                manifest.value("band", band);
                manifest.value("per_question", per_question);
                manifest.value("dev", dev);
                manifest.value("truncate", truncate);
                manifest.value("unreadable", unreadable);
                manifest.value_unless("datasets", datasets, &None);
            }
            // The file enters by content. Its name enters too, since rows without a data set get it as their data set.
            Source::Published { path, split, images: _, exif_orientation } => {
                manifest.value_unless("split", split, &None);
                manifest.value_unless("exif_orientation", exif_orientation, &true);
                manifest.value("dataset", &common::stem(path, "pairs"));
                manifest.value("dev", dev);
                manifest.value("truncate", truncate);
            }
        }
    }

    fn inputs(&self) -> Vec<Input> {
        let mut inputs = Vec::new();
        match &self.source {
            Source::Judged(JudgedSource { judged, .. }) => {
                inputs.push(common::stage_input("judged", judged, &[ArtifactKind::Judged]));
            }
            Source::Published { path, images, .. } => {
                let external = |role: &str, path: &String| Input {
                    role: role.to_string(),
                    source: InputSource::External { path: path.clone(), hub: HubRepository::Dataset },
                };
                inputs.push(external("path", path));
                inputs.extend(images.iter().map(|images| external("images", images)));
            }
        }
        inputs.extend(
            self.tokenizer.iter().map(|from| common::stage_input("tokenizer", from, &[ArtifactKind::Tokenizer])),
        );
        inputs
    }

    fn outputs(&self) -> Option<Vec<OutputSpec>> {
        match self.source {
            Source::Judged(_) => None,
            Source::Published { .. } => Some([OUTPUTS, &[IMAGES]].concat()),
        }
    }

    fn inspect(&self, path: &dyn Fn(&str) -> Option<PathBuf>) -> Vec<Finding> {
        match &self.source {
            Source::Judged(_) => Vec::new(),
            Source::Published { split, .. } => common::inspect_rows([("path".to_string(), split.as_deref())], path),
        }
    }

    fn run(&self, ctx: &StageContext) -> Result<Summary> {
        let tokenizer = ctx.inputs.get("tokenizer").map(|input| Tokenizer::read(&input.path)).transpose()?;
        let truncate = |text: &str| self.truncate.truncate(text, tokenizer.as_ref());
        match &self.source {
            Source::Judged(judged) => self.select(ctx, judged, truncate),
            Source::Published { path, split, exif_orientation, .. } => {
                self.import(ctx, &common::stem(path, "pairs"), split.as_deref(), *exif_orientation, truncate)
            }
        }
    }
}

impl Pairs {
    /// Selects pairs of judged samples.
    fn select(
        &self,
        ctx: &StageContext,
        source: &JudgedSource,
        truncate: impl Fn(&str) -> Result<(String, bool)>,
    ) -> Result<Summary> {
        let judged: Vec<JudgedItem> = jsonl::read(&ctx.input("judged")?.path)?;
        common::check_not_empty(&judged, "judged")?;
        let judged = common::filter_datasets(judged, source.datasets.as_ref(), "question", |row| &row.item.dataset)
            .map_err(wrong_input)?;
        let selection = PairSelection {
            band: source.band,
            per_question: source.per_question,
            dev: self.dev,
            unreadable: source.unreadable == Unreadable::Reject,
        };
        let selected = pairs::select(&judged, &selection, ctx.seed, truncate)?;
        if selected.train.is_empty() {
            let facts = &selected.stats;
            bail!(
                "no pairs: of {} questions {} are too hard and {} too easy for the band {:?}, and {} inside it have no \
                 right and wrong sample with different texts",
                facts.questions,
                facts.too_hard,
                facts.too_easy,
                source.band,
                facts.without_pair
            );
        }
        jsonl::write(&ctx.output("pairs.jsonl"), &selected.train)?;
        jsonl::write(&ctx.output("dev.jsonl"), &selected.dev)?;
        files::write_json(&ctx.output("pairs.json"), &selected.stats)?;
        let facts = selected.stats;
        Ok(Summary::default()
            .with("pairs", facts.pairs)
            .with("dev_pairs", facts.dev_pairs)
            .with("in_band", facts.in_band)
            .with("questions", facts.questions)
            .with("accuracy", facts.accuracy))
    }

    /// Imports published pairs and packs their images.
    fn import(
        &self,
        ctx: &StageContext,
        dataset: &str,
        split: Option<&str>,
        exif_orientation: bool,
        truncate: impl Fn(&str) -> Result<(String, bool)>,
    ) -> Result<Summary> {
        let images = ctx.inputs.get("images").map(|input| input.path.as_path());
        let unpacked = ctx.scratch.join("unpacked");
        files::remove_dir(&unpacked)?;
        let mut row_images = RowImages::new(images, &unpacked);
        let path = &ctx.input("path")?.path;
        let (located, read) = preferences::read(path, split, &mut row_images, dataset).map_err(wrong_input)?;
        let lines = common::report_files(&read, ctx);
        common::check_not_empty(&located, "path").map_err(wrong_input)?;
        let prepared = preferences::prepare(located, self.dev, ctx.seed, truncate)?;
        let facts = prepared.stats;
        if prepared.train.is_empty() {
            bail!(
                "no pairs: of {} rows {} are equal after truncation, and {} are held out",
                facts.rows,
                facts.duplicates,
                facts.dev_pairs
            );
        }
        let rows = prepared.train.iter().chain(&prepared.dev);
        let references = rows.flat_map(|row| {
            row.record.images.keys().iter().map(|image| ImageReference {
                place: &row.location,
                image,
                file: row_images.file(image),
                exif_orientation,
            })
        });
        let tar = ctx.output(&IMAGES.name);
        let pack = with_threads(ctx.threads, || write_pack(references, &tar, ctx.progress))?;
        let pack = pack.map_err(wrong_input)?;
        for (name, located) in [("pairs.jsonl", prepared.train), ("dev.jsonl", prepared.dev)] {
            let keyed = |Located { record: pair, .. }: LocatedPair| Pair {
                images: pair.images.map(|image| image_key(pack.hash, &image)),
                ..pair
            };
            jsonl::write(&ctx.output(name), &located.into_iter().map(keyed).collect::<Vec<_>>())?;
        }
        files::write_json(&ctx.output("pairs.json"), &facts)?;
        files::remove_dir(&unpacked)?;
        let warning = (facts.duplicates > 0).then(|| {
            let (dropped, rows) = (facts.duplicates, facts.rows);
            format!("{dropped} of {rows} pairs are dropped: truncated they have equal texts or are duplicates")
        });
        Ok(Summary::default()
            .with("pairs", facts.pairs)
            .with("dev_pairs", facts.dev_pairs)
            .with("rows", facts.rows)
            .with("questions", facts.questions)
            .with("datasets", facts.by_dataset)
            .with("images", pack.images)
            .with("files", lines)
            .with_warnings(warning.into_iter().chain(pack.warning())))
    }
}
