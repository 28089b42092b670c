//! Resolves `hf://org/name` to a snapshot in the local cache of Hugging Face's hub. Nothing is downloaded.

use std::env;
use std::path::{Path, PathBuf};

use ablate_core::base::files;
use ablate_core::stage::HubRepository;

/// How a reference begins.
pub const SCHEME: &str = "hf://";

/// A reference to a repository of the hub: `hf://org/name`, `hf://datasets/org/name@revision/path`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct HubReference<'a> {
    /// The type, if it is written.
    repository: Option<HubRepository>,
    name: String,
    revision: Option<String>,
    /// The path inside the repository.
    path: &'a str,
}

/// The file or folder of a reference. The error says what is missing and what to do.
pub fn resolve(text: &str, expected: HubRepository) -> Result<PathBuf, String> {
    resolve_in(text, expected, &cache_folder()?)
}

/// The folder of the hub's cache, as `huggingface_hub` chooses it.
fn cache_folder() -> Result<PathBuf, String> {
    let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(folder) = variable("HF_HUB_CACHE").or_else(|| variable("HUGGINGFACE_HUB_CACHE")) {
        return Ok(folder);
    }
    let home = variable("HF_HOME")
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("huggingface")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/huggingface")));
    home.map(|home| home.join("hub"))
        .ok_or_else(|| "the folder of Hugging Face's cache is unknown: set `HF_HOME` or `HF_HUB_CACHE`".to_string())
}

fn resolve_in(text: &str, expected: HubRepository, cache: &Path) -> Result<PathBuf, String> {
    let reference = HubReference::parse(text)?;
    let repository = match (reference.repository, expected) {
        (Some(given), HubRepository::Any) => given,
        (Some(given), expected) if given != expected => {
            return Err(format!("`{text}` is a {given}, but the key names a {expected}"));
        }
        (_, HubRepository::Any) => {
            let exists = |repository| reference.folder(repository, cache).is_dir();
            match (exists(HubRepository::Model), exists(HubRepository::Dataset)) {
                (true, true) => {
                    return Err(format!(
                        "`{text}` is in the cache as a model and as a data set: write `hf://models/{0}` or \
                         `hf://datasets/{0}`",
                        reference.name
                    ));
                }
                (false, true) => HubRepository::Dataset,
                _ => HubRepository::Model,
            }
        }
        (_, expected) => expected,
    };
    let folder = reference.folder(repository, cache);
    let missing = |what: String| format!("{what}; to download it run `{}`", reference.download(repository));
    if !folder.is_dir() {
        return Err(missing(format!("`{text}` is not in the cache of Hugging Face's hub (`{}`)", cache.display())));
    }
    let snapshot = reference.snapshot(&folder).map_err(|what| missing(format!("`{text}`: {what}")))?;
    let path = if reference.path.is_empty() { snapshot } else { snapshot.join(reference.path) };
    if !path.exists() {
        return Err(missing(format!("`{text}`: the snapshot in the cache has no `{}`", reference.path)));
    }
    Ok(path)
}

impl<'a> HubReference<'a> {
    fn parse(text: &'a str) -> Result<HubReference<'a>, String> {
        let malformed = || {
            format!("`{text}` is not a repository of the hub: write `hf://org/name` or `hf://org/name@revision/path`")
        };
        let rest = text.strip_prefix(SCHEME).ok_or_else(malformed)?;
        let (repository, rest) = match rest.split_once('/') {
            Some(("datasets", rest)) => (Some(HubRepository::Dataset), rest),
            Some(("models", rest)) => (Some(HubRepository::Model), rest),
            Some(("spaces", _)) => return Err(format!("`{text}` is a space; only models and data sets are read")),
            _ => (None, rest),
        };
        let mut parts: Vec<&str> = rest.trim_end_matches('/').split('/').collect();
        let valid = |part: &&str| !part.is_empty() && *part != "." && *part != ".." && !part.contains("--");
        if !parts.iter().all(valid) {
            return Err(malformed());
        }
        // Old repositories have no organization.
        let named = if parts.len() == 1 || parts[0].contains('@') { 1 } else { 2 };
        let last = parts[named - 1];
        let (last, revision) = last.split_once('@').map_or((last, None), |(last, revision)| (last, Some(revision)));
        let name = if named == 1 { last.to_string() } else { format!("{}/{last}", parts[0]) };
        if last.is_empty() || revision == Some("") {
            return Err(malformed());
        }
        let mut revision = revision.map(str::to_string);
        let mut skipped = parts.drain(..named).map(str::len).sum::<usize>() + named;
        // A revision such as `refs/convert/parquet` has several parts.
        if revision.as_deref() == Some("refs") && parts.len() >= 2 {
            revision = Some(format!("refs/{}/{}", parts[0], parts[1]));
            skipped += parts.drain(..2).map(str::len).sum::<usize>() + 2;
        }
        let path = rest.get(skipped..).unwrap_or_default().trim_end_matches('/');
        Ok(HubReference { repository, name, revision, path })
    }

    /// The folder of the repository in the cache.
    fn folder(&self, repository: HubRepository, cache: &Path) -> PathBuf {
        let kind = if repository == HubRepository::Dataset { "datasets" } else { "models" };
        cache.join(format!("{kind}--{}", self.name.replace('/', "--")))
    }

    /// The folder of the snapshot: of the revision, of the branch `main`, or the only one.
    fn snapshot(&self, folder: &Path) -> Result<PathBuf, String> {
        let snapshots = folder.join("snapshots");
        let revision = self.revision.as_deref().unwrap_or("main");
        let commit = files::read_text(&folder.join("refs").join(revision)).ok();
        let commit = commit.as_deref().map_or(revision, str::trim);
        let is_name = !commit.is_empty() && !commit.contains('/') && commit != "." && commit != "..";
        if is_name && snapshots.join(commit).is_dir() {
            return Ok(snapshots.join(commit));
        }
        let mut found: Vec<String> = files::list_names(&snapshots).map_err(|error| format!("{error:#}"))?;
        found.retain(|name| snapshots.join(name).is_dir());
        match (&self.revision, found.as_slice()) {
            (_, []) => Err("the cache has no snapshot of it".to_string()),
            (None, [only]) => Ok(snapshots.join(only)),
            (None, several) => Err(format!(
                "the cache has several snapshots and no branch `main`: write `@` and one of {}",
                several.join(", ")
            )),
            (Some(revision), several) => {
                Err(format!("the cache has no revision `{revision}`; its snapshots are {}", several.join(", ")))
            }
        }
    }

    /// The command that downloads the repository.
    fn download(&self, repository: HubRepository) -> String {
        let kind = if repository == HubRepository::Dataset { " --repo-type dataset" } else { "" };
        let revision = self.revision.as_ref().map(|revision| format!(" --revision {revision}")).unwrap_or_default();
        format!("hf download {}{kind}{revision}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cache with these files.
    fn cache(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            ablate_core::base::files::write_atomic(&folder.path().join(path), text.as_bytes()).unwrap();
        }
        folder
    }

    fn resolved(cache: &tempfile::TempDir, text: &str, expected: HubRepository) -> String {
        let root = cache.path().display().to_string();
        match resolve_in(text, expected, cache.path()) {
            Ok(path) => path.display().to_string().replace(&format!("{root}/"), ""),
            Err(what) => what.replace(&root, "CACHE"),
        }
    }

    #[test]
    fn references_name_snapshots() {
        let cache = cache(&[
            ("datasets--org--name/refs/main", "aaa\n"),
            ("datasets--org--name/refs/refs/convert/parquet", "bbb"),
            ("datasets--org--name/snapshots/aaa/data/train.jsonl", ""),
            ("datasets--org--name/snapshots/bbb/x.parquet", ""),
            ("models--gpt2/snapshots/ccc/config.json", ""),
        ]);
        let of = |text, expected| resolved(&cache, text, expected);
        let dataset = "datasets--org--name/snapshots";
        assert_eq!(of("hf://org/name", HubRepository::Dataset), format!("{dataset}/aaa"));
        assert_eq!(of("hf://org/name/data/train.jsonl", HubRepository::Any), format!("{dataset}/aaa/data/train.jsonl"));
        assert_eq!(of("hf://datasets/org/name@bbb/", HubRepository::Any), format!("{dataset}/bbb"));
        let converted = "hf://org/name@refs/convert/parquet/x.parquet";
        assert_eq!(of(converted, HubRepository::Dataset), format!("{dataset}/bbb/x.parquet"));
        assert_eq!(of("hf://gpt2", HubRepository::Model), "models--gpt2/snapshots/ccc");
        assert_eq!(of("hf://models/gpt2", HubRepository::Any), "models--gpt2/snapshots/ccc");
    }

    #[test]
    fn a_missing_snapshot_names_the_command() {
        let cache = cache(&[
            ("datasets--org--name/snapshots/aaa/x", ""),
            ("datasets--org--name/snapshots/bbb/x", ""),
            ("models--org--name/refs/main", "ccc"),
            ("models--org--name/snapshots/ccc/x", ""),
        ]);
        let errors = [
            ("hf://org/other", HubRepository::Dataset),
            ("hf://org/other@v2", HubRepository::Model),
            ("hf://org/name", HubRepository::Dataset),
            ("hf://org/name@v2", HubRepository::Dataset),
            ("hf://org/name/data.json", HubRepository::Model),
            ("hf://org/name", HubRepository::Any),
            ("hf://datasets/org/name", HubRepository::Model),
            ("hf://spaces/org/name", HubRepository::Any),
            ("hf://org/../name", HubRepository::Model),
            ("hf://", HubRepository::Model),
            ("hf://org/name@", HubRepository::Model),
        ];
        let errors = errors.map(|(text, expected)| resolved(&cache, text, expected));
        expect_test::expect![[r#"
            `hf://org/other` is not in the cache of Hugging Face's hub (`CACHE`); to download it run `hf download org/other --repo-type dataset`
            `hf://org/other@v2` is not in the cache of Hugging Face's hub (`CACHE`); to download it run `hf download org/other --revision v2`
            `hf://org/name`: the cache has several snapshots and no branch `main`: write `@` and one of aaa, bbb; to download it run `hf download org/name --repo-type dataset`
            `hf://org/name@v2`: the cache has no revision `v2`; its snapshots are aaa, bbb; to download it run `hf download org/name --repo-type dataset --revision v2`
            `hf://org/name/data.json`: the snapshot in the cache has no `data.json`; to download it run `hf download org/name`
            `hf://org/name` is in the cache as a model and as a data set: write `hf://models/org/name` or `hf://datasets/org/name`
            `hf://datasets/org/name` is a data set, but the key names a model
            `hf://spaces/org/name` is a space; only models and data sets are read
            `hf://org/../name` is not a repository of the hub: write `hf://org/name` or `hf://org/name@revision/path`
            `hf://` is not a repository of the hub: write `hf://org/name` or `hf://org/name@revision/path`
            `hf://org/name@` is not a repository of the hub: write `hf://org/name` or `hf://org/name@revision/path`"#]].assert_eq(&errors.join("\n"));
    }
}
