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
