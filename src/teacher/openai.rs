//! A client of an OpenAI-compatible `/chat/completions` endpoint: hosted services, vLLM, llama.cpp, Ollama.
//! Knows no item and no file; a question is text and an image, a reply is text.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::failure::{self, Failure};
use super::network;
use super::reply::{self, Reply};
use super::secret::Secret;
use ablate_core::base::wrong_input;

/// A response with more bytes than this is refused.
const LONGEST_RESPONSE: u64 = 64 << 20;
/// The longest pause between two tries, whatever the server asks for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How often a question is asked again whose reply answers nothing: see [`reply::Fault`].
const SECOND_CHANCES: usize = 1;

/// Where the endpoint is and how it samples.
#[derive(Clone, Debug)]
pub struct OpenAiConfig {
    /// Base address, for example `https://api.openai.com/v1`; `/chat/completions` is added.
    pub url: String,
    pub model: String,
    pub temperature: f64,
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

/// A client; any number of threads may use it at a time.
pub struct OpenAi {
    config: OpenAiConfig,
    /// The whole address that is asked.
    url: String,
    key: Secret,
    agent: ureq::Agent,
}

impl OpenAi {
    /// Takes the API key, the proxy and the certificates from the variables that [`OpenAi::variables`] names; sends
    /// nothing yet.
    pub fn new(config: OpenAiConfig, variables: &BTreeMap<String, String>) -> Result<OpenAi> {
        let key = match &config.key_env {
            None => Secret::default(),
            Some(name) => variables.get(name).and_then(|value| Secret::new(value)).ok_or_else(|| {
                wrong_input(anyhow!(
                    "the environment variable `{name}` is not set: `key_env` says that it holds the API key"
                ))
            })?,
        };
        if key.get().is_some_and(|key| !key.bytes().all(|byte| (b' '..=b'~').contains(&byte))) {
            let name = config.key_env.as_deref().unwrap_or_default();
            return Err(wrong_input(anyhow!("the key in `{name}` holds a character that no HTTP header may hold")));
        }
        let url = format!("{}/chat/completions", config.url.trim_end_matches('/'));
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            // A redirected POST may become a GET, and its target was not asked for.
            .max_redirects(0)
            .proxy(network::proxy(&url, variables)?)
            .tls_config(network::tls(&url, variables)?)
            .timeout_global(Some(config.timeout))
            .user_agent(concat!("ablate/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        Ok(OpenAi { config, url, key, agent })
    }

    /// The environment variables that a client with this `key_env` reads.
    pub fn variables(key_env: Option<&str>) -> Vec<String> {
        network::VARIABLES.iter().copied().chain(key_env).map(str::to_string).collect()
    }

    /// So many replies to one question. An endpoint that gives fewer is asked again, and so is one whose reply answers
    /// nothing; what then still answers nothing is among the replies.
    pub fn ask(&self, question: &Question, samples: usize) -> Result<Vec<Reply>> {
        let mut replies = Vec::new();
        let mut chances = SECOND_CHANCES;
        while replies.len() < samples {
            let mut more = self.request(question, samples - replies.len())?;
            let asked = more.len();
            if chances > 0 {
                more.retain(|reply| reply.fault.is_none());
            }
            chances -= usize::from(more.len() < asked);
            replies.extend(more);
        }
        replies.truncate(samples);
        Ok(replies)
    }

    /// One request, tried again while that may help. At least one reply.
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
                let times = if tries == 1 { "1 try".to_string() } else { format!("{tries} tries") };
                return Err(error.context(format!("gave up on the endpoint after {times}")));
            }
            std::thread::sleep(pause.unwrap_or(backoff).min(LONGEST_PAUSE));
            backoff *= 2;
        }
    }

    fn post(&self, body: &str) -> Result<Vec<Reply>, Failure> {
        let mut request = self.agent.post(&self.url).header("Content-Type", "application/json");
        if let Some(key) = self.key.get() {
            request = request.header("Authorization", &format!("Bearer {key}"));
        }
        let mut response = request.send(body).map_err(|error| failure::of_transport(&self.url, &error))?;
        let status = response.status();
        let header = |name: &str| Some(response.headers().get(name)?.to_str().ok()?.trim().to_string());
        let pause = header("retry-after").and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
        let location = header("location").map(|location| self.key.mask(&location));
        let bytes = response
            .body_mut()
            .with_config()
            .limit(LONGEST_RESPONSE)
            .read_to_vec()
            .map_err(|error| failure::of_transport(&self.url, &error))?;
        if !status.is_success() {
            // Endpoints repeat the key in what they say about it.
            let text = self.key.mask(&String::from_utf8_lossy(&bytes));
            let answer = failure::Answer { status, location, pause, text: &text };
            return Err(failure::of_status(&self.url, self.config.key_env.as_deref(), &answer));
        }
        let mut replies = reply::read(&bytes).map_err(|cause| {
            // What a gateway in between made of the answer, or half of it.
            let line = failure::first_line(&self.key.mask(&String::from_utf8_lossy(&bytes)));
            let cause = self.key.mask(&cause);
            let error =
                anyhow!("the endpoint at `{}` did not answer with a chat completion ({cause}): {line}", self.url);
            Failure::Passing { error, pause }
        })?;
        for reply in &mut replies {
            reply.text = self.key.mask(&reply.text);
        }
        Ok(replies)
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
