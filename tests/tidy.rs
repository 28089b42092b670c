//! The walls of the house: which layer may lean on which, where a dependency lives, how a file opens.
//! `docs/architecture.md` explains them.

use std::fs;
use std::path::{Path, PathBuf};

/// Folders of one crate, and the folders of that crate that they may import. Between crates the compiler holds the walls.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("core/base", &[]),
    ("core/stage", &["base"]),
    ("nn/train", &["nn"]),
    ("nn/infer", &["nn"]),
    ("teacher", &[]),
    ("stages", &["teacher"]),
    ("cli", &["stages"]),
];

/// Dependency, and the only places that may name it, where these are less than a crate.
const HOMES: &[(&str, &[&str])] = &[
    ("petgraph", &["engine/graph.rs"]),
    ("blake3", &["core/base/hash.rs"]),
    ("cudarc", &["nn/cuda/"]),
    ("libloading", &["nn/cuda/"]),
    ("half", &["nn/hub/number.rs"]),
    ("tokenizers", &["data/tokenizer.rs", "data/conversation/hub_tokenizer.rs"]),
    ("minijinja", &["data/conversation/"]),
    ("minijinja_contrib", &["data/conversation/"]),
    ("ignore", &["store/ignored.rs"]),
    ("ureq", &["teacher/"]),
    ("rustls_native_certs", &["teacher/network.rs"]),
    ("annotate_snippets", &["core/base/diagnostic.rs"]),
    ("rustix", &["engine/", "core/base/files.rs", "core/base/plain.rs", "store/memo.rs"]),
    ("clap", &["cli/"]),
    ("console", &["cli/"]),
    ("indicatif", &["cli/"]),
    ("signal_hook", &["cli/"]),
    ("tracing_subscriber", &["cli/"]),
];

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
fn folders_import_only_what_lies_below() {
    let mut problems = Vec::new();
    for (name, text) in sources() {
        let Some((folder, allowed)) = MAY_IMPORT.iter().find(|(folder, _)| name.starts_with(&format!("{folder}/")))
        else {
            // The files of nn itself.
            if name.starts_with("nn/") && (text.contains("crate::train") || text.contains("crate::infer")) {
                problems.push(format!("src/{name}: nn may import neither `train` nor `infer`"));
            }
            continue;
        };
        let own = folder.rsplit('/').next().unwrap();
        let siblings = MAY_IMPORT.iter().map(|(other, _)| other.rsplit('/').next().unwrap());
        for sibling in siblings.filter(|sibling| *sibling != own && !allowed.contains(sibling)) {
            for (number, _) in code_lines(&text).filter(|(_, line)| line.contains(&format!("crate::{sibling}"))) {
                problems.push(format!("src/{name}:{number}: `{own}` may not import `{sibling}`"));
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
fn every_file_says_what_it_is() {
    let mut problems = Vec::new();
    let tests = rust_files(&root().join("tests")).into_iter().map(|path| {
        let name = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        (name, fs::read_to_string(&path).unwrap())
    });
    for (name, text) in sources().into_iter().map(|(name, text)| (format!("src/{name}"), text)).chain(tests) {
        if !text.starts_with("//!") {
            problems.push(format!("{name}: opens without `//!`"));
        }
        for (number, line) in text.lines().enumerate() {
            if line.ends_with(' ') || line.contains('\t') {
                problems.push(format!("{name}:{}: trailing space or tab", number + 1));
            }
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
