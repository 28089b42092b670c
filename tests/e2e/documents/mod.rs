//! README.md and docs/paper.md hold the numbers of saved results (docs/results), and these are up to date. `just
//! paper-tables` runs the experiments, saves their results and writes the numbers into the documents. With
//! `UPDATE_EXPECT=1` this test writes saved results into the documents.

mod fixture;
mod loose_numbers;
mod markers;
mod saved;
mod tables;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ablate_core::base::Hash;
use serde_json::{Value, json};

use crate::studies::plan_counts;
use crate::support::{entries, repository};
use markers::Document;
use values::Values;

/// The documents, and the headings of their sections with results.
const DOCUMENTS: [(&str, &[&str]); 2] = [
    ("README.md", &["What the default experiment shows"]),
    ("docs/paper.md", &["What the studies cost, and what sharing saves", "Results of the tiny studies"]),
];

/// The experiments with saved results, by name of their group in `cost`.
fn experiments() -> BTreeMap<&'static str, Vec<PathBuf>> {
    let mut tiny: Vec<PathBuf> = entries(repository("experiments/tiny")).collect();
    tiny.retain(|path| !path.ends_with("base.toml"));
    tiny.sort();
    BTreeMap::from([("reasoner", vec![repository("experiments/reasoner.toml")]), ("tiny", tiny)])
}

#[test]
fn documents_agree_with_results() {
    let statistics = fixture::statistics();
    if env::var_os("UPDATE_RESULTS").is_some() {
        save_results(statistics);
    }
    let mut problems = Vec::new();
    let mut values = BTreeMap::from([("plan".to_string(), plan_counts())]);
    let mut unsaved: BTreeSet<PathBuf> = experiments().into_values().flatten().collect();
    for (name, path) in saved::paths() {
        let result: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        if let Some(made_with) = result.get("made_with") {
            let kinds = made_with["kinds"].as_object().unwrap().keys().cloned().collect();
            let file = repository(made_with["experiment"].as_str().unwrap());
            unsaved.remove(&file);
            let changes = saved::changes(made_with, &saved::dependencies(&file, &kinds, statistics));
            if !changes.is_empty() {
                problems.push(format!("docs/results/{name}.json is out of date: {}", changes.join("; ")));
            }
        }
        values.insert(name, result);
    }
    problems.extend(unsaved.iter().map(|file| format!("{} has no results in docs/results", file.display())));
    if !problems.is_empty() {
        problems.push("run `just paper-tables`".to_string());
    }
    let values = Values(values);
    for (name, sections) in DOCUMENTS {
        let text = fs::read_to_string(repository(name)).unwrap();
        problems.extend(check(name, &text, sections, &values));
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// The problems of a document. A wrong number is corrected if an environment variable asks for it.
fn check(name: &str, text: &str, sections: &[&str], values: &Values) -> Vec<String> {
    let rendered = Document::parse(name, text).and_then(|document| {
        let problems = loose_numbers::find(name, &document, sections);
        Ok((document.render(values)?, problems))
    });
    let (rendered, mut problems) = match rendered {
        Ok(rendered) => rendered,
        Err(problems) => return problems,
    };
    let update = ["UPDATE_EXPECT", "UPDATE_RESULTS"].iter().any(|name| env::var_os(name).is_some());
    if rendered != text && update {
        fs::write(repository(name), rendered).unwrap();
    } else if rendered != text {
        let lines = (1..).zip(text.lines().zip(rendered.lines()));
        let first = lines.into_iter().find(|(_, (is, should))| is != should);
        let (line, is, should) = first.map_or((1, "", ""), |(line, (is, should))| (line, is, should));
        problems.push(format!("{name}:{line}: run `just paper-tables`: this line is\n  {is}\nand not\n  {should}"));
    }
    problems
}

/// Saves the results of all experiments. They must have run.
fn save_results(statistics: Hash) {
    let folder = repository("docs/results");
    fs::remove_dir_all(&folder).ok();
    fs::create_dir_all(&folder).unwrap();
    let mut cost = json!({});
    for (group, files) in experiments() {
        let mut stages: BTreeMap<String, f64> = BTreeMap::new();
        for file in files {
            let report = program(&["report", &file.display().to_string()]);
            let graph = report["graph"].as_array().unwrap();
            let missing = graph.iter().filter(|node| node["state"] != "done").count();
            assert_eq!(missing, 0, "{}: stages have not run: run `just paper-tables`", file.display());
            let kinds: BTreeSet<String> = graph.iter().map(|node| node["kind"].as_str().unwrap().to_string()).collect();
            let mut made_with = saved::dependencies(&file, &kinds, statistics);
            made_with["experiment"] = file.strip_prefix(repository("")).unwrap().display().to_string().into();
            made_with["ablate"] = env!("CARGO_PKG_VERSION").into();
            let mut result = json!({ "made_with": made_with, "tables": saved::tables(&report) });
            if file.ends_with("ratio.toml") {
                result["fit"] = json!({ "cot": fit(&file, &["--by", "prompt=cot"]), "both": fit(&file, &[]) });
            }
            let name = report["experiment"].as_str().unwrap();
            fs::write(folder.join(format!("{name}.json")), saved::render(&result)).unwrap();
            for stage in program(&["ls", &file.display().to_string()]).as_array().unwrap() {
                stages.insert(stage["record"].to_string(), stage["seconds"].as_f64().unwrap());
            }
        }
        let seconds: f64 = stages.values().sum();
        cost[group] =
            json!({ "stages": stages.len(), "seconds": seconds.round(), "minutes": (seconds / 6.0).round() / 10.0 });
    }
    fs::write(folder.join("cost.json"), saved::render(&cost)).unwrap();
}

/// What `ablate suggest` says about the mix ratios of an experiment: its error, and the best ratio.
fn fit(file: &Path, by: &[&str]) -> Value {
    let suggested = program(&[&["suggest", &file.display().to_string()], by].concat());
    let best: Vec<String> = suggested["best"]["shares"]
        .as_array()
        .unwrap()
        .iter()
        .map(|share| format!("{:.2}", share.as_f64().unwrap()))
        .collect();
    json!({ "leave_one_out": suggested["fit"]["leave_one_out"], "best": best.join("-") })
}

/// Runs the program in the repository and parses its output.
fn program(arguments: &[&str]) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ablate"));
    let output = command.args(arguments).arg("--json").current_dir(repository("")).output().unwrap();
    assert!(output.status.success(), "ablate {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}
