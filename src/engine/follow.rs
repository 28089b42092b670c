//! Follows a run from its folder: reads the events that were added since the last look, and what they say about the run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::Result;

use super::past_run::{self, PastRun, RunningInstance, Status, WaitingInstance};
use super::report::RunPhase;
use super::run_folder::{EventKind, EventReader, RunEvent, instances_path, is_alive};
use super::time_left::Speed;
use ablate_core::base::files;
use ablate_store::Store;

/// Most points of a loss curve. Beyond, every second point is left out.
const MAX_POINTS: usize = 400;

/// A run that is looked at again and again.
pub struct RunFollower {
    folder: PathBuf,
    run: PastRun,
    is_alive: bool,
    events: EventReader,
    progress: RunProgress,
    /// The names of the instances that the run may execute; empty for a run of an earlier version.
    may_run: Vec<String>,
}

impl RunFollower {
    /// Reads a run up to now.
    pub fn open(store: &Store, run: &str) -> Result<RunFollower> {
        let folder = store.runs_path().join(run);
        // Read before the report: a run that ends in between is then reported as ended, not as killed.
        let is_alive = is_alive(&folder);
        let run = past_run::read(store, run)?;
        let may_run = files::read_json(&instances_path(&folder)).unwrap_or_default();
        let events = EventReader::new(&folder);
        let mut follower = RunFollower { folder, run, is_alive, events, progress: RunProgress::default(), may_run };
        follower.progress.add_fresh(follower.run.fresh);
        follower.read_events();
        Ok(follower)
    }

    /// Reads what is new. False if nothing has changed.
    pub fn update(&mut self, store: &Store) -> Result<bool> {
        let was_alive = std::mem::replace(&mut self.is_alive, is_alive(&self.folder));
        if was_alive && !self.is_alive {
            self.run = past_run::read(store, &self.run.run)?;
        }
        Ok(self.read_events() || was_alive != self.is_alive)
    }

    fn read_events(&mut self) -> bool {
        let events = self.events.read();
        let any = !events.is_empty();
        for event in events {
            self.progress.add(event);
        }
        any
    }

    /// What is known of the run.
    pub fn status(&self) -> Status {
        let (run, progress) = (self.run.clone(), &self.progress);
        let elapsed = if run.ended { run.seconds } else { progress.seconds };
        let state = match (run.end(), self.is_alive) {
            (Some(end), _) => end,
            (None, true) => RunPhase::Running,
            (None, false) => RunPhase::Killed,
        };
        let with_age = |running: &Running| RunningInstance {
            seconds: (elapsed - running.begun).max(0.0),
            left: running.instance.progress.as_ref().and_then(|(_, total, _)| running.speed.left(elapsed, *total)),
            ..running.instance.clone()
        };
        let waiting =
            |(instance, why): (&String, &String)| WaitingInstance { instance: instance.clone(), why: why.clone() };
        Status {
            run,
            state,
            elapsed,
            outcomes: progress.outcomes.clone(),
            running: progress.running.values().map(with_age).collect(),
            waiting: progress.waiting.iter().map(waiting).collect(),
            detached: progress.detached.clone(),
            failed: progress.failed.clone(),
        }
    }

    /// The instances that ended, in this order, with their outcomes.
    pub fn ended(&self) -> &[(String, String)] {
        &self.progress.ended
    }

    /// The instances that have neither started nor ended.
    pub fn pending(&self) -> Vec<&str> {
        let ended: BTreeSet<&str> = self.progress.ended.iter().map(|(name, _)| name.as_str()).collect();
        let names = self.may_run.iter().map(String::as_str);
        names.filter(|name| !ended.contains(name) && !self.progress.running.contains_key(*name)).collect()
    }

    /// Whether the run has, or had, an instance of this name.
    pub fn has_instance(&self, name: &str) -> bool {
        self.may_run.iter().any(|one| one == name)
            || self.run.instances.iter().any(|one| one.name == name)
            || self.progress.running.contains_key(name)
            || self.progress.ended.iter().any(|(one, _)| one == name)
    }

    /// The training losses by instance: step and loss.
    pub fn losses(&self) -> &BTreeMap<String, LossCurve> {
        &self.progress.losses
    }
}

/// The losses that an instance reported, with fewer points the longer it runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LossCurve {
    points: Vec<(f64, f64)>,
    /// Of this number of reported losses, one is kept.
    stride: u64,
    reported: u64,
}

impl LossCurve {
    fn add(&mut self, step: u64, loss: f64) {
        let stride = self.stride.max(1);
        if self.reported.is_multiple_of(stride) {
            self.points.push((step as f64, loss));
        }
        self.reported += 1;
        if self.points.len() > MAX_POINTS {
            let mut index = 0;
            self.points.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.stride = 2 * stride;
        }
    }

    /// Step and loss, by increasing step.
    pub fn points(&self) -> &[(f64, f64)] {
        &self.points
    }
}

/// What the events of a run say.
#[derive(Debug, Default)]
struct RunProgress {
    /// Time of the last event in seconds since the start of the run.
    seconds: f64,
    outcomes: BTreeMap<String, usize>,
    running: BTreeMap<String, Running>,
    waiting: BTreeMap<String, String>,
    detached: Vec<WaitingInstance>,
    failed: Vec<String>,
    ended: Vec<(String, String)>,
    losses: BTreeMap<String, LossCurve>,
}

#[derive(Debug)]
struct Running {
    begun: f64,
    speed: Speed,
    instance: RunningInstance,
}

impl RunProgress {
    /// Counts the instances that the plan found fresh, which have no event.
    fn add_fresh(&mut self, count: usize) {
        if count > 0 {
            self.outcomes.insert("fresh".to_string(), count);
        }
    }

    fn add(&mut self, RunEvent { seconds, instance, kind }: RunEvent) {
        self.seconds = seconds;
        match kind {
            EventKind::Waits { why } => drop(self.waiting.insert(instance, why)),
            EventKind::Started => {
                self.waiting.remove(&instance);
                self.losses.remove(&instance);
                let new = RunningInstance {
                    instance: instance.clone(),
                    seconds: 0.0,
                    progress: None,
                    left: None,
                    loss: None,
                    requests: None,
                };
                self.running.insert(instance, Running { begun: seconds, speed: Speed::default(), instance: new });
            }
            EventKind::Progress { done, total, unit, loss, requests } => {
                if let Some(running) = self.running.get_mut(&instance) {
                    running.speed.add(seconds, done);
                    running.instance.progress = Some((done, total, unit));
                    running.instance.loss = loss;
                    running.instance.requests = requests;
                    if let Some(loss) = loss {
                        self.losses.entry(instance).or_default().add(done, loss);
                    }
                }
            }
            EventKind::Finished { outcome, waits_for, .. } => {
                self.waiting.remove(&instance);
                self.running.remove(&instance);
                if let Some(why) = waits_for {
                    self.detached.push(WaitingInstance { instance: instance.clone(), why });
                } else if outcome == "failed" {
                    self.failed.push(instance.clone());
                }
                *self.outcomes.entry(outcome.clone()).or_default() += 1;
                self.ended.push((instance, outcome));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_long_curve_keeps_its_ends_and_few_points() {
        let mut curve = LossCurve::default();
        for step in 0..100_000 {
            curve.add(step, 1.0 / (step + 1) as f64);
        }
        let points = curve.points();
        assert!((MAX_POINTS / 2..=MAX_POINTS).contains(&points.len()), "{}", points.len());
        assert_eq!(points[0], (0.0, 1.0));
        assert!(points.is_sorted_by(|a, b| a.0 < b.0) && points[points.len() - 1].0 > 99_000.0);
    }

    #[test]
    fn only_new_events_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("cache")).unwrap();
        let run = store.runs_path().join("20260101T120000.001Z-abcd12");
        let report = r#"{"run": "20260101T120000.001Z-abcd12", "experiment": "e", "command": [], "started": "", "seconds": 0, "ended": false}"#;
        files::write_unsynced(&run.join("run.json"), report.as_bytes()).unwrap();
        files::write_unsynced(&run.join("instances"), br#"["a", "b"]"#).unwrap();
        let append = |text: &str| files::append(&run.join("events")).unwrap().write_all(text.as_bytes()).unwrap();
        append("{\"at\": 1, \"instance\": \"a\", \"what\": \"started\"}\n");
        let mut follower = RunFollower::open(&store, "20260101T120000.001Z-abcd12").unwrap();
        assert_eq!(follower.pending(), ["b"]);
        assert!(!follower.update(&store).unwrap());
        append(
            "{\"at\": 2, \"instance\": \"a\", \"what\": \"progress\", \"done\": 1, \"total\": 2, \"unit\": \"steps\", \"loss\": 3.5}\n{\"at\"",
        );
        assert!(follower.update(&store).unwrap());
        assert_eq!(follower.losses()["a"].points(), [(1.0, 3.5)]);
        assert!(!follower.update(&store).unwrap());
        append(": 3, \"instance\": \"a\", \"what\": \"finished\", \"outcome\": \"ran\", \"seconds\": 2}\n");
        assert!(follower.update(&store).unwrap());
        assert_eq!(follower.ended(), [("a".to_string(), "ran".to_string())]);
        assert!(follower.has_instance("b") && !follower.has_instance("c"));
    }
}
