//! `items`: questions with gold answers, from a LLaVA file or from the tiny synthetic world.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::common::with_threads;
use crate::base::{Hash, Progress, Seed, files, wrong_input};
use crate::data::images::{PackWriter, image_key};
use crate::data::jsonl;
use crate::data::llava::{self, Defaults, Located};
use crate::data::records::{AnswerType, Item};
use crate::data::synthetic::{self, Dataset, Split};
use crate::stage::config::{self, ConfigError, schema_of};
use crate::stage::{ArtifactKind, Input, InputSource, Kind, Manifest, OutputSpec, Pool, Stage, StageContext, Summary};

pub static KIND: Kind = Kind {
    name: "items",
    version: 1,
    about: "questions with gold answers, from a LLaVA file or the synthetic world",
    outputs: &[
        OutputSpec::new("items.jsonl", ArtifactKind::Items),
        OutputSpec::new("images.tar", ArtifactKind::Images),
    ],
    fan_out: &[],
    seeded: true,
    pool: Pool::Light,
    parse,
    schema: schema_of::<Items>,
};

/// Images that are read and decoded before they are written to the pack.
const PACKED_AT_ONCE: usize = 512;

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Items {
    /// A LLaVA JSON array or JSONL.
    path: Option<String>,
    /// The folder that image paths are relative to.
    images: Option<String>,
    /// Made here instead of read.
    synthetic: Option<Synthetic>,
    /// Data set of rows that name none; the file's name without its ending.
    dataset: Option<String>,
    /// Answer type of rows that name none; `letter` for rows with options, `text` for others.
    answer_type: Option<AnswerType>,
    /// So many rows, drawn by the seed; a larger number keeps those of a smaller one.
    take: Option<usize>,
}

#[derive(Debug, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Synthetic {
    datasets: Vec<Dataset>,
    split: Split,
    /// Rows of each data set.
    count: usize,
    /// Names another stream of the split, for fresh questions.
    #[serde(default)]
    stream: String,
}

fn parse(table: &serde_json::Value) -> Result<Box<dyn Stage>, Vec<ConfigError>> {
    let items: Items = config::parse(table)?;
    let mut errors = Vec::new();
    match (&items.path, &items.synthetic) {
        (None, None) => errors.push(
            ConfigError::at("", "the stage has no rows: neither `path` nor `synthetic` is given")
                .help("`path` names a LLaVA file, `synthetic` makes rows"),
        ),
        (Some(_), Some(_)) => {
            errors.push(ConfigError::at("synthetic", "rows come from `path` or from `synthetic`, and both are given"));
        }
        _ => {}
    }
    if let Some(synthetic) = &items.synthetic {
        for (key, given) in [
            ("images", items.images.is_some()),
            ("dataset", items.dataset.is_some()),
            ("answer_type", items.answer_type.is_some()),
        ] {
            if given {
                errors.push(ConfigError::at(key, format!("`{key}` belongs to `path`: synthetic rows bring their own")));
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
            errors.push(ConfigError::at("synthetic.count", "no rows: `count` is at least 1"));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if !synthetic.stream.chars().all(plain) {
            let message = format!("`{}` is not a name of letters, digits, `-` and `_`", synthetic.stream);
            errors.push(ConfigError::at("synthetic.stream", message));
        }
    }
    if items.take == Some(0) {
        errors.push(ConfigError::at("take", "no rows: `take` is at least 1"));
    }
    if errors.is_empty() { Ok(Box::new(items)) } else { Err(errors) }
}

impl Stage for Items {
    fn identify(&self, manifest: &mut Manifest) {
        let Items { path: _, images: _, synthetic, dataset: _, answer_type, take } = self;
        if let Some(synthetic) = synthetic {
            manifest.value("synthetic", synthetic);
        } else {
            // The file enters by content, and its name where rows take their data set from it.
            manifest.value("dataset", &self.dataset());
            manifest.value_unless("answer_type", answer_type, &None);
        }
        manifest.value_unless("take", take, &None);
    }

    fn inputs(&self) -> Vec<Input> {
        [("path", &self.path), ("images", &self.images)]
            .into_iter()
            .filter_map(|(role, path)| {
                let path = path.clone()?;
                Some(Input { role: role.to_string(), source: InputSource::Outside { path } })
            })
            .collect()
    }

    fn run(&self, ctx: &StageContext) -> Result<Summary> {
        let made = ctx.scratch.join("synthetic");
        let (rows, images) = match &self.synthetic {
            Some(Synthetic { datasets, split, count, stream }) => {
                files::remove_dir(&made)?;
                with_threads(ctx.threads, || synthetic::write(&made, datasets, *split, stream, *count, ctx.seed))??;
                (made.join("rows.jsonl"), Some(made.join("images")))
            }
            None => (ctx.input("path")?.path.clone(), ctx.inputs.get("images").map(|input| input.path.clone())),
        };
        let defaults = Defaults { dataset: self.dataset(), answer_type: self.answer_type };
        let mut located = llava::read(&rows, images.as_deref(), &defaults).map_err(wrong_input)?;
        super::common::not_empty(&located, "path").map_err(wrong_input)?;
        let available = located.len();
        if let Some(take) = self.take {
            located = draw(located, take, ctx.seed).map_err(wrong_input)?;
        }
        let tar = ctx.output("images.tar");
        let pack = with_threads(ctx.threads, || pack(&located, images.as_deref(), &tar, ctx.progress))?;
        let pack = pack.map_err(wrong_input)?;
        let mut datasets: BTreeMap<String, usize> = BTreeMap::new();
        let items: Vec<Item> = located
            .into_iter()
            .map(|Located { mut item, .. }| {
                item.image = item.image.map(|name| image_key(pack.hash, &name));
                *datasets.entry(item.dataset.clone()).or_default() += 1;
                item
            })
            .collect();
        jsonl::write(&ctx.output("items.jsonl"), &items)?;
        files::remove_dir(&made)?;
        Ok(Summary::default()
            .with("rows", items.len())
            .with("available", available)
            .with("datasets", datasets)
            .with("images", pack.images)
            .with("rationales", items.iter().filter(|item| item.rationale.is_some()).count()))
    }
}

impl Items {
    /// The data set of rows that name none.
    fn dataset(&self) -> String {
        let stem = self.path.as_deref().and_then(|path| Path::new(path).file_stem());
        let stem = stem.map(|stem| stem.to_string_lossy().into_owned());
        self.dataset.clone().or(stem).unwrap_or_else(|| "items".to_string())
    }
}

struct Packed {
    hash: Hash,
    images: usize,
}

/// Writes every image that a row names, once, in the order of the rows.
fn pack(located: &[Located], images: Option<&Path>, path: &Path, progress: &dyn Progress) -> Result<Packed> {
    let mut seen = BTreeSet::new();
    let with_image: Vec<&Located> =
        located.iter().filter(|row| row.item.image.as_ref().is_some_and(|name| seen.insert(name))).collect();
    let folder = images.map_or_else(PathBuf::new, Path::to_path_buf);
    let mut writer = PackWriter::create(path)?;
    let mut done = 0;
    for rows in with_image.chunks(PACKED_AT_ONCE) {
        let encoded: Vec<Option<Vec<u8>>> =
            rows.par_iter().map(|row| llava::image_bytes(row, &folder)).collect::<Result<_>>()?;
        for (row, bytes) in rows.iter().zip(encoded) {
            if let (Some(name), Some(bytes)) = (&row.item.image, bytes) {
                writer.add(name, &bytes).with_context(|| row.place.clone())?;
            }
        }
        done += rows.len();
        progress.step(done as u64, with_image.len() as u64, "images");
    }
    Ok(Packed { hash: writer.finish()?, images: with_image.len() })
}

/// `take` rows by a rank that each has from its own id, in the order of the file.
fn draw(located: Vec<Located>, take: usize, seed: Seed) -> Result<Vec<Located>> {
    if take > located.len() {
        anyhow::bail!("`take` = {take} asks for more rows than there are: {}", located.len());
    }
    let seed = seed.derive("take");
    let mut ranked: Vec<(u64, usize, Located)> = located
        .into_iter()
        .enumerate()
        .map(|(index, row)| (seed.derive(&format!("{}/{}", row.item.dataset, row.item.id)).0, index, row))
        .collect();
    ranked.sort_by_key(|(rank, index, _)| (*rank, *index));
    ranked.truncate(take);
    ranked.sort_by_key(|(_, index, _)| *index);
    Ok(ranked.into_iter().map(|(_, _, row)| row).collect())
}
