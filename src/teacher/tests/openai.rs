//! The client against servers of this process: what it sends, what it makes of the answers, and what it asks again.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};

use crate::teacher::{Fault, OpenAi, OpenAiConfig, Question, Reply};
use ablate_core::base::ErrorChain;
use ablate_data::records::FinishReason;

const KEY: &str = "sk-test-0123456789";

/// What the server was asked: the head, and the body as JSON.
type Asked = (String, Value);

/// Answers one connection after another with the given responses, then ends.
fn server(responses: Vec<String>) -> (String, JoinHandle<Vec<Asked>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let answer = move |response: String| {
        let mut stream = BufReader::new(listener.accept().unwrap().0);
        let asked = read(&mut stream);
        stream.get_mut().write_all(response.as_bytes()).unwrap();
        asked
    };
    (url, std::thread::spawn(move || responses.into_iter().map(answer).collect()))
}

/// A request.
fn read(stream: &mut impl BufRead) -> Asked {
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

/// What one question ends with, and whether it is the user's mistake.
fn failure(client: &OpenAi) -> (String, bool) {
    let error = client.ask(&question(None), 1).unwrap_err();
    (format!("{error:#}"), ErrorChain::of(&error).input)
}

fn texts(replies: &[Reply]) -> Vec<&str> {
    replies.iter().map(|reply| reply.text.as_str()).collect()
}

fn question(image: Option<&[u8]>) -> Question {
    Question { system: "Be brief.".into(), prompt: "What is it?".into(), image: image.map(<[u8]>::to_vec) }
}

#[test]
fn a_question_is_sent_with_its_image_and_the_reply_read() {
    let (url, thread) = server(vec![completion(&["A cat.\n### Answer: cat"])]);
    let replies = client(&url).ask(&question(Some(b"\x89PNG")), 1).unwrap();
    assert_eq!(replies, [Reply { text: "A cat.\n### Answer: cat".into(), finish: FinishReason::Stop, fault: None }]);
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
fn too_few_samples_are_asked_for_again() {
    let (url, thread) = server(vec![completion(&["1", "2"]), completion(&["3"])]);
    let replies = client(&url).ask(&question(None), 3).unwrap();
    assert_eq!(texts(&replies), ["1", "2", "3"]);
    let asked = thread.join().unwrap();
    assert_eq!((&asked[0].1["n"], asked[1].1.get("n")), (&json!(3), None));
    assert_eq!(asked[0].1["messages"][1]["content"], json!("What is it?"));
}

#[test]
fn a_busy_teacher_is_asked_again() {
    let busy = response("429 Too Many Requests", "Retry-After: 0\r\n", "slow down");
    let broken = response("503 Service Unavailable", "", "");
    let (url, thread) = server(vec![busy, broken, completion(&["yes"])]);
    assert_eq!(client(&url).ask(&question(None), 1).unwrap()[0].text, "yes");
    assert_eq!(thread.join().unwrap().len(), 3);
}

#[test]
fn a_teacher_that_stays_busy_is_given_up() {
    let broken = || response("500 Internal Server Error", "", "\n  out of memory\nmore");
    let (url, thread) = server(vec![broken(), broken(), broken()]);
    let error = format!("{:#}", client(&url).ask(&question(None), 1).unwrap_err());
    let expected = format!(
        "gave up on the endpoint after 3 tries: the endpoint at `{url}/chat/completions` said 500 Internal Server \
         Error: out of memory"
    );
    assert_eq!(error, expected);
    thread.join().unwrap();
}

#[test]
fn a_status_of_the_users_is_not_tried_again() {
    let (url, thread) = server(vec![response("404 Not Found", "", "{\"error\": \"no model `teacher`\"}")]);
    let (told, input) = failure(&client(&url));
    let expected =
        format!("the endpoint at `{url}/chat/completions` said 404 Not Found: {{\"error\": \"no model `teacher`\"}}");
    assert_eq!((told, input), (expected, true));
    assert_eq!(thread.join().unwrap().len(), 1);
}

#[test]
fn a_key_that_is_not_accepted_is_masked_and_a_failure_of_the_world() {
    let refusal = format!("{{\"error\": {{\"message\": \"Incorrect API key provided: {KEY}\"}}}}");
    let (url, thread) = server(vec![response("401 Unauthorized", "", &refusal)]);
    let (told, input) = failure(&client_with_key(&url));
    let expected = format!(
        "the endpoint at `{url}/chat/completions` said 401 Unauthorized: {{\"error\": {{\"message\": \"Incorrect API key \
         provided: [API key]\"}}}}\nhelp: it does not accept the key in `KEY`"
    );
    assert_eq!((told, input), (expected, false));
    let asked = thread.join().unwrap();
    assert!(asked[0].0.to_lowercase().contains(&format!("authorization: bearer {KEY}\r\n")), "{}", asked[0].0);
    let (url, thread) = server(vec![response("401 Unauthorized", "", "who are you?")]);
    let (told, _) = failure(&client(&url));
    assert!(told.ends_with("help: no key was sent: `key_env` names the environment variable that holds one"), "{told}");
    thread.join().unwrap();
}

#[test]
fn the_key_is_masked_wherever_the_endpoint_repeats_it() {
    let redirect = response("302 Found", &format!("Location: http://elsewhere/?key={KEY}\r\n"), "");
    let page = response("200 OK", "", &format!("<html>{KEY}</html>"));
    let broken = response("500 Internal Server Error", "", &format!("Authorization: Bearer {KEY}"));
    for answers in
        [vec![redirect], vec![page.clone(), page.clone(), page], vec![broken.clone(), broken.clone(), broken]]
    {
        let (url, thread) = server(answers);
        let (told, _) = failure(&client_with_key(&url));
        assert!(!told.contains("0123") && told.contains("[API key]"), "{told}");
        thread.join().unwrap();
    }
    let (url, thread) = server(vec![completion(&[&format!("It is {KEY}.")])]);
    assert_eq!(texts(&client_with_key(&url).ask(&question(None), 1).unwrap()), ["It is [API key]."]);
    thread.join().unwrap();
}

#[test]
fn a_redirect_is_an_error_and_is_not_followed() {
    let (target, thread) = server(vec![completion(&["from elsewhere"])]);
    let location = format!("Location: {target}/chat/completions\r\n");
    for status in ["301 Moved Permanently", "302 Found", "303 See Other", "307 Temporary Redirect"] {
        let (url, redirecting) = server(vec![response(status, &location, "")]);
        let (told, input) = failure(&client(&url));
        let expected = format!(
            "the endpoint at `{url}/chat/completions` said {status}: it redirects to `{target}/chat/completions`, and \
             redirects are not followed\nhelp: if the endpoint is there, write `url = \"{target}\"`"
        );
        assert_eq!((told, input), (expected, true));
        redirecting.join().unwrap();
    }
    // The target was asked nothing: the one answer that it has is still there.
    assert_eq!(texts(&client(&target).ask(&question(None), 1).unwrap()), ["from elsewhere"]);
    thread.join().unwrap();
}

#[test]
fn an_answer_of_another_form_is_asked_for_again() {
    let cut = "{\"choices\": [{\"message\": {\"content\": \"A c";
    let (url, thread) =
        server(vec![response("200 OK", "", "<html>wait</html>"), response("200 OK", "", cut), completion(&["A cat."])]);
    assert_eq!(texts(&client(&url).ask(&question(None), 1).unwrap()), ["A cat."]);
    thread.join().unwrap();
    let page = || response("200 OK", "", "<html>hello</html>");
    let (url, thread) = server(vec![page(), page(), page()]);
    let expected = format!(
        "gave up on the endpoint after 3 tries: the endpoint at `{url}/chat/completions` did not answer with a chat \
         completion (expected value at line 1 column 1): <html>hello</html>"
    );
    assert_eq!(failure(&client(&url)), (expected, false));
    thread.join().unwrap();
}

#[test]
fn a_body_that_ends_too_early_is_asked_for_again() {
    let whole = completion(&["A cat."]);
    let (url, thread) = server(vec![whole[..whole.len() - 9].to_string(), whole]);
    assert_eq!(texts(&client(&url).ask(&question(None), 1).unwrap()), ["A cat."]);
    thread.join().unwrap();
}

#[test]
fn a_reply_that_answers_nothing_has_one_more_chance() {
    let nothing = || {
        let choices = json!([{ "message": { "content": null }, "finish_reason": "stop" }]);
        response("200 OK", "", &json!({ "choices": choices }).to_string())
    };
    let (url, thread) = server(vec![nothing(), completion(&["A cat."])]);
    assert_eq!(texts(&client(&url).ask(&question(None), 1).unwrap()), ["A cat."]);
    thread.join().unwrap();
    let (url, thread) = server(vec![nothing(), nothing()]);
    let replies = client(&url).ask(&question(None), 1).unwrap();
    assert_eq!(replies, [Reply { text: String::new(), finish: FinishReason::Stop, fault: Some(Fault::Empty) }]);
    assert_eq!(thread.join().unwrap().len(), 2);
    // Of several samples only the missing one is asked for.
    let (url, thread) = server(vec![completion(&["1", " ", "3"]), completion(&["2"])]);
    assert_eq!(texts(&client(&url).ask(&question(None), 3).unwrap()), ["1", "3", "2"]);
    let asked = thread.join().unwrap();
    assert_eq!((&asked[0].1["n"], asked[1].1.get("n")), (&json!(3), None));
}

#[test]
fn an_unreachable_teacher_is_a_failure_of_the_world_with_its_address() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (told, input) = failure(&client(&format!("http://{address}/v1")));
    let start = format!(
        "gave up on the endpoint after 3 tries: cannot reach the endpoint at `http://{address}/v1/chat/completions`: "
    );
    assert!(told.starts_with(&start) && !input, "{told}");
}

#[test]
fn a_missing_key_is_a_mistake_of_the_users() {
    let config = OpenAiConfig { key_env: Some("KEY".into()), ..config("http://127.0.0.1:1") };
    for none in [BTreeMap::new(), variables(&[("KEY", " \n")])] {
        let error = OpenAi::new(config.clone(), &none).err().unwrap();
        let expected = "the environment variable `KEY` is not set: `key_env` says that it holds the API key";
        assert_eq!((error.to_string().as_str(), ErrorChain::of(&error).input), (expected, true));
    }
    let error = OpenAi::new(config, &variables(&[("KEY", "two\nlines")])).err().unwrap();
    assert_eq!(error.to_string(), "the key in `KEY` holds a character that no HTTP header may hold");
}

#[test]
fn a_proxy_of_the_environment_is_gone_through() {
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
    assert_eq!(texts(&client.ask(&question(None), 1).unwrap()), ["through"]);
    let expected = ["CONNECT teacher.invalid:80 HTTP/1.1", "POST /v1/chat/completions HTTP/1.1"];
    assert_eq!(thread.join().unwrap(), expected);
}

/// A server that speaks TLS with the certificate of the tests, for so many connections. It was made, for a hundred years, by
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
        // A client that does not trust this server hangs up before it asks anything.
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
fn a_private_certificate_is_trusted_when_it_is_named() {
    let (url, thread) = secure_server(2);
    let file = format!("{}/tests/golden/tls/certificate.pem", env!("CARGO_MANIFEST_DIR"));
    let named = OpenAi::new(config(&url), &variables(&[("SSL_CERT_FILE", &file)])).unwrap();
    assert_eq!(texts(&named.ask(&question(None), 1).unwrap()), ["trusted"]);
    let expected = format!(
        "no secure connection to the endpoint at `{url}/chat/completions`: invalid peer certificate: UnknownIssuer\n\
         help: `SSL_CERT_FILE` names a file with the certificates to trust"
    );
    // Asked once: a certificate does not become another one by asking again.
    assert_eq!(failure(&client(&url)), (expected, false));
    thread.join().unwrap();
}
