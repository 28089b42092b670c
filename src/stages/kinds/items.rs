//! `items`: questions with gold answers, from files of the usual layouts or generated (`synthetic`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::stages::common::{self, with_threads};
use crate::stages::image_pack::{ImageReference, write_pack};
use ablate_core::base::{Seed, files, wrong_input};
use ablate_core::stage::config::{self, ConfigError, schema_of};
use ablate_core::stage::{
    ArtifactKind, Finding, HubRepository, Input, InputSource, Kind, Manifest, Numbers, OutputSpec, Pool, Stage,
    StageContext, Summary, Work,
};
use ablate_data::gold_answers::OptionAnswers;
use ablate_data::images::image_key;
use ablate_data::import::columns::ColumnMap;
use ablate_data::import::options::{AnswerTypes, ImportOptions, RowFile};
use ablate_data::import::{self, Located, RowImages, Source};
use ablate_data::jsonl;
use ablate_data::records::Item;
use ablate_data::synthetic::{self, Dataset, Split};

pub static KIND: Kind = Kind {
    name: "items",
    version: 4,
    about: "questions with gold answers, from files or generated",
    outputs: &[
        OutputSpec::new("items.jsonl", ArtifactKind::Items),
        OutputSpec::new("images.tar", ArtifactKind::Images),
    ],
    fan_out: &[],
    seeded: true,
    pool: Pool::Light,
    work,
    parse,
    schema: schema_of::<Items>,
};

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Items {
    /// A file or folder of rows: JSON, JSONL, CSV, TSV, Parquet or Arrow.
    path: Option<String>,
    /// Instead of `path`: the file or files of each data set.
    files: Option<BTreeMap<String, Paths>>,
    /// The folder that image paths are relative to.
    images: Option<String>,
    /// Which columns hold the question, the answer and so on. Default: by the layout of the file.
    columns: Option<ColumnMap>,
    /// The split of a folder with several.
    split: Option<String>,
    /// Whether the first line of a CSV or TSV file names the columns. Default: `true`.
    header: Option<bool>,
    /// Whether images are rotated according to their EXIF orientation. Default: `true`.
    exif_orientation: Option<bool>,
    /// Generates rows instead of reading them.
    synthetic: Option<Synthetic>,
    /// Data set of rows that name none. Default: the file's name without its extension.
    dataset: Option<String>,
    /// Answer type of rows that name none, for all of them or by data set. Default: `letter` for rows with options,
    /// `text` for other rows.
    answer_type: Option<AnswerTypes>,
    /// Every question must end with one of these texts, which is removed.
    instructions: Option<Vec<String>>,
    /// How the gold answers of multiple-choice rows name their option.
    #[serde(default)]
    option_answers: OptionAnswers,
    /// Number of rows to sample with the seed. A larger sample contains a smaller one.
    take: Option<usize>,
    /// Number of rows of each data set to sample in the same way.
    per_dataset: Option<usize>,
}

/// One or several paths.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(untagged, expecting = "expected a path or a list of paths")]
enum Paths {
    One(String),
    Many(Vec<String>),
}

#[derive(Debug, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Synthetic {
    datasets: Vec<Dataset>,
    split: Split,
    /// Rows of each data set.
    count: usize,
    /// Name of another random stream of the split, for other questions.
    #[serde(default)]
    stream: String,
}

/// The rows of a synthetic task, or those of the files.
fn work(number: Numbers<'_>) -> Work {
    number("synthetic.count").map_or(Work::of_rows(number), Work::Examples)
}

fn parse(table: &serde_json::Value) -> Result<Box<dyn Stage>, Vec<ConfigError>> {
    let items: Items = config::parse(table)?;
    let mut errors = Vec::new();
    let sources =
        [("path", items.path.is_some()), ("files", items.files.is_some()), ("synthetic", items.synthetic.is_some())];
    let given: Vec<&str> = sources.into_iter().filter_map(|(key, given)| given.then_some(key)).collect();
    match given.as_slice() {
        [] => errors.push(
            ConfigError::at("", "`path`, `files` and `synthetic` are missing: the stage needs one of them").help(
                "`path` names a file or folder of rows, `files` names several of them, `synthetic` generates rows",
            ),
        ),
        [first, .., last] => {
            errors.push(ConfigError::at(last, format!("`{first}` and `{last}` are both given: write one of them")));
        }
        [_] => {}
    }
    if let Some(synthetic) = &items.synthetic {
        for (key, given) in [
            ("images", items.images.is_some()),
            ("columns", items.columns.is_some()),
            ("split", items.split.is_some()),
            ("header", items.header.is_some()),
            ("exif_orientation", items.exif_orientation.is_some()),
            ("dataset", items.dataset.is_some()),
            ("answer_type", items.answer_type.is_some()),
            ("instructions", items.instructions.is_some()),
            ("option_answers", items.option_answers != OptionAnswers::default()),
        ] {
            if given {
                errors.push(ConfigError::at(
                    key,
                    format!("`{key}` is for rows of files only, but `synthetic` generates the rows"),
                ));
            }
        }
        let distinct: BTreeSet<Dataset> = synthetic.datasets.iter().copied().collect();
        if synthetic.datasets.is_empty() {
            errors.push(ConfigError::at("synthetic.datasets", "the list of data sets is empty"));
        }
        if distinct.len() < synthetic.datasets.len() {
            errors.push(ConfigError::at("synthetic.datasets", "a data set is named twice"));
        }
        if synthetic.count == 0 {
            errors.push(ConfigError::at("synthetic.count", "`count` must be at least 1"));
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if !synthetic.stream.chars().all(allowed) {
            let message = format!("`{}` may only have letters, digits, `-` and `_`", synthetic.stream);
            errors.push(ConfigError::at("synthetic.stream", message));
        }
    }
    common::check_columns(&mut errors, "", items.columns.as_ref(), items.header);
    if let Some(files) = &items.files {
        check_files(files, &items, &mut errors);
    }
    if let Some(instructions) = &items.instructions
        && (instructions.is_empty() || instructions.iter().any(|text| text.trim().is_empty()))
    {
        errors.push(ConfigError::at("instructions", "an instruction is empty: write its text, or remove the key"));
    }
    for (key, rows) in [("take", items.take), ("per_dataset", items.per_dataset)] {
        if rows == Some(0) {
            errors.push(ConfigError::at(key, format!("`{key}` must be at least 1")));
        }
    }
    let count = items.synthetic.as_ref().map(|synthetic| synthetic.count);
    let counts = [("synthetic.count", count), ("take", items.take), ("per_dataset", items.per_dataset)];
    common::check_max(&mut errors, common::MAX_ROWS, counts);
    if items.take.is_some() && items.per_dataset.is_some() {
        errors.push(ConfigError::at("per_dataset", "`take` and `per_dataset` are both given: write one of them"));
    }
    if errors.is_empty() { Ok(Box::new(items)) } else { Err(errors) }
}

fn check_files(files: &BTreeMap<String, Paths>, items: &Items, errors: &mut Vec<ConfigError>) {
    if files.is_empty() {
        errors.push(ConfigError::at("files", "the table of files is empty"));
    }
    if items.dataset.is_some() {
        errors.push(ConfigError::at("dataset", "`dataset` is for `path` only; the keys of `files` are the data sets"));
    }
    for (dataset, paths) in files {
        if dataset.is_empty() || dataset.contains('.') {
            let message = format!("`{dataset}` is not a valid name of a data set: a name is not empty and has no `.`");
            errors.push(ConfigError::at("files", message));
        }
        if matches!(paths, Paths::Many(paths) if paths.is_empty()) {
            errors.push(ConfigError::at(&format!("files.{dataset}"), "the list of files is empty"));
        }
    }
    if let Some(AnswerTypes::ByDataset(types)) = &items.answer_type {
        for unknown in types.keys().filter(|dataset| !files.contains_key(*dataset)) {
            let message = format!("`files` has no data set `{unknown}`");
            errors.push(ConfigError::at(&format!("answer_type.{unknown}"), message));
        }
    }
}

impl Stage for Items {
    fn identify(&self, manifest: &mut Manifest) {
        let Items {
            path,
            files: _,
            images: _,
            columns,
            split,
            header,
            exif_orientation,
            synthetic,
            dataset: _,
            answer_type,
            instructions,
            option_answers,
            take,
            per_dataset,
        } = self;
        if let Some(synthetic) = synthetic {
            manifest.value("synthetic", synthetic);
        } else {
            // Inputs enter by content. With `files` the names of the data sets are in the roles of the inputs.
            if path.is_some() {
                manifest.value("dataset", &self.dataset());
            }
            manifest.value_unless("answer_type", answer_type, &None);
            manifest.value_unless("instructions", instructions, &None);
            manifest.value_unless("option_answers", option_answers, &OptionAnswers::default());
            manifest.value_unless("columns", columns, &None);
            manifest.value_unless("split", split, &None);
            manifest.value_unless("header", &header.unwrap_or(true), &true);
            manifest.value_unless("exif_orientation", &exif_orientation.unwrap_or(true), &true);
        }
        manifest.value_unless("take", take, &None);
        manifest.value_unless("per_dataset", per_dataset, &None);
    }

    fn inputs(&self) -> Vec<Input> {
        let input = |role: &str, path: &Option<String>| Some((role.to_string(), path.clone()?));
        let files = self.files().into_iter().map(|(_, role, path)| (role, path));
        let paths = input("path", &self.path).into_iter().chain(files).chain(input("images", &self.images));
        paths
            .map(|(role, path)| Input { role, source: InputSource::External { path, hub: HubRepository::Dataset } })
            .collect()
    }

    fn inspect(&self, path: &dyn Fn(&str) -> Option<PathBuf>) -> Vec<Finding> {
        let files = self.files().into_iter().map(|(_, role, _)| role);
        let roles = self.path.iter().map(|_| "path".to_string()).chain(files);
        common::inspect_rows(roles.map(|role| (role, self.split.as_deref())), path)
    }

    fn run(&self, ctx: &StageContext) -> Result<Summary> {
        let generated = ctx.scratch.join("synthetic");
        let images = match &self.synthetic {
            Some(Synthetic { datasets, split, count, stream }) => {
                files::remove_dir(&generated)?;
                with_threads(ctx.threads, || {
                    synthetic::write(&generated, datasets, *split, stream, *count, ctx.seed)
                })??;
                Some(generated.join("images"))
            }
            None => ctx.inputs.get("images").map(|input| input.path.clone()),
        };
        let defaults = ImportOptions {
            answer_types: self.answer_type.clone(),
            instructions: self.instructions.clone().unwrap_or_default(),
            option_answers: self.option_answers,
        };
        let unpacked = ctx.scratch.join("unpacked");
        files::remove_dir(&unpacked)?;
        let mut row_images = RowImages::new(images.as_deref(), &unpacked);
        let source = Source {
            columns: self.columns.as_ref(),
            header: self.header.unwrap_or(true),
            split: self.split.as_deref(),
        };
        let row_files = self.row_files(ctx, &generated)?;
        let (mut located, read) =
            import::read_items(&row_files, source, &defaults, &mut row_images).map_err(wrong_input)?;
        let lines = self.synthetic.is_none().then(|| common::report_files(&read, ctx));
        let role = if self.files.is_some() { "files" } else { "path" };
        common::check_not_empty(&located, role).map_err(wrong_input)?;
        self.check_datasets(&located).map_err(wrong_input)?;
        let available = located.len();
        if let Some(take) = self.take {
            if take > available {
                let message = anyhow::anyhow!("`take` = {take} is more than the number of rows, {available}");
                return Err(wrong_input(message));
            }
            located = sample_rows(located, take, ctx.seed);
        }
        if let Some(rows) = self.per_dataset {
            located = sample_per_dataset(located, rows, ctx.seed).map_err(wrong_input)?;
        }
        let tar = ctx.output("images.tar");
        let exif = self.exif_orientation.unwrap_or(true);
        let references = located.iter().flat_map(|row| {
            row.record.images.keys().iter().map(|image| ImageReference {
                place: &row.location,
                image,
                file: row_images.file(image),
                exif_orientation: exif,
            })
        });
        let pack = with_threads(ctx.threads, || write_pack(references, &tar, ctx.progress))?;
        let pack = pack.map_err(wrong_input)?;
        let mut datasets: BTreeMap<String, usize> = BTreeMap::new();
        let items: Vec<Item> = located
            .into_iter()
            .map(|Located { record: mut item, .. }| {
                item.images = item.images.map(|name| image_key(pack.hash, &name));
                *datasets.entry(item.dataset.clone()).or_default() += 1;
                item
            })
            .collect();
        jsonl::write(&ctx.output("items.jsonl"), &items)?;
        files::remove_dir(&generated)?;
        files::remove_dir(&unpacked)?;
        let summary = lines.map_or_else(Summary::default, |lines| Summary::default().with("files", lines));
        Ok(summary
            .with("rows", items.len())
            .with("available", available)
            .with("datasets", datasets)
            .with("images", pack.images)
            .with("rationales", items.iter().filter(|item| item.rationale.is_some()).count())
            .with("facts", items.iter().filter(|item| !item.facts.is_empty()).count())
            .with_warnings(pack.warning()))
    }
}

impl Items {
    /// Data set, role and path of each file of `files`.
    fn files(&self) -> Vec<(String, String, String)> {
        let mut files = Vec::new();
        for (dataset, paths) in self.files.iter().flatten() {
            let mut push = |role: String, path: &String| files.push((dataset.clone(), role, path.clone()));
            match paths {
                Paths::One(path) => push(format!("files.{dataset}"), path),
                Paths::Many(paths) => {
                    paths.iter().enumerate().for_each(|(at, path)| push(format!("files.{dataset}.{at}"), path));
                }
            }
        }
        files
    }

    /// The files to read. `generated` is the folder of the synthetic file.
    fn row_files(&self, ctx: &StageContext, generated: &Path) -> Result<Vec<RowFile>> {
        let single = |path: PathBuf| vec![RowFile { path, dataset: self.dataset(), overrides_rows: false }];
        if self.synthetic.is_some() {
            return Ok(single(generated.join("rows.jsonl")));
        }
        if self.path.is_some() {
            return Ok(single(ctx.input("path")?.path.clone()));
        }
        let named = self.files().into_iter();
        named
            .map(|(dataset, role, _)| {
                Ok(RowFile { path: ctx.input(&role)?.path.clone(), dataset, overrides_rows: true })
            })
            .collect()
    }

    /// Checks that the rows have every data set of `answer_type`.
    fn check_datasets(&self, located: &[Located<Item>]) -> Result<()> {
        let Some(AnswerTypes::ByDataset(types)) = &self.answer_type else { return Ok(()) };
        let known: BTreeSet<&str> = located.iter().map(|row| row.record.dataset.as_str()).collect();
        match types.keys().find(|dataset| !known.contains(dataset.as_str())) {
            Some(unknown) => {
                let known: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
                anyhow::bail!(
                    "`answer_type`: no row of the data set `{unknown}`; the data sets are {}",
                    known.join(", ")
                )
            }
            None => Ok(()),
        }
    }

    /// The data set of rows that name none.
    fn dataset(&self) -> String {
        let path = self.path.as_deref().unwrap_or_default();
        self.dataset.clone().unwrap_or_else(|| common::stem(path, "items"))
    }
}

/// Samples `take` rows by ranks that are derived from their ids. The rows keep the order of the file.
fn sample_rows(located: Vec<Located<Item>>, take: usize, seed: Seed) -> Vec<Located<Item>> {
    let seed = seed.derive("take");
    let mut ranked: Vec<(u64, usize, Located<Item>)> = located
        .into_iter()
        .enumerate()
        .map(|(index, row)| (seed.derive(&format!("{}/{}", row.record.dataset, row.record.id)).0, index, row))
        .collect();
    ranked.sort_by_key(|(rank, index, _)| (*rank, *index));
    ranked.truncate(take);
    ranked.sort_by_key(|(_, index, _)| *index);
    ranked.into_iter().map(|(_, _, row)| row).collect()
}

/// Samples `rows` rows of each data set. The data sets are in the order of their names.
fn sample_per_dataset(located: Vec<Located<Item>>, rows: usize, seed: Seed) -> Result<Vec<Located<Item>>> {
    let mut groups: BTreeMap<String, Vec<Located<Item>>> = BTreeMap::new();
    for row in located {
        groups.entry(row.record.dataset.clone()).or_default().push(row);
    }
    let mut sample = Vec::new();
    for (dataset, group) in groups {
        if rows > group.len() {
            anyhow::bail!("`per_dataset` = {rows} is more than the number of rows of `{dataset}`, {}", group.len());
        }
        sample.extend(sample_rows(group, rows, seed));
    }
    Ok(sample)
}
