//! The calls of OpenAI's batch protocol: upload a file of requests, create a batch, look at it, read its results.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow};
use reqwest::multipart::{Form, Part};
use reqwest::{RequestBuilder, Response};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::client::{self, Client};
use super::failure::{self, Failure};
use ablate_core::base::wrong_input;

/// The longest description of a batch, or of a page of batches.
const DESCRIPTION_BYTES: usize = 16 << 20;
/// An upload gets one second more for this many bytes.
const BYTES_PER_SECOND: u64 = 32 << 10;
/// The time limit of a download. Its parts have that of a request.
const DOWNLOAD_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// A batch, as the endpoint describes it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Batch {
    pub(super) id: String,
    #[serde(default)]
    pub(super) status: String,
    pub(super) output_file_id: Option<String>,
    pub(super) error_file_id: Option<String>,
    pub(super) request_counts: Option<RequestCounts>,
    errors: Option<BatchErrors>,
    metadata: Option<BTreeMap<String, Value>>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RequestCounts {
    pub(super) completed: u64,
    pub(super) failed: u64,
}

/// Why the endpoint refused the file of a batch.
#[derive(Clone, Debug, Default, Deserialize)]
struct BatchErrors {
    #[serde(default)]
    data: Vec<BatchError>,
}

#[derive(Clone, Debug, Deserialize)]
struct BatchError {
    code: Option<String>,
    message: Option<String>,
    line: Option<u64>,
}

#[derive(Deserialize)]
struct UploadedFile {
    id: String,
}

#[derive(Deserialize)]
struct BatchPage {
    #[serde(default)]
    data: Vec<Batch>,
    #[serde(default)]
    has_more: bool,
}

/// Fields of a batch that identify it among the batches of an account.
pub(super) type Metadata = BTreeMap<String, String>;

impl Batch {
    pub(super) fn is_finished(&self) -> bool {
        matches!(self.status.as_str(), "completed" | "failed" | "expired" | "cancelled")
    }

    fn has(&self, metadata: &Metadata) -> bool {
        let own = self.metadata.as_ref();
        metadata.iter().all(|(key, value)| own.and_then(|own| own.get(key)?.as_str()) == Some(value))
    }

    /// The first reason of a refused file.
    pub(super) fn first_error(&self) -> String {
        let Some(error) = self.errors.as_ref().and_then(|errors| errors.data.first()) else {
            return "the endpoint gives no reason".to_string();
        };
        let texts = [error.code.as_deref(), error.message.as_deref()];
        let text = texts.into_iter().flatten().collect::<Vec<_>>().join(": ");
        let line = error.line.map(|line| format!("line {line}: ")).unwrap_or_default();
        format!("{line}{text}")
    }
}

impl Client {
    /// Uploads a file of requests and returns its id.
    pub(super) async fn upload(&self, path: &Path) -> Result<String, Failure> {
        let url = self.batch_url("files");
        let open = async {
            let file = tokio::fs::File::open(path).await?;
            let length = file.metadata().await?.len();
            Ok::<_, std::io::Error>((file, length))
        };
        let opened = open.await.with_context(|| format!("cannot read `{}`", path.display()));
        let (file, length) = opened.map_err(Failure::Permanent)?;
        let part = Part::stream_with_length(file, length).file_name("requests.jsonl").mime_str("application/jsonl");
        let part = part.map_err(|error| failure::from_transport(&url, &error))?;
        let form = Form::new().text("purpose", "batch").part("file", part);
        let timeout = self.config.timeout + Duration::from_secs(length / BYTES_PER_SECOND);
        let request = self.http.post(&url).multipart(form).timeout(timeout);
        let response = self.call(&url, request).await?.ok_or_else(|| no_batches(&url))?;
        Ok(self.describe::<UploadedFile>(&url, response).await?.id)
    }

    /// Creates a batch of an uploaded file.
    pub(super) async fn create_batch(&self, file: &str, metadata: &Metadata) -> Result<Batch, Failure> {
        let url = self.batch_url("batches");
        let body = json!({
            "input_file_id": file,
            "endpoint": self.batch_path(),
            "completion_window": "24h",
            "metadata": metadata,
        });
        let request = self.http.post(&url).header("content-type", "application/json").body(body.to_string());
        let response = self.call(&url, request).await?.ok_or_else(|| no_batches(&url))?;
        self.describe(&url, response).await
    }

    /// A batch by its id.
    pub(super) async fn batch(&self, id: &str) -> Result<Batch, Failure> {
        let url = self.batch_url(&format!("batches/{id}"));
        let response = self.call(&url, self.http.get(&url)).await?.ok_or_else(|| gone(&url))?;
        self.describe(&url, response).await
    }

    /// Finds a batch by its metadata.
    pub(super) async fn find_batch(&self, metadata: &Metadata) -> Result<Option<Batch>, Failure> {
        let url = self.batch_url("batches");
        let mut after: Option<String> = None;
        loop {
            let mut query = vec!["limit=100".to_string()];
            query.extend(after.iter().map(|after| format!("after={after}")));
            let separator = if url.contains('?') { '&' } else { '?' };
            let page_url = format!("{url}{separator}{}", query.join("&"));
            let response = self.call(&page_url, self.http.get(&page_url)).await?.ok_or_else(|| no_list(&url))?;
            let page: BatchPage = self.describe(&url, response).await?;
            let last = page.data.last().map(|batch| batch.id.clone());
            if let Some(batch) = page.data.into_iter().find(|batch| batch.has(metadata)) {
                return Ok(Some(batch));
            }
            // A server that ignores `after` sends the same page again.
            if !page.has_more || last.is_none() || last == after {
                return Ok(None);
            }
            after = last;
        }
    }

    /// The lines of a file of results.
    pub(super) async fn content(&self, file: &str) -> Result<ResultLines, Failure> {
        let url = self.batch_url(&format!("files/{file}/content"));
        let request = self.http.get(&url).timeout(DOWNLOAD_TIMEOUT);
        let response = self.call(&url, request).await?.ok_or_else(|| gone(&url))?;
        let (limit, timeout) = (self.body_limit(1), self.config.timeout);
        Ok(ResultLines { response, url, limit, timeout, chunk: Vec::new(), at: 0 })
    }

    /// The path of chat completions in the requests of a batch.
    pub(super) fn batch_path(&self) -> &'static str {
        match self.config.api_version {
            None => "/v1/chat/completions",
            // Azure.
            Some(_) => "/chat/completions",
        }
    }

    /// The full URL of a path such as `batches`. Those of Azure are not below a deployment.
    fn batch_url(&self, path: &str) -> String {
        let url = self.url();
        let deployment = self.config.api_version.as_ref().and_then(|_| url.split_once("/deployments/"));
        self.url_below(deployment.map_or(url, |(base, _)| base), path)
    }

    /// Sends a request; `None` if the endpoint does not have what the URL names.
    async fn call(&self, url: &str, request: RequestBuilder) -> Result<Option<Response>, Failure> {
        let response = request.send().await.map_err(|error| failure::from_transport(url, &error))?;
        match response.status().as_u16() {
            404 | 405 | 501 => Ok(None),
            _ => self.check_status(url, response).await.map(Some),
        }
    }

    async fn describe<T: DeserializeOwned>(&self, url: &str, response: Response) -> Result<T, Failure> {
        let (bytes, _) = client::read(url, response, DESCRIPTION_BYTES).await?;
        serde_json::from_slice(&bytes).map_err(|error| {
            let line = self.first_line(&String::from_utf8_lossy(&bytes));
            let error = anyhow!("the endpoint at `{url}` returned a body that cannot be read: {error}: {line}");
            Failure::Retryable { error, pause: None }
        })
    }
}

/// The endpoint does not have a batch or a file that it had. Right after the creation of a batch this is a delay of the endpoint.
#[derive(Debug)]
pub(super) struct Gone(String);

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the endpoint has nothing at `{}`", self.0)
    }
}

impl Error for Gone {}

fn gone(url: &str) -> Failure {
    Failure::Retryable { error: anyhow!(Gone(url.to_string())), pause: None }
}

fn no_batches(url: &str) -> Failure {
    let text = "help: remove `batch = true`; then requests are sent one by one";
    Failure::Permanent(wrong_input(anyhow!("the endpoint has no batches: there is nothing at `{url}`\n{text}")))
}

fn no_list(url: &str) -> Failure {
    Failure::Permanent(anyhow!("the endpoint does not list its batches at `{url}`"))
}

/// A file of results, which is read line by line.
pub(super) struct ResultLines {
    response: Response,
    url: String,
    /// Longer lines are cut.
    limit: usize,
    /// Of one part of the body.
    timeout: Duration,
    chunk: Vec<u8>,
    /// Bytes of `chunk` that are read.
    at: usize,
}

/// One line without its line break.
#[derive(Debug, Default)]
pub(super) struct ResultLine {
    pub(super) bytes: Vec<u8>,
    /// Whether the line was longer than the limit.
    pub(super) cut: bool,
    /// Whether the file ends without a line break after it.
    pub(super) is_open: bool,
}

impl ResultLines {
    /// The next line; `None` at the end of the file.
    pub(super) async fn next(&mut self) -> Result<Option<ResultLine>, Failure> {
        let mut line = ResultLine::default();
        loop {
            let rest = &self.chunk[self.at..];
            let end = rest.iter().position(|byte| *byte == b'\n');
            let part = &rest[..end.unwrap_or(rest.len())];
            let space = self.limit - line.bytes.len();
            line.cut |= part.len() > space;
            line.bytes.extend_from_slice(&part[..part.len().min(space)]);
            self.at += part.len() + usize::from(end.is_some());
            if end.is_some() {
                return Ok(Some(line));
            }
            let timed_out = |_| {
                let error = anyhow!("cannot reach the endpoint at `{}`: it did not answer in time", self.url);
                Failure::Retryable { error, pause: None }
            };
            let chunk = tokio::time::timeout(self.timeout, self.response.chunk()).await.map_err(timed_out)?;
            match chunk.map_err(|error| failure::from_transport(&self.url, &error))? {
                Some(chunk) => (self.chunk, self.at) = (chunk.to_vec(), 0),
                None if line.bytes.is_empty() => return Ok(None),
                None => return Ok(Some(ResultLine { is_open: true, ..line })),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::teacher::ClientConfig;

    #[test]
    fn batches_of_azure_are_not_below_a_deployment() {
        let client = |url: &str, version: Option<&str>| {
            let timeout = Duration::from_secs(1);
            let api_version = version.map(str::to_string);
            let config = ClientConfig { url: url.into(), api_version, key_env: None, timeout, max_tokens: 1 };
            Client::new(config, &BTreeMap::new()).unwrap()
        };
        let azure = client("http://a.example/openai/deployments/m/", Some("2024-10-21"));
        assert_eq!(azure.batch_url("files"), "http://a.example/openai/files?api-version=2024-10-21");
        assert_eq!(azure.batch_path(), "/chat/completions");
        let other = client("http://a.example/deployments/v1/", None);
        assert_eq!(other.batch_url("files"), "http://a.example/deployments/v1/files");
        assert_eq!(other.batch_path(), "/v1/chat/completions");
    }

    #[test]
    fn refused_file_without_a_reason_says_so() {
        let batch = |text: &str| serde_json::from_str::<Batch>(text).unwrap();
        let silent = batch(r#"{"id": "b", "status": "failed", "errors": {"object": "list", "data": []}}"#);
        assert_eq!(silent.first_error(), "the endpoint gives no reason");
        let busy = batch(r#"{"id": "b", "status": "failed", "errors": {"data": [{"code": "token_limit_exceeded"}]}}"#);
        assert_eq!(busy.first_error(), "token_limit_exceeded");
        assert!(busy.is_finished() && !batch(r#"{"id": "b", "status": "cancelling"}"#).is_finished());
    }
}
