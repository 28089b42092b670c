//! The command line's arguments and help texts.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};

use super::check::CheckArgs;
use super::compare::CompareArgs;
use super::completions::CompletionsArgs;
use super::doctor::DoctorArgs;
use super::export::ExportArgs;
use super::forget::ForgetArgs;
use super::gc::GcArgs;
use super::generate::GenerateArgs;
use super::graph::GraphArgs;
use super::ls::LsArgs;
use super::man::ManArgs;
use super::new::NewArgs;
use super::pin::PinArgs;
use super::plan::PlanArgs;
use super::remote::TransferArgs;
use super::report::ReportArgs;
use super::results::ResultsArgs;
use super::retry::RetryArgs;
use super::run::RunArgs;
use super::runs::RunsArgs;
use super::serve::ServeArgs;
use super::status::StatusArgs;
use super::stop::StopArgs;
use super::suggest::SuggestArgs;
use super::value_parsers;
use super::why::WhyArgs;
use crate::stages::KINDS;
use ablate_core::stage::ArtifactKind;
use ablate_engine::Selection;
use ablate_experiment::Configuration;

/// A declarative experiment engine for post-training vision-language models.
///
/// One TOML file describes a DAG of stages. ablate runs the stages that changed and reports tables with confidence
/// intervals.
#[derive(Debug, Parser)]
#[command(name = "ablate", version, max_term_width = 100)]
#[command(after_help = "\
Examples:
  ablate run experiments/reasoner.toml            run what is not fresh, then print the tables
  ablate plan experiments/reasoner.toml           show what would run, and why
  ablate run exp.toml --set stage.dpo.beta=0.2    change a key for this run
  ablate run exp.toml --set vars.lr=1e-5,2e-5     sweep a key
  ablate why exp.toml dpo                         show every change since the last result, with its line

Exit codes: 0 success, 1 a stage failed or the result could not be written, 2 wrong input, 75 a stage waits for its \
endpoint (`run --detach`), 130 interrupted.")]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
    #[command(flatten)]
    pub(super) global: Global,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub(super) struct Global {
    /// Folder of the store [default: cache].
    #[arg(long, global = true, env = "ABLATE_STORE", value_name = "DIR")]
    pub(super) store: Option<PathBuf>,
    /// Read this configuration file instead of the project's `.ablate.toml` and the user's `~/.config/ablate/config.toml`.
    #[arg(long, global = true, env = "ABLATE_CONFIG", value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Print one JSON document (for `run` and `retry`: one JSON line per event) on stdout.
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Print more (-v: notes of stages; -vv: debug log). `ABLATE_LOG` sets a filter such as `ablate=debug`.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
    /// Print only results and errors.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(super) quiet: bool,
    /// When to use colors. `NO_COLOR` is respected.
    #[arg(long, global = true, value_enum, default_value_t = ColorChoice::Auto, value_name = "WHEN")]
    pub(super) color: ColorChoice,
}

impl Global {
    /// The configuration of this project and user.
    pub(super) fn configuration(&self) -> Result<Configuration> {
        Configuration::load(self.config.as_deref(), KINDS).map_err(|failure| (*failure).into())
    }

    /// The folder of the store.
    pub(super) fn store(&self) -> &Path {
        self.store.as_deref().unwrap_or(Path::new("cache"))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ColorChoice {
    Auto,
    Always,
    Never,
}

/// An experiment file with changed keys.
#[derive(Debug, Args)]
pub(super) struct ExperimentArgs {
    /// The experiment's TOML file.
    #[arg(value_name = "FILE")]
    pub(super) file: PathBuf,
    /// Change a key: `stage.dpo.beta=0.2`, `vars.data=/mnt/data`, `'stage.run.inputs."a.txt"=b.txt'`. The value is TOML, or
    /// text if it is not valid TOML; `remove` removes the key. Several values separated by commas are a sweep over the key of a
    /// stage or a variable: `stage.sft.lr=1e-5,2e-5`. Repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(super) overrides: Vec<String>,
}

/// Selects instances of one experiment.
#[derive(Debug, Args)]
pub(super) struct Targets {
    /// Stages or instances, with everything they need: `dpo`, `eval@model=dpo`, `sft*`. Default: all.
    #[arg(value_name = "TARGET")]
    pub(super) targets: Vec<String>,
}

/// Selects experiments and instances of them.
#[derive(Debug, Args)]
pub(super) struct Scope {
    /// More experiments (arguments that end in `.toml`), processed one after another; or stages and instances, with
    /// everything they need: `dpo`, `eval@model=dpo`, `sft*`. Default: all.
    #[arg(value_name = "FILE|TARGET")]
    more: Vec<String>,
    /// Same as a TARGET: this stage or instance, with everything it needs. Repeatable.
    #[arg(long, value_name = "TARGET")]
    until: Vec<String>,
    /// Only this stage or instance; everything it needs must be fresh. Repeatable.
    #[arg(long, value_name = "TARGET")]
    only: Vec<String>,
}

impl Scope {
    /// All experiments, each with the changed keys of the first.
    pub(super) fn experiments(&self, first: &ExperimentArgs) -> Vec<ExperimentArgs> {
        let others = self.more.iter().filter(|text| is_file(text)).map(PathBuf::from);
        let files = [first.file.clone()].into_iter().chain(others);
        files.map(|file| ExperimentArgs { file, overrides: first.overrides.clone() }).collect()
    }

    pub(super) fn selection(&self) -> Selection {
        let targets = self.more.iter().filter(|text| !is_file(text)).chain(&self.until);
        Selection { until: targets.cloned().collect(), only: self.only.clone(), ..Selection::default() }
    }
}

fn is_file(text: &str) -> bool {
    Path::new(text).extension().is_some_and(|extension| extension == "toml")
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Write a small experiment file to start from.
    #[command(after_help = "\
Examples:
  ablate new first                         first.toml: fine-tuning on three data mixes
  ablate new studies/pull --template dpo   preference pairs from the model's own answers
  ablate new mine --template command       your own programs

Every template can be run as it is.")]
    New(NewArgs),
    /// Check experiment files and report every error with its line and column.
    #[command(after_help = "\
Examples:
  ablate check exp.toml
  ablate check studies/*.toml              several files
  ablate check exp.toml --json             stages, instances and reports, or the errors with their locations")]
    Check(CheckArgs),
    /// Show what would run, and why. Runs nothing.
    #[command(after_help = "\
Examples:
  ablate plan exp.toml                     counts, and one line per stage that is not fresh
  ablate plan exp.toml --all               fresh stages too
  ablate plan studies/*.toml               several experiments, and what they share
  ablate plan exp.toml --explain           every change with its line, old and new value
  ablate plan exp.toml --json | jq .must_run
  ablate plan exp.toml --remote s3://lab/ablate    how many results would be fetched instead of run")]
    Plan(PlanArgs),
    /// Run the stages that are not fresh, then print the reports.
    #[command(after_help = "\
Examples:
  ablate run exp.toml                      all stages
  ablate run exp.toml dpo                  `dpo` and everything it needs
  ablate run exp.toml --only 'dpo@mix=*'   these instances and nothing upstream
  ablate run studies/*.toml                several experiments; equal stages run once
  ablate run exp.toml --force rollouts     run this stage again although it is fresh
  ablate run exp.toml --jobs 1 --fail-fast one stage at a time, stop at the first failure
  ablate run exp.toml --remote s3://lab/ablate     fetch results of other machines instead of running, and send new ones
  ablate run exp.toml --detach             do not wait for batches of requests; run the same command again later
  ablate run exp.toml --executor slurm     stages are jobs of a Slurm cluster (docs/cluster.md)

Ctrl-C stops the stages; a training saves its state first. The same command resumes them. A second Ctrl-C ends everything \
immediately. With `--set`, the report is in out/<experiment>/set-<changed keys>.")]
    Run(RunArgs),
    /// List the runs of the store, newest last: number, start, end, duration, experiment, what ran, and the first result.
    #[command(after_help = "\
Examples:
  ablate runs                              the latest 20 runs
  ablate runs exp.toml -n 5                the latest 5 of one experiment, by its file or its name
  ablate runs --failed                     runs that failed, were interrupted or were killed
  ablate runs --json | jq '.runs[-1].headline'

The numbers stay the same when old runs are removed. `ablate status`, `ablate compare` and `ablate report --run` take them. A \
repeated run with nothing to do is not listed.")]
    Runs(RunsArgs),
    /// Show the progress of runs, or their result. Works from any terminal.
    #[command(after_help = "\
Examples:
  ablate status                            the runs that are going on, or else the latest run
  ablate status --follow                   update until they end
  ablate status 12                         the run with this number in `ablate runs`
  ablate status latest~1 --json            the run before the latest, for scripts

A run is running, finished, failed, interrupted (Ctrl-C), killed (its process is gone) or detached (it waits for an \
endpoint). With `--json` and several runs, each is one line.")]
    Status(StatusArgs),
    /// Stop a run that is going on, or some of its stages. Works from any terminal.
    #[command(after_help = "\
Examples:
  ablate stop                              the run that is going on, as Ctrl-C does
  ablate stop latest dpo                   only `dpo`; the run goes on with what does not need it
  ablate stop 12 'sft@mix=*'

A stopped stage keeps its work: a training saves its state first. Stages that need it are skipped, and the run ends with \
exit code 130, as after Ctrl-C. The same `ablate run` resumes it.")]
    Stop(StopArgs),
    /// Show runs and reports in a browser while they go on.
    #[command(after_help = "\
Examples:
  ablate serve                             all experiments of the store, at http://127.0.0.1:8765/
  ablate serve exp.toml --port 9000        one experiment
  ablate serve --token                     a random token, so that other users of this machine cannot look
  ablate serve --bind 0.0.0.0              from other machines, with a token
  ssh -L 8765:localhost:8765 gpu-box       the same without opening a port to the network

Stages can be stopped and retried from the page. Runs do not depend on the server: they go on when it ends. \
`ABLATE_SERVE_TOKEN` sets the token where other users can read command lines.")]
    Serve(ServeArgs),
    /// Print the reports and write them as HTML, Markdown, JSON, CSV and LaTeX, and the training curves for TensorBoard.
    #[command(after_help = "\
Examples:
  ablate report exp.toml
  ablate report exp.toml --out reports --report main
  ablate report exp.toml --run 12          the results of a past run, into out/<experiment>/run-12
  ablate report exp.toml --json | jq .tables")]
    Report(ReportArgs),
    /// Write all scores as one table with a column per axis, for pandas, R or a spreadsheet.
    #[command(after_help = "\
Examples:
  ablate results exp.toml > scores.csv             one row per evaluation and data set
  ablate results exp.toml --items --out scores.parquet
  ablate results a.toml b.toml --json | jq '.[] | select(.accuracy < 0.5)'

In Python: `pandas.read_parquet(\"scores.parquet\")`.")]
    Results(ResultsArgs),
    /// Show how two evaluations, checkpoints, experiments or runs differ: parameters, scores, changed answers.
    #[command(
        visible_alias = "diff",
        after_help = "\
Examples:
  ablate compare exp.toml model=mix-4 model=dpo            two cells of the evaluations, paired by the other axes and the seed
  ablate compare exp.toml sft dpo --answers 5              two checkpoints, with five changed answers per group and direction
  ablate compare exp.toml 'eval@lr=1e-5' 'eval@lr=2e-5' --sort difference
  ablate compare a.toml b.toml --html ab.html              all evaluations of two experiments
  ablate compare latest~1 latest                           two runs: what changed, and what it did to the scores
  ablate compare 11 12                                     two runs by their numbers in `ablate runs`
  ablate compare exp.toml sft dpo --json | jq .comparison.flips

Differences are the second side minus the first, on shared items and seeds, with 95 % confidence intervals."
    )]
    Compare(CompareArgs),
    /// List the instances of an experiment with their state, or the stored replies of endpoints.
    #[command(after_help = "\
Examples:
  ablate ls exp.toml 'eval*' --sort accuracy
  ablate ls exp.toml 'sft*' --columns lr,final_loss,seconds
  ablate ls exp.toml --format csv > instances.csv     with all metrics and the parameters that vary
  ablate ls exp.toml --json
  ablate ls --replies                      number, tokens and cost of the replies by model")]
    Ls(LsArgs),
    /// Show one instance: its manifest, outputs, summary and provenance.
    #[command(after_help = "Example:\n  ablate show exp.toml sft@mix=both")]
    Show(InstanceArgs),
    /// Print the latest log of an instance.
    #[command(after_help = "\
Examples:
  ablate logs exp.toml dpo                 of a running stage too
  ablate logs exp.toml 'sft@lr=1e-5'       also if it runs as a job of a cluster, or waits in its queue")]
    Logs(InstanceArgs),
    /// Explain why a stage and the stages above it would run: old and new values with their lines in the TOML.
    #[command(after_help = "\
Examples:
  ablate why exp.toml dpo
  ablate why exp.toml 'eval@model=dpo,prompt=cot' --set stage.dpo.beta=0.2")]
    Why(WhyArgs),
    /// Print the graph of stages.
    #[command(after_help = "\
Examples:
  ablate graph exp.toml --format mermaid
  ablate graph exp.toml --expanded | dot -Tsvg > graph.svg")]
    Graph(GraphArgs),
    /// Request replies of an endpoint without a usable text again, then run what depends on them.
    #[command(after_help = "\
Examples:
  ablate retry exp.toml teach --bad                   every bad reply of `teach`
  ablate retry exp.toml teach --bad empty,filtered    only replies of these kinds
  ablate retry exp.toml 'judge@model=dpo' --bad --until judge

Other replies come from the store and cost nothing. `ablate ls --replies` counts the bad replies.")]
    Retry(RetryArgs),
    /// Predict the scores of unmeasured mix ratios from measured ones and suggest which to try next.
    #[command(after_help = "\
Examples:
  ablate suggest ratio.toml
  ablate suggest ratio.toml --by prompt=cot -n 5
  ablate suggest ratio.toml --json | jq .suggestions

The experiment needs an axis with `simplex`. The output includes the leave-one-out prediction error of each measured \
ratio.")]
    Suggest(SuggestArgs),
    /// Ask a checkpoint a question, with or without an image, and print the response as it is generated.
    #[command(after_help = "\
Examples:
  ablate generate --model out/reasoner/dpo/model --image chart.png \"How many bars are blue?\"
  ablate generate --model llava-1.5-7b-hf --image chart.png --temperature 1 --seed 7 \"Explain the chart.\"")]
    Generate(GenerateArgs),
    /// Copy a checkpoint into a folder of its own, with a model card.
    #[command(after_help = "\
Examples:
  ablate export exp.toml dpo my-model
  ablate export exp.toml sft@mix=both,seed=0 my-model && hf upload me/my-model my-model

The card is README.md: training, data, scores, lineage and the commands that make the checkpoint again. Read it before you \
publish it: it has the paths and texts of the experiment file.")]
    Export(ExportArgs),
    /// Send the current results of an experiment to a remote: a bucket of S3, or a folder that several machines share.
    #[command(after_help = "\
Examples:
  ablate push exp.toml --remote s3://lab/ablate
  ablate push exp.toml dpo --remote /mnt/share/ablate     only `dpo` and what it needs

Sends results that are fresh here, and nothing that is there already. The credentials of S3 are those of the AWS command line: \
`AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, or `AWS_PROFILE` and `~/.aws`. `AWS_ENDPOINT_URL` names another server. A transfer \
that was interrupted continues. docs/remote.md describes all of it.")]
    Push(TransferArgs),
    /// Bring the results that a remote has for an experiment into the store.
    #[command(after_help = "\
Examples:
  ablate pull exp.toml --remote s3://lab/ablate
  ablate pull exp.toml -v                  with the names of what is not there; the remote of `.ablate.toml`
  ablate pull exp.toml && ablate plan exp.toml

Results are found by what they were made from, so the experiment and its data have to be the same as where they were made.")]
    Pull(TransferArgs),
    /// Protect the current results of an experiment from `gc`.
    #[command(after_help = "\
Examples:
  ablate pin exp.toml --name submission
  ablate pin exp.toml 'eval@model=dpo' --name table-3
  ablate unpin submission")]
    Pin(PinArgs),
    /// Remove a pin. Without a name, list all pins.
    #[command(
        after_help = "Examples:\n  ablate unpin                             list the pins\n  ablate unpin submission"
    )]
    Unpin {
        #[arg(value_name = "NAME")]
        name: Option<String>,
    },
    /// Forget results of an experiment, or of some of its instances. `gc` then frees their space.
    #[command(after_help = "\
Examples:
  ablate forget old.toml                   the file may already be removed
  ablate forget exp.toml 'sft@lr=0.1*'")]
    Forget(ForgetArgs),
    /// Remove results that no experiment, no recent run and no pin uses. Replies of endpoints are kept.
    #[command(after_help = "\
Examples:
  ablate gc --dry-run                      show what would be removed, and interrupted stages
  ablate gc --keep-runs 20
  ablate gc --keep-interrupted 0           remove interrupted stages too; they start again from the beginning
  ablate gc --max-size 200GB --max-age 90  remove the oldest results too, except pinned ones
  ablate gc --replies --dry-run            show what the stored replies of endpoints cost
  ablate gc --replies --max-age 180        delete replies older than 180 days, and nothing else
  ablate gc --remote s3://lab/ablate --dry-run
  ablate gc --remote --grace 30            the remote of `.ablate.toml`; keep everything younger than 30 days

With `--remote`, the local store is not touched. Results of a push are kept until a later push of the same experiment and store \
replaces them, and everything is kept for the grace period.")]
    Gc(GcArgs),
    /// Check the hash of every object of the store, and quarantine damaged objects.
    #[command(after_help = "Example:\n  ablate verify --json")]
    Verify,
    /// Show what this machine offers for a run: CPU, driver, GPUs, what is missing, and the GPU memory that a model needs.
    #[command(after_help = "\
Examples:
  ablate doctor
  ablate doctor cuda:0 && ablate run exp.toml --device cuda:0
  ablate doctor --executor slurm           the cluster, its partitions, and what the configuration asks for
  ablate doctor --executor slurm --probe   also runs a job that looks at the store
  ablate doctor --model llama-3-8b --precision bf16 --lora 16 --batch 4 --positions 2048")]
    Doctor(DoctorArgs),
    /// Print the JSON Schema of experiment files, for editors, or of the rows of a type of output.
    #[command(after_help = "\
Examples:
  ablate schema > ablate.schema.json
  ablate schema scores                     one row of an output of the type `scores`

Then write `#:schema ./ablate.schema.json` as the first line of an experiment file: editors with Taplo (such as VS Code
with Even Better TOML) complete keys, show their documentation and mark errors.")]
    Schema {
        /// The type of an output of a `command` stage (docs/formats.md).
        #[arg(value_name = "TYPE", value_parser = value_parsers::output_type)]
        output: Option<ArtifactKind>,
    },
    /// Print the script that completes commands, options and the names of an experiment in a shell.
    #[command(after_help = "\
Install:
  bash  ablate completions bash > ~/.local/share/bash-completion/completions/ablate
  zsh   ablate completions zsh > \"${fpath[1]}/_ablate\"
  fish  ablate completions fish > ~/.config/fish/completions/ablate.fish

Or in the file that the shell reads when it starts: `source <(ablate completions bash)`; for zsh after `compinit`.
Stages, instances, axes and reports are those of the experiment file on the line; runs and pins those of the store.")]
    Completions(CompletionsArgs),
    /// Write the manual pages, one per command.
    #[command(after_help = "\
Examples:
  ablate man ~/.local/share/man/man1       then: man ablate-run
  ablate man pages && man -l pages/ablate.1")]
    Man(ManArgs),
    /// Internal: runs programs one after another and ends the processes they leave behind. Started by `run`.
    #[command(hide = true)]
    Supervisor,
    /// Internal: says what a node of a cluster sees. Started by `doctor --probe`.
    #[command(hide = true)]
    ClusterProbe {
        /// A folder in the store.
        folder: PathBuf,
    },
    /// Internal: runs one job of a cluster. Started by the queue.
    #[command(hide = true)]
    ClusterJob {
        /// The folder of the submission.
        folder: PathBuf,
        /// The number of the job in the submission.
        index: usize,
    },
    /// Internal: runs one stage in this process. Started by `run`.
    #[command(hide = true)]
    StageJob {
        /// The job file written by `run`.
        job: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(super) struct InstanceArgs {
    #[command(flatten)]
    pub(super) experiment: ExperimentArgs,
    /// An instance, or a stage that has only one instance.
    #[arg(value_name = "INSTANCE")]
    pub(super) instance: String,
}
