//! A web server that shows the runs of a store while they go on, and the reports of their experiments.
//!
//! Every request passes [`access`]. [`pages`] builds the pages, [`reports`] computes and keeps the reports, [`live`] sends
//! changes to open pages, [`fragments`] renders them, and [`retry`] starts runs.

mod access;
mod error_page;
mod fragments;
mod live;
mod pages;
mod reports;
mod retry;
mod token;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::Notify;

use ablate_store::{ExperimentId, Store};
use access::Access;
use live::Live;
use reports::Reports;
pub(crate) use reports::{LoadedReport, ReportKey, ReportSource};
use retry::Retries;

/// The port without `--port`. If it is used, the next free one of as many as [`PORTS`] is taken.
pub(crate) const DEFAULT_PORT: u16 = 8765;
const PORTS: u16 = 100;

/// What a server shows, and to whom.
pub(crate) struct Options {
    pub(crate) store: Store,
    /// The experiments that are shown; all of the store if it is empty.
    pub(crate) experiments: Vec<ExperimentId>,
    pub(crate) address: IpAddr,
    /// None: [`DEFAULT_PORT`], or the next free one.
    pub(crate) port: Option<u16>,
    /// The token that requests must show. An empty one is replaced by a random one. None: no token, if `address` can only be
    /// reached from this machine.
    pub(crate) token: Option<String>,
    pub(crate) reports: Box<ReportSource>,
    /// The program that runs experiments.
    pub(crate) program: PathBuf,
}

/// What the handlers of all requests share.
struct Site {
    store: Arc<Store>,
    experiments: Vec<ExperimentId>,
    access: Access,
    reports: Reports,
    live: Live,
    retries: Retries,
}

/// A server that listens and does not answer yet.
pub(crate) struct Server {
    runtime: Runtime,
    listener: TcpListener,
    address: SocketAddr,
    token: Option<String>,
    site: Arc<Site>,
    end: Arc<Notify>,
}

impl Server {
    /// Takes the port.
    pub(crate) fn bind(options: Options) -> Result<Server> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("cannot start the server's event loop")?;
        let token = match options.token {
            Some(token) if token.is_empty() => Some(token::random()?),
            None if !options.address.is_loopback() => Some(token::random()?),
            given => given,
        };
        if let Some(token) = &token {
            token::check(token)?;
        }
        let listener = runtime.block_on(listen(options.address, options.port))?;
        let address = listener.local_addr().context("the server has no address")?;
        let store = Arc::new(options.store);
        let site = Arc::new(Site {
            experiments: options.experiments,
            access: Access::new(token.clone(), address)?,
            reports: Reports::new(options.reports),
            live: Live::new(store.clone()),
            retries: Retries::new(options.program, store.clone()),
            store,
        });
        Ok(Server { runtime, listener, address, token, site, end: Arc::default() })
    }

    /// The address to open. With a token it is part of the address.
    pub(crate) fn url(&self) -> String {
        let ip = match self.address.ip() {
            ip if ip.is_unspecified() => match ip {
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            },
            ip => ip,
        };
        let token = self.token.as_ref().map(|token| format!("?token={token}")).unwrap_or_default();
        format!("http://{}/{token}", SocketAddr::new(ip, self.address.port()))
    }

    /// Ends [`Server::run`] when it is notified.
    pub(crate) fn end(&self) -> Arc<Notify> {
        self.end.clone()
    }

    /// Answers requests until the end is requested. Pages that are open do not delay it, and neither do runs that were
    /// started from a page.
    pub(crate) fn run(self) -> Result<()> {
        let Server { runtime, listener, site, end, .. } = self;
        let app = pages::router(site);
        let ended = runtime.block_on(async {
            tokio::select! {
                ended = axum::serve(listener, app).into_future() => ended,
                () = end.notified() => Ok(()),
            }
        });
        // A report that is being computed is given up.
        runtime.shutdown_background();
        ended.context("the server ended")
    }
}

async fn listen(address: IpAddr, port: Option<u16>) -> Result<TcpListener> {
    let ports = match port {
        Some(port) => port..=port,
        None => DEFAULT_PORT..=DEFAULT_PORT + PORTS - 1,
    };
    for candidate in ports {
        match TcpListener::bind((address, candidate)).await {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() != std::io::ErrorKind::AddrInUse => {
                return Err(error).with_context(|| format!("cannot listen on {address}, port {candidate}"));
            }
            Err(_) if port.is_some() => {
                bail!(
                    "port {candidate} of {address} is used by another program\nhelp: choose another `--port`, or 0 for any free one"
                );
            }
            Err(_) => {}
        }
    }
    bail!(
        "the ports {DEFAULT_PORT} to {} of {address} are all used\nhelp: `--port 0` takes any free one",
        DEFAULT_PORT + PORTS - 1
    )
}

/// Runs work that reads files on a thread of its own, so that other requests are answered meanwhile.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down: this future is about to be dropped.
            Err(_) => std::future::pending().await,
        },
    }
}
