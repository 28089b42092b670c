//! The files of a data set in a folder: one that `datasets.save_to_disk` wrote, or files by split as on Hugging Face's
//! hub, such as `data/train-00000-of-00002.parquet`, `train.jsonl` or `test/metadata.csv`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::format::extension;
use ablate_core::base::files;

/// Extensions of files with rows. The content decides how such a file is read.
const EXTENSIONS: &[&str] =
    &["json", "jsonl", "ndjson", "csv", "tsv", "parquet", "arrow", "feather", "gz", "zst", "bz2", "xz", "xlsx"];

/// Files that describe a data set or a package and have no rows.
const DESCRIPTIONS: &[&str] =
    &["dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json", "package.json"];

/// Names of splits as `datasets` recognizes them in the names of files and folders.
const SPLITS: &[(&str, &[&str])] = &[
    ("train", &["train", "training"]),
    ("validation", &["validation", "valid", "val", "dev"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];

/// Most files of a folder that are looked at, and most folders inside each other.
const MAX_FILES: usize = 2_000_000;
const MAX_DEPTH: usize = 32;

/// The files of a data set, in the order of their rows. A path of a file is that file, for which `split` must not be
/// given.
pub fn row_files(path: &Path, split: Option<&str>) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        if let Some(split) = split {
            bail!("`split` is `{split}`, but `{}` is a file: only a folder has splits", path.display());
        }
        return Ok(vec![path.to_path_buf()]);
    }
    if path.join("dataset_dict.json").is_file() {
        return dataset_dict(path, split);
    }
    if path.join("state.json").is_file() {
        if let Some(split) = split {
            bail!("`split` is `{split}`, but `{}` holds a `Dataset` without splits: remove the key", path.display());
        }
        return saved_dataset(path);
    }
    published(path, split)
}

/// Files of a `DatasetDict` that `save_to_disk` wrote.
fn dataset_dict(folder: &Path, split: Option<&str>) -> Result<Vec<PathBuf>> {
    #[derive(Deserialize)]
    struct Dict {
        splits: Vec<String>,
    }
    let Dict { splits } = files::read_json(&folder.join("dataset_dict.json"))?;
    let name = choose(folder, &splits.iter().map(String::as_str).collect::<Vec<_>>(), split)?;
    if name.split(['/', '\\']).any(|part| matches!(part, "" | "." | "..")) {
        bail!("`{}`: the split `{name}` is not the name of a folder", folder.join("dataset_dict.json").display());
    }
    saved_dataset(&folder.join(name))
}

/// Files of a `Dataset` that `save_to_disk` wrote.
fn saved_dataset(folder: &Path) -> Result<Vec<PathBuf>> {
    #[derive(Deserialize)]
    struct State {
        #[serde(rename = "_data_files")]
        data_files: Vec<DataFile>,
        #[serde(rename = "_indices_data_files", default)]
        indices_data_files: Option<Vec<DataFile>>,
    }
    #[derive(Deserialize)]
    struct DataFile {
        filename: String,
    }
    let path = folder.join("state.json");
    let state: State = files::read_json(&path)?;
    if state.indices_data_files.is_some_and(|files| !files.is_empty()) {
        bail!("`{}`: the data set has an index of selected rows: write it with `flatten_indices()`", path.display());
    }
    let file = |DataFile { filename }: DataFile| {
        if filename.split(['/', '\\']).any(|part| matches!(part, "" | "." | "..")) {
            bail!("`{}`: `{filename}` is not the name of a file", path.display());
        }
        Ok(folder.join(filename))
    };
    let found = state.data_files.into_iter().map(file).collect::<Result<Vec<_>>>()?;
    if let Some(missing) = found.iter().find(|file| !file.is_file()) {
        bail!("`{}` names a file that is missing: `{}`", path.display(), missing.display());
    }
    Ok(found)
}

/// The split that is read: the given one, or the only one.
fn choose<'a>(folder: &Path, splits: &[&'a str], split: Option<&str>) -> Result<&'a str> {
    let listed = || splits.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    match (split, splits) {
        (Some(given), _) => splits
            .iter()
            .copied()
            .find(|name| *name == given)
            .with_context(|| format!("`{}` has no split `{given}`; the splits are {}", folder.display(), listed())),
        (None, [only]) => Ok(only),
        (None, []) => bail!("`{}` has no splits", folder.display()),
        (None, _) => {
            bail!("`{}` has several splits: write `split = \"…\"` with one of {}", folder.display(), listed())
        }
    }
}

/// A file with rows in a published folder.
struct Published {
    /// Path below the folder.
    name: String,
    path: PathBuf,
    /// The split that its name or a folder's name states.
    split: Option<String>,
    /// Its folder, without those that only name the split.
    configuration: String,
}

fn published(folder: &Path, split: Option<&str>) -> Result<Vec<PathBuf>> {
    let mut found: Vec<Published> = walk(folder)?
        .into_iter()
        .filter(|(name, _)| has_rows(name))
        .map(|(name, path)| described(name, path))
        .collect();
    // The rows of an image folder are in its metadata files.
    if found.iter().any(|file| is_metadata(&file.path)) {
        found.retain(|file| is_metadata(&file.path));
    }
    if found.is_empty() {
        bail!(
            "the folder `{}` has no file with rows (JSON, JSONL, CSV, TSV, Parquet, Arrow, or `metadata.csv` and \
             `metadata.jsonl` of an image folder)",
            folder.display()
        );
    }
    let splits: BTreeSet<&str> = found.iter().filter_map(|file| file.split.as_deref()).collect();
    if splits.is_empty() {
        if let Some(split) = split {
            let names = shown(found.iter().map(|file| file.name.as_str()));
            bail!("`{}` has no split `{split}`: no file or folder is named after a split: {names}", folder.display());
        }
    } else {
        if let (None, Some(plain)) = (split, found.iter().find(|file| file.split.is_none())) {
            let with = found.iter().find(|file| file.split.is_some()).map(|file| file.name.as_str());
            bail!(
                "`{}`: `{}` names a split and `{}` does not: write `split = \"…\"`, or name the file",
                folder.display(),
                with.unwrap_or_default(),
                plain.name
            );
        }
        let chosen = choose(folder, &splits.into_iter().collect::<Vec<_>>(), split)?.to_string();
        found.retain(|file| file.split.as_deref() == Some(chosen.as_str()));
    }
    let configurations: BTreeSet<&str> = found.iter().map(|file| file.configuration.as_str()).collect();
    if configurations.len() > 1 && !found.iter().all(|file| is_metadata(&file.path)) {
        let names = shown(configurations.into_iter().map(|name| if name.is_empty() { "." } else { name }));
        bail!("`{}` has files in several folders: name one of them: {names}", folder.display());
    }
    let kinds: BTreeSet<String> = found.iter().map(|file| extension(&file.path)).collect();
    if kinds.len() > 1 {
        let names = shown(found.iter().map(|file| file.name.as_str()));
        bail!(
            "`{}` has files of several formats, which may repeat the same rows: name one of them: {names}",
            folder.display()
        );
    }
    check_shards(folder, &found)?;
    Ok(found.into_iter().map(|file| file.path).collect())
}

/// Names in an error message; at most ten.
fn shown<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    let more = if names.len() > 10 { format!(" and {} more", names.len() - 10) } else { String::new() };
    names[..names.len().min(10)].join(", ") + &more
}

/// All files below a folder with their relative paths, sorted. Links are followed: a snapshot of the hub consists of
/// links.
fn walk(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    let mut pending = vec![(String::new(), folder.to_path_buf(), 0)];
    while let Some((prefix, folder, depth)) = pending.pop() {
        for (name, path, _) in files::entries(&folder)? {
            if name.starts_with('.') {
                continue;
            }
            let relative = format!("{prefix}{name}");
            if path.is_dir() {
                if depth == MAX_DEPTH {
                    bail!("`{}` has more than {MAX_DEPTH} folders inside each other", path.display());
                }
                pending.push((relative + "/", path, depth + 1));
            } else {
                found.push((relative, path));
            }
            if found.len() > MAX_FILES {
                bail!("the folder has more than {MAX_FILES} files: name the file or the folder with the rows");
            }
        }
    }
    found.sort();
    Ok(found)
}

fn has_rows(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or(name);
    EXTENSIONS.contains(&extension(Path::new(file)).as_str()) && !DESCRIPTIONS.contains(&file)
}

/// Whether a file has the rows of an image folder, which name their images in `file_name`.
pub fn is_metadata(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    matches!(name, Some("metadata.csv" | "metadata.jsonl" | "metadata.parquet"))
}

/// Determines split and configuration of a file from its path.
fn described(name: String, path: PathBuf) -> Published {
    let (folders, file) = name.rsplit_once('/').unwrap_or(("", &name));
    let stem = file.split('.').next().unwrap_or(file);
    let folders: Vec<&str> = folders.split('/').filter(|folder| !folder.is_empty()).collect();
    let of_file = shard(stem).map(|(split, ..)| split_name(split).unwrap_or(split)).or_else(|| split_name(stem));
    let of_folder = folders.iter().rev().find_map(|folder| split_name(folder));
    let split = of_file.or(of_folder).map(str::to_string);
    let configuration: Vec<&str> = folders.into_iter().filter(|folder| split_name(folder).is_none()).collect();
    Published { configuration: configuration.join("/"), split, name, path }
}

/// The split in a name: a word of it, such as `train` in `my_train.jsonl`.
fn split_name(name: &str) -> Option<&'static str> {
    let lower = name.to_lowercase();
    let words: Vec<&str> = lower.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    SPLITS.iter().find(|(_, synonyms)| synonyms.iter().any(|word| words.contains(word))).map(|(split, _)| *split)
}

/// The parts of `train-00000-of-00002` and of `train-00000-of-00002-0a1b2c`: name, number and count.
fn shard(stem: &str) -> Option<(&str, usize, usize)> {
    let at = stem.find("-of-")?;
    let (name, number) = stem[..at].rsplit_once('-')?;
    let count = stem[at + 4..].split('-').next()?;
    let digits = |text: &str| (text.len() == 5).then(|| text.parse().ok()).flatten();
    Some((name, digits(number)?, digits(count)?))
}

/// Checks that no shard is missing, as after an interrupted download.
fn check_shards(folder: &Path, found: &[Published]) -> Result<()> {
    let mut numbers: BTreeMap<(String, usize), BTreeSet<usize>> = BTreeMap::new();
    for file in found {
        let stem = file.name.split('.').next().unwrap_or_default();
        if let Some((name, number, count)) = shard(stem) {
            numbers.entry((name.to_string(), count)).or_default().insert(number);
        }
    }
    for ((name, count), numbers) in numbers {
        if let Some(missing) = (0..count).find(|number| !numbers.contains(number)) {
            bail!("`{}`: the shard `{name}-{missing:05}-of-{count:05}` is missing", folder.display());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(names: &[&str], split: Option<&str>) -> String {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            files::write_atomic(&folder.path().join(name), b"").unwrap();
        }
        let root = format!("{}/", folder.path().display());
        match row_files(folder.path(), split) {
            Ok(found) => {
                found.iter().map(|path| path.display().to_string().replace(&root, "")).collect::<Vec<_>>().join(" ")
            }
            Err(error) => format!("{error:#}").replace(&root, "").replace(&folder.path().display().to_string(), "data"),
        }
    }

    #[test]
    fn files_are_chosen_by_split() {
        let hub = [
            "README.md",
            "data/test-00000-of-00001.parquet",
            "data/train-00001-of-00002.parquet",
            "data/train-00000-of-00002.parquet",
        ];
        assert_eq!(chosen(&hub, Some("train")), "data/train-00000-of-00002.parquet data/train-00001-of-00002.parquet");
        assert_eq!(chosen(&["my_train.jsonl", "my-val.jsonl", "a.png"], Some("validation")), "my-val.jsonl");
        assert_eq!(
            chosen(&["data/challenge-00000-of-00001.parquet", "dataset_infos.json"], None),
            "data/challenge-00000-of-00001.parquet"
        );
        assert_eq!(
            chosen(&["train/metadata.csv", "train/1.png", "train/notes.json", "test/metadata.csv"], Some("test")),
            "test/metadata.csv"
        );
        assert_eq!(chosen(&["b.jsonl", "a.jsonl", ".hidden.jsonl"], None), "a.jsonl b.jsonl");
        assert_eq!(
            chosen(&["main/train-00000-of-00001.parquet", "main/test-00000-of-00001.parquet"], Some("test")),
            "main/test-00000-of-00001.parquet"
        );
    }

    #[test]
    fn ambiguous_folders_are_errors() {
        let errors = [
            chosen(&["train.jsonl", "test.jsonl"], None),
            chosen(&["train.jsonl", "test.jsonl"], Some("dev")),
            chosen(&["rows.jsonl"], Some("train")),
            chosen(&["rows.jsonl", "train.jsonl"], None),
            chosen(&["main/train.parquet", "socratic/train.parquet"], None),
            chosen(&["a.csv", "a.jsonl"], None),
            chosen(&["data/train-00000-of-00003.parquet", "data/train-00002-of-00003.parquet"], None),
            chosen(&["1.png"], None),
        ];
        expect_test::expect![[r#"
            `data` has several splits: write `split = "…"` with one of `test`, `train`
            `data` has no split `dev`; the splits are `test`, `train`
            `data` has no split `train`: no file or folder is named after a split: `rows.jsonl`
            `data`: `train.jsonl` names a split and `rows.jsonl` does not: write `split = "…"`, or name the file
            `data` has files in several folders: name one of them: `main`, `socratic`
            `data` has files of several formats, which may repeat the same rows: name one of them: `a.csv`, `a.jsonl`
            `data`: the shard `data/train-00001-of-00003` is missing
            the folder `data` has no file with rows (JSON, JSONL, CSV, TSV, Parquet, Arrow, or `metadata.csv` and `metadata.jsonl` of an image folder)"#]].assert_eq(&errors.join("\n"));
    }
}
