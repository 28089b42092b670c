//! Shows the progress of a run: bars on a terminal, plain lines otherwise, JSON lines with `--json`.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use super::format::{request_details, short_number};
use super::shell::Shell;
use ablate_core::base::StageEvent;
use ablate_core::base::escape::{escape_controls, escape_line, indented};
use ablate_engine::{DirtyReason, Observer, Outcome, Plan, PlanState, RunReport};
use ablate_experiment::{Instance, InstanceId};

/// Minimum interval between plain lines about a running stage.
const PLAIN_INTERVAL: Duration = Duration::from_secs(15);

pub(super) struct ProgressDisplay {
    shell: Shell,
    bars: MultiProgress,
    state: RefCell<State>,
    /// Skipped instances by reason, each with its stage, collected until they are printed.
    skipped: RefCell<BTreeMap<String, Vec<SkippedInstance>>>,
}

#[derive(Default)]
struct State {
    overall: Option<ProgressBar>,
    running: BTreeMap<InstanceId, Running>,
    /// Instances that were fresh when the run started. They are counted but not listed.
    fresh: BTreeSet<InstanceId>,
}

struct Running {
    /// Hidden without a terminal, but still used to estimate the remaining time.
    bar: ProgressBar,
    begun: Instant,
    /// When the last plain line was printed.
    last_line: Instant,
    /// Whether the stage has reported progress.
    has_progress: bool,
}

impl ProgressDisplay {
    pub(super) fn new(shell: Shell) -> ProgressDisplay {
        let target = if shell.live { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bars = MultiProgress::with_draw_target(target);
        ProgressDisplay { shell, bars, state: RefCell::default(), skipped: RefCell::default() }
    }

    /// Prints a line above the bars.
    fn line(&self, text: &str) {
        self.labeled_line("", "", text);
    }

    /// Prints a line after a colored word.
    fn labeled_line(&self, code: &str, word: &str, text: &str) {
        self.print_skipped();
        self.write_line(code, word, text);
    }

    /// Prints one line per reason for the skipped instances.
    fn print_skipped(&self) {
        let skipped = std::mem::take(&mut *self.skipped.borrow_mut());
        for (because, instances) in skipped {
            self.write_line("33", "skip ", &format!(" {:8}  {}: {because}", "", group_by_stage(&instances)));
        }
    }

    fn write_line(&self, code: &str, word: &str, text: &str) {
        let colored = self.shell.error_color && !word.is_empty();
        let word = if colored { format!("\u{1b}[{code}m{word}\u{1b}[0m") } else { word.to_string() };
        let line = word + &escape_controls(text);
        if self.shell.live {
            self.bars.println(line).ok();
        } else if !self.shell.json {
            self.shell.styled_status(&line);
        }
    }

    /// Prints one JSON line with `--json`.
    fn emit(&self, value: impl FnOnce() -> serde_json::Value) {
        if self.shell.json {
            self.shell.json_line(&value());
        }
    }
}

impl Observer for ProgressDisplay {
    fn planned(&self, plan: &Plan, selected: &BTreeSet<InstanceId>) {
        let (fresh, must, may) = plan.counts(selected);
        self.emit(|| json!({ "event": "planned", "fresh": fresh, "must_run": must, "may_run": may }));
        if must + may == 0 {
            return;
        }
        let mut state = self.state.borrow_mut();
        state.fresh.extend(selected.iter().filter(|id| plan.get(**id).state == PlanState::Fresh));
        self.line(&format!("{} must run, {} may run, {} fresh", stages(must), stages(may), stages(fresh)));
        let overall = self.bars.add(ProgressBar::new(selected.len() as u64));
        overall.set_style(style("{bar:24.green/dim} {pos}/{len} stages  {elapsed_precise}"));
        if self.shell.live {
            overall.enable_steady_tick(Duration::from_millis(500));
        }
        state.overall = Some(overall);
    }

    fn started(&self, id: InstanceId, instance: &Instance, reasons: &[DirtyReason]) {
        let reasons = || reasons.iter().map(ToString::to_string).collect::<Vec<_>>();
        self.emit(|| json!({ "event": "started", "instance": instance.name, "reasons": reasons() }));
        if !self.shell.live {
            self.line(&format!("start {}", instance.name));
        }
        let mut state = self.state.borrow_mut();
        let mut bar = ProgressBar::hidden();
        if self.shell.live {
            bar = match &state.overall {
                Some(overall) => self.bars.insert_before(overall, ProgressBar::new(0)),
                None => self.bars.add(ProgressBar::new(0)),
            };
            bar.set_style(style("{spinner} {prefix:34} {elapsed:>5}  {msg}"));
            bar.set_prefix(escape_line(&instance.name).into_owned());
            bar.enable_steady_tick(Duration::from_millis(250));
        }
        state
            .running
            .insert(id, Running { bar, begun: Instant::now(), last_line: Instant::now(), has_progress: false });
    }

    fn waits(&self, _id: InstanceId, instance: &Instance, why: &str) {
        self.emit(|| json!({ "event": "waits", "instance": instance.name, "why": why }));
        self.line(&format!("wait  {}: {why}", instance.name));
    }

    fn warning(&self, text: &str) {
        self.emit(|| json!({ "event": "warning", "text": text }));
        // Above the bars, also with `--quiet`.
        self.bars.suspend(|| self.shell.warning(text));
    }

    fn event(&self, id: InstanceId, instance: &Instance, event: &StageEvent) {
        self.emit(|| json!({ "event": "stage", "instance": instance.name, "of": event }));
        let mut state = self.state.borrow_mut();
        let Some(running) = state.running.get_mut(&id) else { return };
        match event {
            StageEvent::Progress { done, total, unit, loss, tokens_per_second, requests } => {
                let mut details = Vec::new();
                details.extend(loss.map(|loss| format!("loss {loss:.4}")));
                details.extend(tokens_per_second.map(|rate| format!("{} tok/s", short_number(rate))));
                let seconds = running.begun.elapsed().as_secs_f64();
                details.extend(requests.iter().flat_map(|requests| request_details(requests, seconds)));
                running.bar.set_length(*total);
                running.bar.set_position(*done);
                // What an earlier attempt did is not part of the speed of this one.
                if !std::mem::replace(&mut running.has_progress, true) {
                    running.bar.reset_eta();
                }
                running.bar.set_style(style(&bar_template(unit)));
                running.bar.set_message(details.join("  "));
                if !self.shell.live && running.last_line.elapsed() >= PLAIN_INTERVAL {
                    running.last_line = Instant::now();
                    let left = running.bar.eta();
                    if !left.is_zero() {
                        details.push(format!("about {} left", indicatif::HumanDuration(left)));
                    }
                    details.insert(0, format!("{done}/{total} {unit}"));
                    let details = details.join(", ");
                    drop(state);
                    self.line(&format!("      {} {details}", instance.name));
                }
            }
            StageEvent::Note { text } => {
                drop(state);
                if self.shell.verbose > 0 {
                    self.line(&format!("      {}: {}", instance.name, indented(text, "        ")));
                }
            }
            StageEvent::Choice { text } => {
                drop(state);
                self.line(&format!("      {}: {}", instance.name, indented(text, "        ")));
            }
            StageEvent::Warning { text } => {
                drop(state);
                let text = indented(text, "        ");
                self.labeled_line("33", "warn ", &format!(" {}: {text}", instance.name));
            }
            StageEvent::Done { .. } | StageEvent::Detached { .. } | StageEvent::Failed { .. } => {}
        }
    }

    fn finished(&self, id: InstanceId, instance: &Instance, outcome: &Outcome, seconds: f64) {
        self.emit(|| json!({ "event": "finished", "instance": instance.name, "of": outcome, "seconds": seconds }));
        let listed = {
            let mut state = self.state.borrow_mut();
            if let Some(running) = state.running.remove(&id) {
                running.bar.finish_and_clear();
                if self.shell.live {
                    self.bars.remove(&running.bar);
                }
            }
            if let Some(overall) = &state.overall {
                overall.inc(1);
            }
            // If nothing needs to run, fresh instances are not listed.
            state.overall.is_some() && !state.fresh.contains(&id)
        };
        let time = format!("{seconds:6.1} s");
        match outcome {
            Outcome::Ran => self.labeled_line("32", "ran  ", &format!(" {time}  {}", instance.name)),
            Outcome::Fresh if listed => self.labeled_line("36", "fresh", &format!(" {:8}  {}", "", instance.name)),
            Outcome::Fresh => {}
            Outcome::Failed(_) => self.labeled_line("1;31", "FAIL ", &format!(" {time}  {}", instance.name)),
            Outcome::Skipped { because } => {
                let mut skipped = self.skipped.borrow_mut();
                skipped.entry(because.clone()).or_default().push((instance.stage.clone(), instance.name.clone()));
            }
            Outcome::Interrupted => self.labeled_line("33", "stop ", &format!(" {time}  {}", instance.name)),
            Outcome::Detached { waits_for } => {
                self.labeled_line("33", "wait ", &format!(" {time}  {}: {waits_for}", instance.name));
            }
        }
    }

    fn ended(&self, report: &RunReport) {
        self.print_skipped();
        if let Some(overall) = self.state.borrow_mut().overall.take() {
            overall.finish_and_clear();
        }
        self.bars.clear().ok();
        self.emit(|| json!({ "event": "ended", "run": report }));
    }
}

/// The stage and the name of an instance.
type SkippedInstance = (String, String);

/// Renders instances by stage: `sft@mix=1`, or `eval (40 instances), sft (2 instances)`.
fn group_by_stage(instances: &[SkippedInstance]) -> String {
    let mut stages: Vec<(&str, Vec<&str>)> = Vec::new();
    for (stage, name) in instances {
        match stages.iter_mut().find(|(known, _)| *known == stage) {
            Some((_, of)) => of.push(name),
            None => stages.push((stage, vec![name])),
        }
    }
    let groups = stages.into_iter().map(|(stage, names)| match names.as_slice() {
        [one] => (*one).to_string(),
        several => format!("{stage} ({} instances)", several.len()),
    });
    groups.collect::<Vec<_>>().join(", ")
}

fn stages(count: usize) -> String {
    format!("{count} stage{}", if count == 1 { "" } else { "s" })
}

/// The template of a stage's bar. The unit comes from the stage and may contain braces.
fn bar_template(unit: &str) -> String {
    let unit = escape_line(unit).replace('{', "{{").replace('}', "}}");
    format!("{{spinner}} {{prefix:34}} {{bar:16.cyan/dim}} {{pos}}/{{len}} {unit}  {{msg}}  eta {{eta}}")
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|error| panic!("BUG: the template `{template}` of a bar: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_instances_are_grouped_by_stage() {
        let names = ["sft@mix=1", "eval@mix=1,prompt=cot", "eval@mix=1,prompt=direct", "report"];
        let instances = ["sft", "eval", "eval", "report"].into_iter().zip(names);
        let instances = instances.map(|(stage, name)| (stage.to_string(), name.to_string()));
        assert_eq!(group_by_stage(&instances.collect::<Vec<_>>()), "sft@mix=1, eval (2 instances), report");
    }

    #[test]
    fn any_unit_has_a_valid_template() {
        for unit in ["rows", "", "{", "}", "{}", "{{rows}", "{rows:", "{pos!}", "ü\n"] {
            style(&bar_template(unit));
        }
    }
}
