//! A client of an OpenAI-compatible `/chat/completions` endpoint: hosted services, vLLM, llama.cpp, Ollama.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::api_key::ApiKey;
use super::failure::{self, ErrorResponse, Failure};
use super::network;
use super::response::{self, Response};
use ablate_core::base::wrong_input;

/// A longer response body is an error.
const MAX_BODY_BYTES: u64 = 64 << 20;
/// The longest pause before a retry, whatever the server asks for.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// How often responses with a [`response::Fault`] are requested again.
const FAULT_RETRIES: usize = 1;

/// Address of the endpoint, and how it samples.
#[derive(Clone, Debug)]
pub struct OpenAiConfig {
    /// Base URL, for example `https://api.openai.com/v1`; `/chat/completions` is added.
    pub url: String,
    pub model: String,
    pub temperature: f64,
    pub max_tokens: u32,
    /// Environment variable with the API key; `None` for endpoints without one.
    pub key_env: Option<String>,
    /// Time limit of one request, from the connection to the last byte.
    pub timeout: Duration,
    /// Attempts after the first.
    pub retries: u32,
    /// Pause before the first retry; it doubles with each further one.
    pub backoff: Duration,
}

/// The messages that a model receives.
#[derive(Clone, Debug)]
pub struct ChatRequest {
    pub system: String,
    /// The user's turn.
    pub content: Vec<ContentPart>,
}

/// A part of a message.
#[derive(Clone, Debug)]
pub enum ContentPart {
    Text(String),
    /// An encoded PNG or JPEG.
    Image(Vec<u8>),
}

impl ContentPart {
    fn value(&self) -> Value {
        match self {
            ContentPart::Text(text) => json!({ "type": "text", "text": text }),
            ContentPart::Image(bytes) => {
                let format = if bytes.starts_with(b"\xff\xd8") { "jpeg" } else { "png" };
                let url = format!("data:image/{format};base64,{}", STANDARD.encode(bytes));
                json!({ "type": "image_url", "image_url": { "url": url } })
            }
        }
    }
}

/// A client, which threads may share.
pub struct OpenAi {
    config: OpenAiConfig,
    /// The full URL of requests.
    url: String,
    key: ApiKey,
    agent: ureq::Agent,
}

impl OpenAi {
    /// Reads the API key, the proxy and the certificates from `variables`, the values of [`OpenAi::variables`].
    pub fn new(config: OpenAiConfig, variables: &BTreeMap<String, String>) -> Result<OpenAi> {
        let key = match &config.key_env {
            None => ApiKey::default(),
            Some(name) => variables.get(name).and_then(|value| ApiKey::new(value)).ok_or_else(|| {
                wrong_input(anyhow!(
                    "the environment variable `{name}` is not set; `key_env` names it as the one with the API key"
                ))
            })?,
        };
        if key.get().is_some_and(|key| !key.bytes().all(|byte| (b' '..=b'~').contains(&byte))) {
            let name = config.key_env.as_deref().unwrap_or_default();
            return Err(wrong_input(anyhow!(
                "the API key in `{name}` contains a character that is not allowed in an HTTP header"
            )));
        }
        let url = format!("{}/chat/completions", config.url.trim_end_matches('/'));
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            // A redirected POST may become a GET, and the user did not choose its target.
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

    /// Samples `samples` responses. If the endpoint returns fewer, or some have a fault, it requests the missing ones
    /// again; responses that have a fault after [`FAULT_RETRIES`] are returned.
    pub fn complete(&self, request: &ChatRequest, samples: usize) -> Result<Vec<Response>> {
        let mut responses = Vec::new();
        let mut fault_retries = FAULT_RETRIES;
        while responses.len() < samples {
            let mut more = self.send(request, samples - responses.len())?;
            let received = more.len();
            if fault_retries > 0 {
                more.retain(|response| response.fault.is_none());
            }
            fault_retries -= usize::from(more.len() < received);
            responses.extend(more);
        }
        responses.truncate(samples);
        Ok(responses)
    }

    /// Sends one request, and retries it while the failure is retryable. Returns at least one response.
    fn send(&self, request: &ChatRequest, samples: usize) -> Result<Vec<Response>> {
        let body = serde_json::to_string(&self.body(request, samples)).context("cannot write the request")?;
        let mut backoff = self.config.backoff;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let (error, pause) = match self.post(&body) {
                Ok(responses) => return Ok(responses),
                Err(Failure::Permanent(error)) => return Err(error),
                Err(Failure::Retryable { error, pause }) => (error, pause),
            };
            if attempts > self.config.retries {
                let count = if attempts == 1 { "1 attempt".to_string() } else { format!("{attempts} attempts") };
                return Err(error.context(format!("the request failed after {count}")));
            }
            std::thread::sleep(pause.unwrap_or(backoff).min(MAX_PAUSE));
            backoff *= 2;
        }
    }

    fn post(&self, body: &str) -> Result<Vec<Response>, Failure> {
        let mut request = self.agent.post(&self.url).header("Content-Type", "application/json");
        if let Some(key) = self.key.get() {
            request = request.header("Authorization", &format!("Bearer {key}"));
        }
        let mut response = request.send(body).map_err(|error| failure::from_transport(&self.url, &error))?;
        let status = response.status();
        let header = |name: &str| Some(response.headers().get(name)?.to_str().ok()?.trim().to_string());
        let pause = header("retry-after").and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
        let location = header("location").map(|location| self.key.mask(&location));
        let bytes = response
            .body_mut()
            .with_config()
            .limit(MAX_BODY_BYTES)
            .read_to_vec()
            .map_err(|error| failure::from_transport(&self.url, &error))?;
        if !status.is_success() {
            // Endpoints repeat the key in their error messages.
            let text = self.key.mask(&String::from_utf8_lossy(&bytes));
            let error = ErrorResponse { status, location, pause, text: &text };
            return Err(failure::from_status(&self.url, self.config.key_env.as_deref(), &error));
        }
        let mut responses = response::parse(&bytes).map_err(|cause| {
            // A gateway replaced the body, or the connection ended early.
            let line = failure::first_line(&self.key.mask(&String::from_utf8_lossy(&bytes)));
            let cause = self.key.mask(&cause);
            let error = anyhow!("the endpoint at `{}` did not return a chat completion ({cause}): {line}", self.url);
            Failure::Retryable { error, pause }
        })?;
        for response in &mut responses {
            response.text = self.key.mask(&response.text);
        }
        Ok(responses)
    }

    fn body(&self, request: &ChatRequest, samples: usize) -> Value {
        let OpenAiConfig { model, temperature, max_tokens, .. } = &self.config;
        let content = match &request.content[..] {
            [ContentPart::Text(text)] => json!(text),
            parts => parts.iter().map(ContentPart::value).collect(),
        };
        let mut messages = Vec::new();
        if !request.system.is_empty() {
            messages.push(json!({ "role": "system", "content": request.system }));
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
