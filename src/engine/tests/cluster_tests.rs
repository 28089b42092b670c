//! Runs on a queue that misbehaves on purpose. `tests/cluster` has the same scenarios with the real Slurm.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, bail};
use expect_test::expect;
use serde_json::json;

use super::support::TestProject;
use super::test_kinds::REGISTRY;
use crate::cluster::queue::{JobEnvironment, Submission, output_path};
use crate::cluster::{Cluster, JobEnd, JobSignals, JobState, Partition, Queue, QueueEntry, Submitted, run_cluster_job};
use crate::{InProcess, RunOptions};
use ablate_core::base::files;
use ablate_experiment::{JobResources, SlurmTable};
use ablate_store::Build;

/// What the queue does with the first submission. Later ones are accepted and run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// The jobs run, but the answer does not arrive.
    AnswersTooLate,
    /// No answer, and no job.
    LosesSubmission,
    /// The jobs are accepted, and the queue forgets them before they start.
    LosesJobs,
    Refuses,
    /// The jobs end like this before they have done anything.
    Ends(JobEnd),
    /// It lists no job that has ended.
    ForgetsEnded,
    /// The results appear in the store some time after the jobs have ended.
    SlowFiles,
    /// The first questions are not answered.
    Silent,
    /// Only arrays of one job are accepted.
    SmallArrays,
}

struct TestQueue {
    fault: Fault,
    submissions: AtomicUsize,
    questions: AtomicUsize,
    jobs: Mutex<Vec<QueueEntry>>,
}

impl TestQueue {
    /// Runs jobs before the submission is answered, or some time after they are reported as ended.
    fn run_jobs(&self, name: &str, count: usize, folder: &Path, number: usize, late: bool) {
        let folder = folder.to_path_buf();
        let run = move || {
            for index in 0..count {
                let (environment, signals) = (JobEnvironment::default(), JobSignals::default());
                let launcher = InProcess::new(REGISTRY);
                let build = |_: &ablate_store::Store| Build::default();
                run_cluster_job(&folder, index, &environment, REGISTRY, &launcher, &build, &signals);
            }
        };
        if late {
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_secs(3));
                run();
            });
        } else {
            run();
        }
        self.report(name, count, number, &JobState::Ended(JobEnd::Completed));
    }

    fn report(&self, name: &str, count: usize, number: usize, state: &JobState) {
        let entry = |index| {
            let id = format!("{number}_{index}");
            QueueEntry { name: name.to_string(), index, id, state: state.clone() }
        };
        self.jobs.lock().unwrap().extend((0..count).map(entry));
    }
}

impl Queue for TestQueue {
    fn name(&self) -> &'static str {
        "the queue"
    }

    fn submit(&self, submission: &Submission<'_>) -> Submitted {
        let number = self.submissions.fetch_add(1, Ordering::SeqCst);
        let Submission { name, count, folder, .. } = *submission;
        let id = number.to_string();
        let fault = if number == 0 { self.fault } else { Fault::None };
        if self.fault == Fault::SmallArrays && count > 1 {
            return Submitted::Full("Invalid job array specification".to_string());
        }
        match fault {
            Fault::Refuses => return Submitted::Refused("invalid partition specified: gpu".to_string()),
            Fault::LosesSubmission => return Submitted::Unknown("Socket timed out".to_string()),
            Fault::LosesJobs => return Submitted::Accepted(id),
            Fault::Ends(end) => {
                files::write_private_unsynced(&output_path(folder, 0), b"module: command not found\n").unwrap();
                self.report(name, count, number, &JobState::Ended(end));
                return Submitted::Accepted(id);
            }
            _ => self.run_jobs(name, count, folder, number, fault == Fault::SlowFiles),
        }
        if fault == Fault::AnswersTooLate {
            return Submitted::Unknown("sbatch did not end within 1 s".to_string());
        }
        Submitted::Accepted(id)
    }

    fn entries(&self, names: &[String]) -> Result<Vec<QueueEntry>> {
        if self.fault == Fault::Silent && self.questions.fetch_add(1, Ordering::SeqCst) == 0 {
            bail!("Unable to contact slurm controller");
        }
        let jobs = self.jobs.lock().unwrap();
        let is_ended = |job: &&QueueEntry| matches!(job.state, JobState::Ended(_));
        let listed = jobs.iter().filter(|job| names.contains(&job.name));
        Ok(listed.filter(|job| self.fault != Fault::ForgetsEnded || !is_ended(job)).cloned().collect())
    }

    fn past_end(&self, _id: &str) -> Option<JobEnd> {
        None
    }

    fn cancel(&self, _ids: &[String]) -> Result<()> {
        Ok(())
    }

    fn job_id(&self, submission: &str, index: usize) -> String {
        format!("{submission}_{index}")
    }

    fn expected_start(&self, _resources: &JobResources) -> Result<String> {
        Ok("now".to_string())
    }

    fn version(&self) -> Result<String> {
        Ok("1".to_string())
    }

    fn ping(&self) -> Result<()> {
        Ok(())
    }

    fn partitions(&self) -> Result<Vec<Partition>> {
        Ok(Vec::new())
    }

    fn job_environment(&self) -> JobEnvironment {
        JobEnvironment::default()
    }

    fn run_on_node(&self, _resources: &JobResources, _command: &[String]) -> Result<String> {
        bail!("no node")
    }
}

/// A project with one stage, or with these stages, and the options of a run on a queue with a fault.
fn on_cluster(fault: Fault, resumes: u32) -> (TestProject, RunOptions, Arc<TestQueue>) {
    let project = TestProject::with_data();
    let queue = Arc::new(TestQueue {
        fault,
        submissions: AtomicUsize::new(0),
        questions: AtomicUsize::new(0),
        jobs: Mutex::default(),
    });
    let mut table = SlurmTable::default();
    table.resumes = resumes;
    table.lost_after = Duration::from_secs(3);
    table.files_within = Duration::from_secs(6);
    let cluster = Cluster::new(queue.clone(), &table).unwrap();
    let options = RunOptions { cluster: Some(Arc::new(cluster)), ..project.options() };
    (project, options, queue)
}

/// Runs one stage on a queue with a fault. Returns the outcome, the stages that ran, and the number of submissions.
fn outcome(fault: Fault, resumes: u32) -> String {
    let (project, options, queue) = on_cluster(fault, resumes);
    let stages = project.stages(&[("read", json!({ "path": "data.txt" }))]);
    let outcome = project.run_with(&stages, &options);
    let submissions = queue.submissions.load(Ordering::SeqCst);
    format!("{outcome}ran: {}; submitted: {submissions}", project.take_ran())
}

#[test]
fn a_chain_runs_as_jobs_with_the_results_of_a_local_run() {
    let (project, options, queue) = on_cluster(Fault::None, 3);
    let stages = project.chain("a");
    expect![[r#"
        read: ran, it has not run yet
        trim: ran, it has not run yet
        train: ran, it has not run yet
        eval: ran, it has not run yet
    "#]]
    .assert_eq(&project.run_with(&stages, &options));
    assert_eq!((project.take_ran().as_str(), queue.submissions.load(Ordering::SeqCst)), ("read trim train eval", 4));
    assert_eq!(project.stages_run_by(&stages), "", "a local run finds everything fresh");
    assert!(project.run_with(&stages, &options).contains("eval: fresh"));
}

#[test]
fn stages_with_equal_resources_are_one_submission() {
    let stages = |project: &TestProject| {
        let words = ["a", "b", "c", "d"].map(|word| (format!("say@word={word}"), json!({ "word": word })));
        project.stages(&words.each_ref().map(|(name, table)| (name.as_str(), table.clone())))
    };
    let (project, options, queue) = on_cluster(Fault::None, 3);
    let all = stages(&project);
    project.run_with(&all, &options);
    assert_eq!(queue.submissions.load(Ordering::SeqCst), 1);
    let (project, options, queue) = on_cluster(Fault::SmallArrays, 3);
    let all = stages(&project);
    let outcomes = project.run_with(&all, &options);
    assert_eq!(outcomes.matches(": ran,").count(), 4, "{outcomes}");
    // Four, two, and then one after the other.
    assert_eq!(queue.submissions.load(Ordering::SeqCst), 6);
    assert_eq!(project.take_ran().split(' ').count(), 4);
}

#[test]
fn no_answer_leads_to_no_second_job() {
    for fault in [Fault::AnswersTooLate, Fault::Silent, Fault::ForgetsEnded] {
        assert_eq!(outcome(fault, 3), "read: ran, it has not run yet\nran: read; submitted: 1", "{fault:?}");
    }
}

#[test]
fn late_files_are_waited_for() {
    expect![[r#"
        read: ran, it has not run yet
        ran: read; submitted: 1"#]]
    .assert_eq(&outcome(Fault::SlowFiles, 0));
}

#[test]
fn lost_jobs_are_submitted_again() {
    for fault in
        [Fault::LosesSubmission, Fault::LosesJobs, Fault::Ends(JobEnd::NodeFailed), Fault::Ends(JobEnd::Preempted)]
    {
        let outcome = outcome(fault, 1);
        assert_eq!(outcome, "read: ran, it has not run yet\nran: read; submitted: 2", "{fault:?}");
    }
    expect![[r#"
        `read` failed: its job 0_0 reached its time limit after 0 resumes, and `executor.slurm.resumes` allows no more: the same command continues its work
          log: PROJECT/cache/runs/RUN/logs/read.log
        ran: ; submitted: 1"#]]
    .assert_eq(&outcome(Fault::Ends(JobEnd::TimeLimit), 0));
}

#[test]
fn what_a_person_must_change_is_said() {
    expect![[r#"
        `read` failed: the queue does not accept its job: invalid partition specified: gpu
          log: PROJECT/cache/runs/RUN/logs/read.log
        ran: ; submitted: 1"#]]
    .assert_eq(&outcome(Fault::Refuses, 3));
    expect![[r#"
        `read` failed: its job 0_0 ran out of memory; its job has the partition's default memory: `limits.memory` of the stage, or `memory` in the configuration, sets it
          log: PROJECT/cache/runs/RUN/logs/read.log
        ran: ; submitted: 1"#]]
    .assert_eq(&outcome(Fault::Ends(JobEnd::OutOfMemory), 3));
    expect![[r#"
        `read` failed: its job 0_0 ended before its stage did
          because the end of its log: module: command not found
          log: PROJECT/cache/runs/RUN/logs/read.log
        ran: ; submitted: 1"#]]
    .assert_eq(&outcome(Fault::Ends(JobEnd::Failed), 3));
    expect![[r#"
        read: interrupted
        ran: ; submitted: 1"#]]
    .assert_eq(&outcome(Fault::Ends(JobEnd::Cancelled), 3));
}

#[test]
fn a_run_follows_the_jobs_of_a_run_that_was_killed() {
    let (project, options, queue) = on_cluster(Fault::LosesJobs, 1);
    let stages = project.stages(&[("read", json!({ "path": "data.txt" }))]);
    // Ends as after Ctrl-C, and leaves its job to the queue.
    let interrupt = options.interrupt.clone();
    let stop = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(1500));
        interrupt.store(true, Ordering::SeqCst);
    });
    expect![[r#"
        read: interrupted
    "#]]
    .assert_eq(&project.run_with(&stages, &options));
    stop.join().unwrap();
    options.interrupt.store(false, Ordering::SeqCst);
    // The job that the first run noted is waited for before another one is submitted.
    let outcome = project.run_with(&stages, &options);
    assert_eq!(outcome, "read: ran, it has not run yet\n");
    assert_eq!((project.take_ran().as_str(), queue.submissions.load(Ordering::SeqCst)), ("read", 2));
}
