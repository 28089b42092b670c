//! The formats of outputs: what `ablate schema TYPE` prints, and what the outputs of programs are checked against.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::loaded_model::LoadedModel;
use ablate_core::base::Hash;
use ablate_core::base::diagnostic::nearest;
use ablate_core::stage::{ArtifactKind, OutputChecker, OutputSpec};
use ablate_data::gold_answers;
use ablate_data::image_keys::ImageKeys;
use ablate_data::images::{ImageLoader, ImagePacks};
use ablate_data::records::{
    CreditedItem, CurveStep, Exchange, Item, JudgedItem, Pair, Rollout, Row, Sample, Score, Verdict,
};
use ablate_data::tokenizer::Tokenizer;

/// A type whose output has one JSON object per line.
#[derive(Clone, Copy)]
struct RowFormat {
    schema: fn() -> Schema,
    check: fn(&str) -> Result<Identity>,
}

/// What is compared between the rows of an output, and with its images.
struct Identity {
    /// The data set and id if they must be unique.
    unique: Option<(String, String)>,
    /// The keys of the images.
    images: Vec<String>,
}

/// The format of a type with rows; `None` for the other types.
fn row_format(kind: ArtifactKind) -> Option<RowFormat> {
    Some(match kind {
        ArtifactKind::Items => format::<Item>(),
        ArtifactKind::Rows => format::<Row>(),
        ArtifactKind::Rollouts => format::<Rollout>(),
        ArtifactKind::Judged => format::<JudgedItem>(),
        ArtifactKind::Credits => format::<CreditedItem>(),
        ArtifactKind::Pairs => format::<Pair>(),
        ArtifactKind::Scores => format::<Score>(),
        ArtifactKind::Curve => format::<CurveStep>(),
        ArtifactKind::Images
        | ArtifactKind::Tokenizer
        | ArtifactKind::Checkpoint
        | ArtifactKind::Facts
        | ArtifactKind::File => return None,
    })
}

fn format<T: Record>() -> RowFormat {
    let generate = || SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>();
    let check = |line: &str| {
        let mut deserializer = serde_json::Deserializer::from_str(line);
        let row: T = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
            let path = error.path().to_string();
            let message = strip_position(&error.inner().to_string());
            if path == "." { anyhow!("{message}") } else { anyhow!("`{path}`: {message}") }
        })?;
        row.check()
    };
    RowFormat { schema: generate, check }
}

/// The position of serde_json is a column of one line, which says less than the field.
fn strip_position(message: &str) -> String {
    message.split_once(" at line ").map_or(message, |(text, _)| text).to_string()
}

/// The JSON Schema of one line of a type with rows, or of the whole file for `facts`. The error says what the type is
/// instead.
pub(crate) fn schema(kind: ArtifactKind) -> Result<Value> {
    if let Some(format) = row_format(kind) {
        return Ok((format.schema)().to_value());
    }
    bail!(
        "`{kind}` has no rows: {}",
        match kind {
            ArtifactKind::Images => "it is a tar file whose members are encoded images",
            ArtifactKind::Tokenizer => "it is a `tokenizer.json`, or a folder with one",
            ArtifactKind::Checkpoint => "it is a folder in the layout of Hugging Face or of `export`",
            ArtifactKind::Facts => "it is one JSON document without null",
            _ => "it is a file or folder with any content",
        }
    )
}

/// The checks of a record that its type does not express.
trait Record: DeserializeOwned + JsonSchema {
    fn check(&self) -> Result<Identity>;
}

impl Record for Item {
    fn check(&self) -> Result<Identity> {
        check_id(&self.id, &self.dataset)?;
        if let Some(mistake) = gold_answers::check(self).into_iter().next() {
            bail!("{mistake}");
        }
        Ok(Identity::unique(&self.dataset, &self.id, self.images.keys()))
    }
}

impl Record for Row {
    fn check(&self) -> Result<Identity> {
        check_id(&self.id, &self.dataset)?;
        check_placeholders(&self.images, &self.history, &self.prompt)?;
        Ok(Identity { unique: None, images: self.images.keys().to_vec() })
    }
}

impl Record for Rollout {
    fn check(&self) -> Result<Identity> {
        for (index, Sample { text, thinking, .. }) in self.samples.iter().enumerate() {
            if text.get(*thinking..).is_none() {
                bail!("`samples[{index}].thinking`: {thinking} is not a position between characters of the text");
            }
        }
        self.item.check()
    }
}

impl Record for JudgedItem {
    fn check(&self) -> Result<Identity> {
        for (index, Verdict { score, .. }) in self.verdicts.iter().enumerate() {
            check_score(*score).with_context(|| format!("`verdicts[{index}].score`"))?;
        }
        self.item.check()
    }
}

impl Record for CreditedItem {
    fn check(&self) -> Result<Identity> {
        for (index, response) in self.responses.iter().enumerate() {
            check_score(response.verdict.score).with_context(|| format!("`responses[{index}].score`"))?;
        }
        self.item.check()
    }
}

impl Record for Pair {
    fn check(&self) -> Result<Identity> {
        check_id(&self.id, &self.dataset)?;
        if self.chosen == self.rejected {
            bail!("`chosen` and `rejected` are equal");
        }
        check_placeholders(&self.images, &self.history, &self.prompt)?;
        Ok(Identity { unique: None, images: self.images.keys().to_vec() })
    }
}

impl Record for Score {
    fn check(&self) -> Result<Identity> {
        check_id(&self.id, &self.dataset)?;
        check_score(self.score).context("`score`")?;
        Ok(Identity::unique(&self.dataset, &self.id, self.images.keys()))
    }
}

impl Record for CurveStep {
    fn check(&self) -> Result<Identity> {
        if self.step == 0 {
            bail!("`step`: steps are counted from 1");
        }
        // A step has one line, so it is unique like the id of an item.
        Ok(Identity::unique("", &self.step.to_string(), &[]))
    }
}

impl Identity {
    fn unique(dataset: &str, id: &str, images: &[String]) -> Identity {
        Identity { unique: Some((dataset.to_string(), id.to_string())), images: images.to_vec() }
    }
}

fn check_id(id: &str, dataset: &str) -> Result<()> {
    match (id.is_empty(), dataset.is_empty()) {
        (true, _) => bail!("`id` is empty"),
        (_, true) => bail!("`dataset` is empty"),
        _ => Ok(()),
    }
}

/// Checks that the user's turns have a placeholder for each image.
fn check_placeholders(images: &ImageKeys, history: &[Exchange], prompt: &str) -> Result<()> {
    let turns = history.iter().map(|turn| turn.prompt.as_str()).chain([prompt]);
    images.check(turns).map_err(|message| anyhow!("{message}"))
}

fn check_score(score: f64) -> Result<()> {
    if (0.0..=1.0).contains(&score) {
        return Ok(());
    }
    bail!("{score} is not between 0 and 1")
}

/// The checker of an output of a program; `None` for a type that any content fits. `packs` are the image packs that its
/// rows can name.
pub(crate) fn checker(output: &OutputSpec, packs: &BTreeMap<Hash, PathBuf>) -> Option<Box<dyn OutputChecker>> {
    if let Some(format) = row_format(output.kind) {
        let schema = (format.schema)().to_value();
        let known = schema["properties"].as_object().into_iter().flat_map(|keys| keys.keys().cloned()).collect();
        return Some(Box::new(RowChecker {
            format,
            kind: output.kind,
            known,
            packs: packs.clone(),
            images: None,
            unknown: BTreeMap::new(),
            seen: BTreeSet::new(),
            rows: 0,
        }));
    }
    match output.kind {
        ArtifactKind::Tokenizer | ArtifactKind::Checkpoint | ArtifactKind::Images => {
            Some(Box::new(FileChecker(output.kind)))
        }
        _ => None,
    }
}

/// The error about a missing field with the field of the row that was probably meant.
fn with_similar_field(error: &anyhow::Error, line: &str) -> anyhow::Error {
    let text = format!("{error:#}");
    let missing = text.split_once("missing field `").and_then(|(_, rest)| rest.split('`').next());
    let fields: Map<String, Value> = serde_json::from_str(line).unwrap_or_default();
    match missing.and_then(|missing| nearest(missing, fields.keys().map(String::as_str))) {
        Some(near) => anyhow!("{text}; the row has a field of a similar name, `{near}`"),
        None => anyhow!(text),
    }
}

struct RowChecker {
    format: RowFormat,
    kind: ArtifactKind,
    /// The names of the fields.
    known: BTreeSet<String>,
    packs: BTreeMap<Hash, PathBuf>,
    /// Opened for the first row with an image.
    images: Option<ImagePacks>,
    /// Other fields, with the number of rows that have them.
    unknown: BTreeMap<String, usize>,
    seen: BTreeSet<(String, String)>,
    rows: usize,
}

impl RowChecker {
    fn check_image(&mut self, key: &str) -> Result<()> {
        if self.images.is_none() {
            self.images = Some(ImagePacks::open(&self.packs)?);
        }
        if self.images.as_ref().is_some_and(|images| images.contains(key)) {
            return Ok(());
        }
        match self.packs.len() {
            0 => bail!("`image`: there is no `{key}`: the stage has no image pack among its inputs and outputs"),
            _ => bail!("`image`: there is no `{key}` in the image packs of the stage's inputs and outputs"),
        }
    }
}

impl OutputChecker for RowChecker {
    fn row(&mut self, line: &str) -> Result<()> {
        let Identity { unique, images } =
            (self.format.check)(line).map_err(|error| with_similar_field(&error, line))?;
        self.rows += 1;
        if let Some((dataset, id)) = unique
            && !self.seen.insert((dataset.clone(), id.clone()))
        {
            match self.kind {
                ArtifactKind::Curve => bail!("`step`: {id} is in two lines"),
                _ => bail!("`id`: two rows of `{dataset}` have the id `{id}`"),
            }
        }
        for key in &images {
            self.check_image(key)?;
        }
        let fields: BTreeMap<String, serde::de::IgnoredAny> = serde_json::from_str(line)?;
        for field in fields.into_keys().filter(|field| !self.known.contains(field)) {
            *self.unknown.entry(field).or_default() += 1;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<Vec<String>> {
        if self.rows == 0 {
            bail!("it has no rows");
        }
        let warning = |(field, rows): (&String, &usize)| {
            let known = self.known.iter().map(String::as_str);
            let near = nearest(field, known).map(|near| format!("; a field of a similar name is `{near}`"));
            format!("nothing reads the field `{field}` of {rows} of {} rows{}", self.rows, near.unwrap_or_default())
        };
        Ok(self.unknown.iter().map(warning).collect())
    }
}

/// Checks outputs that are not rows by opening them as the stages that read them do.
struct FileChecker(ArtifactKind);

impl OutputChecker for FileChecker {
    fn file(&mut self, path: &Path) -> Result<()> {
        match self.0 {
            ArtifactKind::Tokenizer => {
                let file = if path.is_dir() { path.join(ablate_data::tokenizer::FILE) } else { path.to_path_buf() };
                Tokenizer::read(&file).map(drop)
            }
            ArtifactKind::Checkpoint => {
                let no_images = |processor| ImageLoader::open(&BTreeMap::new(), processor);
                LoadedModel::load_folder(path, no_images).map(drop)
            }
            ArtifactKind::Images => {
                let packs = BTreeMap::from([(Hash::of_file(path)?, path.to_path_buf())]);
                if ImagePacks::open(&packs)?.keys().next().is_none() {
                    bail!("it has no members: it is not a tar file of images");
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
