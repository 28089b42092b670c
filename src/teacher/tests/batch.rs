//! Batches against a server of this process.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::batch_server::{BatchServer, LineOutcome, question};
use super::body;
use crate::teacher::{
    Answer, BatchConfig, BatchLimits, Batches, Budget, Client, ClientConfig, DispatchConfig, KeyedAnswer,
    KeyedRequests, Prices, RequestList, Spending,
};
use ablate_core::base::{Detached, ErrorChain, Hash, Progress, RequestProgress, StageEvent, files};
use ablate_store::Fault;

const KEY: &str = "sk-test-0123456789";

/// A server, a store of replies, and the messages of all stages so far.
struct Setup {
    server: BatchServer,
    folder: tempfile::TempDir,
    answers: RefCell<BTreeMap<Hash, (Timestamp, Answer)>>,
    messages: Mutex<Vec<String>>,
    config: BatchConfig,
}

fn key(request: usize) -> Hash {
    Hash::of_bytes(format!("key {request}").as_bytes())
}

/// The answers in memory.
struct Memory<'a>(&'a RefCell<BTreeMap<Hash, (Timestamp, Answer)>>);

impl RequestList for Memory<'_> {
    fn body(&self, request: usize, samples: usize) -> Result<Vec<u8>> {
        body(request, samples)
    }

    fn prompt_tokens(&self, _request: usize) -> u64 {
        10
    }

    fn label(&self, request: usize) -> String {
        format!("item `{request}`")
    }
}

impl KeyedRequests for Memory<'_> {
    fn open_keys(&self, request: usize) -> Vec<Hash> {
        let key = key(request);
        if self.0.borrow().contains_key(&key) { Vec::new() } else { vec![key] }
    }

    fn is_stored(&self, key: Hash, since: Timestamp) -> bool {
        self.0.borrow().get(&key).is_some_and(|(at, _)| *at >= since)
    }

    fn store(&self, answers: Vec<KeyedAnswer>) -> Result<()> {
        for KeyedAnswer { key, answer, .. } in answers {
            assert!(self.0.borrow_mut().insert(key, (Timestamp::now(), answer)).is_none(), "stored twice");
        }
        Ok(())
    }
}

impl Setup {
    fn new() -> Setup {
        let requests = DispatchConfig {
            concurrency: 1,
            patience: Duration::from_secs(20),
            requests_per_minute: None,
            tokens_per_minute: None,
            prices: None,
            budget: Budget::default(),
            max_tokens: 64,
        };
        let config =
            BatchConfig { requests, poll: Duration::from_millis(5), limits: BatchLimits::default(), detach: false };
        Setup {
            server: BatchServer::new(),
            folder: tempfile::tempdir().unwrap(),
            answers: RefCell::default(),
            messages: Mutex::default(),
            config,
        }
    }

    /// A server whose answers depend on the number of the request and of the batch.
    fn with(respond: fn(&str, usize) -> LineOutcome) -> Setup {
        let setup = Setup::new();
        setup.server.state().respond = Box::new(move |line, batch| respond(question(line), batch));
        setup
    }

    /// Runs a stage with the first `count` requests.
    fn run(&self, count: usize) -> Result<RequestProgress> {
        let config = ClientConfig {
            url: self.server.url.clone(),
            api_version: None,
            key_env: Some("KEY".into()),
            timeout: Duration::from_secs(20),
            max_tokens: 64,
        };
        let client = Client::new(config, &BTreeMap::from([("KEY".to_string(), KEY.to_string())])).unwrap();
        let source = Memory(&self.answers);
        let open: Vec<usize> = (0..count).filter(|request| !source.open_keys(*request).is_empty()).collect();
        let progress = Messages(&self.messages);
        let batches = Batches {
            client: &client,
            config: &self.config,
            source: &source,
            progress: &progress,
            spent: Spending { requests: (count - open.len()) as u64, ..Spending::default() },
            done: (count - open.len()) as u64,
            total: count as u64,
            replies: &self.folder.path().join("cache/replies"),
            scratch: &self.folder.path().join("scratch"),
        };
        batches.run(&open)
    }

    fn error(&self, count: usize) -> (String, bool) {
        let error = self.run(count).unwrap_err();
        (format!("{error:#}"), ErrorChain::of(&error).input)
    }

    /// The texts of the first `count` replies.
    fn texts(&self, count: usize) -> Vec<String> {
        let answers = self.answers.borrow();
        (0..count)
            .map(|request| answers.get(&key(request)).map_or("-".into(), |(_, a)| a.choice.text.clone()))
            .collect()
    }

    fn messages(&self) -> String {
        self.messages.lock().unwrap().join("\n")
    }

    /// The sizes of the batches.
    fn sizes(&self) -> Vec<usize> {
        let state = self.server.state();
        let inputs = state.batches.iter().filter_map(|batch| batch.request["input_file_id"].as_str());
        inputs.map(|file| state.files[file].lines().count()).collect()
    }

    /// The files of submitted batches whose results are not stored.
    fn state_files(&self) -> Vec<PathBuf> {
        let folder = std::fs::read_dir(self.folder.path().join("cache/replies/batches")).unwrap();
        let files = folder.map(|entry| entry.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|extension| extension == "json")).collect()
    }

    fn states(&self) -> usize {
        self.state_files().len()
    }

    fn assert_complete(&self, count: usize) {
        let expected: Vec<String> = (0..count).map(|request| format!("Question {request}?")).collect();
        assert_eq!(self.texts(count), expected);
        let state = self.server.state();
        assert_eq!((state.paid.len(), state.paid.values().max()), (count, Some(&1)));
        assert_eq!(self.states(), 0);
    }
}

struct Messages<'a>(&'a Mutex<Vec<String>>);

impl Progress for Messages<'_> {
    fn emit(&self, event: StageEvent) {
        if let StageEvent::Choice { text } = event {
            self.0.lock().unwrap().push(text);
        }
    }
}

fn reply(text: &str) -> LineOutcome {
    LineOutcome::Reply(text.to_string())
}

#[test]
fn batch_is_submitted_awaited_and_stored_at_its_price() {
    let mut setup = Setup::new();
    let prices = Prices { input: 1e5, cached_input: None, output: 1e5, batch: 0.5, currency: "USD".into() };
    setup.config.requests.prices = Some(prices.of_batch());
    setup.server.state().polls = 3;
    let counts = setup.run(5).unwrap();
    setup.assert_complete(5);
    // 30 tokens at half of 0.1 USD.
    assert_eq!((counts.received, counts.tokens, counts.cost.unwrap().amount), (5, 150, 7.5));
    let (_, answer) = setup.answers.borrow()[&key(0)].clone();
    assert_eq!((answer.usage.cost["USD"], answer.served.as_deref()), (1.5, Some("m-1")));
    let state = setup.server.state();
    assert_eq!(setup.messages(), "batch `batch_1` with 5 requests is submitted");
    assert_eq!(state.calls[..3], ["POST /v1/files", "POST /v1/batches", "GET /v1/batches/batch_1"]);
    let input = &state.files["file-0"];
    let first: Value = serde_json::from_str(input.lines().next().unwrap()).unwrap();
    let messages = json!([
        { "role": "system", "content": "Be brief." },
        { "role": "user", "content": "Question 0?" },
    ]);
    let body = json!({ "model": "teacher", "temperature": 0.5, "max_tokens": 64, "messages": messages });
    let expected = json!({ "custom_id": key(0), "method": "POST", "url": "/v1/chat/completions", "body": body });
    assert_eq!(first, expected);
    let request = &state.batches[0].request;
    assert_eq!((&request["endpoint"], &request["completion_window"]), (&json!("/v1/chat/completions"), &json!("24h")));
    assert_eq!(request["metadata"]["ablate"], json!(Hash::of_bytes(input.as_bytes())));
}

#[test]
fn unanswered_requests_are_submitted_three_times() {
    let setup = Setup::with(|text, batch| match text {
        "Question 1?" if batch == 1 => LineOutcome::Status(429),
        "Question 2?" if batch <= 2 => LineOutcome::Status(500),
        text => reply(text),
    });
    setup.run(4).unwrap();
    setup.assert_complete(4);
    assert_eq!(setup.sizes(), [4, 2, 1]);
    let setup = Setup::with(|text, _| if text == "Question 1?" { LineOutcome::Status(503) } else { reply(text) });
    let (message, input) = setup.error(3);
    let expected = "1 requests have no reply after 3 batches; the replies to the others are kept\nitem `1`: the endpoint returned \
                    503 Service Unavailable: {\"error\":{\"message\":\"no\"}}\nhelp: the same command submits only these again";
    assert_eq!((message.as_str(), input), (expected, false));
    assert_eq!((setup.sizes(), setup.states()), (vec![3, 1, 1], 0));
}

#[test]
fn rejected_request_is_a_bad_reply_if_others_are_answered() {
    let setup = Setup::with(|text, _| if text == "Question 0?" { LineOutcome::Status(400) } else { reply(text) });
    assert_eq!(setup.run(3).unwrap().bad, 1);
    let (_, rejected) = setup.answers.borrow()[&key(0)].clone();
    assert_eq!(rejected.choice.fault, Some(Fault::Rejected));
    assert!(rejected.choice.text.starts_with("the endpoint returned 400 Bad Request"), "{}", rejected.choice.text);
    let setup = Setup::with(|_, _| LineOutcome::Status(404));
    let (message, input) = setup.error(3);
    assert!(message.starts_with("item `2`: the endpoint returned 404 Not Found") && input, "{message}");
    assert_eq!((setup.answers.borrow().len(), setup.states()), (0, 0));
}

#[test]
fn expired_batch_keeps_its_replies() {
    let setup =
        Setup::with(|text, batch| if batch == 1 && text >= "Question 2?" { LineOutcome::Expired } else { reply(text) });
    setup.server.state().status = "expired";
    setup.run(4).unwrap();
    setup.assert_complete(4);
    assert_eq!(setup.sizes(), [4, 2]);
}

#[test]
fn foreign_results_and_duplicates_are_ignored() {
    let setup = Setup::new();
    let response = json!({ "status_code": 200, "body": { "choices": [{ "message": { "content": "other" } }] } });
    let line = |id: String| json!({ "custom_id": id, "response": response }).to_string();
    setup.server.state().more_lines =
        vec![line(key(0).to_string()), line(key(99).to_string()), line("mine".into()), "<html>".into(), " ".into()];
    setup.run(2).unwrap();
    setup.assert_complete(2);
    let expected = "batch `batch_1` with 2 requests is submitted\nbatch `batch_1`: 2 results belong to no request of it; they \
                    are ignored\nbatch `batch_1`: 1 results cannot be read; they are ignored";
    assert_eq!(setup.messages(), expected);
}

#[test]
fn endpoint_without_batches_is_named() {
    for path in ["files", "batches"] {
        let setup = Setup::new();
        setup.server.state().without = Some(path);
        let expected = format!(
            "the endpoint has no batches: there is nothing at `{}/{path}`\nhelp: remove `batch = true`; then requests are sent \
             one by one",
            setup.server.url
        );
        assert_eq!(setup.error(2), (expected, true));
        assert_eq!(setup.states(), 0);
    }
}

#[test]
fn refused_file_shows_its_first_error() {
    let setup = Setup::new();
    setup.server.state().status = "failed";
    let expected = "the endpoint refused the batch `batch_1`: line 3: invalid_json_line: not JSON\nhelp: none of its requests was \
                    sent; the same command submits them again";
    assert_eq!(setup.error(2), (expected.to_string(), true));
    setup.server.state().status = "completed";
    setup.run(2).unwrap();
    setup.assert_complete(2);
}

#[test]
fn cancelled_batch_keeps_its_replies_and_fails() {
    let setup =
        Setup::with(|text, batch| if batch == 1 && text == "Question 1?" { LineOutcome::Expired } else { reply(text) });
    setup.server.state().status = "cancelled";
    let (message, _) = setup.error(3);
    assert!(message.starts_with("the batch `batch_1` was cancelled; 1 requests have no reply\nhelp: "), "{message}");
    setup.run(3).unwrap();
    setup.assert_complete(3);
}

#[test]
fn detached_stage_continues_with_more_and_fewer_requests() {
    let mut setup = Setup::new();
    setup.config.detach = true;
    setup.server.state().polls = 3;
    let detached = |count: usize| setup.run(count).unwrap_err().downcast::<Detached>().unwrap().0;
    assert_eq!(detached(5), "batch_1: 0 of 5 requests are done");
    // Two more requests are submitted, and the others are not paid twice.
    assert_eq!(detached(7), "batch_1 and 1 more: 0 of 7 requests are done");
    assert_eq!((setup.sizes(), setup.states()), (vec![5, 2], 2));
    // Fewer requests: the replies to all are stored.
    assert_eq!(detached(2), "batch_1: 0 of 5 requests are done");
    setup.run(2).unwrap();
    assert_eq!((setup.answers.borrow().len(), setup.states()), (5, 1));
    setup.server.state().finish_batches();
    setup.run(7).unwrap();
    setup.assert_complete(7);
    assert_eq!(setup.sizes(), [5, 2]);
}

#[test]
fn batch_whose_creation_was_not_confirmed_is_found() {
    let mut setup = Setup::new();
    setup.server.state().lost_creations = 1;
    setup.run(3).unwrap();
    setup.assert_complete(3);
    assert_eq!(setup.sizes(), [3]);
    // The process ends before it can look for the batch. Other batches come between.
    setup.config.requests.patience = Duration::ZERO;
    setup.server.state().lost_creations = 1;
    let (message, _) = setup.error(5);
    assert!(message.starts_with("a batch with 2 requests may be submitted\nhelp: "), "{message}");
    // It is not on the first page of the list.
    setup.server.state().page = 1;
    setup.server.state().add_foreign_batches(3);
    setup.run(5).unwrap();
    setup.assert_complete(5);
    assert_eq!(setup.sizes(), [3, 2]);
}

#[test]
fn state_of_a_batch_that_was_not_created_is_dropped() {
    let setup = Setup::new();
    let state = json!({
        "url": setup.server.url, "hash": key(9), "submitted": "2026-01-01T00:00:00Z", "round": 1, "file": "file-9",
        "requests": [key(0), key(1)],
    });
    let name = Hash::of_bytes(format!("{} {}", setup.server.url, key(9)).as_bytes());
    let path = setup.folder.path().join(format!("cache/replies/batches/{name}.json"));
    files::write_private(&path, state.to_string().as_bytes()).unwrap();
    setup.server.state().without = Some("batches");
    let (message, _) = setup.error(2);
    assert!(message.contains("the endpoint does not list its batches"), "{message}");
    assert_eq!(setup.states(), 1);
    setup.server.state().without = None;
    setup.run(2).unwrap();
    setup.assert_complete(2);
}

#[test]
fn batch_that_the_endpoint_forgot_is_not_paid_again_without_being_asked() {
    let mut setup = Setup::new();
    setup.config.requests.patience = Duration::ZERO;
    setup.server.state().polls = 9;
    setup.config.detach = true;
    setup.run(2).unwrap_err();
    setup.server.state().without = Some("batches/batch_1");
    let path = setup.state_files().remove(0);
    let expected = format!(
        "the endpoint does not have the batch `batch_1` or its results any more\nhelp: remove `{}` to submit its 2 requests \
         again: ",
        path.display()
    );
    let (message, input) = setup.error(2);
    assert!(message.starts_with(&expected) && !input, "{message}");
    assert_eq!(setup.states(), 1);
    // After a failure of the endpoint it is there again.
    setup.server.state().without = Some("files/output");
    setup.server.state().finish_batches();
    assert!(setup.error(2).0.starts_with(&expected));
    setup.server.state().without = None;
    setup.run(2).unwrap();
    setup.assert_complete(2);
    assert_eq!(setup.sizes(), [2]);
}

#[test]
fn budget_limits_what_is_submitted() {
    let mut setup = Setup::new();
    setup.config.requests.budget.requests = Some(3);
    let (message, input) = setup.error(5);
    assert!(
        message.starts_with("the budget is spent after 3 of 5 replies: 3 of 3 requests\nhelp: ") && input,
        "{message}"
    );
    assert_eq!(setup.texts(5), ["Question 0?", "Question 1?", "Question 2?", "-", "-"]);
    setup.config.requests.budget.requests = Some(5);
    setup.run(5).unwrap();
    setup.assert_complete(5);
    assert_eq!(setup.sizes(), [3, 2]);
}

#[test]
fn large_work_is_split_into_several_batches() {
    let mut setup = Setup::new();
    setup.config.limits = BatchLimits { requests: 2, bytes: 100 << 20 };
    setup.server.state().polls = 2;
    setup.run(5).unwrap();
    setup.assert_complete(5);
    assert_eq!(setup.sizes(), [2, 2, 1]);
}

#[test]
fn lost_connections_are_repeated() {
    for sends_length in [true, false] {
        let setup = Setup::new();
        setup.server.state().dropped = 2;
        setup.server.state().cut_downloads = 1;
        setup.server.state().sends_length = sends_length;
        assert_eq!(setup.run(600).unwrap().retries, 3);
        setup.assert_complete(600);
        assert_eq!(setup.sizes(), [600]);
    }
}

#[test]
fn api_key_is_in_no_reply() {
    let setup = Setup::with(|text, _| reply(if text == "Question 0?" { KEY } else { text }));
    setup.run(2).unwrap();
    assert_eq!(setup.texts(2), ["[API key]", "Question 1?"]);
}
