//! The client against local servers: requests, retries, errors, proxies and certificates.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};

use crate::teacher::{ChatRequest, ContentPart, Fault, OpenAi, OpenAiConfig, Response};
use ablate_core::base::ErrorChain;
use ablate_data::records::FinishReason;

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

fn config(url: &str) -> OpenAiConfig {
    OpenAiConfig {
        url: url.to_string(),
        model: "teacher".into(),
        temperature: 0.5,
        max_tokens: 64,
        key_env: None,
        timeout: Duration::from_secs(20),
        retries: 2,
        backoff: Duration::from_millis(1),
    }
}

fn variables(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_string(), (*value).to_string())).collect()
}

fn client(url: &str) -> OpenAi {
    OpenAi::new(config(url), &BTreeMap::new()).unwrap()
}

fn client_with_key(url: &str) -> OpenAi {
    OpenAi::new(OpenAiConfig { key_env: Some("KEY".into()), ..config(url) }, &variables(&[("KEY", KEY)])).unwrap()
}

/// The error of one request, and whether it is the user's mistake.
fn failure(client: &OpenAi) -> (String, bool) {
    let error = client.complete(&request(None), 1).unwrap_err();
    (format!("{error:#}"), ErrorChain::of(&error).input)
}

fn texts(responses: &[Response]) -> Vec<&str> {
    responses.iter().map(|response| response.text.as_str()).collect()
}

fn request(image: Option<&[u8]>) -> ChatRequest {
    let image = image.map(|bytes| ContentPart::Image(bytes.to_vec()));
    let content = image.into_iter().chain([ContentPart::Text("What is it?".into())]).collect();
    ChatRequest { system: "Be brief.".into(), content }
}

#[test]
fn request_has_image_and_response_is_parsed() {
    let (url, thread) = server(vec![completion(&["A cat.\n### Answer: cat"])]);
    let responses = client(&url).complete(&request(Some(b"\x89PNG")), 1).unwrap();
    assert_eq!(
        responses,
        [Response { text: "A cat.\n### Answer: cat".into(), finish: FinishReason::Stop, fault: None }]
    );
    let (head, body) = thread.join().unwrap().remove(0);
    assert!(head.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"), "{head}");
    assert!(!head.to_lowercase().contains("authorization"));
    let expected = json!({
        "model": "teacher",
        "messages": [
            { "role": "system", "content": "Be brief." },
            { "role": "user", "content": [
                { "type": "image_url", "image_url": { "url": "data:image/png;base64,iVBORw==" } },
                { "type": "text", "text": "What is it?" },
            ] },
        ],
        "temperature": 0.5,
        "max_tokens": 64,
    });
    assert_eq!(body, expected);
}

#[test]
fn missing_samples_are_requested_again() {
    let (url, thread) = server(vec![completion(&["1", "2"]), completion(&["3"])]);
    let responses = client(&url).complete(&request(None), 3).unwrap();
    assert_eq!(texts(&responses), ["1", "2", "3"]);
    let requests = thread.join().unwrap();
    assert_eq!((&requests[0].1["n"], requests[1].1.get("n")), (&json!(3), None));
    assert_eq!(requests[0].1["messages"][1]["content"], json!("What is it?"));
}

#[test]
fn busy_endpoint_is_retried() {
    let busy = response("429 Too Many Requests", "Retry-After: 0\r\n", "slow down");
    let broken = response("503 Service Unavailable", "", "");
    let (url, thread) = server(vec![busy, broken, completion(&["yes"])]);
    assert_eq!(client(&url).complete(&request(None), 1).unwrap()[0].text, "yes");
    assert_eq!(thread.join().unwrap().len(), 3);
}

#[test]
fn retries_are_limited() {
    let broken = || response("500 Internal Server Error", "", "\n  out of memory\nmore");
    let (url, thread) = server(vec![broken(), broken(), broken()]);
    let error = format!("{:#}", client(&url).complete(&request(None), 1).unwrap_err());
    let expected = format!(
        "the request failed after 3 attempts: the endpoint at `{url}/chat/completions` returned 500 Internal Server \
         Error: out of memory"
    );
    assert_eq!(error, expected);
    thread.join().unwrap();
}

#[test]
fn client_error_is_not_retried() {
    let (url, thread) = server(vec![response("404 Not Found", "", "{\"error\": \"no model `teacher`\"}")]);
    let (message, input) = failure(&client(&url));
    let expected = format!(
        "the endpoint at `{url}/chat/completions` returned 404 Not Found: {{\"error\": \"no model `teacher`\"}}"
    );
    assert_eq!((message, input), (expected, true));
    assert_eq!(thread.join().unwrap().len(), 1);
}

#[test]
fn rejected_key_is_masked_and_external() {
    let refusal = format!("{{\"error\": {{\"message\": \"Incorrect API key provided: {KEY}\"}}}}");
    let (url, thread) = server(vec![response("401 Unauthorized", "", &refusal)]);
    let (message, input) = failure(&client_with_key(&url));
    let expected = format!(
        "the endpoint at `{url}/chat/completions` returned 401 Unauthorized: {{\"error\": {{\"message\": \"Incorrect API key \
         provided: [API key]\"}}}}\nhelp: the endpoint rejects the API key in `KEY`"
    );
    assert_eq!((message, input), (expected, false));
    let requests = thread.join().unwrap();
    assert!(requests[0].0.to_lowercase().contains(&format!("authorization: bearer {KEY}\r\n")), "{}", requests[0].0);
    let (url, thread) = server(vec![response("401 Unauthorized", "", "who are you?")]);
    let (message, _) = failure(&client(&url));
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
    let page = response("200 OK", "", &format!("<html>{KEY}</html>"));
    let broken = response("500 Internal Server Error", "", &format!("Authorization: Bearer {KEY}"));
    for answers in
        [vec![redirect], vec![page.clone(), page.clone(), page], vec![broken.clone(), broken.clone(), broken]]
    {
        let (url, thread) = server(answers);
        let (message, _) = failure(&client_with_key(&url));
        assert!(!message.contains("0123") && message.contains("[API key]"), "{message}");
        thread.join().unwrap();
    }
    let (url, thread) = server(vec![completion(&[&format!("It is {KEY}.")])]);
    assert_eq!(texts(&client_with_key(&url).complete(&request(None), 1).unwrap()), ["It is [API key]."]);
    thread.join().unwrap();
}

#[test]
fn redirect_is_an_error() {
    let (target, thread) = server(vec![completion(&["from elsewhere"])]);
    let location = format!("Location: {target}/chat/completions\r\n");
    for status in ["301 Moved Permanently", "302 Found", "303 See Other", "307 Temporary Redirect"] {
        let (url, redirecting) = server(vec![response(status, &location, "")]);
        let (message, input) = failure(&client(&url));
        let expected = format!(
            "the endpoint at `{url}/chat/completions` returned {status}, a redirect to `{target}/chat/completions`; \
             redirects are not followed\nhelp: if the endpoint has moved there, write `url = \"{target}\"`"
        );
        assert_eq!((message, input), (expected, true));
        redirecting.join().unwrap();
    }
    // The target received no request: its one response is still available.
    assert_eq!(texts(&client(&target).complete(&request(None), 1).unwrap()), ["from elsewhere"]);
    thread.join().unwrap();
}

#[test]
fn malformed_response_is_retried() {
    let cut = "{\"choices\": [{\"message\": {\"content\": \"A c";
    let (url, thread) =
        server(vec![response("200 OK", "", "<html>wait</html>"), response("200 OK", "", cut), completion(&["A cat."])]);
    assert_eq!(texts(&client(&url).complete(&request(None), 1).unwrap()), ["A cat."]);
    thread.join().unwrap();
    let page = || response("200 OK", "", "<html>hello</html>");
    let (url, thread) = server(vec![page(), page(), page()]);
    let expected = format!(
        "the request failed after 3 attempts: the endpoint at `{url}/chat/completions` did not return a chat \
         completion (expected value at line 1 column 1): <html>hello</html>"
    );
    assert_eq!(failure(&client(&url)), (expected, false));
    thread.join().unwrap();
}

#[test]
fn truncated_body_is_retried() {
    let whole = completion(&["A cat."]);
    let (url, thread) = server(vec![whole[..whole.len() - 9].to_string(), whole]);
    assert_eq!(texts(&client(&url).complete(&request(None), 1).unwrap()), ["A cat."]);
    thread.join().unwrap();
}

#[test]
fn faulty_response_is_retried_once() {
    let nothing = || {
        let choices = json!([{ "message": { "content": null }, "finish_reason": "stop" }]);
        response("200 OK", "", &json!({ "choices": choices }).to_string())
    };
    let (url, thread) = server(vec![nothing(), completion(&["A cat."])]);
    assert_eq!(texts(&client(&url).complete(&request(None), 1).unwrap()), ["A cat."]);
    thread.join().unwrap();
    let (url, thread) = server(vec![nothing(), nothing()]);
    let responses = client(&url).complete(&request(None), 1).unwrap();
    assert_eq!(responses, [Response { text: String::new(), finish: FinishReason::Stop, fault: Some(Fault::Empty) }]);
    assert_eq!(thread.join().unwrap().len(), 2);
    // Of several samples only the faulty one is requested again.
    let (url, thread) = server(vec![completion(&["1", " ", "3"]), completion(&["2"])]);
    assert_eq!(texts(&client(&url).complete(&request(None), 3).unwrap()), ["1", "3", "2"]);
    let requests = thread.join().unwrap();
    assert_eq!((&requests[0].1["n"], requests[1].1.get("n")), (&json!(3), None));
}

#[test]
fn unreachable_endpoint_is_an_external_error() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (message, input) = failure(&client(&format!("http://{address}/v1")));
    let start = format!(
        "the request failed after 3 attempts: cannot reach the endpoint at `http://{address}/v1/chat/completions`: "
    );
    assert!(message.starts_with(&start) && !input, "{message}");
}

#[test]
fn missing_key_is_a_user_error() {
    let config = OpenAiConfig { key_env: Some("KEY".into()), ..config("http://127.0.0.1:1") };
    for none in [BTreeMap::new(), variables(&[("KEY", " \n")])] {
        let error = OpenAi::new(config.clone(), &none).err().unwrap();
        let expected = "the environment variable `KEY` is not set; `key_env` names it as the one with the API key";
        assert_eq!((error.to_string().as_str(), ErrorChain::of(&error).input), (expected, true));
    }
    let error = OpenAi::new(config, &variables(&[("KEY", "two\nlines")])).err().unwrap();
    assert_eq!(error.to_string(), "the API key in `KEY` contains a character that is not allowed in an HTTP header");
}

#[test]
fn proxy_of_the_environment_is_used() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let mut stream = BufReader::new(listener.accept().unwrap().0);
        let connect = head(&mut stream);
        stream.get_mut().write_all(b"HTTP/1.1 200 Connected\r\n\r\n").unwrap();
        let (post, _) = read(&mut stream);
        stream.get_mut().write_all(completion(&["through"]).as_bytes()).unwrap();
        [connect, post].map(|head| head.lines().next().unwrap_or_default().to_string())
    });
    let through = variables(&[("HTTP_PROXY", &format!("http://{address}"))]);
    let client = OpenAi::new(config("http://teacher.invalid/v1"), &through).unwrap();
    assert_eq!(texts(&client.complete(&request(None), 1).unwrap()), ["through"]);
    let expected = ["CONNECT teacher.invalid:80 HTTP/1.1", "POST /v1/chat/completions HTTP/1.1"];
    assert_eq!(thread.join().unwrap(), expected);
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
    let named = OpenAi::new(config(&url), &variables(&[("SSL_CERT_FILE", &file)])).unwrap();
    assert_eq!(texts(&named.complete(&request(None), 1).unwrap()), ["trusted"]);
    let expected = format!(
        "no secure connection to the endpoint at `{url}/chat/completions`: invalid peer certificate: UnknownIssuer\n\
         help: set `SSL_CERT_FILE` to a file with the certificates to trust"
    );
    // One attempt: a retry meets the same certificate.
    assert_eq!(failure(&client(&url)), (expected, false));
    thread.join().unwrap();
}
