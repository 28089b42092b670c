//! `compare`: shows the difference of two cells, checkpoints, experiments or runs: parameters, scores, changed answers.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use serde_json::json;

use super::args::{ExperimentArgs, Global};
use super::session::{Need, Session, open_existing_store};
use super::shell::Shell;
use ablate_core::base::escape::escape_line;
use ablate_core::base::files;
use ablate_engine::history;
use ablate_engine::run_changes::RunChanges;
use ablate_experiment::Metric;
use ablate_report::comparison::{self, Comparison, Flip, FlipDirection, GroupOrder, ParameterDifference};
use ablate_report::{ANSWER_BYTES, LoadedSide, drop_identical, html, load_run, load_side, with_images};

#[derive(Debug, Args)]
pub(super) struct CompareArgs {
    /// `FILE A B` compares two evaluations, cells or checkpoints of an experiment; `FILE A FILE B` those of two experiments;
    /// `FILE FILE` all evaluations of two experiments; `RUN RUN` two runs.
    #[arg(value_name = "FILE|RUN|TARGET", num_args = 1..=4, required = true)]
    targets: Vec<String>,
    /// Change a key of the experiments, as for `run`. Repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// The metric, as in a report: `accuracy`, `compliance`, `readable`, ...
    #[arg(long, value_name = "METRIC", default_value = "accuracy", value_parser = metric)]
    metric: Metric,
    /// Number of changed answers to show per group and direction, or `all`.
    #[arg(long, value_name = "N", default_value = "1", value_parser = answers)]
    answers: usize,
    /// Order of the groups.
    #[arg(long, value_enum, value_name = "BY", default_value_t = Order::File)]
    sort: Order,
    /// Print the table as CSV or Markdown.
    #[arg(long, value_enum, value_name = "FORMAT", conflicts_with = "json")]
    format: Option<TextFormat>,
    /// Also write a page with the comparison and all answers of both sides.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Order {
    /// As in the experiment's file.
    File,
    /// The largest gain first.
    Difference,
    /// The smallest p-value first.
    P,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum TextFormat {
    Csv,
    Md,
}

impl From<Order> for GroupOrder {
    fn from(order: Order) -> GroupOrder {
        match order {
            Order::File => GroupOrder::Appearance,
            Order::Difference => GroupOrder::Difference,
            Order::P => GroupOrder::PValue,
        }
    }
}

fn metric(text: &str) -> Result<Metric, String> {
    serde_json::from_value(text.into()).map_err(|error| error.to_string())
}

fn answers(text: &str) -> Result<usize, String> {
    if text == "all" { Ok(usize::MAX) } else { text.parse().map_err(|_| "write a number or `all`".to_string()) }
}

pub(super) fn compare(shell: Shell, global: &Global, arguments: &CompareArgs) -> Result<()> {
    let is_file = |text: &String| Path::new(text).extension().is_some_and(|extension| extension == "toml");
    let open = |file: &str| {
        let experiment = ExperimentArgs { file: file.into(), overrides: arguments.overrides.clone() };
        Session::read(global, &experiment, Need::All)
    };
    let load =
        |session: &Session, pattern: &str| load_side(&session.expansion, &session.plan()?, &session.store, pattern);
    let kinds: Vec<bool> = arguments.targets.iter().map(is_file).collect();
    let mut changes = None;
    let mut sides = match (&arguments.targets[..], &kinds[..]) {
        ([file, first, second], [true, false, false]) => {
            let session = open(file)?;
            let sides = [load(&session, first)?, load(&session, second)?];
            if sides[0].side.evaluations == sides[1].side.evaluations {
                bail!("`{first}` and `{second}` are the same evaluations: there is nothing to compare");
            }
            sides
        }
        ([one, first, other, second], [true, false, true, false]) => {
            [labeled(load(&open(one)?, first)?, one), labeled(load(&open(other)?, second)?, other)]
        }
        ([one, other], [true, true]) => [one, other]
            .map(|file| {
                load(&open(file)?, "*").map(|mut loaded| {
                    loaded.side.label.clone_from(file);
                    loaded
                })
            })
            .into_iter()
            .collect::<Result<Vec<_>>>()?
            .try_into()
            .unwrap_or_else(|_| panic!("BUG: two sides stay two")),
        ([first], [false]) => runs(shell, global, [first, "latest"], &mut changes)?,
        ([first, second], [false, false]) => runs(shell, global, [first, second], &mut changes)?,
        _ => bail!(
            "these arguments name no two things of one kind\nhelp: write `ablate compare FILE A B`, `ablate compare FILE A FILE B`, \
             `ablate compare FILE FILE` or `ablate compare RUN RUN`"
        ),
    };
    let equal = if changes.is_some() { drop_identical(&mut sides) } else { 0 };
    // Evaluations with the same result in both runs, and runs without evaluations, have nothing to compare.
    if let Some(changes) = &changes
        && sides.iter().any(|loaded| loaded.side.evaluations.is_empty())
    {
        if shell.json {
            return shell.json(&json!({ "changes": changes, "equal_evaluations": equal }));
        }
        shell.result(&(changes.to_string() + &equal_evaluations(equal)));
        return Ok(());
    }
    let (sides, images, note) = with_images(sides);
    let shown = arguments.answers;
    let answer_bytes = if arguments.html.is_some() { ANSWER_BYTES } else { 0 };
    let mut comparison = comparison::compare(&sides, arguments.metric, shown, &images, answer_bytes)?;
    comparison.report.notes.extend(note);
    comparison.sort(arguments.sort.into());
    if let Some(path) = &arguments.html {
        let changes =
            changes.as_ref().map_or_else(String::new, |changes| changes.to_string() + &equal_evaluations(equal));
        let changes: Vec<String> = changes.lines().map(|line| line.trim().to_string()).collect();
        files::write_atomic(path, html::comparison_page(&comparison, &changes).as_bytes())?;
        shell.status(&format!("wrote {}", path.display()));
    }
    match arguments.format {
        Some(TextFormat::Csv) => shell.result(&comparison.report.csv()),
        Some(TextFormat::Md) => shell.result(&markdown(&comparison)),
        None if shell.json => {
            return shell.json(&json!({ "changes": changes, "equal_evaluations": equal, "comparison": comparison }));
        }
        None => {
            if let Some(changes) = &changes {
                shell.result(&(changes.to_string() + &equal_evaluations(equal) + "\n"));
            }
            shell.result(&parameters(&comparison.parameters, changes.is_none()));
            shell.styled(&comparison.report.terminal(shell.width, shell.color));
            shell.result(&answers_text(&comparison, shown));
        }
    }
    Ok(())
}

fn equal_evaluations(count: usize) -> String {
    match count {
        0 => String::new(),
        1 => "  1 evaluation has the same result in both runs\n".to_string(),
        count => format!("  {count} evaluations have the same results in both runs\n"),
    }
}

/// The side of an experiment that is one of two.
fn labeled(mut loaded: LoadedSide, file: &str) -> LoadedSide {
    loaded.side.label = format!("{file} {}", loaded.side.label);
    loaded
}

fn runs(shell: Shell, global: &Global, names: [&str; 2], changes: &mut Option<RunChanges>) -> Result<[LoadedSide; 2]> {
    let store = open_existing_store(global)?;
    let read = |name: &str| history::read(&store, &history::find(&store, name)?);
    let (first, second) = (read(names[0])?, read(names[1])?);
    *changes = Some(RunChanges::new(&store, &first, &second));
    let sides = [&first, &second].map(|run| load_run(&store, run));
    for (run, (_, removed)) in [&first, &second].into_iter().zip(&sides) {
        if *removed > 0 {
            shell.warning(&format!(
                "{removed} results of the run `{}` were removed by `gc`, and are not compared",
                run.run
            ));
        }
    }
    Ok(sides.map(|(side, _)| side))
}

/// The values in which the sides differ, one line each.
fn parameters(differences: &[ParameterDifference], wanted: bool) -> String {
    if !wanted || differences.is_empty() {
        return String::new();
    }
    let mut text = "parameters that differ\n".to_string();
    for ParameterDifference { stage, key, values } in differences {
        let [first, second] = values.each_ref().map(|values| listed(values));
        let line = match key {
            Some(key) => format!("  {stage}.{key}: {first} -> {second}"),
            None if values[0].is_empty() => format!("  only the second side has `{stage}`: {second}"),
            None => format!("  only the first side has `{stage}`: {first}"),
        };
        text.push_str(&(escape_line(&line).into_owned() + "\n"));
    }
    text + "\n"
}

/// Longest text of the values of one side, in characters.
const MAX_VALUES: usize = 400;

fn listed(values: &[String]) -> String {
    let text = if values.is_empty() { "(absent)".to_string() } else { values.join(", ") };
    if text.chars().count() <= MAX_VALUES {
        return text;
    }
    format!("{}…", text.chars().take(MAX_VALUES).collect::<String>())
}

/// The number of changed answers of each group, and those that are shown.
fn answers_text(comparison: &Comparison, shown: usize) -> String {
    let mut text = String::new();
    if comparison.flips.is_empty() {
        text.push_str("answers: each side averages several evaluations per item, so single answers are not compared\n");
    }
    for group in &comparison.flips {
        let counts = group.counts;
        text.push_str(&format!(
            "answers, {}: {} gained, {} lost, {} right on both sides, {} wrong on both\n",
            group.group, counts.gained, counts.lost, counts.both_right, counts.both_wrong
        ));
        for flip in &group.shown {
            text.push_str(&render_flip(flip));
        }
    }
    match comparison.identical {
        0 => {}
        1 => text.push_str("1 evaluation has the same result on both sides\n"),
        count => text.push_str(&format!("{count} evaluations have the same result on both sides\n")),
    }
    for (side, unpaired) in [&comparison.first, &comparison.second].into_iter().zip(&comparison.unpaired) {
        if !unpaired.is_empty() {
            let names = unpaired.iter().take(6).cloned().collect::<Vec<_>>().join(", ");
            let more = if unpaired.len() > 6 { format!(" and {} more", unpaired.len() - 6) } else { String::new() };
            text.push_str(&format!("not compared, only in `{side}`: {names}{more}\n"));
        }
    }
    let hidden: usize =
        comparison.flips.iter().map(|group| group.counts.gained + group.counts.lost - group.shown.len()).sum();
    if hidden > 0 && shown > 0 {
        text.push_str(&format!("{hidden} more changed answers: `--answers all` shows them, `--json` for scripts\n"));
    }
    text
}

fn render_flip(flip: &Flip) -> String {
    let Flip { direction, seed, dataset, id, images, prompt, gold, first, second, .. } = flip;
    let direction = match direction {
        FlipDirection::Gained => "gained",
        FlipDirection::Lost => "lost  ",
    };
    let seed = if seed.is_empty() { String::new() } else { format!(", seed {seed}") };
    let images = if images.is_empty() { String::new() } else { format!(", image {}", images.join(" and ")) };
    let mut text = format!("  {direction} {dataset} {id}{seed}{images}\n");
    let mut add = |name: &str, body: &str| {
        for (index, line) in body.lines().enumerate() {
            text.push_str(&format!("    {:6} {line}\n", if index == 0 { name } else { "" }));
        }
    };
    add("prompt", prompt);
    add("gold", &gold.join(" or "));
    add("first", &first.text);
    add("second", &second.text);
    text
}

fn markdown(comparison: &Comparison) -> String {
    let mut text = comparison.report.markdown();
    if !comparison.parameters.is_empty() {
        text.push_str("\n## Parameters that differ\n\n| key | first | second |\n|---|---|---|\n");
        for ParameterDifference { stage, key, values } in &comparison.parameters {
            let name = key.as_ref().map_or_else(|| stage.clone(), |key| format!("{stage}.{key}"));
            let cells = [name, listed(&values[0]), listed(&values[1])].map(|cell| ablate_report::markdown_cell(&cell));
            text.push_str(&format!("| {} |\n", cells.join(" | ")));
        }
    }
    text
}
