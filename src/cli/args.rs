//! The command line: what may be said, with examples. Interprets nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::asking::GenerateArgs;
use super::checking::CheckArgs;
use super::cleaning::{ForgetArgs, GcArgs};
use super::doctor::DoctorArgs;
use super::inspect::GraphArgs;
use super::starting::NewArgs;
use super::suggest::SuggestArgs;
use super::values::{at_least_one, gpu, seconds};
use ablate_engine::Selection;

/// A declarative experiment engine for post-training vision-language models.
///
/// One TOML file describes a DAG of stages; ablate runs what changed and reports every table with intervals.
#[derive(Debug, Parser)]
#[command(name = "ablate", version, max_term_width = 100)]
#[command(after_help = "\
Examples:
  ablate run experiments/reasoner.toml            run what is not fresh, then print the tables
  ablate plan experiments/reasoner.toml           what would run, and why
  ablate run exp.toml --set stage.dpo.beta=0.2    change a key for this run
  ablate why exp.toml dpo                         every difference to the last result, at its line

Exit codes: 0 done, 1 a stage failed or the result could not be written, 2 the input is wrong, 130 interrupted.")]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
    #[command(flatten)]
    pub(super) global: Global,
}

/// Options of every command.
#[derive(Debug, Args)]
pub(super) struct Global {
    /// Folder of the store [default: cache].
    #[arg(long, global = true, env = "ABLATE_STORE", value_name = "DIR")]
    pub(super) store: Option<PathBuf>,
    /// Print one JSON document (for `run`: one JSON line per event) on stdout.
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Say more (-v: notes of stages; -vv: debug log). `ABLATE_LOG` takes a filter such as `ablate=debug`.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
    /// Print results and errors only.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(super) quiet: bool,
    /// When to color. `NO_COLOR` is respected.
    #[arg(long, global = true, value_enum, default_value_t = ColorChoice::Auto, value_name = "WHEN")]
    pub(super) color: ColorChoice,
}

impl Global {
    /// The store that is meant.
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

/// An experiment file and what to change in it.
#[derive(Debug, Args)]
pub(super) struct ExperimentArgs {
    /// The experiment's TOML file.
    #[arg(value_name = "FILE")]
    pub(super) file: PathBuf,
    /// Change a key: `stage.dpo.beta=0.2`, `vars.data=/mnt/data`, `'stage.run.inputs."a.txt"=b.txt'`. The value is TOML, or
    /// else text; `remove` takes the key away. Repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(super) overrides: Vec<String>,
}

/// Which instances are meant.
#[derive(Debug, Args)]
pub(super) struct Targets {
    /// Stages or instances to reach, with what they need: `dpo`, `eval@model=dpo`, `sft*`. All when none is named.
    #[arg(value_name = "TARGET")]
    pub(super) targets: Vec<String>,
}

/// Which experiments and which of their instances are meant.
#[derive(Debug, Args)]
pub(super) struct Scope {
    /// More experiments (whatever ends in `.toml`), one after another; or stages and instances to reach, with what they
    /// need: `dpo`, `eval@model=dpo`, `sft*`. All when none is named.
    #[arg(value_name = "FILE|TARGET")]
    more: Vec<String>,
    /// The same as a target: these and what they need. Repeatable.
    #[arg(long, value_name = "TARGET")]
    until: Vec<String>,
    /// These and nothing else: what they need must be there already. Repeatable.
    #[arg(long, value_name = "TARGET")]
    only: Vec<String>,
}

impl Scope {
    /// The first experiment and the others, each with what was changed.
    pub(super) fn experiments(&self, first: &ExperimentArgs) -> Vec<ExperimentArgs> {
        let others = self.more.iter().filter(|text| is_file(text)).map(PathBuf::from);
        let files = [first.file.clone()].into_iter().chain(others);
        files.map(|file| ExperimentArgs { file, overrides: first.overrides.clone() }).collect()
    }

    pub(super) fn selection(&self) -> Selection {
        let targets = self.more.iter().filter(|text| !is_file(text)).chain(&self.until);
        Selection { until: targets.cloned().collect(), only: self.only.clone() }
    }
}

fn is_file(text: &str) -> bool {
    std::path::Path::new(text).extension().is_some_and(|extension| extension == "toml")
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run what is not fresh, then print the reports.
    #[command(after_help = "\
Examples:
  ablate run exp.toml                      everything
  ablate run exp.toml dpo                  only what `dpo` needs
  ablate run exp.toml --only 'dpo@mix=*'   these and nothing above them
  ablate run studies/*.toml                several experiments, which share what is equal
  ablate run exp.toml --force rollouts     run these again although they are fresh
  ablate run exp.toml --jobs 1 --fail-fast one at a time, stop at the first failure

Ctrl-C stops the stages and keeps their checkpoints: the same command goes on from there.")]
    Run(RunArgs),
    /// Show what would run, and why. Runs nothing.
    #[command(after_help = "\
Examples:
  ablate plan exp.toml                     counts, and one line per stage that is not fresh
  ablate plan exp.toml --all               fresh ones too
  ablate plan studies/*.toml               what several experiments share
  ablate plan exp.toml --explain           every difference at its line, old and new
  ablate plan exp.toml --json | jq .must_run")]
    Plan(PlanArgs),
    /// Explain why a stage would run, and the stages above it: old and new value at the line of the TOML.
    #[command(after_help = "\
Examples:
  ablate why exp.toml dpo
  ablate why exp.toml 'eval@model=dpo,prompt=cot' --set stage.dpo.beta=0.2")]
    Why(WhyArgs),
    /// Show what a run is doing, or how it ended: from any terminal.
    #[command(after_help = "\
Examples:
  ablate status                            the latest run
  ablate status --follow                   until it ends
  ablate status latest~1 --json            the one before, for scripts")]
    Status(StatusArgs),
    /// Show how two runs differ: which instances, and in what, old and new.
    #[command(after_help = "\
Examples:
  ablate diff latest~1 latest
  ablate diff 20260211T09 latest --json    a part of a run's name is enough")]
    Diff(DiffArgs),
    /// Keep the present results of an experiment, whatever `gc` removes.
    #[command(after_help = "\
Examples:
  ablate pin exp.toml --name submission
  ablate pin exp.toml 'eval@model=dpo' --name table-3
  ablate unpin submission")]
    Pin(PinArgs),
    /// Take a pin away; without a name, list them.
    Unpin {
        #[arg(value_name = "NAME")]
        name: Option<String>,
    },
    /// Check experiment files: every error at its line and column.
    #[command(after_help = "\
Examples:
  ablate check exp.toml
  ablate check studies/*.toml              several files
  ablate check exp.toml --json             stages, instances and reports of the file, or its errors with their places")]
    Check(CheckArgs),
    /// Print the graph of stages.
    #[command(after_help = "\
Examples:
  ablate graph exp.toml --format mermaid
  ablate graph exp.toml --expanded | dot -Tsvg > graph.svg")]
    Graph(GraphArgs),
    /// Print the reports and write Markdown, JSON and one HTML page each.
    #[command(after_help = "\
Examples:
  ablate report exp.toml
  ablate report exp.toml --out reports --report main
  ablate report exp.toml --json | jq .tables")]
    Report(ReportArgs),
    /// Predict the scores of unseen mix ratios from those that ran, and say which to try next.
    #[command(after_help = "\
Examples:
  ablate suggest ratio.toml
  ablate suggest ratio.toml --by prompt=cot -n 5
  ablate suggest ratio.toml --json | jq .suggestions

The experiment needs an axis with `simplex`. The error that each measured ratio has when the others predict it is \
printed with the prediction.")]
    Suggest(SuggestArgs),
    /// List the instances of an experiment with their state.
    #[command(after_help = "Example:\n  ablate ls exp.toml --json")]
    Ls(ListArgs),
    /// Show one instance: what identifies it, its outputs, its summary, where it ran.
    #[command(after_help = "Example:\n  ablate show exp.toml sft@mix=both")]
    Show(InstanceArgs),
    /// Print the latest log of an instance.
    #[command(after_help = "Example:\n  ablate logs exp.toml dpo")]
    Logs(InstanceArgs),
    /// Check every object of the store against its name.
    Verify,
    /// Remove results that no experiment has any more, no recent run used and no pin keeps.
    #[command(after_help = "\
Examples:
  ablate gc --dry-run                      what would go, and what interrupted work there is
  ablate gc --keep-runs 20
  ablate gc --keep-interrupted 0           interrupted work too: it starts anew
  ablate gc --max-size 200GB --max-age 90  the oldest results too, but for pinned ones")]
    Gc(GcArgs),
    /// Forget an experiment, or some of its instances: their results count as never made, and `gc` frees their space.
    #[command(after_help = "\
Examples:
  ablate forget old.toml                   the file need not exist any more
  ablate forget exp.toml 'sft@lr=0.1*'")]
    Forget(ForgetArgs),
    /// Write a small experiment file to start from.
    #[command(after_help = "\
Examples:
  ablate new first                         first.toml: fine-tuning on three mixes of data
  ablate new studies/pull --template dpo   preference pairs of the model's own answers
  ablate new mine --template command       programs of your own: runs as it is, as all of them do")]
    New(NewArgs),
    /// Ask a checkpoint, about an image or without one, and see the answer as it is written.
    #[command(after_help = "\
Examples:
  ablate generate --model out/reasoner/dpo/model --image chart.png \"How many bars are blue?\"
  ablate generate --model llava-1.5-7b-hf --image chart.png --temperature 1 --seed 7 \"Explain the chart.\"")]
    Generate(GenerateArgs),
    /// Show what this machine has for a run: processor, driver, GPUs, and what is missing.
    #[command(after_help = "Examples:\n  ablate doctor\n  ablate doctor cuda:0 && ablate run exp.toml --device cuda:0")]
    Doctor(DoctorArgs),
    /// Print the JSON Schema of experiment files, for editors.
    #[command(after_help = "\
Examples:
  ablate schema > ablate.schema.json

Then write `#:schema ./ablate.schema.json` as the first line of an experiment file: editors with Taplo (such as VS Code
with Even Better TOML) complete keys, show what they mean and mark mistakes.")]
    Schema,
    /// Runs programs, one after another, and ends what they leave behind: what `run` starts. Not for people.
    #[command(hide = true)]
    Supervisor,
    /// Runs one stage in this process: what `run` starts. Not for people.
    #[command(hide = true)]
    StageJob {
        /// The job that `run` wrote.
        job: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    pub(super) experiment: ExperimentArgs,
    #[command(flatten)]
    pub(super) scope: Scope,
    /// Stages that run at the same time; the number of cores when not said.
    #[arg(short, long, value_name = "N", value_parser = at_least_one)]
    pub(super) jobs: Option<usize>,
    /// Threads of each stage; the cores, shared by the running stages, when not said. Never changes a result.
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub(super) threads: Option<usize>,
    /// `auto` (every GPU, or else the CPU), `cpu`, or `cuda:0,cuda:1`; the experiment's own setting when not said.
    #[arg(long, value_name = "DEVICE")]
    pub(super) device: Option<String>,
    /// After a failure go on with everything that does not lie below it. The default.
    #[arg(short, long, conflicts_with = "fail_fast")]
    pub(super) keep_going: bool,
    /// Start nothing more after the first failure.
    #[arg(long)]
    pub(super) fail_fast: bool,
    /// Try a stage that failed again, so many times; wrong input is not tried again.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) retries: u32,
    /// Stop an attempt that takes longer, in seconds, where the stage has no limit of its own.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(super) timeout: Option<Duration>,
    /// GPUs, by number or UUID, that stages of the pool `gpu` are given, one stage at a time.
    #[arg(long, value_name = "IDS", value_delimiter = ',', value_parser = gpu)]
    pub(super) gpus: Vec<String>,
    /// Run these stages or instances again although they are fresh. Repeatable.
    #[arg(long, value_name = "TARGET")]
    pub(super) force: Vec<String>,
    /// Read files from outside again, whatever their time and size say.
    #[arg(long)]
    pub(super) rehash: bool,
    /// Links to the outputs by name go here.
    #[arg(long, value_name = "DIR", default_value = "out")]
    pub(super) out: PathBuf,
}

#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    #[command(flatten)]
    pub(super) experiment: ExperimentArgs,
    #[command(flatten)]
    pub(super) scope: Scope,
    /// Show fresh instances too.
    #[arg(long)]
    pub(super) all: bool,
    /// Show every reason at its line of the file.
    #[arg(long)]
    pub(super) explain: bool,
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    pub(super) experiment: ExperimentArgs,
    #[command(flatten)]
    pub(super) targets: Targets,
}

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// A run: `latest`, `latest~1`, or a part of its name.
    #[arg(value_name = "RUN", default_value = "latest")]
    pub(super) run: String,
    /// Show it again and again until it ends.
    #[arg(short, long)]
    pub(super) follow: bool,
}

#[derive(Debug, Args)]
pub(super) struct DiffArgs {
    /// The run that was before: `latest~1`, or a part of its name.
    #[arg(value_name = "RUN")]
    pub(super) first: String,
    /// The run to compare with it.
    #[arg(value_name = "RUN", default_value = "latest")]
    pub(super) second: String,
}

#[derive(Debug, Args)]
pub(super) struct PinArgs {
    #[command(flatten)]
    pub(super) experiment: ExperimentArgs,
    #[command(flatten)]
    pub(super) targets: Targets,
    /// What the pin is called; the experiment's name when not said.
    #[arg(long, value_name = "NAME")]
    pub(super) name: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct WhyArgs {
    #[command(flatten)]
    pub(super) experiment: ExperimentArgs,
    /// A stage or an instance.
    #[arg(value_name = "STAGE")]
    pub(super) stage: String,
}

#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    #[command(flatten)]
    pub(super) experiment: ExperimentArgs,
    /// Only the report of this name.
    #[arg(long, value_name = "NAME")]
    pub(super) report: Option<String>,
    /// Folder for the files; `out/<experiment>` when not said.
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct InstanceArgs {
    #[command(flatten)]
    pub(super) experiment: ExperimentArgs,
    /// An instance, or a stage that has only one.
    #[arg(value_name = "INSTANCE")]
    pub(super) instance: String,
}
