//! The studies of the paper: planned at full scale, and run in miniature.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Project, assert_contains, entries, repository};

#[path = "../../experiments/paper/make_stand_in.rs"]
mod stand_in;

/// Name of a study, where the paper has it, and the number of training runs of its table.
const STUDIES: [(&str, &str, u64); 18] = [
    ("mixes", "tables 2, C.1", 4),
    ("chart", "section 3", 2),
    ("math", "table 3 (v1)", 10),
    ("science", "table 4 (v1)", 5),
    ("per-dataset", "table F.1", 27),
    ("dpo", "table 6 (v1)", 3),
    ("truncation", "appendix I", 9),
    ("rft", "RFT table (v1)", 10),
    ("self-taught", "table D.1 (v1)", 2),
    ("verifier", "figure 6 (v1)", 3),
    ("credit", "token-level credit", 2),
    ("prompts", "appendix B", 0),
    ("ratio", "not in the paper", 15),
    ("significance", "table 6 (v1), reviews", 6),
    ("text-only", "reviews", 2),
    ("failures", "reviews", 2),
    ("sensitivity", "reviews", 8),
    ("budget", "reviews", 10),
];

/// A miniature of the tiny experiments: one data set is used for everything, so that a small model learns some of it.
const MINI: &str = r#"
[vars]
chart        = "count"
commonsense  = "count"
ai2d         = "count"
sqa          = "count"
mathvision   = ["count"]
gllava       = ["count"]
mathvista    = "count"
math_domain  = ["count"]
dpo_domains  = ["count"]
tasks        = [["count"]]
verified     = ["count"]
format_rows  = 20
text_50k     = 10
text_100k    = 20
small_epochs = 12
ratio_rows   = 150
lengths      = [{ words = 1 }, { words = 2 }, { words = 4 }, "none"]
ns           = [1, 4]
max_tokens   = 32
mix_steps    = 100
more_steps   = 10
seeds        = [0]
[stage.captions.synthetic]
count = 80
[stage.lists.synthetic]
count = 80
[stage.texts.synthetic]
count = 40
[stage.words.synthetic]
count = 8
[stage.fresh.model]
vision    = { dim = 16, layers = 1, heads = 2, ff = 32 }
projector = { hidden = 16 }
decoder   = { dim = 32, layers = 1, heads = 2, kv_heads = 1, ff = 64 }
[stage.base]
steps = 26
[stage.direct]
synthetic = { datasets = ["count"], count = 200 }
[stage.general.synthetic]
count = 10
[stage.reading.synthetic]
count = 20
[stage.sft]
epochs = 12
lr     = 5e-3
[stage.star]
epochs = 12
lr     = 5e-3
[stage.prompts]
synthetic = { datasets = ["count"], count = 40 }
[stage.rollouts]
samples = 4
[stage.rlaifv]
judged = "judged"
band   = [0.2, 0.9]
[stage.bench]
synthetic = { datasets = ["count"], count = 20 }
[stage.candidates]
samples = 4
"#;

/// A folder with the studies, both bases and the recipes.
fn studies() -> Project {
    let project = Project::new();
    for folder in ["studies", "paper", "tiny", "recipes"] {
        for path in entries(repository("experiments").join(folder)) {
            if ["toml", "py", "yaml"].iter().any(|known| path.extension().is_some_and(|ending| ending == *known)) {
                let name = path.file_name().unwrap().to_string_lossy();
                project.write(&format!("{folder}/{name}"), fs::read(&path).unwrap());
            }
        }
    }
    project
}

/// A tiny study with the settings of `MINI`.
fn miniature(study: &str) -> Project {
    let project = studies();
    // The study of budgets sets the steps of `sft`, which excludes `epochs`.
    let mini = if study == "budget" {
        MINI.replacen("[stage.sft]\nepochs = 12", "[stage.sft]\nsteps  = 100", 1)
    } else {
        MINI.to_string()
    };
    project.write("mini.toml", mini);
    let text = format!("name = \"{study}\"\nextends = [\"tiny/base.toml\", \"mini.toml\", \"studies/{study}.toml\"]\n");
    project.write("study.toml", text);
    project
}

/// Counts of `ablate plan` for the paper's experiments: of each study, and of all together.
pub(crate) fn plan_counts() -> Value {
    let project = studies();
    stand_in::make(&project.path("paper/data")).unwrap();
    let files: Vec<String> = STUDIES.iter().map(|(name, _, _)| format!("paper/{name}.toml")).collect();
    let arguments: Vec<&str> = ["plan"].into_iter().chain(files.iter().map(String::as_str)).collect();
    let mut plan = project.json(&arguments);
    let printed = plan["experiments"].as_array().unwrap();
    let studies = STUDIES.iter().zip(printed).map(|((name, source, _), printed)| {
        let mut counts = json!({ "source": source, "instances": printed["instances"].as_array().unwrap().len() });
        for count in ["points", "instances_alone", "trainings"] {
            counts[count] = printed[count].clone();
        }
        ((*name).to_string(), counts)
    });
    let studies: Value = studies.collect();
    let files =
        STUDIES.iter().map(|(name, _, _)| format!("studies/{name}.toml")).chain(["paper/base.toml".to_string()]);
    let lines: usize = files.map(|name| project.read(&name).lines().count()).sum();
    json!({ "count": STUDIES.len(), "lines": lines, "studies": studies, "together": plan["together"].take() })
}

#[test]
fn paper_plan_shares_equal_trainings() {
    let plan = plan_counts();
    for (name, _, trainings) in STUDIES {
        assert_eq!(plan["studies"][name]["trainings"], trainings, "{name}");
    }
    // 37 for the recovered tables, 27 for table F.1, one of them in both (short answers of ChartQA alone), and 15 for
    // our ratio study. Two more seeds, other settings of DPO, and equal steps.
    assert_eq!(plan["together"]["different_trainings"], 37 + 27 - 1 + 15 + 4 + 6 + 7);
}

#[test]
fn paper_and_tiny_differ_in_what_they_extend() {
    for (name, _, _) in STUDIES {
        let [paper, tiny] = ["paper", "tiny"].map(|scale| {
            let text = fs::read_to_string(repository("experiments").join(format!("{scale}/{name}.toml"))).unwrap();
            text.replace(&format!("\"{scale}-{name}\""), "NAME")
        });
        assert_eq!(paper, tiny, "{name}");
        assert!(paper.contains("extends = [\"base.toml\", \"../studies/"), "{name}");
    }
}

#[test]
fn distillation_of_the_paper_is_planned_with_its_price() {
    let project = studies();
    stand_in::make(&project.path("paper/data")).unwrap();
    project.ok(&["run", "recipes/distill.toml", "--until", "direct"]);
    let plan = project.json(&["plan", "recipes/distill.toml"]);
    let total = &plan["requests"]["total"];
    let requests = total["requests"].as_u64().unwrap();
    assert_eq!(requests, project.read("out/paper-distill/direct/items.jsonl").lines().count() as u64);
    let cost = |bound: &str| total["cost"]["USD"][bound].as_f64().unwrap();
    // At most 1,024 tokens of a reply at half of 15 dollars per million.
    assert!(cost("low") > 0.0 && cost("low") < cost("expected"));
    assert!(cost("expected") < cost("high") && cost("high") < requests as f64 * 0.015);
}

#[test]
fn recipes_plan_at_the_scale_of_the_paper() {
    let project = studies();
    stand_in::make(&project.path("paper/data")).unwrap();
    project.ok(&["check", "paper/trl.toml"]);
    let plan = project.json(&["plan", "paper/trl.toml"]);
    let mut names: Vec<&str> =
        plan["instances"].as_array().unwrap().iter().filter_map(|instance| instance["name"].as_str()).collect();
    names.sort_unstable();
    let expected = [
        "base",
        "bench",
        "cot",
        "direct",
        "eval@model=trl_dpo-model,prompt=cot",
        "eval@model=trl_dpo-model,prompt=direct",
        "eval@model=trl_sft-model,prompt=cot",
        "eval@model=trl_sft-model,prompt=direct",
        "general",
        "judged",
        "mix",
        "pairs",
        "reading",
        "trl_dpo",
        "trl_sft",
        "vllm_rollout",
    ];
    assert_eq!(names, expected);
}

#[test]
fn training_studies_run_in_miniature() {
    for study in ["mixes", "chart", "math", "science", "per-dataset", "ratio"] {
        let project = miniature(study);
        let first = project.ok(&["run", "study.toml"]);
        assert!(first.stdout.contains('%') || first.stdout.contains("percent"), "{study}:\n{}", first.stdout);
        assert_eq!(project.ran_instances(&["study.toml"]), Vec::<String>::new(), "{study}");
        if study == "ratio" {
            let fit = project.json(&["suggest", "study.toml", "--by", "prompt=cot", "-n", "2"]);
            assert_eq!(fit["parts"], Value::from(["cot", "direct", "reading"].map(Value::from).to_vec()));
            assert_eq!(fit["suggestions"].as_array().unwrap().len(), 2);
            let text = project.ok(&["suggest", "study.toml"]).stdout;
            assert_contains(&text, &["leave-one-out error", "try next 1"]);
        }
    }
}

#[test]
fn preference_studies_run_in_miniature() {
    for study in ["dpo", "rft", "self-taught", "verifier", "credit", "prompts"] {
        let project = miniature(study);
        project.ok(&["run", "study.toml"]);
        assert_eq!(project.ran_instances(&["study.toml"]), Vec::<String>::new(), "{study}");
        let page = project.read(&format!("out/{study}/report.html"));
        assert_eq!(page.contains("log-ratio"), ["verifier", "credit"].contains(&study), "{study}");
    }
}

#[test]
fn studies_of_reviewers_questions_run_in_miniature() {
    for study in ["significance", "text-only", "failures", "sensitivity", "budget"] {
        let project = miniature(study);
        let first = project.ok(&["run", "study.toml"]);
        assert!(first.stdout.contains("contrasts"), "{study}:\n{}", first.stdout);
        assert_eq!(project.ran_instances(&["study.toml"]), Vec::<String>::new(), "{study}");
    }
}

#[test]
fn changed_length_reruns_only_its_instances() {
    let project = miniature("truncation");
    project.ok(&["run", "study.toml"]);
    project.edit("mini.toml", "{ words = 2 }", "{ words = 3 }");
    let names = project.ran_instances(&["study.toml"]);
    let stages: Vec<&str> = names.iter().filter_map(|name| name.split('@').next()).collect();
    assert!(names.iter().all(|name| name.contains("length=cut")), "{names:?}");
    // The two domains are the same data set here, so their pairs and models are equal and computed once; two prompts.
    assert_eq!(stages, ["dpo", "eval", "eval", "pairs"], "{names:?}");
}

#[test]
fn contamination_is_reported() {
    let project = miniature("chart");
    project.append("study.toml", "[stage.eval]\nbenchmark = \"direct\"\ntake = { first = 20 }\n");
    let printed = project.ok(&["run", "study.toml"]).stdout;
    let printed = printed.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_contains(&printed, &["evaluates a model on its training data: image and question of 20 of 20 items"]);
}

#[test]
fn select_on_reported_items_is_refused() {
    for (on, reason) in [
        ("prompt=cot", "would be selected on `bench`, which the table reports"),
        ("dataset=count", "`dataset` is not an axis"),
    ] {
        let project = miniature("truncation");
        let report = format!("[report.main]\nselect = {{ axis = \"length\", on = \"{on}\" }}\n");
        project.append("study.toml", &report).fails(2, &["check", "study.toml"]).stderr_has(&[reason]);
    }
}
