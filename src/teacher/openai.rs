//! A client of an OpenAI-compatible `/chat/completions` endpoint: hosted services, vLLM, llama.cpp, Ollama.
//! Knows no item and no file; a question is text and an image, a reply is text. The only home of `ureq`.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::data::records::Finish;

/// A response with more bytes than this is refused.
const LONGEST_RESPONSE: u64 = 64 << 20;
/// The longest pause between two tries, whatever the server asks for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Where the endpoint is and how it samples.
#[derive(Clone, Debug)]
pub struct OpenAiConfig {
    /// Base address, for example `https://api.openai.com/v1`; `/chat/completions` is added.
    pub url: String,
    pub model: String,
    pub temperature: f64,
    /// Replies per question.
    pub samples: usize,
    pub max_tokens: u32,
    /// Environment variable that holds the API key; none for endpoints without one.
    pub key_env: Option<String>,
    /// Of one request, from the connection to the last byte.
    pub timeout: Duration,
    /// Tries after the first.
    pub retries: u32,
    /// Pause before the first repeated try; each further one doubles it.
    pub backoff: Duration,
}

/// What a model is asked.
#[derive(Clone, Debug)]
pub struct Question {
    pub system: String,
    pub prompt: String,
    /// An encoded PNG or JPEG.
    pub image: Option<Vec<u8>>,
}

/// One sampled reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub text: String,
    pub finish: Finish,
}

/// A client; any number of threads may use it at a time.
pub struct OpenAi {
    config: OpenAiConfig,
    key: Option<String>,
    agent: ureq::Agent,
}

/// Why a try failed.
enum Failure {
    /// Another try may succeed; after this pause, if the server asked for one.
    Passing {
        error: anyhow::Error,
        pause: Option<Duration>,
    },
    Final(anyhow::Error),
}

#[derive(Deserialize)]
struct Completion {
    choices: Vec<Choice>,
}

#[derive(Deserialize)]
struct Choice {
    message: Message,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Message {
    /// Null when a service declines to answer.
    #[serde(default)]
    content: Option<String>,
}

impl OpenAi {
    /// Reads the API key from its environment variable; sends nothing yet.
    pub fn new(config: OpenAiConfig) -> Result<OpenAi> {
        let key = match &config.key_env {
            None => None,
            Some(name) => match std::env::var(name) {
                Ok(key) if !key.trim().is_empty() => Some(key.trim().to_string()),
                _ => bail!("the environment variable `{name}` is not set: `key_env` says that it holds the API key"),
            },
        };
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(config.timeout))
            .user_agent(concat!("ablate/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        Ok(OpenAi { config, key, agent })
    }

    /// The replies to one question. An endpoint that gives fewer than asked for is asked again.
    pub fn ask(&self, question: &Question) -> Result<Vec<Reply>> {
        let mut replies = Vec::new();
        while replies.len() < self.config.samples {
            let more = self.request(question, self.config.samples - replies.len())?;
            if more.is_empty() {
                bail!("the endpoint at `{}` gave no reply", self.config.url);
            }
            replies.extend(more);
        }
        replies.truncate(self.config.samples);
        Ok(replies)
    }

    /// One request, tried again while that may help.
    fn request(&self, question: &Question, samples: usize) -> Result<Vec<Reply>> {
        let body = serde_json::to_string(&self.body(question, samples)).context("cannot write the request")?;
        let mut backoff = self.config.backoff;
        let mut tries = 0;
        loop {
            tries += 1;
            let (error, pause) = match self.post(&body) {
                Ok(replies) => return Ok(replies),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing { error, pause }) => (error, pause),
            };
            if tries > self.config.retries {
                return Err(error.context(format!("gave up on the endpoint after {tries} tries")));
            }
            std::thread::sleep(pause.unwrap_or(backoff).min(LONGEST_PAUSE));
            backoff *= 2;
        }
    }

    fn post(&self, body: &str) -> Result<Vec<Reply>, Failure> {
        let url = format!("{}/chat/completions", self.config.url.trim_end_matches('/'));
        let mut request = self.agent.post(&url).header("Content-Type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("Authorization", &format!("Bearer {key}"));
        }
        let mut response = request.send(body).map_err(|error| failure(&url, &error))?;
        let status = response.status();
        let pause = response
            .headers()
            .get("retry-after")
            .and_then(|value| value.to_str().ok()?.trim().parse().ok())
            .map(Duration::from_secs);
        let text = response
            .body_mut()
            .with_config()
            .limit(LONGEST_RESPONSE)
            .lossy_utf8(true)
            .read_to_string()
            .map_err(|error| failure(&url, &error))?;
        if !status.is_success() {
            let error = anyhow!("the endpoint at `{url}` said {status}: {}", first_line(&text));
            return Err(if status.as_u16() == 429 || status.is_server_error() {
                Failure::Passing { error, pause }
            } else {
                Failure::Final(error)
            });
        }
        let completion: Completion = serde_json::from_str(&text).map_err(|error| {
            let line = first_line(&text);
            Failure::Final(anyhow!("the endpoint at `{url}` did not answer with a chat completion ({error}): {line}"))
        })?;
        Ok(completion.choices.into_iter().map(Choice::reply).collect())
    }

    fn body(&self, question: &Question, samples: usize) -> Value {
        let OpenAiConfig { model, temperature, max_tokens, .. } = &self.config;
        let content = match &question.image {
            None => json!(question.prompt),
            Some(bytes) => {
                let format = if bytes.starts_with(b"\xff\xd8") { "jpeg" } else { "png" };
                let url = format!("data:image/{format};base64,{}", STANDARD.encode(bytes));
                json!([
                    { "type": "image_url", "image_url": { "url": url } },
                    { "type": "text", "text": question.prompt },
                ])
            }
        };
        let mut messages = Vec::new();
        if !question.system.is_empty() {
            messages.push(json!({ "role": "system", "content": question.system }));
        }
        messages.push(json!({ "role": "user", "content": content }));
        let mut body =
            json!({ "model": model, "messages": messages, "temperature": temperature, "max_tokens": max_tokens });
        if samples > 1 {
            body["n"] = json!(samples);
        }
        body
    }
}

impl Choice {
    fn reply(self) -> Reply {
        let finish = if self.finish_reason.as_deref() == Some("length") { Finish::Length } else { Finish::Stop };
        Reply { text: self.message.content.unwrap_or_default(), finish }
    }
}

/// What a failure of the connection means.
fn failure(url: &str, error: &ureq::Error) -> Failure {
    let passing = matches!(
        error,
        ureq::Error::Io(_) | ureq::Error::Timeout(_) | ureq::Error::ConnectionFailed | ureq::Error::HostNotFound
    );
    let error = anyhow!("cannot reach the endpoint at `{url}`: {error}");
    if passing { Failure::Passing { error, pause: None } } else { Failure::Final(error) }
}

fn first_line(text: &str) -> String {
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("(no text)");
    line.chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    /// What the server was asked: the head, and the body as JSON.
    type Asked = (String, Value);

    /// Answers one connection after another with the given responses, then ends.
    fn server(responses: Vec<String>) -> (String, JoinHandle<Vec<Asked>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let thread = std::thread::spawn(move || {
            let answer = |response: String| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let mut head = String::new();
                while !head.ends_with("\r\n\r\n") {
                    assert_ne!(reader.read_line(&mut head).unwrap(), 0, "the client hung up");
                }
                let length =
                    head.to_lowercase().split_once("content-length: ").unwrap().1.lines().next().unwrap().parse();
                let mut body = vec![0; length.unwrap()];
                reader.read_exact(&mut body).unwrap();
                stream.write_all(response.as_bytes()).unwrap();
                (head, serde_json::from_slice(&body).unwrap())
            };
            responses.into_iter().map(answer).collect()
        });
        (url, thread)
    }

    fn response(status: &str, headers: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\n{headers}Connection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }

    fn completion(texts: &[&str]) -> String {
        let choices: Vec<Value> =
            texts.iter().map(|text| json!({ "message": { "content": text }, "finish_reason": "stop" })).collect();
        response("200 OK", "", &json!({ "choices": choices }).to_string())
    }

    fn client(url: &str, samples: usize) -> OpenAi {
        OpenAi::new(OpenAiConfig {
            url: url.to_string(),
            model: "teacher".into(),
            temperature: 0.5,
            samples,
            max_tokens: 64,
            key_env: None,
            timeout: Duration::from_secs(20),
            retries: 2,
            backoff: Duration::from_millis(1),
        })
        .unwrap()
    }

    fn question(image: Option<&[u8]>) -> Question {
        Question { system: "Be brief.".into(), prompt: "What is it?".into(), image: image.map(<[u8]>::to_vec) }
    }

    #[test]
    fn a_question_is_sent_with_its_image_and_the_reply_read() {
        let (url, thread) = server(vec![completion(&["A cat.\n### Answer: cat"])]);
        let replies = client(&url, 1).ask(&question(Some(b"\x89PNG"))).unwrap();
        assert_eq!(replies, [Reply { text: "A cat.\n### Answer: cat".into(), finish: Finish::Stop }]);
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
        let replies = client(&url, 3).ask(&question(None)).unwrap();
        assert_eq!(replies.iter().map(|reply| reply.text.as_str()).collect::<Vec<_>>(), ["1", "2", "3"]);
        let asked = thread.join().unwrap();
        assert_eq!((&asked[0].1["n"], asked[1].1.get("n")), (&json!(3), None));
        assert_eq!(asked[0].1["messages"][1]["content"], json!("What is it?"));
    }

    #[test]
    fn a_busy_teacher_is_asked_again() {
        let busy = response("429 Too Many Requests", "Retry-After: 0\r\n", "slow down");
        let broken = response("503 Service Unavailable", "", "");
        let (url, thread) = server(vec![busy, broken, completion(&["yes"])]);
        assert_eq!(client(&url, 1).ask(&question(None)).unwrap()[0].text, "yes");
        assert_eq!(thread.join().unwrap().len(), 3);
    }

    #[test]
    fn a_teacher_that_stays_busy_is_given_up() {
        let broken = || response("500 Internal Server Error", "", "\n  out of memory\nmore");
        let (url, thread) = server(vec![broken(), broken(), broken()]);
        let error = format!("{:#}", client(&url, 1).ask(&question(None)).unwrap_err());
        let expected = format!(
            "gave up on the endpoint after 3 tries: the endpoint at `{url}/chat/completions` said 500 Internal Server \
             Error: out of memory"
        );
        assert_eq!(error, expected);
        thread.join().unwrap();
    }

    #[test]
    fn a_refusal_is_not_tried_again() {
        let (url, thread) = server(vec![response("404 Not Found", "", "{\"error\": \"no model `teacher`\"}")]);
        let error = format!("{:#}", client(&url, 1).ask(&question(None)).unwrap_err());
        assert!(error.ends_with("said 404 Not Found: {\"error\": \"no model `teacher`\"}"), "{error}");
        assert_eq!(thread.join().unwrap().len(), 1);
    }

    #[test]
    fn an_answer_of_another_form_is_an_error() {
        let (url, thread) = server(vec![response("200 OK", "", "<html>hello</html>")]);
        let error = format!("{:#}", client(&url, 1).ask(&question(None)).unwrap_err());
        assert!(
            error.contains("did not answer with a chat completion") && error.ends_with("<html>hello</html>"),
            "{error}"
        );
        thread.join().unwrap();
    }

    #[test]
    fn an_unreachable_teacher_is_an_error_with_its_address() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = format!("{:#}", client(&format!("http://{address}/v1"), 1).ask(&question(None)).unwrap_err());
        let start = format!(
            "gave up on the endpoint after 3 tries: cannot reach the endpoint at \
             `http://{address}/v1/chat/completions`: "
        );
        assert!(error.starts_with(&start), "{error}");
    }

    #[test]
    fn a_missing_key_is_an_error_and_a_present_one_is_sent() {
        let mut config = client("http://127.0.0.1:1", 1).config;
        config.key_env = Some("ABLATE_TEST_NO_SUCH_KEY".into());
        let error = OpenAi::new(config.clone()).err().unwrap().to_string();
        assert!(error.starts_with("the environment variable `ABLATE_TEST_NO_SUCH_KEY` is not set"), "{error}");
        // Any variable that is set will do: the environment of a test process is not to be changed.
        let (url, thread) = server(vec![completion(&["yes"])]);
        config.key_env = Some("PATH".into());
        config.url = url;
        OpenAi::new(config).unwrap().ask(&question(None)).unwrap();
        let (head, _) = thread.join().unwrap().remove(0);
        let expected = format!("authorization: bearer {}", std::env::var("PATH").unwrap().to_lowercase());
        assert!(head.to_lowercase().contains(&expected), "{head}");
    }
}
