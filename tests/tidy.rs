//! The walls of the house: which layer may lean on which, where a dependency lives, how a file opens.
//! `docs/architecture.md` explains them.

use std::fs;
use std::path::{Path, PathBuf};

/// Layer, and the layers that it may import besides itself.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("stage", &["base"]),
    ("experiment", &["base", "stage"]),
    ("store", &["base", "stage"]),
    ("engine", &["base", "stage", "experiment", "store"]),
    ("data", &["base"]),
    ("nn", &["base"]),
    ("train", &["base", "data", "nn"]),
    ("infer", &["base", "data", "nn"]),
    ("teacher", &["base", "data"]),
    ("stages", &["base", "stage", "data", "nn", "train", "infer", "teacher"]),
    // `data` for the records of scores and curves.
    ("report", &["base", "stage", "experiment", "store", "engine", "data"]),
    // `nn` for the choice of a device only.
    ("cli", &["base", "stage", "experiment", "store", "engine", "stages", "report", "nn"]),
];

/// Crate, and the only places that may name it.
const HOMES: &[(&str, &[&str])] = &[
    ("petgraph", &["engine/graph.rs"]),
    ("blake3", &["base/hash.rs"]),
    ("toml", &["experiment/"]),
    ("dfdx", &["nn/", "train/", "infer/"]),
    ("cudarc", &["nn/cuda/"]),
    ("libloading", &["nn/cuda/"]),
    ("safetensors", &["nn/", "train/"]),
    ("half", &["nn/hub/number.rs"]),
    ("tokenizers", &["data/tokenizer.rs", "data/conversation/vocabulary.rs"]),
    ("minijinja", &["data/conversation/"]),
    ("minijinja_contrib", &["data/conversation/"]),
    ("tar", &["data/"]),
    ("ignore", &["store/ignored.rs"]),
    ("image", &["data/"]),
    ("ureq", &["teacher/"]),
    ("rustls_native_certs", &["teacher/network.rs"]),
    ("plotters", &["report/"]),
    ("statrs", &["report/"]),
    ("annotate_snippets", &["base/diagnostic.rs"]),
    ("rustix", &["engine/", "base/files.rs", "base/plain.rs", "store/memo.rs"]),
    ("clap", &["cli/"]),
    ("console", &["cli/"]),
    ("indicatif", &["cli/"]),
    ("signal_hook", &["cli/"]),
    ("tracing_subscriber", &["cli/"]),
];

/// Files over the line limit, each with its reason.
const LONG: &[(&str, &str)] = &[];

const LINE_LIMIT: usize = 400;

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![folder.to_path_buf()];
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every source file: path below `src/` and text.
fn sources() -> Vec<(String, String)> {
    let src = root().join("src");
    rust_files(&src)
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&src).unwrap().to_string_lossy().into_owned();
            (name, fs::read_to_string(&path).unwrap())
        })
        .collect()
}

fn report(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

/// Whether `text` contains `word` as a path segment followed by `::`.
fn names_crate(text: &str, word: &str) -> bool {
    let needle = format!("{word}::");
    text.match_indices(&needle).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
    })
}

fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .map(|(index, line)| (index + 1, line))
}

#[test]
fn layers_import_only_what_lies_below() {
    let mut problems = Vec::new();
    for (name, text) in sources() {
        let Some((layer, _)) = name.split_once('/') else { continue };
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(known, _)| *known == layer) else {
            problems.push(format!("src/{name}: the layer `{layer}` is not in the list"));
            continue;
        };
        for (number, line) in code_lines(&text) {
            for (at, _) in line.match_indices("crate::") {
                let rest = &line[at + "crate::".len()..];
                let named: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let is_layer = MAY_IMPORT.iter().any(|(known, _)| *known == named);
                if is_layer && named != layer && !allowed.contains(&named.as_str()) {
                    problems.push(format!("src/{name}:{number}: `{layer}` may not import `{named}`"));
                }
            }
        }
    }
    report(&problems);
}

#[test]
fn dependencies_stay_in_their_homes() {
    let mut problems = Vec::new();
    for (name, text) in sources() {
        for (number, line) in code_lines(&text) {
            for (dependency, homes) in HOMES {
                let at_home = homes.iter().any(|home| name.starts_with(home));
                let own = line.contains("crate::") || line.contains("super::");
                if !at_home && !own && names_crate(line, dependency) {
                    problems.push(format!("src/{name}:{number}: `{dependency}` lives in {}", homes.join(", ")));
                }
            }
        }
    }
    report(&problems);
}

#[test]
fn the_cuda_feature_is_named_in_nn_only() {
    let mut problems = Vec::new();
    for (name, text) in sources() {
        if !name.starts_with("nn/") && text.contains("feature = \"cuda\"") {
            problems.push(format!("src/{name}: `cfg(feature = \"cuda\")` belongs to src/nn"));
        }
    }
    report(&problems);
}

#[test]
fn every_file_says_what_it_is_and_stays_short() {
    let mut problems = Vec::new();
    let tests = rust_files(&root().join("tests")).into_iter().map(|path| {
        let name = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        (name, fs::read_to_string(&path).unwrap())
    });
    for (name, text) in sources().into_iter().map(|(name, text)| (format!("src/{name}"), text)).chain(tests) {
        if !text.starts_with("//!") {
            problems.push(format!("{name}: opens without `//!`"));
        }
        let lines = text.lines().count();
        if lines > LINE_LIMIT && !LONG.iter().any(|(long, _)| *long == name) {
            problems.push(format!("{name}: {lines} lines, more than {LINE_LIMIT}"));
        }
        for (number, line) in text.lines().enumerate() {
            if line.ends_with(' ') || line.contains('\t') {
                problems.push(format!("{name}:{}: trailing space or tab", number + 1));
            }
        }
    }
    for (long, reason) in LONG {
        let text = fs::read_to_string(root().join(long)).unwrap_or_default();
        if text.lines().count() <= LINE_LIMIT {
            problems.push(format!("{long}: no longer long ({reason}): take it off the list"));
        }
    }
    report(&problems);
}

#[test]
fn documents_link_to_files_that_exist() {
    let mut problems = Vec::new();
    let mut documents = vec![root().join("README.md"), root().join("CHANGELOG.md"), root().join("cache/README.md")];
    documents.extend(fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path()));
    for path in documents.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "md")) {
        let text = fs::read_to_string(&path).unwrap();
        for part in text.split("](").skip(1) {
            let Some((target, _)) = part.split_once(')') else { continue };
            let file = target.split('#').next().unwrap_or_default();
            if file.is_empty() || file.contains("://") {
                continue;
            }
            if !path.parent().unwrap().join(file).exists() {
                problems.push(format!("{}: `{file}` does not exist", path.display()));
            }
        }
    }
    report(&problems);
}
