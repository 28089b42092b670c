//! Shows the progress of a run: bars on a terminal, plain lines otherwise, JSON lines with `--json`.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget};
use serde_json::json;

use super::bar_layout::BarLayout;
use super::format::{request_details, short_number};
use super::progress_lines::{InstanceName, group_by_stage, heartbeat, rough_duration, stages};
use super::session::Session;
use super::shell::Shell;
use ablate_core::base::StageEvent;
use ablate_core::base::escape::{escape_controls, escape_line, indented};
use ablate_engine::run_time::RunTime;
use ablate_engine::time_left::Speed;
use ablate_engine::{DirtyReason, Observer, Outcome, Plan, PlanState, RunOptions, RunReport};
use ablate_experiment::{Instance, InstanceId};

/// Minimum interval between plain lines about a running stage.
const PLAIN_INTERVAL: Duration = Duration::from_secs(15);

/// Without a terminal, the longest time without a line.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(30);

/// The most stages with a bar of their own: a cluster may run hundreds.
const MAX_BARS: usize = 20;

/// The interval in which the time left of the whole run is estimated again.
const ESTIMATE_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct ProgressDisplay<'a> {
    shell: Shell,
    session: &'a Session,
    /// The most stages that run at the same time.
    jobs: usize,
    /// Whether stages are jobs of a cluster.
    has_jobs: bool,
    /// Set when the run is stopped.
    interrupt: &'a AtomicBool,
    bars: MultiProgress,
    state: RefCell<State>,
    /// Skipped and stopped instances by label and reason, each with its stage, collected until they are printed.
    grouped: RefCell<BTreeMap<(&'static str, String), Vec<InstanceName>>>,
    /// When the last line was printed.
    last_line: Cell<Instant>,
}

#[derive(Default)]
struct State {
    overall: Option<ProgressBar>,
    time: Option<RunTime>,
    /// When the time left of the run was last estimated.
    estimated: Option<Instant>,
    /// Whether the interruption was announced.
    is_stopping: bool,
    running: BTreeMap<InstanceId, Running>,
    /// The last state of each job that waits in the queue of a cluster.
    queued: BTreeMap<InstanceId, String>,
    /// When the line about them was printed.
    queue_line: Option<Instant>,
    /// Instances that were fresh when the run started. They are counted but not listed.
    fresh: BTreeSet<InstanceId>,
}

struct Running {
    name: String,
    /// Hidden without a terminal.
    bar: ProgressBar,
    begun: Instant,
    /// When the last plain line was printed.
    last_line: Instant,
    speed: Speed,
    /// Done and total number of units, and their name.
    progress: Option<(u64, u64, String)>,
}

impl Running {
    fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    /// The seconds left, if they can be estimated.
    fn left(&self) -> Option<f64> {
        self.speed.left(self.seconds(), self.progress.as_ref()?.1)
    }
}

impl<'a> ProgressDisplay<'a> {
    pub(super) fn new(shell: Shell, session: &'a Session, options: &RunOptions, interrupt: &'a AtomicBool) -> Self {
        let target = if shell.live { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bars = MultiProgress::with_draw_target(target);
        ProgressDisplay {
            shell,
            session,
            jobs: options.jobs,
            has_jobs: options.cluster.is_some(),
            interrupt,
            bars,
            state: RefCell::default(),
            grouped: RefCell::default(),
            last_line: Cell::new(Instant::now()),
        }
    }

    /// The layout for the current width of the terminal, which may change.
    fn layout() -> BarLayout {
        BarLayout::for_width(usize::from(console::Term::stderr().size().1))
    }

    /// Prints a line above the bars.
    fn line(&self, text: &str) {
        self.labeled_line("", "", text);
    }

    /// Prints a line after a colored word.
    fn labeled_line(&self, code: &str, word: &str, text: &str) {
        self.print_grouped();
        self.write_line(code, word, text);
    }

    /// Prints one line per reason for the skipped and the stopped instances.
    fn print_grouped(&self) {
        let grouped = std::mem::take(&mut *self.grouped.borrow_mut());
        for ((word, because), instances) in grouped {
            let because = if because.is_empty() { String::new() } else { format!(": {because}") };
            self.write_line("33", word, &format!(" {:8}  {}{because}", "", group_by_stage(&instances)));
        }
    }

    /// Adds an instance to the lines that are printed together.
    fn group(&self, word: &'static str, because: String, instance: &Instance) {
        let mut grouped = self.grouped.borrow_mut();
        grouped.entry((word, because)).or_default().push((instance.stage.clone(), instance.name.clone()));
    }

    /// Says once that the run stops, and what a second signal does.
    fn announce_stop(&self) {
        let mut state = self.state.borrow_mut();
        if state.is_stopping || !self.interrupt.load(Ordering::Relaxed) {
            return;
        }
        state.is_stopping = true;
        let running = state.running.len();
        drop(state);
        if self.has_jobs {
            return self.line("stopping: jobs of the cluster go on after Ctrl-C, and `ablate stop` cancels them");
        }
        self.line(&format!(
            "stopping {}: a training saves its state first, in at most a minute; press Ctrl-C again to end immediately",
            stages(running)
        ));
    }

    /// Updates the time left of the run, at most once per second.
    fn estimate_time(&self) {
        let mut state = self.state.borrow_mut();
        if state.overall.is_none() || state.estimated.is_some_and(|last| last.elapsed() < ESTIMATE_INTERVAL) {
            return;
        }
        state.estimated = Some(Instant::now());
        let State { overall, time, running, .. } = &*state;
        let layout = Self::layout();
        for one in running.values().filter(|_| self.shell.live) {
            // The width of the terminal may have changed.
            one.bar.set_style(if one.progress.is_some() { layout.running() } else { BarLayout::waiting() });
            one.bar.set_prefix(layout.name(&one.name));
        }
        let of = |id: InstanceId| running.get(&id).map(|running| (running.seconds(), running.left()));
        let left = time.as_ref().and_then(|time| time.left(&of));
        if let Some(overall) = overall {
            overall.set_style(layout.overall());
            overall.set_message(left.map(|left| format!("about {} left", rough_duration(left))).unwrap_or_default());
        }
    }

    fn write_line(&self, code: &str, word: &str, text: &str) {
        let colored = self.shell.error_color && !word.is_empty();
        let word = if colored { format!("\u{1b}[{code}m{word}\u{1b}[0m") } else { word.to_string() };
        let line = word + &escape_controls(text);
        self.last_line.set(Instant::now());
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

impl Observer for ProgressDisplay<'_> {
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
        overall.set_style(Self::layout().overall());
        if self.shell.live {
            overall.enable_steady_tick(Duration::from_millis(500));
        }
        state.overall = Some(overall);
        let Session { expansion, store, id, .. } = self.session;
        state.time = Some(RunTime::new(expansion, store, id, plan, selected, self.jobs));
    }

    fn started(&self, id: InstanceId, instance: &Instance, reasons: &[DirtyReason]) {
        let reasons = || reasons.iter().map(ToString::to_string).collect::<Vec<_>>();
        self.emit(|| json!({ "event": "started", "instance": instance.name, "reasons": reasons() }));
        if !self.shell.live {
            self.line(&format!("start {}", instance.name));
        }
        let mut state = self.state.borrow_mut();
        state.queued.remove(&id);
        let mut bar = ProgressBar::hidden();
        if self.shell.live && state.running.len() < MAX_BARS {
            bar = match &state.overall {
                Some(overall) => self.bars.insert_before(overall, ProgressBar::new(0)),
                None => self.bars.add(ProgressBar::new(0)),
            };
            let layout = Self::layout();
            bar.set_style(BarLayout::waiting());
            bar.set_prefix(layout.name(&instance.name));
            bar.enable_steady_tick(Duration::from_millis(250));
        }
        let (begun, last_line) = (Instant::now(), Instant::now());
        let name = instance.name.clone();
        state.running.insert(id, Running { name, bar, begun, last_line, speed: Speed::default(), progress: None });
    }

    fn waits(&self, _id: InstanceId, instance: &Instance, why: &str) {
        self.emit(|| json!({ "event": "waits", "instance": instance.name, "why": why }));
        self.line(&format!("wait  {}: {why}", instance.name));
    }

    fn queued(&self, id: InstanceId, instance: &Instance, state: &str) {
        self.emit(|| json!({ "event": "queued", "instance": instance.name, "state": state }));
        let mut display = self.state.borrow_mut();
        display.queued.insert(id, state.to_string());
        // Thousands of jobs have one line.
        if display.queue_line.is_some_and(|last| last.elapsed() < PLAIN_INTERVAL) {
            return;
        }
        display.queue_line = Some(Instant::now());
        let count = display.queued.len();
        drop(display);
        let others = if count == 1 { String::new() } else { format!(" ({count} jobs in the queue)") };
        self.line(&format!("queue {}: {state}{others}", instance.name));
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
                let seconds = running.seconds();
                running.speed.add(seconds, *done);
                running.progress = Some((*done, *total, unit.clone()));
                let mut details = vec![format!("{done}/{total} {unit}")];
                details.extend(running.left().map(|left| format!("{} left", rough_duration(left))));
                details.extend(loss.map(|loss| format!("loss {loss:.4}")));
                details.extend(tokens_per_second.map(|rate| format!("{} tok/s", short_number(rate))));
                details.extend(requests.iter().flat_map(|requests| request_details(requests, seconds)));
                running.bar.set_length(*total);
                running.bar.set_position(*done);
                let layout = Self::layout();
                running.bar.set_style(layout.running());
                running.bar.set_prefix(layout.name(&running.name));
                running.bar.set_message(escape_line(&details.join("  ")).into_owned());
                if !self.shell.live && running.last_line.elapsed() >= PLAIN_INTERVAL {
                    running.last_line = Instant::now();
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
            state.queued.remove(&id);
            if let Some(running) = state.running.remove(&id) {
                running.bar.finish_and_clear();
                if self.shell.live {
                    self.bars.remove(&running.bar);
                }
            }
            if let Some(overall) = &state.overall {
                overall.inc(1);
            }
            if let Some(time) = &mut state.time {
                time.finished(id, (*outcome == Outcome::Ran).then_some(seconds));
            }
            // If nothing needs to run, fresh instances are not listed.
            state.overall.is_some() && !state.fresh.contains(&id)
        };
        let time = format!("{seconds:6.1} s");
        match outcome {
            Outcome::Ran => self.labeled_line("32", "ran  ", &format!(" {time}  {}", instance.name)),
            Outcome::Fresh if listed => self.labeled_line("36", "fresh", &format!(" {:8}  {}", "", instance.name)),
            Outcome::Fetched if listed => self.labeled_line("36", "fetched", &format!(" {:6}  {}", "", instance.name)),
            Outcome::Fresh | Outcome::Fetched => {}
            Outcome::Failed(_) => self.labeled_line("1;31", "FAIL ", &format!(" {time}  {}", instance.name)),
            Outcome::Skipped { because } => self.group("skip ", because.clone(), instance),
            // It had not started.
            Outcome::Interrupted if seconds <= 0.0 => self.group("stop ", "not started".to_string(), instance),
            Outcome::Interrupted => self.labeled_line("33", "stop ", &format!(" {time}  {}", instance.name)),
            Outcome::Detached { waits_for } => {
                self.labeled_line("33", "wait ", &format!(" {time}  {}: {waits_for}", instance.name));
            }
        }
    }

    fn tick(&self) {
        self.announce_stop();
        self.estimate_time();
        if !self.shell.live && self.last_line.get().elapsed() >= HEARTBEAT_INTERVAL {
            let state = self.state.borrow();
            let running: Vec<_> =
                state.running.values().map(|one| (one.name.as_str(), one.seconds(), one.progress.as_ref())).collect();
            let text = match state.queued.len() {
                1.. if running.is_empty() => format!("      still waiting: {} jobs in the queue", state.queued.len()),
                _ => heartbeat(&running),
            };
            drop(state);
            self.line(&text);
        }
    }

    fn ended(&self, report: &RunReport) {
        self.print_grouped();
        if let Some(overall) = self.state.borrow_mut().overall.take() {
            overall.finish_and_clear();
        }
        self.bars.clear().ok();
        self.emit(|| json!({ "event": "ended", "run": report }));
    }
}
