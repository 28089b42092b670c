//! `mix`: training rows sampled from several sources in given amounts. A source's records are items, rows or judged
//! samples of a stage, or the rows of files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::stages::common::{self, check_range, filter_datasets, read_items};
use crate::stages::file_source::{FileSource, pack_images};
use crate::stages::lost_rows::{LostRows, check_max_lost};
use ablate_core::base::{files, wrong_input};
use ablate_core::stage::config::{self, ConfigError, schema_of};
use ablate_core::stage::{
    ArtifactKind, Finding, HubRepository, Input, InputPath, InputSource, Kind, Manifest, OutputSpec, Pool, Reference,
    Stage, StageContext, Summary, Work,
};
use ablate_data::chat_prompt::ChatPrompt;
use ablate_data::image_placeholders::Part;
use ablate_data::import::columns::ColumnMap;
use ablate_data::import::options::RowFile;
use ablate_data::import::{self, Located, RowImages, Source};
use ablate_data::jsonl;
use ablate_data::mix::{self, Amount, MixSize, MixSource, SourceStats};
use ablate_data::prompts::{PromptTemplate, Style, cot_response};
use ablate_data::records::{Item, JudgedItem, Row};
use ablate_data::rng::shuffle;
use ablate_data::tokenizer::Tokenizer;

pub static KIND: Kind = Kind {
    name: "mix",
    version: 2,
    about: "training rows drawn from several sources in stated amounts",
    outputs: OUTPUTS,
    fan_out: &[],
    seeded: true,
    pool: Pool::Light,
    work: Work::of_rows,
    parse,
    schema: schema_of::<Mix>,
};

/// The outputs of every stage of the kind. A stage that reads files also has [`IMAGES`].
const OUTPUTS: &[OutputSpec] =
    &[OutputSpec::new("rows.jsonl", ArtifactKind::Rows), OutputSpec::new("mix.json", ArtifactKind::Facts)];
const IMAGES: OutputSpec = OutputSpec::new("images.tar", ArtifactKind::Images);

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Mix {
    sources: BTreeMap<String, SourceTable>,
    /// Rows of the mix. Without `rows` and `tokens` the mix has all rows of its sources.
    rows: Option<usize>,
    /// Text tokens of the mix.
    tokens: Option<u64>,
    /// Largest number of passes over a source.
    max_epochs: Option<f64>,
    /// Counts text tokens.
    tokenizer: Option<Reference>,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(transform = crate::stages::common::or_remove)]
struct SourceTable {
    from: Option<Reference>,
    /// Instead of `from`: a file or folder of training rows.
    path: Option<String>,
    /// The folder that the image paths of `path` are relative to.
    images: Option<String>,
    /// Which columns of `path` hold the question and the answer. Default: by the layout of the file.
    columns: Option<ColumnMap>,
    /// The split of a folder with several.
    split: Option<String>,
    /// Whether the first line of a CSV or TSV file names the columns. Default: `true`.
    header: Option<bool>,
    /// Whether the images of `path` are rotated according to their EXIF orientation. Default: `true`.
    exif_orientation: Option<bool>,
    /// The data set of rows of `path` that name none. Default: the file's name without its extension.
    dataset: Option<String>,
    /// The form of the rows.
    #[serde(default, rename = "as")]
    form: RowForm,
    weight: Option<f64>,
    tokens: Option<u64>,
    rows: Option<usize>,
    epochs: Option<f64>,
    keep: Option<f64>,
    /// Rows of each data set.
    per_dataset: Option<usize>,
    /// Whether rows may be repeated if there are too few.
    #[serde(default)]
    replace: bool,
    /// Uses only the records of these data sets.
    datasets: Option<BTreeSet<String>>,
    /// The prompt template for items, instead of the default of `as`.
    prompt: Option<PromptTemplate>,
    /// For `as = "correct"`: largest number of different right samples per question.
    per_question: Option<usize>,
    /// Largest share of records without an answer, a rationale or a response.
    max_lost: Option<f64>,
}

/// The key `as`: the form of a source's rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum RowForm {
    /// Rows unchanged; an item's question and first answer without an instruction.
    #[default]
    AsIs,
    /// An item's question with the direct instruction, and its first answer.
    Direct,
    /// An item's question with the CoT instruction, and its rationale and answer.
    Cot,
    /// The right samples of judged rollouts, with their prompts.
    Correct,
}

/// The rows of a source before sampling.
struct Candidates {
    rows: Vec<Row>,
    /// The identities of the rows, from which their sampling order is derived.
    keys: Vec<String>,
    /// Numbers of filtered and lost records by reason.
    dropped: BTreeMap<String, usize>,
    lost_rows: LostRows,
}

/// The content of `mix.json`.
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
        errors.push(ConfigError::at("tokens", "`rows` and `tokens` are both given: the mix has one size"));
    }
    if mix.rows == Some(0) || mix.tokens == Some(0) {
        let key = if mix.rows == Some(0) { "rows" } else { "tokens" };
        errors.push(ConfigError::at(key, "the mix would be empty"));
    }
    if let Some(most) = mix.max_epochs {
        check_range(&mut errors, "max_epochs", most, 0.0, f64::INFINITY);
    }
    common::check_max(&mut errors, common::MAX_ROWS, [("rows", mix.rows)]);
    for (name, source) in &mix.sources {
        source.check(&format!("sources.{name}"), &mut errors);
        let counts = [("rows", source.rows), ("per_dataset", source.per_dataset)];
        let counts = counts.map(|(key, count)| (format!("sources.{name}.{key}"), count));
        common::check_max(&mut errors, common::MAX_ROWS, counts.iter().map(|(key, count)| (&**key, *count)));
    }
    let counts_tokens = mix.tokens.is_some() || mix.sources.values().any(|source| source.tokens.is_some());
    if counts_tokens && mix.tokenizer.is_none() {
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
        let sources = self.sources.iter().flat_map(|(name, source)| {
            let external = |key: &str, path: &Option<String>| {
                Some(Input {
                    role: format!("sources.{name}.{key}"),
                    source: InputSource::External { path: path.clone()?, hub: HubRepository::Dataset },
                })
            };
            let from = source.from.as_ref();
            let from = from.map(|from| common::stage_input(format!("sources.{name}.from"), from, accepts));
            from.into_iter().chain(external("path", &source.path)).chain(external("images", &source.images))
        });
        let tokenizer =
            self.tokenizer.iter().map(|from| common::stage_input("tokenizer", from, &[ArtifactKind::Tokenizer]));
        sources.chain(tokenizer).collect()
    }

    fn outputs(&self) -> Option<Vec<OutputSpec>> {
        self.reads_files().then(|| [OUTPUTS, &[IMAGES]].concat())
    }

    fn inspect(&self, path: &dyn Fn(&str) -> Option<PathBuf>) -> Vec<Finding> {
        let of_files = self.sources.iter().filter(|(_, source)| source.path.is_some());
        let roles = of_files.map(|(name, source)| (format!("sources.{name}.path"), source.split.as_deref()));
        common::inspect_rows(roles, path)
    }

    fn run(&self, ctx: &StageContext) -> Result<Summary> {
        let tokenizer = ctx.inputs.get("tokenizer").map(|input| Tokenizer::read(&input.path)).transpose()?;
        let mut sources = Vec::new();
        let mut candidates = Vec::new();
        let mut warnings = Vec::new();
        let mut files_read = Vec::new();
        let mut file_sources: BTreeMap<&str, FileSource> = BTreeMap::new();
        let unpacked = ctx.scratch.join("unpacked");
        files::remove_dir(&unpacked)?;
        for (name, table) in &self.sources {
            let read = if table.path.is_some() {
                let (read, source) = table.read_files(name, ctx, &unpacked.join(name))?;
                files_read.extend(source.lines.clone());
                file_sources.insert(name, source);
                read
            } else {
                table.read(name, ctx)?
            };
            let label = format!("source `{name}`");
            warnings.extend(read.lost_rows.check(&label, "max_lost", table.max_lost.unwrap_or(0.0))?);
            let tokens = tokenizer.as_ref().map(|tokenizer| count_tokens(&read.rows, tokenizer)).transpose()?;
            sources.push(MixSource {
                name: name.clone(),
                keys: read.keys.clone(),
                datasets: read.rows.iter().map(|row| row.dataset.clone()).collect(),
                tokens,
                amount: table.amount(),
                replace: table.replace,
            });
            candidates.push(read);
        }
        let drawn = mix::sample(&sources, self.size(), self.max_epochs, ctx.seed).map_err(wrong_input)?;
        let mut rows: Vec<Row> = Vec::new();
        let mut facts = BTreeMap::new();
        for ((source, taken), Candidates { rows: available, dropped, .. }) in sources.iter().zip(drawn).zip(candidates)
        {
            if let Some(read) = file_sources.get_mut(source.name.as_str()) {
                read.drawn = (rows.len()..rows.len() + taken.len()).zip(taken.iter().copied()).collect();
            }
            rows.extend(taken.iter().map(|&row| Row { source: source.name.clone(), ..available[row].clone() }));
            facts.insert(source.name.clone(), mix::source_stats(source, &taken, dropped));
        }
        if rows.is_empty() {
            anyhow::bail!("the mix is empty: its sources have no rows");
        }
        let images = if self.reads_files() {
            Some(pack_images(&mut rows, &file_sources, &ctx.output(&IMAGES.name), ctx)?)
        } else {
            None
        };
        files::remove_dir(&unpacked)?;
        shuffle(&mut rows, &mut ctx.seed.stream("mix/order"));
        jsonl::write(&ctx.output("rows.jsonl"), &rows)?;
        let tokens = facts.values().map(|source| source.tokens).sum::<Option<u64>>();
        let summary = MixFacts { rows: rows.len(), tokens, sources: facts };
        files::write_json(&ctx.output("mix.json"), &summary)?;
        let result = Summary::default()
            .with("rows", summary.rows)
            .with("tokens", tokens)
            .with("sources", &summary.sources)
            .with_warnings(warnings);
        Ok(match images {
            Some(pack) => result.with("images", pack.images).with("files", files_read).with_warnings(pack.warning()),
            None => result,
        })
    }
}

impl Mix {
    fn reads_files(&self) -> bool {
        self.sources.values().any(|source| source.path.is_some())
    }

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

    /// The amount of the source; all of it by default.
    fn amount(&self) -> Amount {
        self.amounts().first().map_or(Amount::Keep(1.0), |(_, amount)| *amount)
    }

    fn check(&self, path: &str, errors: &mut Vec<ConfigError>) {
        if let [(first, _), (second, _), ..] = self.amounts().as_slice() {
            let message = format!("`{first}` and `{second}` are both given: write one amount per source");
            errors.push(ConfigError::at(&format!("{path}.{second}"), message));
        }
        for (unit, value) in [("weight", self.weight), ("epochs", self.epochs), ("keep", self.keep)] {
            if let Some(value) = value {
                check_range(errors, &format!("{path}.{unit}"), value, 0.0, f64::INFINITY);
            }
        }
        self.check_origin(path, errors);
        if let Some(prompt) = &self.prompt {
            match self.form.style() {
                Some(style) if style != prompt.style => {
                    let message = format!("the template `{}` requests another form of response than `as`", prompt.name);
                    errors.push(ConfigError::at(&format!("{path}.prompt"), message));
                }
                Some(_) => {}
                None => errors.push(ConfigError::at(
                    &format!("{path}.prompt"),
                    "`prompt` is for items: with `as = \"correct\"` the prompt is that of the rollout",
                )),
            }
        }
        if self.per_question.is_some() && self.form != RowForm::Correct {
            errors.push(ConfigError::at(
                &format!("{path}.per_question"),
                "`per_question` is for `as = \"correct\"` only",
            ));
        }
        if self.per_question == Some(0) {
            errors.push(ConfigError::at(&format!("{path}.per_question"), "`per_question` must be at least 1"));
        }
        check_max_lost(errors, &format!("{path}.max_lost"), self.max_lost);
        if self.datasets.as_ref().is_some_and(BTreeSet::is_empty) {
            errors.push(ConfigError::at(&format!("{path}.datasets"), "the list of data sets is empty"));
        }
    }

    /// Checks that the source is either a stage or files, and that the other keys fit.
    fn check_origin(&self, path: &str, errors: &mut Vec<ConfigError>) {
        match (&self.from, &self.path) {
            (None, None) => errors.push(
                ConfigError::at(path, "`from` and `path` are missing: the source needs one of them")
                    .help("`from` names a stage, `path` a file or folder of training rows"),
            ),
            (Some(_), Some(_)) => errors
                .push(ConfigError::at(&format!("{path}.path"), "`from` and `path` are both given: write one of them")),
            (Some(_), None) => {
                for (key, given) in [
                    ("images", self.images.is_some()),
                    ("columns", self.columns.is_some()),
                    ("split", self.split.is_some()),
                    ("header", self.header.is_some()),
                    ("exif_orientation", self.exif_orientation.is_some()),
                    ("dataset", self.dataset.is_some()),
                ] {
                    if given {
                        let message = format!("`{key}` is for `path` only");
                        errors.push(ConfigError::at(&format!("{path}.{key}"), message));
                    }
                }
            }
            (None, Some(_)) => {
                if self.form != RowForm::AsIs {
                    let message = format!(
                        "`as = \"{}\"` is for stages; the rows of files are used as they are",
                        self.form.name()
                    );
                    errors.push(ConfigError::at(&format!("{path}.as"), message));
                }
                if self.prompt.is_some() {
                    let message = "`prompt` is for items; the rows of files have their prompts";
                    errors.push(ConfigError::at(&format!("{path}.prompt"), message));
                }
                common::check_columns(errors, &format!("{path}."), self.columns.as_ref(), self.header);
                if let Some(columns) = &self.columns {
                    for (key, given) in
                        [("options", columns.options.is_some()), ("rationale", columns.rationale.is_some())]
                    {
                        if given {
                            let message = format!("`{key}` is for questions, which a stage of kind `items` reads");
                            errors.push(ConfigError::at(&format!("{path}.columns.{key}"), message));
                        }
                    }
                }
            }
        }
    }

    fn identify(&self, path: &str, manifest: &mut Manifest) {
        let SourceTable {
            from: _,
            path: file,
            images: _,
            columns,
            split,
            header,
            exif_orientation,
            dataset: _,
            form,
            weight: _,
            tokens: _,
            rows: _,
            epochs: _,
            keep: _,
            per_dataset: _,
            // `replace` decides between an error and a result. It does not change the result.
            replace: _,
            datasets,
            prompt: _,
            per_question,
            max_lost,
        } = self;
        manifest.value(&format!("{path}.as"), form);
        manifest.value(path, &self.amount());
        manifest.value_unless(&format!("{path}.datasets"), datasets, &None);
        if file.is_some() {
            manifest.value(&format!("{path}.dataset"), &self.dataset());
            manifest.value_unless(&format!("{path}.columns"), columns, &None);
            manifest.value_unless(&format!("{path}.split"), split, &None);
            manifest.value_unless(&format!("{path}.header"), &header.unwrap_or(true), &true);
            manifest.value_unless(&format!("{path}.exif_orientation"), &exif_orientation.unwrap_or(true), &true);
        } else if let Some(template) = self.template() {
            // The template's name changes no row, and its style is that of `as`.
            let PromptTemplate { name: _, style: _, text, letter } = template;
            manifest.value(&format!("{path}.prompt.text"), &text);
            manifest.value(&format!("{path}.prompt.letter"), &letter);
        }
        manifest.value_unless(&format!("{path}.per_question"), per_question, &None);
        // A result with lost rows must not be reused with a smaller `max_lost`.
        manifest.value_unless(&format!("{path}.max_lost"), &max_lost.unwrap_or(0.0), &0.0);
    }

    /// The prompt template for items.
    fn template(&self) -> Option<PromptTemplate> {
        self.prompt.clone().or(self.form.template())
    }

    /// The data set of rows of files that name none.
    fn dataset(&self) -> String {
        self.dataset.clone().unwrap_or_else(|| common::stem(self.path.as_deref().unwrap_or_default(), "rows"))
    }

    /// Reads the rows of files. Contained images are unpacked into `unpacked`.
    fn read_files(&self, name: &str, ctx: &StageContext, unpacked: &Path) -> Result<(Candidates, FileSource)> {
        let input = |key: &str| ctx.inputs.get(&format!("sources.{name}.{key}")).map(|input| input.path.clone());
        let path = input("path").ok_or_else(|| anyhow::anyhow!("BUG: the source `{name}` has no path"))?;
        let mut images = RowImages::new(input("images").as_deref(), unpacked);
        let source = Source {
            columns: self.columns.as_ref(),
            header: self.header.unwrap_or(true),
            split: self.split.as_deref(),
        };
        let file = RowFile { path, dataset: self.dataset(), overrides_rows: false };
        let (located, read) = import::read_rows(&[file], source, &mut images)
            .and_then(|read| {
                common::check_not_empty(&read.0, "path")?;
                Ok(read)
            })
            .map_err(|error| wrong_input(error.context(format!("source `{name}`"))))?;
        let (mut rows, mut locations) = (Vec::new(), Vec::new());
        for Located { location, record } in located {
            let kept = self.datasets.as_ref().is_none_or(|datasets| datasets.contains(&record.dataset));
            if kept && !record.response.trim().is_empty() {
                locations.push(location);
            }
            rows.push(record);
        }
        let rows = filter_datasets(rows, self.datasets.as_ref(), "row", |row: &Row| &row.dataset)
            .map_err(|error| wrong_input(error.context(format!("source `{name}`"))))?;
        let exif_orientation = self.exif_orientation.unwrap_or(true);
        let lines = common::report_files(&read, ctx);
        Ok((from_rows(rows), FileSource { images, exif_orientation, locations, lines, drawn: Vec::new() }))
    }

    fn read(&self, name: &str, ctx: &StageContext) -> Result<Candidates> {
        let input = ctx.input(&format!("sources.{name}.from"))?;
        let (template, datasets) = (self.template(), self.datasets.as_ref());
        read_candidates(input, self.form, template.as_ref(), self.per_question, datasets)
            .map_err(|error| error.context(format!("source `{name}`")))
    }
}

impl RowForm {
    /// The form of responses to items; `None` for `Correct`, which reads judged rollouts.
    fn style(self) -> Option<Style> {
        self.template().map(|template| template.style)
    }

    fn template(self) -> Option<PromptTemplate> {
        match self {
            RowForm::AsIs => Some(PromptTemplate::bare()),
            RowForm::Direct => Some(PromptTemplate::direct()),
            RowForm::Cot => Some(PromptTemplate::cot()),
            RowForm::Correct => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            RowForm::AsIs => "as-is",
            RowForm::Direct => "direct",
            RowForm::Cot => "cot",
            RowForm::Correct => "correct",
        }
    }
}

impl Candidates {
    fn new(records: usize) -> Candidates {
        let lost_rows = LostRows::new(records);
        Candidates { rows: Vec::new(), keys: Vec::new(), dropped: BTreeMap::new(), lost_rows }
    }

    fn push(&mut self, key: String, row: Row) {
        self.keys.push(key);
        self.rows.push(row);
    }

    fn count_dropped(&mut self, reason: &str) {
        *self.dropped.entry(reason.to_string()).or_default() += 1;
    }

    /// Counts a record that lacks something.
    fn count_lost(&mut self, reason: &'static str, id: &str, dataset: &str) {
        self.count_dropped(reason);
        self.lost_rows.add(reason, id, dataset);
    }
}

/// Reads a source's records and converts them to rows. `template` is the prompt template for items.
fn read_candidates(
    input: &InputPath,
    form: RowForm,
    template: Option<&PromptTemplate>,
    per_question: Option<usize>,
    datasets: Option<&BTreeSet<String>>,
) -> Result<Candidates> {
    match (input.kind, form, template) {
        (Some(ArtifactKind::Rows), RowForm::AsIs, _) => {
            let rows = filter_datasets(jsonl::read(&input.path)?, datasets, "row", |row: &Row| &row.dataset)?;
            Ok(from_rows(rows))
        }
        (Some(ArtifactKind::Items), RowForm::AsIs | RowForm::Direct | RowForm::Cot, Some(template)) => {
            let items = filter_datasets(read_items(input)?, datasets, "row", |item| &item.dataset)?;
            Ok(from_items(items, form, template))
        }
        (Some(ArtifactKind::Judged), RowForm::Correct, _) => {
            let judged = jsonl::read(&input.path)?;
            let judged = filter_datasets(judged, datasets, "row", |judged: &JudgedItem| &judged.item.dataset)?;
            Ok(from_judged(judged, per_question.unwrap_or(usize::MAX)))
        }
        (kind, form, _) => {
            let (what, forms) = match kind {
                Some(ArtifactKind::Rows) => ("rows", "`as = \"as-is\"`"),
                Some(ArtifactKind::Judged) => ("judged rollouts", "`as = \"correct\"`"),
                _ => ("items", "`as = \"as-is\"`, `\"direct\"` or `\"cot\"`"),
            };
            bail!("`from` has {what}, for which `as = \"{}\"` is not possible: write {forms}", form.name())
        }
    }
}

/// The number of text tokens of every row, with special tokens and without image tokens.
fn count_tokens(rows: &[Row], tokenizer: &Tokenizer) -> Result<Vec<u64>> {
    let count = |row: &Row| -> Result<u64> {
        let mut tokens = row.system.as_ref().map_or(Ok(0), |text| tokenizer.encode(text).map(|ids| ids.len()))?;
        let responses = row.history.iter().map(|exchange| &exchange.response).chain([&row.response]);
        for (parts, response) in ChatPrompt::from(row).parts().iter().zip(responses) {
            for part in parts {
                if let Part::Text(text) = part {
                    tokens += tokenizer.encode(text)?.len();
                }
            }
            // The 3 special tokens are `<|user|>`, `<|assistant|>` and `<|end|>`.
            tokens += tokenizer.encode(response)?.len() + 3;
        }
        Ok(tokens as u64)
    };
    rows.iter().map(count).collect()
}

fn from_rows(rows: Vec<Row>) -> Candidates {
    let mut candidates = Candidates::new(rows.len());
    for row in rows {
        if row.response.trim().is_empty() {
            candidates.count_lost("without a response", &row.id, &row.dataset);
            continue;
        }
        candidates.push(format!("{}/{}/{}", row.source, row.dataset, row.id), row);
    }
    candidates
}

fn from_items(items: Vec<Item>, form: RowForm, template: &PromptTemplate) -> Candidates {
    let mut candidates = Candidates::new(items.len());
    for item in items {
        // The first of several annotators may have given an empty answer.
        let Some(answer) = item.answers.iter().find(|answer| !answer.trim().is_empty()) else {
            candidates.count_lost("without an answer", &item.id, &item.dataset);
            continue;
        };
        let rationale = item.rationale.as_ref().filter(|rationale| !rationale.trim().is_empty());
        let response = match (form, rationale) {
            (RowForm::Cot, Some(rationale)) => {
                cot_response(rationale, item.rationale_answer.as_ref().unwrap_or(answer))
            }
            (RowForm::Cot, None) => {
                candidates.count_lost("without a rationale", &item.id, &item.dataset);
                continue;
            }
            _ => answer.clone(),
        };
        let prompt = template.render(&item);
        let key = format!("{}/{}", item.dataset, item.id);
        let Item { id, dataset, images, question, .. } = item;
        let question = Some(question);
        let (source, system, history) = (String::new(), None, Vec::new());
        candidates.push(key, Row { id, dataset, source, images, system, history, prompt, response, question });
    }
    candidates
}

fn from_judged(judged: Vec<JudgedItem>, per_question: usize) -> Candidates {
    let mut candidates = Candidates::new(judged.iter().map(|one| one.verdicts.len()).sum());
    for JudgedItem { item, prompt, verdicts } in judged {
        let mut texts = BTreeSet::new();
        for verdict in &verdicts {
            if verdict.is_right() && verdict.text.trim().is_empty() {
                candidates.count_lost("without a response", &item.id, &item.dataset);
                continue;
            }
            if !verdict.is_right() {
                candidates.count_dropped("wrong");
            } else if texts.contains(&verdict.text) {
                candidates.count_dropped("equal to another sample");
            } else if texts.len() == per_question {
                candidates.count_dropped("beyond `per_question`");
            } else {
                texts.insert(&verdict.text);
                let id = format!("{}#{}", item.id, texts.len());
                let row = Row {
                    id: id.clone(),
                    dataset: item.dataset.clone(),
                    source: String::new(),
                    images: item.images.clone(),
                    system: None,
                    history: Vec::new(),
                    prompt: prompt.clone(),
                    response: verdict.text.clone(),
                    question: Some(item.question.clone()),
                };
                candidates.push(format!("{}/{id}", item.dataset), row);
            }
        }
    }
    candidates
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_texts_of_a_conversation_are_counted() {
        let tokenizer = Tokenizer::train_word(["a b c"], 20).unwrap();
        let row = |text: &str| serde_json::from_str::<Row>(text).unwrap();
        let rows = [
            row(r#"{"id": "1", "dataset": "d", "image": "k", "prompt": "a b", "response": "a"}"#),
            row(
                r#"{"id": "2", "dataset": "d", "images": ["k", "l"], "prompt": "<image> b<image> c", "response": "a"}"#,
            ),
            row(r#"{"id": "3", "dataset": "d", "system": "a", "prompt": "a b", "response": "a",
                "history": [{"prompt": "a b c", "response": "a b"}]}"#),
        ];
        // Every turn has three special tokens.
        assert_eq!(count_tokens(&rows, &tokenizer).unwrap(), [2 + 1 + 3, 2 + 1 + 3, 1 + (3 + 2 + 3) + (2 + 1 + 3)]);
    }
}
