//! What ablate writes for other tools: event files, LaTeX, exported checkpoints, completions, manual pages. `tests/tools` reads the
//! same with the tools themselves.

use crate::caching::study;
use crate::support::{Project, assert_contains, command_stages};

#[test]
fn a_report_has_files_for_other_tools() {
    let project = study();
    project.append("study.toml", "\n[report.main]\n");
    project.ok(&["run", "study.toml", "--quiet"]);
    let events = std::fs::read(project.path("out/study/tensorboard/sft/events.out.tfevents.ablate")).unwrap();
    let written = |tag: &[u8]| events.windows(tag.len()).any(|window| window == tag);
    assert!(written(b"train/loss") && written(b"brain.Event:2"));
    assert_contains(
        &project.read("out/study/report.tex"),
        &["\\begin{table}", "\\label{tab:study-main}", "\\bottomrule"],
    );
    assert_eq!(project.read("out/study/contrasts.csv").lines().count(), 1);
    // A stage without a result any more has no run in TensorBoard.
    project.ok(&["report", "study.toml", "--set", "stage.sft.lr=0.5", "--out", "out/study", "--quiet"]);
    assert!(!project.path("out/study/tensorboard/sft").exists());
}

#[test]
fn an_exported_checkpoint_has_a_card() {
    let project = study();
    let refused = project.fails(2, &["export", "study.toml", "sft", "model"]);
    refused.stderr_has(&["`sft` has no up-to-date result: run `ablate run study.toml sft` first"]);
    project.ok(&["run", "study.toml", "--quiet"]);
    let printed = project.ok(&["export", "study.toml", "sft", "model"]).stdout;
    assert_eq!(printed, "wrote sft with its card into model\n");
    let card = project.read("model/README.md");
    assert!(card.starts_with("---\ntags: [\"ablate\",\"sft\"]\n---\n"), "{card}");
    assert_contains(
        &card,
        &["starts from `fresh`, a model with random weights", "| eval |", "    ablate run study.toml sft\n"],
    );
    assert!(!card.contains("[ROOT]") && !card.contains(&project.path("").display().to_string()), "{card}");
    let original = std::fs::read(project.path("out/study/sft/model/model.safetensors")).unwrap();
    assert_eq!(std::fs::read(project.path("model/model.safetensors")).unwrap(), original);
    // The copy is the user's: it can be changed, and the store stays valid.
    project.write("model/config.json", "{}");
    project.assert_store_is_valid();
    assert_eq!(project.json(&["plan", "study.toml"])["must_run"], 0);
    project.fails(2, &["export", "study.toml", "sft", "model"]).stderr_has(&["`model` already exists"]);
    project.fails(2, &["export", "study.toml", "mix", "other"]).stderr_has(&["`mix` has no checkpoint"]);
    assert!(!project.path("other").exists());
}

#[test]
fn a_card_of_the_checkpoint_itself_is_kept() {
    let project = Project::new();
    let write = "mkdir c; echo '{}' > c/config.json; echo theirs > c/README.md";
    project.write("study.toml", command_stages(&[("train", "", write, "'c'")]).replace("$RAN train; ", ""));
    project.ok(&["run", "study.toml"]);
    project.ok(&["export", "study.toml", "train", "model"]);
    assert_eq!(project.read("model/README.original.md"), "theirs\n");
    assert_contains(&project.read("model/README.md"), &["# study train", "had no scores"]);
}

/// The candidates for the last word of a line.
fn candidates(project: &Project, line: &[&str]) -> Vec<String> {
    let index = (line.len() - 1).to_string();
    let mut command = project.command(&[&["--"], line].concat());
    command.env("ABLATE_COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", index).env("_CLAP_IFS", "\n");
    project.finish(&mut command).exited(0).stdout.lines().map(str::to_string).collect()
}

#[test]
fn completions_are_names_of_the_experiment_on_the_line() {
    let project = study();
    project.append("study.toml", "\n[report.main]\n");
    assert_eq!(candidates(&project, &["ablate", "show", "study.toml", "s"]), ["sft"]);
    assert_eq!(candidates(&project, &["ablate", "run", "study.toml", "--only", "e"]), ["eval"]);
    assert_eq!(candidates(&project, &["ablate", "run", "st"]), ["study.toml"]);
    assert_eq!(candidates(&project, &["ablate", "report", "study.toml", "--report", ""]), ["main"]);
    assert_eq!(candidates(&project, &["ablate", "run", "study.toml", "--set", "stage.sft.l"]), ["stage.sft.lr="]);
    assert_eq!(candidates(&project, &["ablate", "schema", "che"]), ["checkpoint"]);
    assert_eq!(candidates(&project, &["ablate", "check", "missing.toml", "--js"]), ["--json"]);
    assert!(candidates(&project, &["ablate", "show", "missing.toml", "s"]).is_empty());
    // A store is not created by asking for its runs.
    assert_eq!(candidates(&project, &["ablate", "status", "lat"]), ["latest", "latest~1"]);
    assert!(!project.path("cache").exists());
    for shell in ["bash", "zsh", "fish"] {
        assert_contains(&project.ok(&["completions", shell]).stdout, &["ABLATE_COMPLETE"]);
    }
}

#[test]
fn every_command_has_a_manual_page() {
    let project = Project::new();
    project.ok(&["man", "pages"]);
    let page = project.read("pages/ablate-run.1");
    assert_contains(&page, &[".TH ablate-run 1", ".SH OPTIONS", "ablate run exp.toml"]);
    assert!(!project.path("pages/ablate-supervisor.1").exists());
    let pages = std::fs::read_dir(project.path("pages")).unwrap().count();
    let help = project.ok(&["--help"]).stdout;
    let commands = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let commands = commands.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   ")).count();
    // One page per command but `help`, and one of the program.
    assert_eq!(pages, commands);
}
