//! Slurm, by its commands. Their text formats are older and more stable than their JSON, which differs by release.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::command::{self, Answer};
use super::queue::{
    JobEnd, JobEnvironment, JobState, Partition, Queue, QueueEntry, Submission, Submitted, script_path,
};
use crate::environment;
use ablate_core::base::files;
use ablate_experiment::{JobResources, SlurmTable};

/// The columns of `squeue`: name, number in the array, id of the array, state, reason, expected start, nodes.
const COLUMNS: &str = "%j|%K|%F|%T|%r|%S|%N";

/// What Slurm prints when a user, an account or the controller has as many jobs as are allowed, or when an array is larger
/// than allowed. Fewer jobs, or the same later, may be accepted.
const FULL: &[&str] = &[
    "QOSMaxSubmitJobPerUserLimit",
    "AssocMaxSubmitJobLimit",
    "AssocGrpSubmitJobsLimit",
    "QOSGrpSubmitJobsLimit",
    "MaxSubmitJob",
    "Job violates accounting/QOS policy",
    "Resource temporarily unavailable",
    "Slurm temporarily unable to accept job",
    "Invalid job array specification",
    "job array too large",
];

/// What Slurm prints when the controller did not answer. The job may have been accepted.
const UNANSWERED: &[&str] = &[
    "Socket timed out",
    "Unable to contact slurm controller",
    "Connection refused",
    "Connection timed out",
    "Communication connection failure",
    "Zero Bytes were transmitted or received",
    "Transport endpoint is not connected",
    "Slurm backup controller in standby mode",
    "Requested operation is presently disabled",
];

pub struct Slurm {
    /// How long before its time limit a job gets SIGUSR1.
    grace: Duration,
    /// The longest time of a command.
    timeout: Duration,
}

impl Slurm {
    pub fn new(table: &SlurmTable) -> Slurm {
        Slurm { grace: table.grace, timeout: table.command_timeout }
    }

    /// Runs a command of Slurm in an environment without `SLURM_*` and `SBATCH_*`, which would change it if this process itself
    /// is part of a job.
    fn run(&self, argv: &[String], variables: &[(String, String)]) -> Answer {
        let mut names = BTreeSet::new();
        // A stage may pass them on with `SLURM_*`; they are those of the job in which the driver runs.
        let is_outer = |name: &str| name.starts_with("SLURM_") || name.starts_with("SBATCH_");
        let own = variables.iter().filter(|(name, _)| !is_outer(name));
        let own = own.map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let kept = environment::for_helper().filter(|(name, _)| {
            // The job's own devices are set by Slurm.
            name.to_str().is_some_and(|name| !name.starts_with("CUDA_VISIBLE") && !name.starts_with("NVIDIA_VISIBLE"))
        });
        let modules = std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(is_of_modules));
        let conf = std::env::var_os("SLURM_CONF").map(|path| (OsString::from("SLURM_CONF"), path));
        let all: Vec<(OsString, OsString)> =
            own.chain(kept).chain(modules).chain(conf).filter(|(name, _)| names.insert(name.clone())).collect();
        command::run(argv, &all, self.timeout)
    }

    /// The output of a command that only asks.
    fn ask(&self, argv: &[&str]) -> Result<String> {
        let argv: Vec<String> = argv.iter().map(ToString::to_string).collect();
        match self.run(&argv, &[]) {
            Answer::Ended { status, stdout, .. } if status.success() => Ok(stdout),
            Answer::Ended { status, stderr, .. } => bail!("`{}` ended with {status}: {}", argv[0], stderr.trim()),
            Answer::Nothing(why) => bail!("{why}"),
        }
    }

    fn options(&self, resources: &JobResources) -> Vec<String> {
        let JobResources { partition, account, qos, time, cpus, gpu, nodes, memory, setup: _, options } = resources;
        let mut all = vec![
            format!("--nodes={}", nodes.max(&1)),
            format!("--ntasks={}", nodes.max(&1)),
            "--ntasks-per-node=1".to_string(),
        ];
        let named = [("partition", partition), ("account", account), ("qos", qos)];
        all.extend(named.iter().filter_map(|(name, value)| Some(format!("--{name}={}", value.as_ref()?))));
        all.extend(cpus.map(|cpus| format!("--cpus-per-task={cpus}")));
        all.extend(memory.map(|memory| format!("--mem={memory}M")));
        if *gpu > 0 {
            all.push(format!("--gres=gpu:{gpu}"));
        }
        if let Some(time) = time {
            // Slurm counts in minutes.
            let minutes = time.as_secs().div_ceil(60).max(1);
            let grace = self.grace.as_secs().min(minutes * 30);
            all.push(format!("--time={minutes}"));
            all.push(format!("--signal=B:USR1@{grace}"));
        }
        all.extend(options.iter().cloned());
        all
    }
}

/// The script of a submission.
fn script(submission: &Submission<'_>) -> String {
    let command: Vec<String> = submission.command.iter().map(|part| quoted(part)).collect();
    // The lines of the set-up need what a login shell has, such as `module`.
    let shell = if submission.resources.setup.is_empty() { "#!/bin/bash" } else { "#!/bin/bash -l" };
    let mut lines = vec![shell.to_string(), format!("# {}", submission.comment.replace('\n', " "))];
    if !submission.resources.setup.is_empty() {
        lines.push("set -eo pipefail".to_string());
        lines.extend(submission.resources.setup.iter().cloned());
        lines.push("set +eo pipefail".to_string());
    }
    let command = format!("{} \"$SLURM_ARRAY_TASK_ID\"", command.join(" "));
    if submission.requeues == 0 {
        lines.push(format!("exec {command}"));
    } else {
        // 75: its time is up, and its work is saved. The shell must pass the signals on.
        lines.extend([
            format!("{command} & job=$!"),
            "trap 'kill -USR1 $job' USR1; trap 'kill -TERM $job' TERM".to_string(),
            "wait $job; code=$?".to_string(),
            "while kill -0 $job 2>/dev/null; do wait $job; code=$?; done".to_string(),
            format!("if [ $code = 75 ] && [ \"${{SLURM_RESTART_COUNT:-0}}\" -lt {} ]; then", submission.requeues),
            "  scontrol requeue \"${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID\" && sleep 60".to_string(),
            "fi".to_string(),
            "exit $code".to_string(),
        ]);
    }
    lines.join("\n") + "\n"
}

/// Whether `module` needs a variable: the function itself, which a job's shell does not define, and the state of Environment Modules
/// or Lmod.
fn is_of_modules(name: &str) -> bool {
    ["BASH_FUNC_", "MODULE", "LMOD_", "LOADEDMODULES", "_LMFILES_"].iter().any(|prefix| name.starts_with(prefix))
        || name == "BASH_ENV"
}

/// A text as one word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

fn state(word: &str, why: &str, start: &str, nodes: &str) -> JobState {
    match word {
        "PENDING" | "REQUEUED" | "REQUEUE_FED" | "REQUEUE_HOLD" | "SPECIAL_EXIT" | "RESV_DEL_HOLD" => {
            let start = Some(start).filter(|start| !["", "N/A", "Unknown"].contains(start));
            JobState::Pending { why: why.to_string(), start: start.map(str::to_string) }
        }
        word => match ended(word) {
            Some(end) => JobState::Ended(end),
            // Configuring, running, completing, suspended, stopped, resizing, signaling, stage-out, and states of later releases.
            None => JobState::Running { nodes: nodes.to_string() },
        },
    }
}

fn ended(word: &str) -> Option<JobEnd> {
    Some(match word.split_whitespace().next().unwrap_or_default() {
        "COMPLETED" => JobEnd::Completed,
        "FAILED" | "DEADLINE" => JobEnd::Failed,
        "CANCELLED" | "REVOKED" => JobEnd::Cancelled,
        "TIMEOUT" => JobEnd::TimeLimit,
        "PREEMPTED" => JobEnd::Preempted,
        "NODE_FAIL" | "BOOT_FAIL" => JobEnd::NodeFailed,
        "OUT_OF_MEMORY" => JobEnd::OutOfMemory,
        _ => return None,
    })
}

/// A line of `squeue`.
fn entry(line: &str) -> Option<QueueEntry> {
    let [name, index, array, word, why, start, nodes] = line.splitn(7, '|').collect::<Vec<_>>().try_into().ok()?;
    let index = index.parse().ok()?;
    let state = state(word, why, start, nodes);
    Some(QueueEntry { name: name.to_string(), index, id: format!("{array}_{index}"), state })
}

impl Queue for Slurm {
    fn name(&self) -> &'static str {
        "Slurm"
    }

    fn submit(&self, submission: &Submission<'_>) -> Submitted {
        let path = script_path(submission.folder);
        if let Err(error) = files::write_private_unsynced(&path, script(submission).as_bytes()) {
            return Submitted::Refused(format!("{error:#}"));
        }
        // A percent sign begins a placeholder of Slurm.
        let folder = submission.folder.display().to_string().replace('%', "%%");
        let mut argv = vec![
            "sbatch".to_string(),
            "--parsable".to_string(),
            format!("--job-name={}", submission.name),
            format!("--array=0-{}", submission.count.max(1) - 1),
            format!("--output={folder}/%a.out"),
            "--open-mode=append".to_string(),
            "--requeue".to_string(),
            "--export=ALL".to_string(),
            "--kill-on-invalid-dep=yes".to_string(),
            format!("--comment={}", submission.comment),
        ];
        if !submission.after.is_empty() {
            argv.push(format!("--dependency=afterok:{}", submission.after.join(":")));
        }
        argv.extend(self.options(submission.resources));
        argv.push(path.display().to_string());
        match self.run(&argv, submission.variables) {
            Answer::Ended { status, stdout, stderr } if status.success() => {
                // On sites with several clusters: `id;cluster`.
                let id = stdout.lines().last().unwrap_or_default().split(';').next().unwrap_or_default().trim();
                if !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit()) {
                    Submitted::Accepted(id.to_string())
                } else {
                    Submitted::Unknown(format!("sbatch printed no id, but `{}` {}", stdout.trim(), stderr.trim()))
                }
            }
            Answer::Ended { stderr, status, .. } => {
                let has = |words: &[&str]| words.iter().any(|word| stderr.contains(word));
                let words = stderr.trim().trim_start_matches("sbatch: error: ").to_string();
                let words = if words.is_empty() { format!("sbatch ended with {status}") } else { words };
                match (has(UNANSWERED), has(FULL)) {
                    (true, _) => Submitted::Unknown(words),
                    (false, true) => Submitted::Full(words),
                    (false, false) if status.code().is_none() => Submitted::Unknown(words),
                    (false, false) => Submitted::Refused(words),
                }
            }
            Answer::Nothing(why) if why.starts_with("cannot start") => {
                Submitted::Refused(format!("{why}: is Slurm installed on this machine?"))
            }
            Answer::Nothing(why) => Submitted::Unknown(why),
        }
    }

    fn entries(&self, names: &[String]) -> Result<Vec<QueueEntry>> {
        let mut found = Vec::new();
        // Names as arguments, in parts, because an argument has at most 128 KiB.
        for part in names.chunks(1000) {
            let names = format!("--name={}", part.join(","));
            let columns = format!("--format={COLUMNS}");
            let text = self.ask(&["squeue", "--noheader", "--array", "--states=all", &names, &columns])?;
            found.extend(text.lines().filter_map(entry));
        }
        Ok(found)
    }

    fn past_end(&self, id: &str) -> Option<JobEnd> {
        let text = self.ask(&["sacct", "--allocations", "--noheader", "--parsable2", "--format=State", "--jobs", id]);
        ended(text.ok()?.lines().last()?)
    }

    fn cancel(&self, ids: &[String]) -> Result<()> {
        for part in ids.chunks(500) {
            let argv: Vec<&str> = std::iter::once("scancel").chain(part.iter().map(String::as_str)).collect();
            self.ask(&argv)?;
        }
        Ok(())
    }

    fn job_id(&self, submission: &str, index: usize) -> String {
        format!("{submission}_{index}")
    }

    fn expected_start(&self, resources: &JobResources) -> Result<String> {
        let mut argv = vec!["sbatch".to_string(), "--test-only".to_string(), "--wrap=true".to_string()];
        argv.extend(self.options(resources));
        match self.run(&argv, &[]) {
            // `sbatch: Job 12 to start at 2026-01-01T12:00:00 using 4 processors on nodes n1 in partition main`
            Answer::Ended { status, stderr, .. } if status.success() => {
                let start = stderr.split("to start at ").nth(1).and_then(|rest| rest.split_whitespace().next());
                start.map(str::to_string).with_context(|| format!("Slurm names no start: {}", stderr.trim()))
            }
            Answer::Ended { stderr, .. } => {
                let words = stderr.replace("allocation failure: ", "").replace("sbatch: error: ", "");
                bail!("{}", words.trim())
            }
            Answer::Nothing(why) => bail!("{why}"),
        }
    }

    fn version(&self) -> Result<String> {
        let version = self.ask(&["sinfo", "--version"]).context("Slurm is not installed on this machine")?;
        Ok(version.trim().to_string())
    }

    fn ping(&self) -> Result<()> {
        self.ask(&["scontrol", "ping"]).map(drop).context("Slurm's controller does not answer")
    }

    fn partitions(&self) -> Result<Vec<Partition>> {
        let text = self.ask(&["sinfo", "--noheader", "--format=%P|%D %t|%l|%a"])?;
        let mut found: Vec<Partition> = Vec::new();
        for line in text.lines() {
            let [name, nodes, time_limit, up] = line.split('|').collect::<Vec<_>>()[..] else { continue };
            let (name, is_default) = (name.trim_end_matches('*'), name.ends_with('*'));
            match found.iter_mut().find(|known| known.name == name) {
                Some(known) => known.nodes.push_str(&format!(", {nodes}")),
                None => found.push(Partition {
                    name: name.to_string(),
                    nodes: nodes.to_string(),
                    time_limit: time_limit.to_string(),
                    is_default,
                    is_up: up == "up",
                }),
            }
        }
        Ok(found)
    }

    fn job_environment(&self) -> JobEnvironment {
        let variables =
            std::env::vars_os().filter_map(|(name, value)| name.into_string().ok().zip(value.into_string().ok()));
        let variables: Vec<(String, String)> = variables.filter(|(name, _)| name.starts_with("SLURM_")).collect();
        let get = |wanted: &str| variables.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
        let id = match (get("SLURM_ARRAY_JOB_ID"), get("SLURM_ARRAY_TASK_ID")) {
            (Some(array), Some(index)) => format!("{array}_{index}"),
            _ => get("SLURM_JOB_ID").unwrap_or_default().to_string(),
        };
        let number = |name| get(name).and_then(|text| text.parse().ok());
        let cpus = number("SLURM_CPUS_PER_TASK").or_else(|| number("SLURM_CPUS_ON_NODE"));
        JobEnvironment { id, cpus, variables }
    }

    fn run_on_node(&self, resources: &JobResources, command: &[String]) -> Result<String> {
        let mut argv = vec![
            "srun".to_string(),
            "--quiet".to_string(),
            "--chdir=/".to_string(),
            "--job-name=ablate-doctor".to_string(),
        ];
        let options = self.options(resources).into_iter().filter(|option| !option.starts_with("--signal"));
        argv.extend(options);
        argv.extend(command.iter().cloned());
        match self.run(&argv, &[]) {
            Answer::Ended { status, stdout, .. } if status.success() => Ok(stdout),
            Answer::Ended { status, stdout, stderr } => {
                bail!("`srun` ended with {status}: {}{}", stdout.trim(), stderr.trim())
            }
            Answer::Nothing(why) => bail!("{why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use std::path::Path;

    #[test]
    fn a_line_of_squeue_is_an_entry() {
        let line = "ablate-0123|7|4711|PENDING|Priority|2026-01-01T12:00:00|";
        let state = JobState::Pending { why: "Priority".to_string(), start: Some("2026-01-01T12:00:00".to_string()) };
        let expected = QueueEntry { name: "ablate-0123".to_string(), index: 7, id: "4711_7".to_string(), state };
        assert_eq!(entry(line), Some(expected));
        let state = |word: &str| entry(&format!("a|0|1|{word}|None|N/A|n[1-2]")).unwrap().state;
        for word in ["RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "A_STATE_OF_TOMORROW"] {
            assert_eq!(state(word), JobState::Running { nodes: "n[1-2]".to_string() }, "{word}");
        }
        assert_eq!(state("CANCELLED"), JobState::Ended(JobEnd::Cancelled));
        assert_eq!(ended("CANCELLED by 1000"), Some(JobEnd::Cancelled));
        assert_eq!(entry("a|N/A|1|RUNNING|None|N/A|n1"), None, "a job that is not of an array is not ours");
    }

    #[test]
    fn script_sets_up_and_starts_the_job() {
        let resources = JobResources {
            time: Some(Duration::from_secs(3601)),
            gpu: 2,
            nodes: 1,
            memory: Some(2048),
            setup: vec!["module load cuda".to_string()],
            options: vec!["--constraint=a100".to_string()],
            ..JobResources::default()
        };
        let command = ["/opt/ablate", "cluster-job", "/data/it's/cache"].map(str::to_string);
        let submission = Submission {
            name: "ablate-1",
            count: 3,
            resources: &resources,
            folder: Path::new("/data"),
            command: &command,
            after: &[],
            requeues: 0,
            variables: &[],
            comment: "run 1: sft",
        };
        expect![[r#"
            #!/bin/bash -l
            # run 1: sft
            set -eo pipefail
            module load cuda
            set +eo pipefail
            exec '/opt/ablate' 'cluster-job' '/data/it'\''s/cache' "$SLURM_ARRAY_TASK_ID"
        "#]]
        .assert_eq(&script(&submission));
        let slurm = Slurm { grace: Duration::from_secs(120), timeout: Duration::from_secs(1) };
        expect!["--nodes=1 --ntasks=1 --ntasks-per-node=1 --mem=2048M --gres=gpu:2 --time=61 --signal=B:USR1@120 --constraint=a100"]
            .assert_eq(&slurm.options(&resources).join(" "));
    }
}
