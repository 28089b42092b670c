//! Death between any two changes of the file system: a run that is aborted at its first, second, ... last step, and
//! what the next run makes of it.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use super::toys::Space;
use super::*;
use ablate_core::base::files;
use ablate_experiment::Expansion;

/// A study of every way to commit: files, a tree, equal outputs of two stages.
fn study(space: &Space) -> Expansion {
    space.stages(&[
        ("read", json!({ "path": "data.txt" })),
        ("model", json!({ "kind": "model", "from": ["read"], "word": "m" })),
        ("twin", json!({ "kind": "model", "from": ["read"], "word": "m", "seed": 1 })),
        ("eval", json!({ "from": ["model"], "word": "e" })),
    ])
}

/// The bytes of every output by its name.
fn outputs(space: &Space) -> BTreeMap<String, Vec<u8>> {
    let out = space.path("out/test");
    let names = ["read/rows.jsonl", "model/model/weights", "twin/model/weights", "eval/rows.jsonl", "eval/facts.json"];
    names.iter().map(|name| ((*name).to_string(), files::read_bytes(&out.join(name)).unwrap())).collect()
}

static STEPS: AtomicUsize = AtomicUsize::new(0);

/// Aborts the process at the step that `ABLATE_DIE_AT` numbers.
fn die_at_step(what: &str) {
    let number = STEPS.fetch_add(1, Ordering::SeqCst) + 1;
    let chosen = std::env::var("ABLATE_DIE_AT").ok().and_then(|chosen| chosen.parse().ok());
    if chosen == Some(number) {
        // To a file descriptor that is there in every test; the exit status shows the death itself.
        let _ = write!(std::io::stderr(), "dies at step {number}: {what}\n");
        std::process::abort();
    }
}

/// Not a test of its own: a whole run in a process that dies at the step it was told, or else counts its steps.
#[test]
fn doomed_side() {
    let Some(marker) = std::env::args().next_back().filter(|last| last.ends_with("doomed-steps")) else { return };
    files::on_crash_point(die_at_step);
    let space = Space::at(Path::new(&marker).parent().unwrap());
    run("test", &study(&space), &space.store(), &space.options(), &Quiet).unwrap();
    space.write("doomed-steps", &STEPS.load(Ordering::SeqCst).to_string());
}

/// A space in which a process ran the study until it died at a step; at none when the step is beyond the last.
fn doomed(step: usize) -> Space {
    let space = Space::new();
    space.write("data.txt", "one\n two");
    let mut doomed = Command::new(std::env::current_exe().unwrap());
    doomed.args(["--exact", "faults::doomed_side"]).arg(space.path("doomed-steps"));
    doomed.env("ABLATE_DIE_AT", step.to_string()).stdout(Stdio::null()).stderr(Stdio::null());
    let survived = doomed.status().unwrap().success();
    assert_eq!(survived, space.path("doomed-steps").exists(), "at step {step}");
    space
}

#[test]
fn death_at_any_step_costs_no_result_and_leaves_no_damage() {
    let whole = doomed(usize::MAX);
    let steps: usize = files::read_text(&whole.path("doomed-steps")).unwrap().parse().unwrap();
    assert!(steps > 50, "{steps} steps are too few to be all of them");
    let expected = outputs(&whole);
    // Two at a time: most of this is waiting for the disk.
    std::thread::scope(|scope| {
        for first in [1, 2] {
            let expected = &expected;
            scope.spawn(move || (first..=steps).step_by(2).for_each(|step| dies_at(step, expected)));
        }
    });
}

fn dies_at(step: usize, expected: &BTreeMap<String, Vec<u8>>) {
    let space = doomed(step);
    assert!(!space.path("doomed-steps").exists(), "the run has survived step {step}");
    let stages = study(&space);
    let committed = space.store().fingerprints().unwrap();
    space.ran();
    let report = run("test", &stages, &space.store(), &space.options(), &Quiet).unwrap();
    assert_eq!(report.exit_code(), 0, "after step {step}: {}", space.told(&report));
    let again: Vec<&str> = report
        .instances
        .iter()
        .filter(|instance| instance.outcome == Outcome::Ran && committed.contains(&instance.fingerprint.unwrap()))
        .map(|instance| instance.name.as_str())
        .collect();
    assert_eq!(again, Vec::<&str>::new(), "committed before step {step}, and ran again");
    assert_eq!(space.ran().split_whitespace().count(), 4 - committed.len(), "after step {step}");
    assert_eq!(outputs(&space), *expected, "after step {step}");
    let verified = space.store().verify(false, &|_, _| ()).unwrap();
    assert_eq!((verified.records, verified.problems), (4, Vec::new()), "after step {step}");
}
