//! Evaluation of models behind an endpoint with different system prompts.

use crate::support::{Project, chat_response, endpoint};

#[test]
fn list_of_models_may_contain_endpoints() {
    let project = Project::new();
    let (url, thread) = endpoint(6, |_| chat_response("2"));
    let remote = |name: &str, system: &str| {
        format!(r#"{{ name = "{name}", api = "openai", url = "{url}", model = "m", system = "{system}" }}"#)
    };
    project.write(
        "study.toml",
        format!(
            r#"
[stage.questions]
kind = "items"
synthetic = {{ datasets = ["count"], split = "test", count = 3 }}

[stage.score]
kind = "eval"
benchmark = "questions"
prompt = "direct"
model = [{}, {}]
"#,
            remote("lax", "Answer."),
            remote("strict", "One number.")
        ),
    );
    assert_eq!(project.ran_instances(&["study.toml"]), ["questions", "score@model=lax", "score@model=strict"]);
    let requests = thread.join().unwrap();
    let mut systems: Vec<&str> = requests.iter().map(|body| body["messages"][0]["content"].as_str().unwrap()).collect();
    systems.sort_unstable();
    assert_eq!(systems, ["Answer.", "Answer.", "Answer.", "One number.", "One number.", "One number."]);
    assert_eq!(project.read("out/study/score@model=strict/scores.jsonl").lines().count(), 3);
    assert_eq!(project.ran_instances(&["study.toml"]), Vec::<String>::new());
}

#[test]
fn blind_endpoint_receives_only_the_text() {
    let project = Project::new();
    let (url, thread) = endpoint(2, |_| chat_response("2"));
    project.write(
        "study.toml",
        format!(
            r#"
[stage.questions]
kind = "items"
synthetic = {{ datasets = ["count"], split = "test", count = 1 }}

[stage.score]
kind = "eval"
benchmark = "questions"
model = {{ name = "m", api = "openai", url = "{url}", model = "m" }}

[axis.image]
key = "stage.score.image"
values = ["given", "none"]
"#
        ),
    );
    assert_eq!(project.ran_instances(&["study.toml"]), ["questions", "score@image=given", "score@image=none"]);
    let mut images: Vec<bool> =
        thread.join().unwrap().iter().map(|body| body.to_string().contains("image_url")).collect();
    images.sort_unstable();
    assert_eq!(images, [false, true]);
    // The score names the item's image in both.
    for image in ["given", "none"] {
        assert!(project.read(&format!("out/study/score@image={image}/scores.jsonl")).contains("\"image\":"));
    }
}

#[test]
fn rollouts_of_an_endpoint_are_judged_by_a_model() {
    let project = Project::new();
    let respond = |request: &serde_json::Value| {
        let is_judge = request["model"] == "judge";
        let prompt = request["messages"].to_string();
        chat_response(match (is_judge, prompt.contains("Response: USA")) {
            (false, _) => "Seen.\n### Answer: USA",
            (true, true) => "Verdict: correct",
            (true, false) => "Verdict: wrong",
        })
    };
    // Two samples of one question, which the server sends one by one; the judge sees the answer once.
    let (url, thread) = endpoint(3, respond);
    project.write("rows.jsonl", r#"{"id": "1", "answer": "United States", "answer_type": "text", "conversations": [{"from": "human", "value": "Where?"}, {"from": "gpt", "value": "United States"}]}"#);
    project.write(
        "study.toml",
        format!(
            r#"
[stage.questions]
kind = "items"
path = "rows.jsonl"

[stage.sampled]
kind = "rollout"
items = "questions"
samples = 2
model = {{ api = "openai", url = "{url}", model = "policy" }}

[stage.judged]
kind = "judge"
rollouts = "sampled"
model = {{ api = "openai", url = "{url}", model = "judge" }}
"#
        ),
    );
    assert_eq!(project.ran_instances(&["study.toml"]), ["judged", "questions", "sampled"]);
    assert_eq!(thread.join().unwrap()[2]["model"], "judge");
    let judged = project.read("out/study/judged/judged.jsonl");
    assert_eq!(judged.matches("\"correct\":true").count(), 2);
    assert_eq!(project.ran_instances(&["study.toml"]), Vec::<String>::new());
}

#[test]
fn baselines_are_rows_next_to_a_model() {
    let project = Project::new();
    let row = |id: usize, question: &str, answer: &str| {
        format!(
            r#"{{"id": "{id}", "dataset": "yesno", "answer": "{answer}", "answer_type": "text", "conversations": [{{"from": "human", "value": "{question}"}}, {{"from": "gpt", "value": "{answer}"}}]}}"#
        )
    };
    let rows = |answers: &[&str], question: &str| {
        let lines = answers.iter().enumerate().map(|(id, answer)| row(id, &format!("{question} {id}?"), answer) + "\n");
        lines.collect::<String>()
    };
    project.write("train.jsonl", rows(&["yes", "no", "yes"], "Was it"));
    project.write("test.jsonl", rows(&["yes", "yes", "no", "yes"], "Is it"));
    let (url, thread) = endpoint(4, |_| chat_response("no"));
    project.write(
        "study.toml",
        format!(
            r#"
[stage.train]
kind = "items"
path = "train.jsonl"

[stage.test]
kind = "items"
path = "test.jsonl"

[stage.score]
kind = "eval"
benchmark = "test"
model = {{ name = "remote", api = "openai", url = "{url}", model = "m" }}

[axis.given]
variants.image = {{}}
variants.answers = {{ "stage.score.model" = {{ baseline = "most-frequent", items = "train" }} }}

[report.main]
rows = ["given"]
"#
        ),
    );
    project.ok(&["run", "study.toml"]);
    thread.join().unwrap();
    let accuracy = |given: &str| {
        let metrics = project.read(&format!("out/study/score@given={given}/metrics.json"));
        serde_json::from_str::<serde_json::Value>(&metrics).unwrap()["accuracy"].as_f64().unwrap()
    };
    // Three of four answers are `yes`, the most frequent answer of the training questions.
    assert_eq!((accuracy("image"), accuracy("answers")), (0.25, 0.75));
    project.ok(&["report", "study.toml"]);
    let report = project.read("out/study/report.md");
    let line = |name: &str| report.lines().find(|line| line.starts_with(&format!("| {name} "))).unwrap_or_default();
    assert!(line("answers").contains("75.0") && line("image").contains("25.0"), "{report}");
}
