//! The connection to a remote: clients of S3 and of folders, and the thread pool that waits for the network.

use std::future::Future;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use tokio::runtime::{Builder, Runtime};

use super::address::Address;
use super::credentials::{Environment, S3Settings};
use super::error::{NoRemote, Stopped};
use ablate_core::base::files;

/// A failed request is sent again for this long.
const RETRY_TIME: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A request without an answer counts as failed after this time. The bytes of a part must be sent within it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(600);

/// The pause after which a wait looks whether it was stopped.
const STOP_INTERVAL: Duration = Duration::from_millis(100);

pub(crate) struct Backend {
    pub(crate) objects: Arc<dyn ObjectStore>,
    /// As `objects`, but a failed request is sent again only twice.
    pub(crate) impatient: Arc<dyn ObjectStore>,
    /// Uploads in parts that can be continued later. Folders have none.
    pub(crate) parts: Option<Arc<dyn MultipartStore>>,
    prefix: String,
    /// The server and the bucket, or the folder.
    pub(crate) server: String,
    runtime: Runtime,
    stop: Arc<AtomicBool>,
}

impl Backend {
    /// Prepares the clients. `create` makes the folder of a remote in a folder that exists.
    pub(crate) fn connect(address: &Address, create: bool, stop: Arc<AtomicBool>) -> Result<Backend> {
        match address {
            Address::S3 { bucket, prefix } => {
                let settings = Environment::of_process().s3_settings()?;
                let endpoint = settings.endpoint.as_deref().unwrap_or("aws");
                let server = format!("{endpoint} {} {bucket}", settings.region);
                // Until the retry time is over.
                let patient = Arc::new(s3(&settings, bucket, usize::MAX)?);
                let impatient = Arc::new(s3(&settings, bucket, 2)?);
                Backend::new(patient.clone(), impatient, Some(patient), prefix, server, stop)
            }
            Address::Folder(path) => {
                if !path.is_dir() && create {
                    let parent = path.parent().unwrap_or(FilePath::new("/"));
                    if !parent.is_dir() {
                        bail!(
                            "the folder `{}` of the remote does not exist\nhelp: mount the shared file system, or create the folder",
                            parent.display()
                        );
                    }
                    files::create_dir(path)?;
                }
                if !path.is_dir() {
                    return Err(NoRemote(path.display().to_string()).into());
                }
                let folder = LocalFileSystem::new_with_prefix(path)
                    .with_context(|| format!("cannot use the folder `{}`", path.display()))?
                    .with_fsync(true);
                let folder = Arc::new(folder);
                Backend::new(folder.clone(), folder, None, "", path.display().to_string(), stop)
            }
        }
    }

    pub(crate) fn new(
        objects: Arc<dyn ObjectStore>,
        impatient: Arc<dyn ObjectStore>,
        parts: Option<Arc<dyn MultipartStore>>,
        prefix: &str,
        server: String,
        stop: Arc<AtomicBool>,
    ) -> Result<Backend> {
        let threads = std::thread::available_parallelism().map_or(2, |count| count.get().clamp(2, 4));
        let runtime = Builder::new_multi_thread().worker_threads(threads).enable_all().build();
        let runtime = runtime.context("cannot start the threads for the network")?;
        Ok(Backend { objects, impatient, parts, prefix: prefix.to_string(), server, runtime, stop })
    }

    /// The full name of an object at the remote.
    pub(crate) fn path(&self, name: &str) -> Path {
        self.prefix.split('/').chain(name.split('/')).filter(|part| !part.is_empty()).collect()
    }

    /// The name of an object without the prefix of the remote; `None` if it is outside.
    pub(crate) fn name<'a>(&self, path: &'a Path) -> Option<&'a str> {
        let prefix = self.path("");
        let rest = path.as_ref().strip_prefix(prefix.as_ref())?;
        Some(rest.strip_prefix('/').unwrap_or(rest))
    }

    /// Waits for the network on this thread. Ends early if the user stops the command.
    pub(crate) fn wait<T>(&self, future: impl Future<Output = T>) -> Result<T> {
        if self.is_stopped() {
            return Err(Stopped.into());
        }
        self.runtime.block_on(async {
            tokio::select! {
                output = future => Ok(output),
                () = self.stopped() => Err(Stopped.into()),
            }
        })
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    async fn stopped(&self) {
        while !self.is_stopped() {
            tokio::time::sleep(STOP_INTERVAL).await;
        }
    }
}

fn s3(settings: &S3Settings, bucket: &str, retries: usize) -> Result<object_store::aws::AmazonS3> {
    // Another part of the program may have set the same one already.
    rustls::crypto::ring::default_provider().install_default().ok();
    let backoff = BackoffConfig {
        init_backoff: Duration::from_millis(100),
        max_backoff: Duration::from_secs(10),
        ..BackoffConfig::default()
    };
    let plain_http = settings.endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://"));
    let options = ClientOptions::new()
        .with_timeout(REQUEST_TIMEOUT)
        .with_read_timeout(ANSWER_TIMEOUT)
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_allow_http(plain_http);
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_access_key_id(&settings.key_id)
        .with_secret_access_key(&settings.secret)
        .with_region(&settings.region)
        .with_client_options(options)
        .with_retry(RetryConfig { backoff, max_retries: retries, retry_timeout: RETRY_TIME });
    if let Some(token) = &settings.token {
        builder = builder.with_token(token);
    }
    if let Some(endpoint) = &settings.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    builder.build().context("cannot prepare the client of S3")
}
