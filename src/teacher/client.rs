//! A client of an OpenAI-compatible `/chat/completions` endpoint: hosted services, Azure, vLLM, llama.cpp, Ollama. It sends one
//! request at a time and classifies what comes back; [`super::Dispatcher`] decides what is sent and when.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow};
use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Method, Proxy, Response, redirect};

use super::api_key::ApiKey;
use super::completion::{self, Choice, Completion, Unreadable};
use super::failure::{self, ErrorResponse, Failure};
use super::network;
use ablate_core::base::wrong_input;
use ablate_store::Fault;

/// A body of an error is cut at this length.
const MAX_ERROR_BYTES: usize = 64 << 10;
/// No body may be longer, however many tokens it may have.
const MAX_BODY_BYTES: usize = 256 << 20;
/// The longest body of a chat completion without a text.
const BODY_BYTES: usize = 1 << 20;
/// The longest text of one token in bytes, with escapes.
const BYTES_PER_TOKEN: usize = 256;

/// Address of the endpoint, and how it is reached.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Base URL, for example `https://api.openai.com/v1`; `/chat/completions` is added.
    pub url: String,
    /// Azure's `api-version`. With it, the key is sent in the header `api-key`.
    pub api_version: Option<String>,
    /// Environment variable with the API key; `None` for endpoints without one.
    pub key_env: Option<String>,
    /// Time limit of one request, from the connection to the last byte.
    pub timeout: Duration,
    /// The most tokens of a text, which limits the body.
    pub max_tokens: u32,
}

/// A client, for requests at the same time.
pub struct Client {
    pub(super) config: ClientConfig,
    pub(super) key: ApiKey,
    pub(super) http: reqwest::Client,
}

/// A successful response.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) completion: Completion,
    /// The pause after which the endpoint accepts further requests, if its headers say that it accepts none now.
    pub(super) pause: Option<Duration>,
}

impl Client {
    /// Reads the API key, the proxy and the certificates from `variables`, the values of [`Client::variables`].
    pub fn new(config: ClientConfig, variables: &BTreeMap<String, String>) -> Result<Client> {
        let key = match &config.key_env {
            None => ApiKey::default(),
            Some(name) => variables.get(name).and_then(|value| ApiKey::new(value)).ok_or_else(|| {
                wrong_input(anyhow!(
                    "the environment variable `{name}` is not set; `key_env` names it as the one with the API key"
                ))
            })?,
        };
        let mut headers = HeaderMap::new();
        if let Some(text) = key.get() {
            let (name, text) = match config.api_version {
                None => ("authorization", format!("Bearer {text}")),
                Some(_) => ("api-key", text.to_string()),
            };
            let mut value = HeaderValue::from_str(&text).map_err(|_| {
                let name = config.key_env.as_deref().unwrap_or_default();
                wrong_input(anyhow!(
                    "the API key in `{name}` contains a character that is not allowed in an HTTP header"
                ))
            })?;
            // Then it does not appear in debug output of the HTTP library.
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        let mut builder = reqwest::Client::builder()
            .default_headers(headers)
            // A redirected POST may become a GET, and the user did not choose its target.
            .redirect(redirect::Policy::none())
            .no_proxy()
            .tls_backend_preconfigured(network::tls(&config.url, variables)?)
            .timeout(config.timeout)
            .user_agent(concat!("ablate/", env!("CARGO_PKG_VERSION")));
        if let Some(proxy) = network::proxy(&config.url, variables)? {
            let wrong = |_| wrong_input(anyhow!("the proxy for `{}` is not a valid URL", config.url));
            builder = builder.proxy(Proxy::all(proxy).map_err(wrong)?);
        }
        let http = builder.build().context("cannot start the HTTP client")?;
        Ok(Client { config, key, http })
    }

    /// The environment variables that a client with this `key_env` reads.
    pub fn variables(key_env: Option<&str>) -> Vec<String> {
        network::VARIABLES.iter().copied().chain(key_env).map(str::to_string).collect()
    }

    /// The base URL, for messages and records.
    pub fn url(&self) -> &str {
        &self.config.url
    }

    /// The first line of a text, without the API key.
    pub(super) fn first_line(&self, text: &str) -> String {
        // Masked before it is cut, since a part of the key would not be found.
        failure::first_line(&self.key.mask(text))
    }

    /// The full URL of a path such as `chat/completions`.
    fn full_url(&self, path: &str) -> String {
        self.url_below(&self.config.url, path)
    }

    /// The full URL of a path below another base URL.
    pub(super) fn url_below(&self, base: &str, path: &str) -> String {
        let url = format!("{}/{path}", base.trim_end_matches('/'));
        match &self.config.api_version {
            None => url,
            Some(version) => format!("{url}?api-version={version}"),
        }
    }

    /// Sends one request for a chat completion.
    pub(super) async fn complete(&self, body: Vec<u8>, samples: usize) -> Result<Received, Failure> {
        let url = self.full_url("chat/completions");
        let request = self.http.request(Method::POST, &url).header("content-type", "application/json").body(body);
        let response = request.send().await.map_err(|error| failure::from_transport(&url, &error))?;
        let response = self.check_status(&url, response).await?;
        let pause = exhausted_limit(response.headers());
        let limit = self.body_limit(samples);
        let (bytes, complete) = read(&url, response, limit).await?;
        if !complete {
            return Ok(Received { completion: too_long(limit), pause });
        }
        let completion = self.parse(&bytes).map_err(|error| {
            let error = anyhow!("the endpoint at `{url}` returned the error {error}");
            Failure::Retryable { error, pause }
        })?;
        Ok(Received { completion, pause })
    }

    /// The longest body of a chat completion with this many texts.
    pub(super) fn body_limit(&self, samples: usize) -> usize {
        let texts = samples.saturating_mul(self.config.max_tokens as usize).saturating_mul(BYTES_PER_TOKEN);
        BODY_BYTES.saturating_add(texts).min(MAX_BODY_BYTES)
    }

    /// The completion in the body of a successful response, without the API key. The error is one that a gateway reports with the
    /// status 200.
    pub(super) fn parse(&self, bytes: &[u8]) -> Result<Completion, String> {
        let mut completion = match completion::parse(bytes) {
            Ok(completion) => completion,
            Err(Unreadable::Error(error)) => return Err(self.first_line(&error)),
            Err(Unreadable::Malformed(cause)) => {
                let line = self.first_line(&String::from_utf8_lossy(bytes));
                faulty(Fault::Malformed, format!("{cause}: {line}"))
            }
        };
        // Endpoints repeat the key.
        for choice in &mut completion.choices {
            choice.text = self.key.mask(&choice.text);
            choice.reasoning = self.key.mask(&choice.reasoning);
        }
        completion.model = completion.model.map(|model| self.key.mask(&model));
        Ok(completion)
    }

    /// The response, if its status is a success.
    pub(super) async fn check_status(&self, url: &str, response: Response) -> Result<Response, Failure> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let header = |name: &str| Some(response.headers().get(name)?.to_str().ok()?.trim().to_string());
        let location = header("location").map(|location| self.key.mask(&location));
        let pause = retry_after(response.headers());
        let (bytes, _) = read(url, response, MAX_ERROR_BYTES).await?;
        let text = self.key.mask(&String::from_utf8_lossy(&bytes));
        let error = ErrorResponse { status, location, pause, text: &text };
        Err(failure::from_status(url, self.config.key_env.as_deref(), &error))
    }
}

/// Reads a body up to a limit, and whether this is all of it.
pub(super) async fn read(url: &str, mut response: Response, limit: usize) -> Result<(Vec<u8>, bool), Failure> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| failure::from_transport(url, &error))? {
        let space = limit - bytes.len();
        bytes.extend_from_slice(&chunk[..chunk.len().min(space)]);
        if chunk.len() > space {
            return Ok((bytes, false));
        }
    }
    Ok((bytes, true))
}

/// The reply in place of a completion of more than `limit` bytes.
pub(super) fn too_long(limit: usize) -> Completion {
    faulty(Fault::TooLong, format!("a body of more than {limit} bytes"))
}

fn faulty(fault: Fault, text: String) -> Completion {
    let choice = Choice { text, fault: Some(fault), ..Choice::default() };
    Completion { choices: vec![choice], model: None, tokens: None }
}

/// The pause that a server asks for: seconds, milliseconds, or a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let header = |name: &str| Some(headers.get(name)?.to_str().ok()?.trim().to_string());
    if let Some(milliseconds) = header("retry-after-ms").and_then(|text| text.parse::<f64>().ok()) {
        return Duration::try_from_secs_f64(milliseconds / 1000.0).ok();
    }
    let text = header("retry-after")?;
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(&text).ok()?;
    Some(SystemTime::from(date).duration_since(SystemTime::from(jiff::Timestamp::now())).unwrap_or_default())
}

/// When a limit on requests or tokens is reset, if nothing is left of it. OpenAI and vLLM's gateways send these headers.
fn exhausted_limit(headers: &HeaderMap) -> Option<Duration> {
    let header = |name: String| Some(headers.get(name)?.to_str().ok()?.trim().to_string());
    let exhausted = |unit: &str| {
        let left = header(format!("x-ratelimit-remaining-{unit}"))?;
        (left == "0").then(|| header(format!("x-ratelimit-reset-{unit}")))?.and_then(|text| parse_duration(&text))
    };
    ["requests", "tokens"].into_iter().filter_map(exhausted).max()
}

/// A duration such as `6m0s`, `1.5s`, `20ms` or `7` (seconds).
fn parse_duration(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let span: jiff::Span = text.parse().ok()?;
    span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn pauses_are_seconds_milliseconds_or_dates() {
        let pause = |value: &str| retry_after(&headers(&[("retry-after", value)]));
        assert_eq!(pause("7"), Some(Duration::from_secs(7)));
        assert_eq!(pause("0.5"), Some(Duration::from_millis(500)));
        assert_eq!(pause("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        assert!(pause("Tue, 01 Jan 2999 00:00:00 GMT").unwrap() > Duration::from_secs(1_000_000));
        assert_eq!((pause("soon"), pause("-1"), pause("1e300"), pause("NaN")), (None, None, None, None));
        assert_eq!(retry_after(&headers(&[("retry-after-ms", "20")])), Some(Duration::from_millis(20)));
    }

    #[test]
    fn exhausted_limits_are_awaited() {
        let pause = |left: &str, reset: &str| {
            exhausted_limit(&headers(&[
                ("x-ratelimit-remaining-tokens", left),
                ("x-ratelimit-reset-tokens", reset),
                ("x-ratelimit-remaining-requests", "99"),
            ]))
        };
        assert_eq!(pause("0", "6m0s"), Some(Duration::from_secs(360)));
        assert_eq!(pause("0", "1m2.5s"), Some(Duration::from_millis(62_500)));
        assert_eq!(pause("0", "20ms"), Some(Duration::from_millis(20)));
        assert_eq!(pause("0", "1h"), Some(Duration::from_secs(3600)));
        assert_eq!(pause("0", "1d2h"), Some(Duration::from_secs(26 * 3600)));
        assert_eq!((pause("0", "-5s"), pause("0", "1mo"), pause("0", "")), (None, None, None));
        assert_eq!(
            (pause("1", "6m0s"), pause("0", "a while"), pause("0", "5")),
            (None, None, Some(Duration::from_secs(5)))
        );
    }
}
