//! The client against local servers: requests, retries, errors, proxies and certificates.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use super::body;
use crate::teacher::{
    Answer, Budget, Client, ClientConfig, DispatchConfig, Dispatcher, Prices, RequestList, SampledRequests, Spending,
};
use ablate_core::base::progress::NoProgress;
use ablate_core::base::{ErrorChain, RequestProgress};
use ablate_store::Fault;

const KEY: &str = "sk-test-0123456789";

/// A received request: the head, and the body as JSON.
type Received = (String, Value);

/// Answers one connection after another with `responses`, then returns the requests.
fn server(responses: Vec<String>) -> (String, JoinHandle<Vec<Received>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let answer = move |response: String| {
        let mut stream = BufReader::new(listener.accept().unwrap().0);
        let request = read(&mut stream);
        stream.get_mut().write_all(response.as_bytes()).unwrap();
        request
    };
    (url, std::thread::spawn(move || responses.into_iter().map(answer).collect()))
}

fn read(stream: &mut impl BufRead) -> Received {
    let head = head(stream);
    let length = head.to_lowercase().split_once("content-length: ").unwrap().1.lines().next().unwrap().parse();
    let mut body = vec![0; length.unwrap()];
    stream.read_exact(&mut body).unwrap();
    (head, serde_json::from_slice(&body).unwrap())
}

fn head(stream: &mut impl BufRead) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(stream.read_line(&mut head).unwrap(), 0, "the client hung up");
    }
    head
}

fn response(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}Connection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn completion(texts: &[&str]) -> String {
    let choices: Vec<Value> =
        texts.iter().map(|text| json!({ "message": { "content": text }, "finish_reason": "stop" })).collect();
    response("200 OK", "", &json!({ "choices": choices }).to_string())
}

fn config(url: &str) -> ClientConfig {
    ClientConfig {
        url: url.to_string(),
        api_version: None,
        key_env: None,
        timeout: Duration::from_secs(20),
        max_tokens: 64,
    }
}

fn dispatch_config() -> DispatchConfig {
    DispatchConfig {
        concurrency: 1,
        patience: Duration::from_secs(20),
        requests_per_minute: None,
        tokens_per_minute: None,
        prices: None,
        budget: Budget::default(),
        max_tokens: 64,
    }
}

fn variables(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_string(), (*value).to_string())).collect()
}

fn client(url: &str) -> Client {
    Client::new(config(url), &BTreeMap::new()).unwrap()
}

fn client_with_key(url: &str) -> Client {
    Client::new(ClientConfig { key_env: Some("KEY".into()), ..config(url) }, &variables(&[("KEY", KEY)])).unwrap()
}

/// Requests for one question, which differ by their number, and their replies so far.
struct Memory {
    samples: usize,
    answers: RefCell<BTreeMap<usize, Vec<Answer>>>,
}

impl RequestList for Memory {
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

impl SampledRequests for Memory {
    fn open(&self, request: usize) -> usize {
        self.samples - self.answers.borrow().get(&request).map_or(0, Vec::len)
    }

    fn answered(&self, answers: Vec<(usize, Vec<Answer>)>) -> Result<()> {
        for (request, more) in answers {
            self.answers.borrow_mut().entry(request).or_default().extend(more);
        }
        Ok(())
    }
}

/// The replies to requests, by request and sample, and the result.
struct Dispatched {
    answers: Vec<Vec<Answer>>,
    result: Result<RequestProgress>,
}

impl Dispatched {
    fn texts(self) -> Vec<String> {
        self.result.unwrap();
        self.answers.into_iter().flatten().map(|answer| answer.choice.text).collect()
    }

    /// The error, and whether it is the user's mistake.
    fn error(self) -> (String, bool) {
        let error = self.result.unwrap_err();
        (format!("{error:#}"), ErrorChain::of(&error).input)
    }

    fn faults(&self) -> Vec<Option<Fault>> {
        self.answers.iter().flatten().map(|answer| answer.choice.fault).collect()
    }
}

/// Sends `requests` requests for `samples` samples each.
fn dispatch(client: &Client, config: &DispatchConfig, requests: usize, samples: usize) -> Dispatched {
    let source = Memory { samples, answers: RefCell::default() };
    let total = (requests * samples) as u64;
    let (spent, progress) = (Spending::default(), &NoProgress);
    let dispatcher = Dispatcher { client, config, source: &source, progress, spent, done: 0, total };
    let result = dispatcher.run((0..requests).collect());
    let answers = (0..requests).map(|request| source.answers.borrow().get(&request).cloned().unwrap_or_default());
    Dispatched { answers: answers.collect(), result }
}

fn one(client: &Client) -> Dispatched {
    dispatch(client, &dispatch_config(), 1, 1)
}

/// One request without retries.
fn once(client: &Client) -> Dispatched {
    dispatch(client, &DispatchConfig { patience: Duration::ZERO, ..dispatch_config() }, 1, 1)
}

#[test]
fn request_is_sent_and_response_is_parsed() {
    let (url, thread) = server(vec![completion(&["A cat.\n### Answer: cat"])]);
    assert_eq!(one(&client(&url)).texts(), ["A cat.\n### Answer: cat"]);
    let (head, body) = thread.join().unwrap().remove(0);
    assert!(head.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"), "{head}");
    assert!(!head.to_lowercase().contains("authorization"));
    assert_eq!((&body["model"], &body["messages"][1]["content"]), (&json!("teacher"), &json!("Question 0?")));
}

#[test]
fn azure_has_a_version_and_its_own_header() {
    let (url, thread) = server(vec![completion(&["yes"])]);
    let config = ClientConfig { api_version: Some("2024-10-21".into()), key_env: Some("KEY".into()), ..config(&url) };
    let client = Client::new(config, &variables(&[("KEY", KEY)])).unwrap();
    assert_eq!(one(&client).texts(), ["yes"]);
    let head = thread.join().unwrap().remove(0).0;
    assert!(head.starts_with("POST /v1/chat/completions?api-version=2024-10-21 HTTP/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("api-key: {KEY}\r\n")) && !head.contains("authorization"), "{head}");
}

#[test]
fn missing_samples_are_requested_again() {
    let (url, thread) = server(vec![completion(&["1", "2"]), completion(&["3"])]);
    assert_eq!(dispatch(&client(&url), &dispatch_config(), 1, 3).texts(), ["1", "2", "3"]);
    let requests = thread.join().unwrap();
    assert_eq!((&requests[0].1["n"], requests[1].1.get("n")), (&json!(3), None));
}

#[test]
fn samples_are_requested_one_at_a_time_if_the_endpoint_rejects_several() {
    let rejected = response("400 Bad Request", "", "only one completion choice is allowed");
    let (url, thread) = server(vec![rejected, completion(&["1"]), completion(&["2"])]);
    assert_eq!(dispatch(&client(&url), &dispatch_config(), 1, 2).texts(), ["1", "2"]);
    let requests = thread.join().unwrap();
    assert_eq!(
        requests.iter().map(|(_, body)| body.get("n").cloned()).collect::<Vec<_>>(),
        [Some(json!(2)), None, None]
    );
}

#[test]
fn busy_endpoint_is_retried() {
    let busy = response("429 Too Many Requests", "Retry-After: 0\r\n", "slow down");
    let broken = response("503 Service Unavailable", "", "");
    let error = response("200 OK", "", "{\"error\": {\"code\": 502}}");
    let (url, thread) = server(vec![busy, broken, error, completion(&["yes"])]);
    let dispatched = one(&client(&url));
    assert_eq!(dispatched.result.as_ref().unwrap().retries, 3);
    assert_eq!(dispatched.texts(), ["yes"]);
    thread.join().unwrap();
}

#[test]
fn patience_ends() {
    let (url, thread) = server(vec![response("500 Internal Server Error", "", "\n  out of memory\nmore")]);
    let expected = format!(
        "item `0`: no reply after 1 attempt in 0 s: the endpoint at `{url}/chat/completions` returned 500 Internal Server \
         Error: out of memory"
    );
    assert_eq!(once(&client(&url)).error(), (expected, false));
    thread.join().unwrap();
    // A longer pause than the patience is not awaited.
    let (url, thread) = server(vec![response("429 Too Many Requests", "Retry-After: 3600\r\n", "quota")]);
    let (message, _) = one(&client(&url)).error();
    assert!(
        message.starts_with("item `0`: no reply after 1 attempt in 0 s; the next one would be in 3600 s: "),
        "{message}"
    );
    thread.join().unwrap();
}

#[test]
fn a_request_that_fails_alone_does_not_stop_the_others() {
    let broken = || response("500 Internal Server Error", "", "no");
    let (url, thread) = server(vec![completion(&["1"]), broken(), completion(&["3"])]);
    let config = DispatchConfig { patience: Duration::from_millis(100), ..dispatch_config() };
    // The second request starts after the first reply, so it counts as an outage unless another reply arrives.
    let dispatched = dispatch(&client(&url), &DispatchConfig { concurrency: 2, ..config }, 3, 1);
    drop(thread);
    let (message, input) = dispatched.error();
    assert!(message.contains("returned 500") && !input, "{message}");
}

#[test]
fn wrong_model_stops_at_once() {
    let (url, thread) = server(vec![response("404 Not Found", "", "{\"error\": \"no model `teacher`\"}")]);
    let expected = format!(
        "item `0`: the endpoint at `{url}/chat/completions` returned 404 Not Found: {{\"error\": \"no model `teacher`\"}}"
    );
    assert_eq!(dispatch(&client(&url), &dispatch_config(), 5, 1).error(), (expected, true));
    assert_eq!(thread.join().unwrap().len(), 1);
}

#[test]
fn rejected_request_is_a_reply_if_others_are_accepted() {
    let rejected = || response("400 Bad Request", "", "the image is too large");
    let (url, thread) = server(vec![rejected(), completion(&["2"]), rejected()]);
    let dispatched = dispatch(&client(&url), &dispatch_config(), 3, 1);
    assert_eq!(dispatched.faults(), [Some(Fault::Rejected), None, Some(Fault::Rejected)]);
    assert!(dispatched.texts()[0].ends_with("returned 400 Bad Request: the image is too large"));
    thread.join().unwrap();
    // If all of the first ones are rejected, the parameters are wrong.
    let (url, thread) = server(vec![rejected(), rejected(), rejected()]);
    let dispatched = dispatch(&client(&url), &dispatch_config(), 9, 1);
    assert_eq!(dispatched.faults(), []);
    let (message, input) = dispatched.error();
    assert!(message.starts_with("item `0`: the endpoint at ") && input, "{message}");
    thread.join().unwrap();
}

#[test]
fn rejected_key_is_masked_and_external() {
    let refusal = format!("{{\"error\": {{\"message\": \"Incorrect API key provided: {KEY}\"}}}}");
    let (url, thread) = server(vec![response("401 Unauthorized", "", &refusal)]);
    let expected = format!(
        "item `0`: the endpoint at `{url}/chat/completions` returned 401 Unauthorized: {{\"error\": {{\"message\": \"Incorrect \
         API key provided: [API key]\"}}}}\nhelp: the endpoint rejects the API key in `KEY`"
    );
    assert_eq!(one(&client_with_key(&url)).error(), (expected, false));
    let requests = thread.join().unwrap();
    assert!(requests[0].0.to_lowercase().contains(&format!("authorization: bearer {KEY}\r\n")), "{}", requests[0].0);
    let (url, thread) = server(vec![response("401 Unauthorized", "", "who are you?")]);
    let (message, _) = one(&client(&url)).error();
    assert!(
        message.ends_with(
            "help: no API key was sent; set `key_env` to the name of the environment variable that contains it"
        ),
        "{message}"
    );
    thread.join().unwrap();
}

#[test]
fn key_is_masked_in_every_response() {
    let redirect = response("302 Found", &format!("Location: http://elsewhere/?key={KEY}\r\n"), "");
    let broken = response("500 Internal Server Error", "", &format!("Authorization: Bearer {KEY}"));
    let error = response("200 OK", "", &json!({ "error": { "key": KEY } }).to_string());
    for answer in [redirect, broken, error] {
        let (url, thread) = server(vec![answer]);
        let (message, _) = once(&client_with_key(&url)).error();
        assert!(!message.contains("0123") && message.contains("[API key]"), "{message}");
        thread.join().unwrap();
    }
    let page = response("200 OK", "", &format!("<html>{KEY}</html>"));
    let reasoning =
        json!({ "choices": [{ "message": { "content": "A", "reasoning": KEY } }], "model": KEY }).to_string();
    let answers = [page, completion(&[&format!("It is {KEY}.")]), response("200 OK", "", &reasoning)];
    for answer in answers {
        let (url, thread) = server(vec![answer]);
        let text = format!("{:?}", one(&client_with_key(&url)).answers);
        assert!(!text.contains("0123") && text.contains("[API key]"), "{text}");
        thread.join().unwrap();
    }
    assert!(!format!("{:?}", config("http://a")).contains("0123"));
}

#[test]
fn redirect_is_an_error() {
    let (target, thread) = server(vec![completion(&["from elsewhere"])]);
    let location = format!("Location: {target}/chat/completions\r\n");
    for status in ["301 Moved Permanently", "302 Found", "303 See Other", "307 Temporary Redirect"] {
        let (url, redirecting) = server(vec![response(status, &location, "")]);
        let expected = format!(
            "item `0`: the endpoint at `{url}/chat/completions` returned {status}, a redirect to `{target}/chat/completions`; \
             redirects are not followed\nhelp: if the endpoint has moved there, write `url = \"{target}\"`"
        );
        assert_eq!(one(&client(&url)).error(), (expected, true));
        redirecting.join().unwrap();
    }
    // The target received no request: its one response is still available.
    assert_eq!(one(&client(&target)).texts(), ["from elsewhere"]);
    thread.join().unwrap();
}

#[test]
fn malformed_response_is_kept_as_bad() {
    let (url, thread) = server(vec![
        response("200 OK", "", "<html>wait</html>"),
        response("200 OK", "", "{\"choices\": [{\"message\": {\"content\": \"A c"),
        response("200 OK", "", "{\"choices\": []}"),
        completion(&["A cat."]),
    ]);
    let dispatched = dispatch(&client(&url), &dispatch_config(), 4, 1);
    let malformed = Some(Fault::Malformed);
    assert_eq!(dispatched.faults(), [malformed, malformed, malformed, None]);
    assert_eq!(dispatched.texts()[0], "expected value at line 1 column 1: <html>wait</html>");
    thread.join().unwrap();
}

#[test]
fn truncated_body_is_retried() {
    let whole = completion(&["A cat."]);
    let (url, thread) = server(vec![whole[..whole.len() - 9].to_string(), whole]);
    assert_eq!(one(&client(&url)).texts(), ["A cat."]);
    thread.join().unwrap();
}

#[test]
fn endless_body_is_dropped_and_kept_as_bad() {
    let (url, thread) = server(vec![completion(&[&"x".repeat(3 << 20)])]);
    let dispatched = one(&client(&url));
    assert_eq!(dispatched.faults(), [Some(Fault::TooLong)]);
    // The server could not send all of it.
    drop(thread);
}

#[test]
fn more_choices_than_requested_are_dropped() {
    let (url, thread) = server(vec![completion(&["1", "2", "3"])]);
    assert_eq!(one(&client(&url)).texts(), ["1"]);
    thread.join().unwrap();
}

#[test]
fn budget_stops_before_it_is_exceeded() {
    let usage = |text: &str| {
        let choice = json!({ "message": { "content": text }, "finish_reason": "stop" });
        let usage = json!({ "prompt_tokens": 10, "completion_tokens": 20 });
        response("200 OK", "", &json!({ "choices": [choice], "usage": usage }).to_string())
    };
    let config = |budget| DispatchConfig { budget, ..dispatch_config() };
    let (url, thread) = server(vec![usage("1"), usage("2")]);
    let requests = Budget { requests: Some(2), ..Budget::default() };
    let dispatched = dispatch(&client(&url), &config(requests), 3, 1);
    assert_eq!(dispatched.answers.iter().flatten().count(), 2);
    let (message, input) = dispatched.error();
    assert!(
        message.starts_with("the budget is spent after 2 of 3 replies: 2 of 2 requests\nhelp: ") && input,
        "{message}"
    );
    thread.join().unwrap();
    // The next reply may have 64 tokens.
    let (url, thread) = server(vec![usage("1"), usage("2")]);
    let tokens = Budget { tokens: Some(60 + 73), ..Budget::default() };
    let (message, _) = dispatch(&client(&url), &config(tokens), 4, 1).error();
    assert!(message.contains("60 of 133 tokens, and the next request may need 74"), "{message}");
    thread.join().unwrap();
    let prices = Some(Prices { input: 1e5, cached_input: None, output: 1e5, batch: 0.5, currency: "USD".into() });
    let (url, thread) = server(vec![usage("1")]);
    let cost = Budget { cost: Some(10.0), ..Budget::default() };
    let (message, _) = dispatch(&client(&url), &DispatchConfig { prices, ..config(cost) }, 2, 1).error();
    assert!(message.contains("3.0000 of 10 USD, and the next request may cost 7.4000 USD"), "{message}");
    thread.join().unwrap();
}

#[test]
fn unreachable_endpoint_is_an_external_error() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (message, input) = once(&client(&format!("http://{address}/v1"))).error();
    let start = format!(
        "item `0`: no reply after 1 attempt in 0 s: cannot reach the endpoint at `http://{address}/v1/chat/completions`: "
    );
    assert!(message.starts_with(&start) && message.contains("refused") && !input, "{message}");
}

#[test]
fn silent_endpoint_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let client =
        Client::new(ClientConfig { timeout: Duration::from_millis(200), ..config(&url) }, &BTreeMap::new()).unwrap();
    let (message, input) = once(&client).error();
    assert!(message.ends_with("it did not answer in time") && !input, "{message}");
}

#[test]
fn missing_key_is_a_user_error() {
    let config = ClientConfig { key_env: Some("KEY".into()), ..config("http://127.0.0.1:1") };
    for none in [BTreeMap::new(), variables(&[("KEY", " \n")])] {
        let error = Client::new(config.clone(), &none).err().unwrap();
        let expected = "the environment variable `KEY` is not set; `key_env` names it as the one with the API key";
        assert_eq!((error.to_string().as_str(), ErrorChain::of(&error).input), (expected, true));
    }
    let error = Client::new(config, &variables(&[("KEY", "two\nlines")])).err().unwrap();
    assert_eq!(error.to_string(), "the API key in `KEY` contains a character that is not allowed in an HTTP header");
}

#[test]
fn proxy_of_the_environment_is_used() {
    let (proxy, thread) = server(vec![completion(&["through"])]);
    let through = variables(&[("HTTP_PROXY", proxy.trim_end_matches("/v1"))]);
    let client = Client::new(config("http://teacher.invalid/v1"), &through).unwrap();
    assert_eq!(one(&client).texts(), ["through"]);
    let head = thread.join().unwrap().remove(0).0;
    assert!(head.starts_with("POST http://teacher.invalid/v1/chat/completions HTTP/1.1\r\n"), "{head}");
}

/// A TLS server for the given number of connections. Its certificate is valid for 100 years and was made by
/// `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 36500 -subj "/CN=ablate test"` with
/// `subjectAltName=DNS:localhost,IP:127.0.0.1` and `basicConstraints=critical,CA:FALSE`.
fn secure_server(connections: usize) -> (String, JoinHandle<()>) {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let file = |name: &str| format!("{}/tests/golden/tls/{name}", env!("CARGO_MANIFEST_DIR"));
    let certificate = CertificateDer::from_pem_file(file("certificate.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(file("key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(config.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/v1", listener.local_addr().unwrap());
    let answer = move |stream: TcpStream| {
        let connection = rustls::ServerConnection::new(config.clone()).unwrap();
        let mut stream = rustls::StreamOwned::new(connection, stream);
        // A client that does not trust this server closes the connection without a request.
        let mut first = [0];
        if stream.read_exact(&mut first).is_ok() {
            read(&mut BufReader::new(first.as_slice().chain(&mut stream)));
            stream.write_all(completion(&["trusted"]).as_bytes()).unwrap();
        }
    };
    let serve = move || (0..connections).for_each(|_| answer(listener.accept().unwrap().0));
    (url, std::thread::spawn(serve))
}

#[test]
fn certificate_of_ssl_cert_file_is_trusted() {
    let (url, thread) = secure_server(2);
    let file = format!("{}/tests/golden/tls/certificate.pem", env!("CARGO_MANIFEST_DIR"));
    let named = Client::new(config(&url), &variables(&[("SSL_CERT_FILE", &file)])).unwrap();
    assert_eq!(one(&named).texts(), ["trusted"]);
    let expected = format!(
        "item `0`: no secure connection to the endpoint at `{url}/chat/completions`: invalid peer certificate: UnknownIssuer\n\
         help: set `SSL_CERT_FILE` to a file with the certificates to trust"
    );
    // One attempt: a retry meets the same certificate.
    assert_eq!(one(&client(&url)).error(), (expected, false));
    thread.join().unwrap();
}
