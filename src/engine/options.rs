//! The options of a run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::cluster::Cluster;
use super::launcher::Launcher;
use super::select::Selection;
use super::shared_results::SharedResults;
use ablate_core::base::Hash;
use ablate_store::Build;

#[derive(Clone)]
pub struct RunOptions {
    /// The most stages that run on this machine at the same time.
    pub jobs: usize,
    /// Threads per stage. `None` divides the cores among the running stages. Results do not depend on it.
    pub threads: Option<usize>,
    /// The most stages that wait for a remote endpoint at the same time.
    pub teachers: usize,
    /// Slots of the pools that the experiment declares.
    pub pools: BTreeMap<String, usize>,
    /// GPUs for programs, by number or UUID.
    pub gpus: Vec<String>,
    /// How often every stage is retried after a failure that wrong input did not cause. A stage's own limit counts if
    /// it is larger.
    pub retries: u32,
    /// Time limit of an attempt, for stages without a limit of their own.
    pub time: Option<Duration>,
    /// After a failure, continue with every instance that does not depend on it.
    pub keep_going: bool,
    /// Names of stages or instances that run even if they are fresh.
    pub force: Vec<String>,
    /// The bad replies ([`ablate_core::stage::BAD_REPLIES`]) that the instances of `force` request again.
    pub retry: BTreeSet<String>,
    /// Whether stages may end while an endpoint still works on their requests. The next run continues them. With a cluster, all
    /// jobs are submitted with their dependencies, and the run ends.
    pub detach: bool,
    pub selection: Selection,
    /// The devices of model stages: `cpu`, `cuda:0`, or several as `cuda:0,cuda:1`.
    pub device: String,
    /// Executes stages on this machine.
    pub launcher: Arc<dyn Launcher>,
    /// The cluster whose jobs execute the stages; `None` if all run on this machine.
    pub cluster: Option<Arc<Cluster>>,
    /// Where results of other machines are found and those of this run are sent.
    pub shared: Option<Arc<dyn SharedResults>>,
    /// Fingerprints of results that were fetched from there for this run.
    pub fetched: BTreeSet<Hash>,
    /// Stops the run when set: no stage is started, running children are ended, and their work can be resumed.
    pub interrupt: Arc<AtomicBool>,
    /// Folder of the links to outputs, see [`output_folder`](crate::links::output_folder).
    pub out: Option<PathBuf>,
    /// Name of the no-op cache in the store.
    pub noop_cache: Option<String>,
    /// The values of `--set`. Without them, `gc` forgets the instances that the file no longer has.
    pub overrides: Vec<String>,
    /// The files that the experiment was read from, for the report of the run.
    pub files: Vec<(PathBuf, Hash)>,
    /// The build of this program, for the records and the report of the run.
    pub build: Build,
    /// The command line, for the report of the run.
    pub command: Vec<String>,
}

impl RunOptions {
    /// One job at a time on the CPU, keep going after failures, no links.
    pub fn new(launcher: Arc<dyn Launcher>) -> RunOptions {
        RunOptions {
            jobs: 1,
            threads: None,
            teachers: 4,
            pools: BTreeMap::new(),
            gpus: Vec::new(),
            retries: 0,
            time: None,
            keep_going: true,
            force: Vec::new(),
            retry: BTreeSet::new(),
            detach: false,
            selection: Selection::default(),
            device: "cpu".to_string(),
            launcher,
            cluster: None,
            shared: None,
            fetched: BTreeSet::new(),
            interrupt: Arc::default(),
            out: None,
            noop_cache: None,
            overrides: Vec::new(),
            files: Vec::new(),
            build: Build::default(),
            command: Vec::new(),
        }
    }
}
