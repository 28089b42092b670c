//! Rules of the source tree that the compiler does not check: imports inside a crate, the files that may use a
//! dependency, file headers, and links in the documents. `docs/architecture.md` explains the rules.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Crate, module, and a module of the same crate that it must not import. `*` stands for all other modules.
const FORBIDDEN: &[(&str, &str, &str)] = &[
    ("core", "base", "stage"),
    ("nn", "*", "train"),
    ("nn", "*", "infer"),
    ("", "teacher", "stages"),
    ("", "teacher", "cli"),
    ("", "stages", "cli"),
    ("", "cli", "teacher"),
    ("", "serve", "cli"),
    ("", "serve", "stages"),
    ("", "serve", "teacher"),
    ("", "stages", "serve"),
    ("", "teacher", "serve"),
];

/// Exceptions of [`FORBIDDEN`].
const ALLOWED: &[(&str, &str, &str)] = &[
    // The decoder of a GPU implements what generation needs of a device.
    ("nn", "cuda", "infer"),
    // It computes what generation costs.
    ("nn", "cost", "infer"),
];

/// Crate and module: the imports of these modules are not checked for circles.
const CIRCLES: &[(&str, &str)] = &[
    // The definition of the command line lists the arguments of all commands, and holds their global arguments.
    ("", "cli::args"),
];

/// Dependencies, and the only files of their crate that may use them.
const USERS: &[(&str, &[&str])] = &[
    ("petgraph", &["engine/graph.rs"]),
    ("blake3", &["core/base/hash.rs"]),
    ("cudarc", &["nn/cuda/"]),
    ("libloading", &["nn/cuda/"]),
    ("half", &["nn/hub/dtype.rs", "nn/cuda/", "nn/tests/parity/gpu.rs"]),
    ("parquet", &["data/tables/parquet_file.rs", "data/tables/parquet_writer.rs"]),
    ("arrow_ipc", &["data/tables/arrow_file.rs"]),
    ("arrow_array", &["data/tables/"]),
    ("arrow_schema", &["data/tables/"]),
    // `report` has a module of this name.
    ("csv", &["data/tables/delimited.rs", "report/"]),
    ("tokenizers", &["data/tokenizer.rs", "data/conversation/hub_tokenizer.rs"]),
    ("minijinja", &["data/conversation/"]),
    ("minijinja_contrib", &["data/conversation/"]),
    ("ignore", &["store/ignore_rules.rs"]),
    ("plotters", &["report/html/line_chart.rs"]),
    ("flate2", &["report/answers/", "report/tests/answers.rs"]),
    ("sha2", &["report/html/document.rs"]),
    ("form_urlencoded", &["report/html/comparison.rs"]),
    ("reqwest", &["teacher/"]),
    ("tokio", &["teacher/", "serve/", "remote/"]),
    ("futures_util", &["teacher/", "serve/", "remote/"]),
    ("object_store", &["remote/"]),
    ("axum", &["serve/"]),
    ("percent_encoding", &["serve/"]),
    ("subtle", &["serve/"]),
    ("getrandom", &["serve/"]),
    ("webpki_roots", &["teacher/network.rs"]),
    ("rustls_native_certs", &["teacher/network.rs"]),
    ("annotate_snippets", &["core/base/diagnostic.rs"]),
    (
        "rustix",
        &["engine/", "core/base/files.rs", "core/base/file_system.rs", "core/base/regular_file.rs", "store/memo.rs"],
    ),
    ("clap", &["cli/"]),
    ("clap_complete", &["cli/completions/"]),
    ("clap_mangen", &["cli/man.rs"]),
    ("crc", &["report/tensorboard.rs"]),
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

/// All Rust files of a folder: path relative to `base`, and text.
fn texts(folder: &Path, base: &Path) -> Vec<(String, String)> {
    let name = |path: &Path| path.strip_prefix(base).unwrap().to_string_lossy().into_owned();
    rust_files(folder).iter().map(|path| (name(path), fs::read_to_string(path).unwrap())).collect()
}

/// All source files: path relative to `src/`, and text.
fn sources() -> Vec<(String, String)> {
    texts(&root().join("src"), &root().join("src"))
}

fn report(problems: impl IntoIterator<Item = String>) {
    let problems: Vec<String> = problems.into_iter().collect();
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

/// Whether `text` contains `word` as the first segment of a path.
fn names_crate(text: &str, word: &str) -> bool {
    let needle = format!("{word}::");
    text.match_indices(&needle).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
    })
}

fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.lines()).filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// The modules that a file imports with `crate::` or `super::`: full paths with their items.
fn imports(name: &str, text: &str) -> Vec<Vec<String>> {
    let module = module_path(name);
    let code: String = code_lines(text).flat_map(|(_, line)| [line.trim(), "\n"]).collect();
    let code = code.split("#[cfg(test)]\nmod tests").next().unwrap();
    let mut found = Vec::new();
    for (start, word) in code.match_indices("crate::").chain(code.match_indices("super::")) {
        if code[..start].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let mut rest = &code[start + word.len()..];
        let mut base = if word == "crate::" { Vec::new() } else { module[..module.len() - 1].to_vec() };
        while let Some(above) = rest.strip_prefix("super::") {
            (rest, _) = (above, base.pop());
        }
        let items = match rest.strip_prefix('{') {
            Some(group) => group.split('}').next().unwrap().split(',').collect(),
            None => vec![rest],
        };
        for item in items {
            let path = item.trim().split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').next().unwrap();
            found.push(base.iter().cloned().chain(path.split("::").map(str::to_string)).collect());
        }
    }
    found
}

/// `a/b/mod.rs` and `a/b.rs` are the module `a::b` of their crate.
fn module_path(name: &str) -> Vec<String> {
    let path = name.trim_end_matches(".rs").trim_end_matches("/mod");
    path.split('/').map(str::to_string).collect()
}

/// The modules of each crate by path, with their text. Test modules are left out.
fn crates() -> BTreeMap<String, BTreeMap<Vec<String>, (String, String)>> {
    let mut crates: BTreeMap<String, BTreeMap<Vec<String>, (String, String)>> = BTreeMap::new();
    for (name, text) in sources() {
        let is_test = name.contains("tests") || name.contains("fuzz");
        // The modules of the program are below `src`, those of a member crate below `src/<crate>`.
        let (member, path) = match name.split_once('/') {
            Some((folder, path)) if root().join("src").join(folder).join("Cargo.toml").exists() => (folder, path),
            _ => ("", name.as_str()),
        };
        if !is_test && !["lib.rs", "main.rs"].contains(&path) {
            let modules = crates.entry(member.to_string()).or_default();
            modules.insert(module_path(path), (path.to_string(), text));
        }
    }
    crates
}

#[test]
fn modules_do_not_import_forbidden_modules() {
    let mut problems = Vec::new();
    for (member, modules) in crates() {
        for (module, (path, text)) in modules {
            for import in imports(&path, &text) {
                let is_forbidden = |&&(of, from, to): &&(&str, &str, &str)| {
                    of == member && to == import[0] && to != module[0] && (from == "*" || from == module[0])
                };
                let is_allowed =
                    |&(of, from, to): &(&str, &str, &str)| of == member && from == module[0] && to == import[0];
                if ALLOWED.iter().any(is_allowed) {
                    continue;
                }
                if let Some((_, _, to)) = FORBIDDEN.iter().find(is_forbidden) {
                    problems.push(format!("src/{member}/{path}: `{}` must not import `{to}`", module[0]));
                }
            }
        }
    }
    report(problems);
}

#[test]
fn modules_do_not_import_each_other_in_a_circle() {
    let mut problems = Vec::new();
    for (member, modules) in &crates() {
        let resolve = |mut path: Vec<String>| {
            while !path.is_empty() && !modules.contains_key(&path) {
                path.pop();
            }
            path
        };
        let mut edges: BTreeSet<(Vec<String>, Vec<String>)> = BTreeSet::new();
        for (module, (path, text)) in modules {
            if CIRCLES.contains(&(member.as_str(), module.join("::").as_str())) {
                continue;
            }
            let targets = imports(path, text).into_iter().map(resolve);
            edges.extend(targets.filter(|to| !to.is_empty() && to != module).map(|to| (module.clone(), to)));
        }
        let reaches = |start: &Vec<String>, end: &Vec<String>| {
            let (mut seen, mut pending) = (BTreeSet::new(), vec![start]);
            while let Some(module) = pending.pop() {
                if seen.insert(module) {
                    pending.extend(edges.iter().filter(|(from, _)| from == module).map(|(_, to)| to));
                }
            }
            seen.contains(end)
        };
        for (from, to) in edges.iter().filter(|(from, to)| reaches(to, from)) {
            problems.push(format!("src/{member}: `{}` imports `{}` in a circle", from.join("::"), to.join("::")));
        }
    }
    report(problems);
}

#[test]
fn dependencies_are_used_only_where_allowed() {
    let mut problems = Vec::new();
    for (name, text) in sources() {
        for (number, line) in code_lines(&text) {
            for (dependency, users) in USERS {
                let allowed = users.iter().any(|user| name.starts_with(user));
                let is_module = line.contains("crate::") || line.contains("super::");
                if !allowed && !is_module && names_crate(line, dependency) {
                    let users = users.join(", ");
                    problems.push(format!("src/{name}:{number}: `{dependency}` may be used only in {users}"));
                }
            }
        }
    }
    report(problems);
}

#[test]
fn only_nn_uses_the_cuda_feature() {
    let is_wrong = |(name, text): &(String, String)| !name.starts_with("nn/") && text.contains("feature = \"cuda\"");
    let wrong = sources().into_iter().filter(is_wrong);
    report(wrong.map(|(name, _)| format!("src/{name}: `cfg(feature = \"cuda\")` belongs to src/nn")));
}

#[test]
fn every_file_has_a_header() {
    let mut problems = Vec::new();
    let folders = [root().join("src"), root().join("tests")];
    for (name, text) in folders.iter().flat_map(|folder| texts(folder, &root())) {
        if !text.starts_with("//!") {
            problems.push(format!("{name}: the header `//!` is missing"));
        }
        for (number, line) in (1..).zip(text.lines()) {
            if line.ends_with(' ') || line.contains('\t') {
                problems.push(format!("{name}:{number}: trailing space or tab"));
            }
        }
    }
    report(problems);
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
    report(problems);
}
