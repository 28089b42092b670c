//! The reports of experiments: computed on request, on a thread of their own, and kept until the store or a file changes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex as SyncMutex, PoisonError};
use std::time::SystemTime;

use anyhow::{Result, anyhow};
use tokio::sync::Mutex;

use super::blocking;
use ablate_report::Report;
use ablate_report::html::ServedPage;
use ablate_store::Store;

/// Whose report it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ReportKey {
    /// The experiment's file.
    pub(crate) file: PathBuf,
    /// A past run; the current results without.
    pub(crate) run: Option<String>,
}

/// A report, and the files that it depends on besides the store's records.
pub(crate) struct LoadedReport {
    pub(crate) report: Report,
    pub(crate) files: Vec<PathBuf>,
}

/// Computes a report. The error is a text for people.
pub(crate) type ReportSource = dyn Fn(&ReportKey) -> Result<LoadedReport, String> + Send + Sync;

/// Size and time of a file; `None` if there is no file.
type Stamp = Option<(u64, Option<SystemTime>)>;

/// A page of a report, without the part that changes during a run.
#[derive(Debug)]
pub(super) struct ReportPage {
    before: String,
    after: String,
}

impl ReportPage {
    /// The page with a live part before the first section.
    pub(super) fn with_top(&self, top: &str) -> String {
        [&self.before, top, &self.after].concat()
    }
}

struct Kept {
    stamps: Vec<(PathBuf, Stamp)>,
    page: Result<Arc<ReportPage>, String>,
}

type Entry = Arc<Mutex<Option<Kept>>>;

pub(super) struct Reports {
    source: Arc<ReportSource>,
    kept: SyncMutex<BTreeMap<ReportKey, Entry>>,
}

/// Stands in a rendered page for the live part.
const PLACE: &str = "<!--the live part-->";

impl Reports {
    pub(super) fn new(source: Box<ReportSource>) -> Reports {
        Reports { source: source.into(), kept: SyncMutex::default() }
    }

    /// The page of a report. Requests for the same report wait for one computation.
    pub(super) async fn page(&self, store: &Store, key: ReportKey) -> Result<Arc<ReportPage>> {
        let entry = {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.entry(key.clone()).or_default().clone()
        };
        let mut entry = entry.lock().await;
        let is_current = |kept: &Kept| kept.stamps.iter().all(|(path, stamp)| stamp_of(path) == *stamp);
        if entry.as_ref().is_none_or(|kept| !is_current(kept)) {
            // Before the computation: what changes during it is found by the next request.
            let mut stamps = stamps(vec![store.root().join("records"), key.file.clone()]);
            let source = self.source.clone();
            let (page, files) = blocking(move || match source(&key) {
                Ok(LoadedReport { report, files }) => (Ok(Arc::new(render(&report))), self::stamps(files)),
                Err(error) => (Err(error), Vec::new()),
            })
            .await;
            stamps.extend(files);
            *entry = Some(Kept { stamps, page });
        }
        match entry.as_ref().map(|kept| &kept.page) {
            Some(Ok(page)) => Ok(page.clone()),
            Some(Err(error)) => Err(anyhow!(error.clone())),
            None => Err(anyhow!("BUG: the report is not kept")),
        }
    }
}

fn render(report: &Report) -> ReportPage {
    let html = report.served_html(&ServedPage { top: PLACE, scripts: &["/live.js"] });
    let (before, after) = html.split_once(PLACE).unwrap_or((&html, ""));
    ReportPage { before: before.to_string(), after: after.to_string() }
}

fn stamps(files: Vec<PathBuf>) -> Vec<(PathBuf, Stamp)> {
    files.into_iter().map(|path| (path.clone(), stamp_of(&path))).collect()
}

fn stamp_of(path: &Path) -> Stamp {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.len(), metadata.modified().ok()))
}
