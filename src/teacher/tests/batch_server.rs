//! An endpoint with batches for tests. It computes the results of a batch when it creates it, and counts what is paid.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};

/// The result of one request.
#[derive(Clone, Debug)]
pub(crate) enum LineOutcome {
    Reply(String),
    Status(u16),
    /// The batch expired before the request was answered.
    Expired,
}

/// Decides the result of a request, from its line and the number of its batch, counted from 1.
type Respond = Box<dyn Fn(&Value, usize) -> LineOutcome + Send>;

/// What the server has received, and how it behaves.
pub(crate) struct ServerState {
    pub(crate) respond: Respond,
    /// Looks at a batch until it is finished.
    pub(crate) polls: usize,
    /// The status of a finished batch.
    pub(crate) status: &'static str,
    /// More lines in every file of results.
    pub(crate) more_lines: Vec<String>,
    /// Connections that are closed without a response.
    pub(crate) dropped: usize,
    /// Responses to created batches that are lost.
    pub(crate) lost_creations: usize,
    /// Downloads that end in the middle, and whether the head says how long they are.
    pub(crate) cut_downloads: usize,
    pub(crate) sends_length: bool,
    /// The beginning of paths that do not exist.
    pub(crate) without: Option<&'static str>,
    pub(crate) page: usize,
    /// Method and path of every call.
    pub(crate) calls: Vec<String>,
    /// Uploaded files, by id.
    pub(crate) files: BTreeMap<String, String>,
    pub(crate) batches: Vec<FakeBatch>,
    /// How often each request was answered.
    pub(crate) paid: BTreeMap<String, usize>,
}

pub(crate) struct FakeBatch {
    pub(crate) id: String,
    pub(crate) request: Value,
    polls: usize,
    requests: usize,
}

/// The server. Its thread ends with the process.
pub(crate) struct BatchServer {
    pub(crate) url: String,
    state: Arc<Mutex<ServerState>>,
}

impl BatchServer {
    /// A server that answers every request with the text of its last message.
    pub(crate) fn new() -> BatchServer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let state = ServerState {
            respond: Box::new(|line, _| LineOutcome::Reply(question(line).to_string())),
            polls: 0,
            status: "completed",
            more_lines: Vec::new(),
            dropped: 0,
            lost_creations: 0,
            cut_downloads: 0,
            sends_length: true,
            without: None,
            page: 100,
            calls: Vec::new(),
            files: BTreeMap::new(),
            batches: Vec::new(),
            paid: BTreeMap::new(),
        };
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                // A client that was killed leaves a half request.
                answer(&shared, &stream.unwrap()).ok();
            }
        });
        BatchServer { url, state }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, ServerState> {
        self.state.lock().unwrap()
    }
}

/// The last message of a request.
pub(crate) fn question(line: &Value) -> &str {
    line["body"]["messages"].as_array().unwrap().last().unwrap()["content"].as_str().unwrap()
}

fn answer(state: &Mutex<ServerState>, mut stream: &TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    let length =
        head.to_lowercase().split_once("content-length: ").map(|(_, rest)| rest.lines().next().unwrap().parse());
    let mut body = vec![0; length.map_or(0, Result::unwrap)];
    reader.read_exact(&mut body)?;
    let mut words = head.split_whitespace();
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let mut state = state.lock().unwrap();
    state.calls.push(format!("{method} {path}"));
    if state.dropped > 0 {
        state.dropped -= 1;
        return Ok(());
    }
    let path = path.strip_prefix("/v1/").unwrap();
    let exists = state.without.is_none_or(|without| !path.starts_with(without));
    let found = exists.then(|| state.respond_to(method, path, &head, &String::from_utf8_lossy(&body))).flatten();
    let Some(text) = found else {
        return stream.write_all(b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    };
    if method == "POST" && path == "batches" && state.lost_creations > 0 {
        state.lost_creations -= 1;
        return Ok(());
    }
    let length = if state.sends_length { format!("Content-Length: {}\r\n", text.len()) } else { String::new() };
    let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\n{length}\r\n");
    let mut sent = text.len();
    if path.ends_with("/content") && state.cut_downloads > 0 {
        state.cut_downloads -= 1;
        sent /= 2;
    }
    stream.write_all(head.as_bytes())?;
    stream.write_all(&text.as_bytes()[..sent])
}

impl ServerState {
    /// The body of the response; `None` if there is nothing at the path.
    fn respond_to(&mut self, method: &str, path: &str, head: &str, body: &str) -> Option<String> {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        match (method, &path.split('/').collect::<Vec<_>>()[..]) {
            ("POST", ["files"]) => {
                assert!(head.contains("multipart/form-data") && body.contains("name=\"purpose\"\r\n\r\nbatch\r\n"));
                let part = body.split("name=\"file\"").nth(1).unwrap();
                let content = part.split_once("\r\n\r\n").unwrap().1.split("\r\n--").next().unwrap();
                let id = format!("file-{}", self.files.len());
                self.files.insert(id.clone(), content.to_string());
                Some(json!({ "id": id, "object": "file" }).to_string())
            }
            ("POST", ["batches"]) => {
                let request: Value = serde_json::from_str(body).unwrap();
                let number = self.batches.len() + 1;
                let id = format!("batch_{number}");
                let input = self.files[request["input_file_id"].as_str().unwrap()].clone();
                let lines: Vec<Value> = input.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
                if self.status != "failed" {
                    self.compute(&id, number, &lines);
                }
                self.batches.push(FakeBatch { id, request, polls: self.polls, requests: lines.len() });
                self.batches.last().map(|batch| self.describe(batch).to_string())
            }
            ("GET", ["batches"]) => {
                let after = query.split('&').find_map(|part| part.strip_prefix("after="));
                let newest = self.batches.iter().rev();
                let rest: Vec<&FakeBatch> = match after {
                    None => newest.collect(),
                    Some(after) => newest.skip_while(|batch| batch.id != after).skip(1).collect(),
                };
                let page: Vec<Value> = rest.iter().take(self.page).map(|batch| self.describe(batch)).collect();
                Some(json!({ "data": page, "has_more": rest.len() > page.len() }).to_string())
            }
            ("GET", ["batches", id]) => {
                let at = self.batches.iter().position(|batch| batch.id == *id)?;
                let text = self.describe(&self.batches[at]).to_string();
                self.batches[at].polls = self.batches[at].polls.saturating_sub(1);
                Some(text)
            }
            ("GET", ["files", id, "content"]) => self.files.get(*id).cloned(),
            _ => panic!("{method} {path}"),
        }
    }

    /// Finishes all batches.
    pub(crate) fn finish_batches(&mut self) {
        for batch in &mut self.batches {
            batch.polls = 0;
        }
    }

    /// Adds batches that were not created by a test.
    pub(crate) fn add_foreign_batches(&mut self, count: usize) {
        let request = json!({ "metadata": { "ablate": "another" } });
        let batch =
            |number| FakeBatch { id: format!("other_{number}"), request: request.clone(), polls: 0, requests: 1 };
        self.batches.extend((0..count).map(batch));
    }

    /// Writes the results of a batch, the last request first.
    fn compute(&mut self, id: &str, number: usize, lines: &[Value]) {
        let (mut output, mut errors) = (String::new(), String::new());
        for line in lines.iter().rev() {
            let custom_id = line["custom_id"].as_str().unwrap();
            match (self.respond)(line, number) {
                LineOutcome::Reply(text) => {
                    *self.paid.entry(custom_id.to_string()).or_default() += 1;
                    let choice = json!({ "message": { "content": text }, "finish_reason": "stop" });
                    let usage = json!({ "prompt_tokens": 10, "completion_tokens": 20 });
                    let body = json!({ "choices": [choice], "usage": usage, "model": "m-1" });
                    let response = json!({ "status_code": 200, "body": body });
                    let line = json!({ "id": "r", "custom_id": custom_id, "response": response, "error": null });
                    output += &format!("{line}\n");
                }
                LineOutcome::Status(status) => {
                    let response = json!({ "status_code": status, "body": { "error": { "message": "no" } } });
                    errors += &format!("{}\n", json!({ "custom_id": custom_id, "response": response, "error": null }));
                }
                LineOutcome::Expired => {
                    let error = json!({ "code": "batch_expired", "message": "too late" });
                    errors += &format!("{}\n", json!({ "custom_id": custom_id, "response": null, "error": error }));
                }
            }
        }
        for line in &self.more_lines {
            output += &format!("{line}\n");
        }
        for (name, text) in [("output", output), ("errors", errors)] {
            if !text.is_empty() {
                self.files.insert(format!("{name}-{id}"), text);
            }
        }
    }

    fn describe(&self, batch: &FakeBatch) -> Value {
        let FakeBatch { id, request, polls, requests } = batch;
        let file = |name: &str| Some(format!("{name}-{id}")).filter(|file| self.files.contains_key(file));
        let mut text = json!({
            "id": id, "object": "batch", "status": "in_progress", "metadata": request["metadata"],
            "request_counts": { "total": requests, "completed": 0, "failed": 0 },
        });
        if *polls == 0 {
            text["status"] = json!(self.status);
            text["output_file_id"] = json!(file("output"));
            text["error_file_id"] = json!(file("errors"));
            text["request_counts"]["completed"] = json!(requests);
        }
        if self.status == "failed" {
            let error = json!({ "code": "invalid_json_line", "message": "not JSON\nat all", "line": 3 });
            text["errors"] = json!({ "object": "list", "data": [error, { "message": "another" }] });
        }
        text
    }
}
