//! A chat server that fails on purpose. A function of the request and of its attempt chooses the fault, so a test can repeat
//! a run. The server counts the requests, and the complete replies that a service would charge for.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::fmt::rfc2822;
use serde_json::{Value, json};

/// How the server treats one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// A right answer.
    None,
    /// A right answer after this time, in milliseconds.
    Slow(u64),
    /// A right answer, but two more choices than requested.
    MoreChoices,

    // The client requests these again.
    TooManyRequests,
    /// 429 with `Retry-After` in seconds.
    RetryAfterSeconds(u64),
    /// 429 with `Retry-After` as a date, 1 to 2 seconds later.
    RetryAfterDate,
    InternalError,
    /// 502 with an HTML page, as a proxy sends it.
    BadGateway,
    Unavailable,
    /// The connection ends before the head of the reply.
    Closed,
    /// The connection ends before the number of bytes that `Content-Length` names.
    CutBody,
    /// The connection ends in a chunked body, before the last chunk.
    CutChunks,
    /// No reply until the client closes the connection.
    Silence,

    // The client stores these as bad replies.
    /// 200 with text that is not JSON.
    NotJson,
    /// 200 with the JSON document `{}`.
    EmptyObject,
    /// 200 with an empty list of choices.
    NoChoices,
    NullContent,
    Refusal,
    /// A part of the text, and `content_filter` as the reason of its end.
    Filtered,
    /// A part of the text, and `length` as the reason of its end.
    CutText,
    /// 100 MB of text.
    HugeText,
    /// 400, as for a prompt that is too long for the model.
    Rejected,
    /// A text without a final answer.
    NoAnswer,

    // These end the run.
    Unauthorized,
    /// A redirect to an address that contains the header `Authorization`.
    Redirect,
}

/// Faults after which a client sends the request again.
pub(crate) const RETRIABLE: &[Fault] = &[
    Fault::TooManyRequests,
    Fault::RetryAfterSeconds(0),
    Fault::RetryAfterSeconds(1),
    Fault::RetryAfterDate,
    Fault::InternalError,
    Fault::BadGateway,
    Fault::Unavailable,
    Fault::Closed,
    Fault::CutBody,
    Fault::CutChunks,
    Fault::Silence,
];

/// Replies that a client keeps although no row can be made of them.
pub(crate) const BAD: &[Fault] = &[
    Fault::NotJson,
    Fault::EmptyObject,
    Fault::NoChoices,
    Fault::NullContent,
    Fault::Refusal,
    Fault::Filtered,
    Fault::CutText,
    Fault::HugeText,
    Fault::Rejected,
    Fault::NoAnswer,
];

const HUGE_TEXT_BYTES: usize = 100_000_000;

/// One request and what became of it.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    /// The body without `n`: equal for all samples of one prompt.
    pub(crate) key: String,
    pub(crate) body: Value,
    pub(crate) fault: Fault,
    /// The choices of a complete 200 reply, which a service charges for. A reply without choices counts as one.
    pub(crate) choices: usize,
}

impl Exchange {
    pub(crate) fn is_paid(&self) -> bool {
        self.choices > 0
    }
}

#[derive(Default)]
struct Log {
    exchanges: Vec<Exchange>,
    attempts: HashMap<String, usize>,
    /// The time that the last `Retry-After` of a request names.
    not_before: HashMap<String, Instant>,
    too_early: usize,
    in_flight: usize,
    most_in_flight: usize,
}

type Choose = Box<dyn Fn(&Value, usize) -> Fault + Send + Sync>;

struct Shared {
    choose: Choose,
    log: Mutex<Log>,
    is_up: AtomicBool,
    connections: Mutex<HashMap<u64, TcpStream>>,
    connection_count: AtomicU64,
}

pub(crate) struct FaultServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

impl FaultServer {
    /// Starts a server. `choose` gets the body of a request, and how often the same body was sent before. It may sleep.
    pub(crate) fn start(choose: impl Fn(&Value, usize) -> Fault + Send + Sync + 'static) -> FaultServer {
        let shared = Shared {
            choose: Box::new(choose),
            log: Mutex::default(),
            is_up: AtomicBool::new(true),
            connections: Mutex::default(),
            connection_count: AtomicU64::new(0),
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(shared);
        let thread = accept(listener, &shared);
        FaultServer { address, shared, listener: Some(thread) }
    }

    /// Starts a server without faults.
    pub(crate) fn without_faults() -> FaultServer {
        FaultServer::start(|_, _| Fault::None)
    }

    /// Starts a server that draws one of `faults` for this share of the attempts.
    pub(crate) fn with_faults(seed: u64, rate: f64, faults: Vec<Fault>) -> FaultServer {
        FaultServer::start(random_faults(seed, rate, faults))
    }

    /// The base URL.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Closes the port and all connections: an outage.
    pub(crate) fn stop(&mut self) {
        self.shared.is_up.store(false, Ordering::SeqCst);
        // Ends the call of `accept`.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.listener.take() {
            thread.join().unwrap();
        }
        for (_, connection) in self.shared.connections.lock().unwrap().drain() {
            connection.shutdown(Shutdown::Both).ok();
        }
    }

    /// Opens the same port again.
    pub(crate) fn resume(&mut self) {
        self.shared.is_up.store(true, Ordering::SeqCst);
        let listener = TcpListener::bind(self.address).unwrap();
        self.listener = Some(accept(listener, &self.shared));
    }

    /// All requests so far, in order.
    pub(crate) fn exchanges(&self) -> Vec<Exchange> {
        self.shared.log.lock().unwrap().exchanges.clone()
    }

    pub(crate) fn request_count(&self) -> usize {
        self.shared.log.lock().unwrap().exchanges.len()
    }

    /// The number of complete 200 replies.
    pub(crate) fn paid_count(&self) -> usize {
        self.shared.log.lock().unwrap().exchanges.iter().filter(|exchange| exchange.is_paid()).count()
    }

    /// The number of choices in complete 200 replies.
    pub(crate) fn choice_count(&self) -> usize {
        self.shared.log.lock().unwrap().exchanges.iter().map(|exchange| exchange.choices).sum()
    }

    pub(crate) fn requests_in_flight(&self) -> usize {
        self.shared.log.lock().unwrap().in_flight
    }

    pub(crate) fn most_requests_in_flight(&self) -> usize {
        self.shared.log.lock().unwrap().most_in_flight
    }

    /// The number of requests that came again before the time that `Retry-After` named.
    pub(crate) fn early_retries(&self) -> usize {
        self.shared.log.lock().unwrap().too_early
    }

    /// The distinct requests.
    pub(crate) fn distinct(&self) -> BTreeSet<String> {
        self.exchanges().into_iter().map(|exchange| exchange.key).collect()
    }

    /// How many complete 200 replies each distinct request got, where there is one.
    pub(crate) fn paid_by_request(&self) -> BTreeMap<String, usize> {
        let mut paid = BTreeMap::new();
        for exchange in self.exchanges().into_iter().filter(Exchange::is_paid) {
            *paid.entry(exchange.key).or_default() += 1;
        }
        paid
    }
}

impl Drop for FaultServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Draws one of `faults` for this share of the attempts. Equal attempts of equal requests have equal faults.
pub(crate) fn random_faults(seed: u64, rate: f64, faults: Vec<Fault>) -> impl Fn(&Value, usize) -> Fault {
    move |body, attempt| {
        let draw = hash(&(seed, body.to_string(), attempt));
        let share = (draw >> 32) as f64 / 2f64.powi(32);
        if share < rate { faults[(draw & 0xffff_ffff) as usize % faults.len()] } else { Fault::None }
    }
}

/// The first sum in the text of a request: `(1, 2)` for "What is 1 + 2?".
pub(crate) fn summands(body: &Value) -> Option<(u64, u64)> {
    let text = body["messages"].as_array()?.last()?["content"].to_string();
    let words: Vec<&str> = text.split(|letter: char| letter.is_whitespace() || "\"?\\".contains(letter)).collect();
    words
        .windows(3)
        .find(|words| words[1] == "+")
        .and_then(|words| Some((words[0].parse().ok()?, words[2].parse().ok()?)))
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Accepts connections until the server stops. Each connection has a thread.
fn accept(listener: TcpListener, shared: &Arc<Shared>) -> JoinHandle<()> {
    let shared = shared.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            if !shared.is_up.load(Ordering::SeqCst) {
                return;
            }
            let Ok(stream) = stream else { continue };
            let id = shared.connection_count.fetch_add(1, Ordering::SeqCst);
            shared.connections.lock().unwrap().insert(id, stream.try_clone().unwrap());
            let shared = shared.clone();
            std::thread::spawn(move || {
                // A client may end a connection at any time.
                serve(&shared, stream).ok();
                if let Some(connection) = shared.connections.lock().unwrap().remove(&id) {
                    connection.shutdown(Shutdown::Both).ok();
                }
            });
        }
    })
}

/// Serves the requests of one connection.
fn serve(shared: &Shared, stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    while let Some((authorization, body)) = read_request(&mut reader)? {
        let (index, fault) = shared.begin(body);
        let reply = Reply { body: &shared.body(index), authorization };
        let sent = reply.send(fault, &mut reader);
        shared.end(index, sent.as_ref().map_or(0, |sent| sent.choices));
        if !sent?.keeps_open {
            break;
        }
    }
    Ok(())
}

/// The header `Authorization` and the body of the next request; `None` at the end of the connection.
fn read_request(reader: &mut BufReader<TcpStream>) -> io::Result<Option<(String, Value)>> {
    let (mut length, mut authorization) = (0, String::new());
    let mut is_first = true;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let line = line.trim_end();
        if line.is_empty() && !is_first {
            break;
        }
        is_first = false;
        match line.split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.parse().unwrap(),
            Some((name, value)) if name.eq_ignore_ascii_case("authorization") => authorization = value.to_string(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some((authorization, serde_json::from_slice(&body).unwrap())))
}

impl Shared {
    /// Records a request, and chooses how it is treated.
    fn begin(&self, body: Value) -> (usize, Fault) {
        let mut key = body.clone();
        key.as_object_mut().unwrap().remove("n");
        let key = key.to_string();
        let earlier = {
            let mut log = self.log.lock().unwrap();
            let attempts = log.attempts.entry(key.clone()).or_default();
            *attempts += 1;
            *attempts - 1
        };
        let fault = (self.choose)(&body, earlier);
        let mut log = self.log.lock().unwrap();
        if log.not_before.remove(&key).is_some_and(|time| Instant::now() < time) {
            log.too_early += 1;
        }
        let pause = match fault {
            Fault::RetryAfterSeconds(seconds) => Some(Duration::from_secs(seconds)),
            Fault::RetryAfterDate => Some(until(retry_date())),
            _ => None,
        };
        if let Some(pause) = pause {
            log.not_before.insert(key.clone(), Instant::now() + pause);
        }
        log.in_flight += 1;
        log.most_in_flight = log.most_in_flight.max(log.in_flight);
        log.exchanges.push(Exchange { key, body, fault, choices: 0 });
        (log.exchanges.len() - 1, fault)
    }

    fn body(&self, index: usize) -> Value {
        self.log.lock().unwrap().exchanges[index].body.clone()
    }

    fn end(&self, index: usize, choices: usize) {
        let mut log = self.log.lock().unwrap();
        log.in_flight -= 1;
        log.exchanges[index].choices = choices;
    }
}

/// The next full second that is at least one second away.
fn retry_date() -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second() + 2).unwrap()
}

fn until(time: Timestamp) -> Duration {
    Duration::try_from(time.duration_since(Timestamp::now())).unwrap_or_default()
}

/// What was sent of a reply.
struct Sent {
    /// As in [`Exchange`].
    choices: usize,
    keeps_open: bool,
}

struct Reply<'a> {
    body: &'a Value,
    /// Is repeated in every reply.
    authorization: String,
}

impl Reply<'_> {
    fn send(&self, fault: Fault, reader: &mut BufReader<TcpStream>) -> io::Result<Sent> {
        let ok = "200 OK";
        let text = self.text();
        let half: String = text.chars().take(text.len() / 2).collect();
        let error = json!({ "error": { "message": format!("No. {}", self.authorization) } }).to_string();
        let one = |message: Value, reason: &str| self.completion(&vec![choice(message, reason); self.count()]);
        let stream = reader.get_mut();
        match fault {
            Fault::None => self.write(stream, ok, "", &one(json!({ "content": text }), "stop")),
            Fault::Slow(milliseconds) => {
                std::thread::sleep(Duration::from_millis(milliseconds));
                self.write(stream, ok, "", &one(json!({ "content": text }), "stop"))
            }
            Fault::MoreChoices => {
                let choices = vec![choice(json!({ "content": text }), "stop"); self.count() + 2];
                self.write(stream, ok, "", &self.completion(&choices))
            }
            Fault::TooManyRequests => self.write(stream, "429 Too Many Requests", "", &error),
            Fault::RetryAfterSeconds(seconds) => {
                self.write(stream, "429 Too Many Requests", &format!("Retry-After: {seconds}\r\n"), &error)
            }
            Fault::RetryAfterDate => {
                let date = rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&retry_date()).unwrap();
                self.write(stream, "429 Too Many Requests", &format!("Retry-After: {date}\r\n"), &error)
            }
            Fault::InternalError => self.write(stream, "500 Internal Server Error", "", &error),
            Fault::BadGateway => {
                let page = format!("<html><h1>502 Bad Gateway</h1>{}</html>", self.authorization);
                self.write(stream, "502 Bad Gateway", "Content-Type: text/html\r\n", &page)
            }
            Fault::Unavailable => self.write(stream, "503 Service Unavailable", "", &error),
            Fault::Closed => Ok(Sent { choices: 0, keeps_open: false }),
            Fault::CutBody => {
                let body = one(json!({ "content": text }), "stop");
                stream.write_all(self.head(ok, &format!("Content-Length: {}\r\n", body.len())).as_bytes())?;
                stream.write_all(&body.as_bytes()[..body.len() / 2])?;
                Ok(Sent { choices: 0, keeps_open: false })
            }
            Fault::CutChunks => {
                // The body is complete, but the last chunk is missing.
                let body = one(json!({ "content": text }), "stop");
                let head = self.head(ok, "Transfer-Encoding: chunked\r\n");
                stream.write_all(format!("{head}{:x}\r\n{body}\r\n", body.len()).as_bytes())?;
                Ok(Sent { choices: 0, keeps_open: false })
            }
            Fault::Silence => {
                // Ends when the client closes the connection.
                reader.read_exact(&mut [0])?;
                Ok(Sent { choices: 0, keeps_open: false })
            }
            Fault::NotJson => self.write(stream, ok, "", &format!("Welcome! {}", self.authorization)),
            Fault::EmptyObject => self.write(stream, ok, "", "{}"),
            Fault::NoChoices => self.write(stream, ok, "", &self.completion(&[])),
            Fault::NullContent => self.write(stream, ok, "", &one(json!({ "content": null }), "stop")),
            Fault::Refusal => {
                let message = json!({ "content": null, "refusal": format!("I cannot. {}", self.authorization) });
                self.write(stream, ok, "", &one(message, "stop"))
            }
            Fault::Filtered => self.write(stream, ok, "", &one(json!({ "content": half }), "content_filter")),
            Fault::CutText => self.write(stream, ok, "", &one(json!({ "content": half }), "length")),
            Fault::HugeText => self.send_huge_text(stream),
            Fault::Rejected => self.write(stream, "400 Bad Request", "", &error),
            Fault::Unauthorized => self.write(stream, "401 Unauthorized", "", &error),
            Fault::Redirect => {
                self.write(stream, "302 Found", &format!("Location: /login?{}\r\n", self.authorization), "")
            }
            Fault::NoAnswer => self.write(stream, ok, "", &one(json!({ "content": "I do not see it." }), "stop")),
        }
    }

    /// A right answer: the sum of the question, or else the reference answer that the prompt names.
    fn text(&self) -> String {
        let (seen, answer) = if let Some((one, other)) = summands(self.body) {
            (one.to_string(), (one + other).to_string())
        } else {
            let prompt = self.body["messages"].to_string();
            let reference = prompt.split("Reference answer: ").nth(1).and_then(|rest| rest.split("\\n").next());
            (String::new(), reference.unwrap_or("2").to_string())
        };
        format!("Seen {seen}. {}\n### Answer: {answer}", self.authorization)
    }

    /// The number of choices that the request asks for.
    fn count(&self) -> usize {
        self.body["n"].as_u64().unwrap_or(1) as usize
    }

    fn completion(&self, choices: &[Value]) -> String {
        let tokens = choices.len();
        let mut choices = choices.to_vec();
        for (index, choice) in choices.iter_mut().enumerate() {
            choice["index"] = json!(index);
        }
        json!({
            "id": format!("chat-{}", self.authorization),
            "object": "chat.completion",
            "model": self.body["model"],
            "choices": choices,
            "usage": { "prompt_tokens": 10, "completion_tokens": 5 * tokens, "total_tokens": 10 + 5 * tokens },
        })
        .to_string()
    }

    fn head(&self, status: &str, more: &str) -> String {
        format!("HTTP/1.1 {status}\r\nX-Request: {}\r\n{more}\r\n", self.authorization)
    }

    /// Writes a complete reply.
    fn write(&self, stream: &mut TcpStream, status: &str, more: &str, body: &str) -> io::Result<Sent> {
        let head = self.head(status, &format!("Content-Length: {}\r\n{more}", body.len()));
        stream.write_all((head + body).as_bytes())?;
        let completion: Value = serde_json::from_str(body).unwrap_or_default();
        let choices = completion["choices"].as_array().map_or(1, |choices| choices.len().max(1));
        Ok(Sent { choices: if status.starts_with("200") { choices } else { 0 }, keeps_open: true })
    }

    /// Streams a completion with a very long text. A client hangs up before its end.
    fn send_huge_text(&self, stream: &mut TcpStream) -> io::Result<Sent> {
        let body = self.completion(&[choice(json!({ "content": "TEXT" }), "stop")]);
        let (start, end) = body.split_once("TEXT").unwrap();
        let length = start.len() + HUGE_TEXT_BYTES + end.len();
        stream.write_all((self.head("200 OK", &format!("Content-Length: {length}\r\n")) + start).as_bytes())?;
        let part = [b'a'; 10_000];
        for _ in 0..HUGE_TEXT_BYTES / part.len() {
            stream.write_all(&part)?;
        }
        stream.write_all(end.as_bytes())?;
        Ok(Sent { choices: 1, keeps_open: true })
    }
}

fn choice(mut message: Value, reason: &str) -> Value {
    message["role"] = json!("assistant");
    json!({ "message": message, "finish_reason": reason })
}
