//! Stages that ask an endpoint: which replies are asked for again by the next attempt, and which never are.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;

use serde_json::{Value, json};

use super::data_kinds::Bench;
use ablate_core::base::{ErrorChain, files};
use ablate_data::records::{FinishReason, Item, JudgedItem, Score};

/// An endpoint that answers one request after another with these choices, and then says what it was asked.
fn endpoint(answers: Vec<Value>) -> (String, std::thread::JoinHandle<Vec<Value>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answer = move |choices: Value| {
        let mut stream = BufReader::new(listener.accept().unwrap().0);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") && stream.read_line(&mut head).unwrap() > 0 {}
        let length = head.to_lowercase().split_once("content-length: ").unwrap().1.lines().next().unwrap().parse();
        let mut question = vec![0; length.unwrap()];
        stream.read_exact(&mut question).unwrap();
        let body = json!({ "choices": choices }).to_string();
        let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.get_mut().write_all((head + &body).as_bytes()).unwrap();
        serde_json::from_slice(&question).unwrap()
    };
    (url, std::thread::spawn(move || answers.into_iter().map(answer).collect()))
}

fn choice(content: &str, finish: &str) -> Value {
    json!({ "message": { "content": content }, "finish_reason": finish })
}

fn good(answer: &str) -> Value {
    choice(&format!("Seen.\n### Answer: {answer}"), "stop")
}

fn nothing() -> Value {
    json!([{ "message": { "content": null }, "finish_reason": "stop" }])
}

/// A bench with so many items whose answer is 2.
fn bench(count: usize) -> Bench {
    let bench = Bench::new();
    let item = |number: usize| {
        let item = json!({ "dataset": "d", "question": "1 + 1?", "answer_type": "number", "answers": ["2"] });
        let mut item = item.as_object().unwrap().clone();
        item.insert("id".into(), json!(number.to_string()));
        format!("{}\n", Value::from(item))
    };
    files::write_atomic(&bench.path("items/items.jsonl"), (0..count).map(item).collect::<String>().as_bytes()).unwrap();
    bench
}

/// The table of a distillation that asks one question at a time.
fn table(url: &str, samples: usize) -> Value {
    json!({ "items": "items", "teacher": {
        "api": "openai", "url": url, "model": "m", "samples": samples, "concurrency": 1, "retries": 0,
    } })
}

#[test]
fn bad_replies_are_asked_for_again_by_the_next_attempt_and_good_ones_never() {
    let mut bench = bench(2);
    // Each attempt fails with another sort of bad replies; the good reply with another answer is asked for once.
    let attempts = [
        (vec![nothing(), nothing(), json!([good("3")])], "1 with another answer than the reference, 1 without a text"),
        (
            vec![json!([choice("It is", "length")])],
            "1 cut at the token limit, 1 with another answer than the reference",
        ),
        (
            vec![json!([choice("It is two.", "stop")])],
            "1 with another answer than the reference, 1 without a final answer",
        ),
        (
            vec![json!([choice("", "content_filter")]), json!([choice("", "content_filter")])],
            "1 held back by a content filter, 1 with another answer than the reference",
        ),
        (
            vec![json!([{ "message": { "refusal": "No." } }]), json!([{ "message": { "refusal": "No." } }])],
            "1 refused by the teacher, 1 with another answer than the reference",
        ),
    ];
    for (answers, expected) in attempts {
        let (url, thread) = endpoint(answers);
        let error = bench.run("kept", "distill", &table(&url, 1)).unwrap_err();
        assert_eq!(error.to_string(), format!("the teacher gave nothing to keep: {expected}"));
        assert!(!ErrorChain::of(&error).input, "another attempt may mend it");
        thread.join().unwrap();
    }
    let (url, thread) = endpoint(vec![json!([good("2")])]);
    bench.run("kept", "distill", &table(&url, 1)).unwrap();
    thread.join().unwrap();
    assert_eq!(bench.read::<Item>("kept/items.jsonl").len(), 1);
    let rejects: Vec<JudgedItem> = bench.read("kept/rejects.jsonl");
    assert_eq!((rejects.len(), rejects[0].item.id.as_str()), (1, "1"));
}

#[test]
fn of_several_samples_the_bad_ones_alone_are_asked_for_again() {
    let mut bench = bench(1);
    let (url, thread) = endpoint(vec![json!([good("3"), choice("It is", "length"), good("4")])]);
    bench.run("kept", "distill", &table(&url, 3)).unwrap_err();
    thread.join().unwrap();
    let (url, thread) = endpoint(vec![json!([good("2")])]);
    let summary = bench.run("kept", "distill", &table(&url, 3)).unwrap();
    assert_eq!(thread.join().unwrap()[0].get("n"), None);
    assert_eq!((summary.0["samples"].clone(), summary.0["kept"].clone()), (json!(3), json!(1)));
}

#[test]
fn good_replies_without_a_match_are_no_matter_of_trying_again() {
    let mut bench = bench(1);
    let (url, thread) = endpoint(vec![json!([good("3")])]);
    let error = bench.run("kept", "distill", &table(&url, 1)).unwrap_err();
    thread.join().unwrap();
    let expected = "the teacher gave nothing to keep: 1 with another answer than the reference";
    assert_eq!((error.to_string().as_str(), ErrorChain::of(&error).input), (expected, true));
}

#[test]
fn an_evaluated_model_that_gives_no_answer_is_counted() {
    let mut bench = bench(3);
    let cut = json!([choice("", "length")]);
    let (url, thread) = endpoint(vec![nothing(), nothing(), cut, json!([choice("2", "stop")])]);
    let model = json!({ "api": "openai", "url": url, "model": "m", "concurrency": 1, "retries": 0 });
    let summary =
        bench.run("score", "eval", &json!({ "model": model, "benchmark": "items", "prompt": "direct" })).unwrap();
    thread.join().unwrap();
    assert_eq!(summary.0["unanswered"], 1);
    let scores: Vec<Score> = bench.read("score/scores.jsonl");
    let told: Vec<(&str, FinishReason, f64)> =
        scores.iter().map(|score| (score.response.as_str(), score.finish, score.score)).collect();
    assert_eq!(told, [("", FinishReason::Stop, 0.0), ("", FinishReason::Length, 0.0), ("2", FinishReason::Stop, 1.0)]);
}

#[test]
fn an_address_that_holds_a_secret_or_more_than_a_base_is_refused() {
    let kind = ablate_core::stage::find_kind(crate::stages::KINDS, "distill").unwrap();
    let wrong = |url: &str| {
        let errors = (kind.parse)(&table(url, 1)).unwrap_err();
        errors.iter().map(|error| format!("{}: {}", error.path.join("."), error.message)).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(
        wrong("https://me:secret@host/v1"),
        "teacher.url: the address holds a user or a password: put a key into a variable and name it with `key_env`"
    );
    assert_eq!(
        wrong("https://host/v1?key=secret"),
        "teacher.url: the address holds a `?` or a `#`: it is a base, to which `/chat/completions` is added"
    );
    assert_eq!(wrong("host/v1"), "teacher.url: the address begins with neither `http://` nor `https://`");
}
