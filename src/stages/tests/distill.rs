//! Distillation: prompts, filters, more samples, several teachers, and the report of what was dropped.

use serde_json::{Value, json};

use super::support::{Runner, choice, endpoint, mistakes, parse};
use ablate_core::base::ErrorChain;
use ablate_data::records::{Item, JudgedItem};

fn answer(text: &str) -> Value {
    json!([choice(&format!("Seen.\n### Answer: {text}"), "stop")])
}

/// The table of a teacher with one request at a time.
fn teacher(url: &str, more: &Value) -> Value {
    let mut table = json!({ "api": "openai", "url": url, "model": "m", "concurrency": 1, "patience_seconds": 0 });
    table.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    table
}

/// A runner with questions that differ, all with the answer 2.
fn runner(count: usize) -> Runner {
    let runner = Runner::new();
    let item = |number: usize| {
        let dataset = if number.is_multiple_of(2) { "even" } else { "odd" };
        let question = format!("Question {number}?");
        let answer_type = if number.is_multiple_of(2) { "number" } else { "text" };
        let item = json!({
            "id": number.to_string(), "dataset": dataset, "question": question, "answer_type": answer_type, "answers": ["2"],
        });
        format!("{item}\n")
    };
    runner.write("items/items.jsonl", &(0..count).map(item).collect::<String>());
    runner
}

fn system(request: &Value) -> &str {
    request["messages"][0]["content"].as_str().unwrap()
}

fn turn(request: &Value) -> &str {
    request["messages"][1]["content"].as_str().unwrap()
}

#[test]
fn data_sets_have_their_own_prompts_and_hints() {
    let mut runner = runner(2);
    let (url, thread) = endpoint(vec![answer("2"), answer("2")]);
    let datasets = json!({ "odd": { "system": "Be odd.", "hint": false } });
    let table = json!({ "items": "items", "teacher": teacher(&url, &json!({ "datasets": datasets })) });
    runner.run("kept", "distill", &table).unwrap();
    let requests = thread.join().unwrap();
    assert!(system(&requests[0]).starts_with("You explain how to find the answer to a question. "));
    assert!(turn(&requests[0]).contains("Reference answer: 2"));
    assert_eq!(system(&requests[1]), "Be odd.");
    assert!(!turn(&requests[1]).contains("Reference"), "{}", turn(&requests[1]));
    // A misspelt data set is an error.
    let datasets = json!({ "odds": { "hint": false } });
    let table = json!({ "items": "items", "teacher": teacher(&url, &json!({ "datasets": datasets })) });
    let error = runner.run("wrong", "distill", &table).unwrap_err();
    assert!(ErrorChain::of(&error).input);
    assert_eq!(
        error.to_string(),
        "`teacher.datasets` names `odds`, but no item is of this data set; the items have `even`, `odd`"
    );
}

#[test]
fn hint_and_instruction_must_agree() {
    let wrong =
        |more: Value| mistakes("distill", &json!({ "items": "a", "teacher": teacher("http://x", &more) })).join("\n");
    assert_eq!(
        wrong(json!({ "hint": false, "instruction": "{question} {answer}" })),
        "teacher.hint: `hint = false` keeps the reference answer from the teacher, but the instruction has `{answer}`"
    );
    assert_eq!(
        wrong(json!({ "instruction": "{question}", "datasets": { "a": { "hint": true } } })),
        "teacher.datasets.a.hint: `hint = true` gives the teacher the reference answer, but the instruction has no `{answer}`"
    );
    parse("distill", &json!({ "items": "a", "teacher": teacher("http://x", &json!({ "instruction": "{question}" })) }));
}

#[test]
fn rejected_items_are_asked_for_another_sample() {
    let mut runner = runner(3);
    let (url, thread) = endpoint(vec![answer("2"), answer("3"), answer("4"), answer("2"), answer("5"), answer("6")]);
    let table = |resample: u64| json!({ "items": "items", "resample": resample, "teacher": teacher(&url, &json!({})) });
    let summary = runner.run("kept", "distill", &table(2)).unwrap();
    // Item 1 is right the second time; item 2 is asked three times.
    assert_eq!(thread.join().unwrap().len(), 6);
    assert_eq!((&summary.0["samples"], &summary.0["kept"]), (&json!(6), &json!(2)));
    let kept: Vec<Item> = runner.read("kept/items.jsonl");
    assert_eq!(kept.iter().map(|item| item.id.as_str()).collect::<Vec<_>>(), ["0", "1"]);
    // All of it is in the store of replies.
    let summary = runner.run("again", "distill", &table(2)).unwrap();
    assert_eq!((&summary.0["requests"]["sent"], &summary.0["requests"]["stored"]), (&json!(0), &json!(6)));
    let oracle = json!({ "items": "a", "resample": 1, "teacher": { "api": "oracle" } });
    assert_eq!(
        mistakes("distill", &oracle),
        ["resample: the oracle has one response to an item: `resample` is for endpoints"]
    );
}

#[test]
fn answer_types_have_their_own_filter() {
    let mut runner = runner(2);
    let (url, thread) = endpoint(vec![answer("3"), answer("3")]);
    let table = json!({ "items": "items", "keep": { "text": "all" }, "teacher": teacher(&url, &json!({})) });
    runner.run("kept", "distill", &table).unwrap();
    thread.join().unwrap();
    let kept: Vec<Item> = runner.read("kept/items.jsonl");
    assert_eq!(kept.iter().map(|item| item.id.as_str()).collect::<Vec<_>>(), ["1"]);
    let wrong =
        mistakes("distill", &json!({ "items": "a", "keep": { "texts": "all" }, "teacher": { "api": "oracle" } }));
    assert!(wrong[0].starts_with("keep.texts") || wrong[0].starts_with("keep"), "{wrong:?}");
}

#[test]
fn teachers_must_agree() {
    let mut runner = runner(3);
    let (one, first) = endpoint(vec![answer("2"), answer("7"), answer("8")]);
    let (other, second) = endpoint(vec![answer("2"), answer("7"), answer("9")]);
    let teachers = json!([teacher(&one, &json!({})), teacher(&other, &json!({ "model": "n" }))]);
    let table = json!({ "items": "items", "keep": "all", "agreement": 2, "teacher": teachers });
    let summary = runner.run("kept", "distill", &table).unwrap();
    let requests = [first, second].map(|thread| thread.join().unwrap());
    assert_eq!(requests.map(|requests| requests[0]["model"].clone()), [json!("m"), json!("n")]);
    let kept: Vec<Item> = runner.read("kept/items.jsonl");
    assert_eq!(kept.iter().map(|item| item.id.as_str()).collect::<Vec<_>>(), ["0", "0#2", "1", "1#2"]);
    assert_eq!(summary.0["rejected"], json!({ "with an answer that too few teachers give": 2 }));
    let wrong = |more: Value| {
        let mut table = json!({ "items": "a", "teacher": teacher("http://x", &json!({})) });
        table.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        mistakes("distill", &table).join("\n")
    };
    assert_eq!(
        wrong(json!({ "agreement": 2 })),
        "agreement: 2 teachers must agree, but `teacher` names 1: write a list of tables"
    );
    assert_eq!(
        wrong(json!({ "agreement": 1 })),
        "agreement: `agreement` is the number of teachers that must agree: at least 2"
    );
    assert_eq!(wrong(json!({ "teacher": [] })), "teacher: the list of teachers is empty");
    let second = json!({ "teacher": [teacher("http://x", &json!({})), { "api": "openai", "url": "http://x" }] });
    assert_eq!(wrong(second), "teacher.1.model: the api `openai` needs a `model`");
}

#[test]
fn summary_shows_what_was_dropped_and_doubtful_labels() {
    let mut runner = runner(4);
    let replies = [answer("2"), answer("two"), answer("3"), json!([choice("It is two.", "stop")])];
    let (url, thread) = endpoint(replies.to_vec());
    let table = json!({ "items": "items", "teacher": teacher(&url, &json!({})) });
    let summary = runner.run("kept", "distill", &table).unwrap();
    thread.join().unwrap();
    let another = "with another answer than the reference";
    let dropped = &summary.0["dropped"];
    assert_eq!((&dropped["even"][another]["count"], &dropped["odd"][another]["count"]), (&json!(1), &json!(1)));
    assert_eq!(
        dropped["odd"]["without a final answer"]["examples"],
        json!([{ "id": "3", "reference": "2", "answer": null, "text": "It is two." }])
    );
    let doubtful = &summary.0["doubtful_labels"];
    assert_eq!(doubtful["items"], json!(2));
    assert_eq!((&doubtful["first"][0]["id"], &doubtful["first"][0]["answer"]), (&json!("1"), &json!("two")));
    let warnings: Vec<&str> = summary.warnings().collect();
    assert_eq!(warnings, ["bad replies: 1 form; the key `retry` or `ablate retry --bad` requests them again"]);
    assert_eq!(runner.read::<JudgedItem>("kept/rejects.jsonl").len(), 3);
}
