//! The queue of a cluster, as the rest of the engine sees it. Another queue than Slurm's is another file that implements
//! [`Queue`].

use std::path::{Path, PathBuf};

use anyhow::Result;

use ablate_experiment::JobResources;

/// Jobs with equal resources that are submitted together, numbered from 0.
#[derive(Debug)]
pub struct Submission<'a> {
    /// A unique name, by which the jobs are found again.
    pub name: &'a str,
    pub count: usize,
    pub resources: &'a JobResources,
    /// Folder of the submission, which all nodes see.
    pub folder: &'a Path,
    /// The command of a job. The queue appends the job's number.
    pub command: &'a [String],
    /// Ids of jobs that must succeed first.
    pub after: &'a [String],
    /// How often a job whose time is up puts itself into the queue again.
    pub requeues: u32,
    /// Environment variables of the jobs, with their values.
    pub variables: &'a [(String, String)],
    /// Text for people who look at the queue.
    pub comment: &'a str,
}

/// The answer to a submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Submitted {
    /// The id of the submission.
    Accepted(String),
    /// The queue does not accept these jobs, whenever they are submitted: its words.
    Refused(String),
    /// The queue accepts no more jobs now, or not so many in one submission: its words.
    Full(String),
    /// Nothing is known, because the queue did not answer: the jobs may be in it or not.
    Unknown(String),
}

/// A job as the queue knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueEntry {
    /// Name of the submission.
    pub name: String,
    /// Number of the job in it.
    pub index: usize,
    pub id: String,
    pub state: JobState,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobState {
    /// It waits: why, in the queue's words, and when it is expected to start.
    Pending {
        why: String,
        start: Option<String>,
    },
    /// It runs, or its start or end goes on: on which nodes.
    Running {
        nodes: String,
    },
    Ended(JobEnd),
}

/// How a job ended, as far as the queue knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobEnd {
    Completed,
    Failed,
    Cancelled,
    TimeLimit,
    Preempted,
    NodeFailed,
    OutOfMemory,
}

/// What the process of a job knows about its job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobEnvironment {
    pub id: String,
    /// Cores on this node.
    pub cpus: Option<usize>,
    /// The variables of the queue, for programs that start further processes through it.
    pub variables: Vec<(String, String)>,
}

/// A partition or another place of a cluster where jobs run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    pub name: String,
    pub nodes: String,
    pub time_limit: String,
    pub is_default: bool,
    pub is_up: bool,
}

/// The commands of a queue. Every call may take as long as the queue's time limit for commands.
pub trait Queue: Send + Sync {
    /// The name that users know.
    fn name(&self) -> &'static str;

    fn submit(&self, submission: &Submission<'_>) -> Submitted;

    /// The jobs of these submissions that the queue knows. An error means that nothing is known.
    fn entries(&self, names: &[String]) -> Result<Vec<QueueEntry>>;

    /// How a job ended that [`Queue::entries`] does not list any more; `None` if that is not recorded.
    fn past_end(&self, id: &str) -> Option<JobEnd>;

    fn cancel(&self, ids: &[String]) -> Result<()>;

    /// The id of a job in a submission.
    fn job_id(&self, submission: &str, index: usize) -> String;

    /// When a job with these resources would start, in the queue's words. An error is the reason why it never would.
    fn expected_start(&self, resources: &JobResources) -> Result<String>;

    /// The version of the queue's commands. Fails if they are not installed.
    fn version(&self) -> Result<String>;

    /// Fails if the queue does not answer.
    fn ping(&self) -> Result<()>;

    fn partitions(&self) -> Result<Vec<Partition>>;

    /// The environment of the job in which this process runs.
    fn job_environment(&self) -> JobEnvironment;

    /// Runs a command on a node of a partition and returns its output, for `doctor`.
    fn run_on_node(&self, resources: &JobResources, command: &[String]) -> Result<String>;
}

/// The file of a submission's script.
pub fn script_path(folder: &Path) -> PathBuf {
    folder.join("script.sh")
}

/// What a job printed to stdout and stderr.
pub fn output_path(folder: &Path, index: usize) -> PathBuf {
    folder.join(format!("{index}.out"))
}
