//! Kills runs at 200 pseudo-random moments: no committed stage runs again, and the final result is the same.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use crate::support::{Project, chains_of_stages};

/// 301 command stages.
fn study() -> Project {
    Project::with_study(&chains_of_stages("study", 0..30))
}

const RUN: [&str; 5] = ["run", "study.toml", "--jobs", "2", "--quiet"];

/// Names of the stages with a record.
fn committed(project: &Project) -> Vec<String> {
    let text = fs::read(project.path("cache/records")).unwrap_or_default();
    // A last line without a line break is incomplete.
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let records = std::str::from_utf8(&text[..whole]).unwrap().lines().filter(|line| line.contains('{'));
    let name = |line: &str| line.split("; t ").nth(1).unwrap().split(';').next().unwrap().to_string();
    records.map(name).collect()
}

/// A pseudo-random number for an attempt (splitmix64).
fn pseudo_random(attempt: u64) -> u64 {
    let mut bits = attempt.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x1234_5678);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[test]
fn killed_runs_repeat_no_committed_stage() {
    let wanted: u64 = std::env::var("ABLATE_TEST_KILLS").map_or(200, |kills| kills.parse().unwrap());
    let project = study();
    let begun = Instant::now();
    project.ok(&RUN);
    let whole = begun.elapsed();
    let expected = project.outputs("study");
    assert_eq!(expected.len(), 301);
    assert!(project.run_counts().values().all(|count| *count == 1));
    // Two at a time, because most of the time is spent waiting for the disk.
    std::thread::scope(|scope| {
        for lane in [0, 1] {
            let expected = &expected;
            scope.spawn(move || kill_again_and_again(lane, wanted / 2, whole, expected));
        }
    });
}

/// Kills runs at moments spread over the whole length of one. After a run that ends a new store is used.
fn kill_again_and_again(lane: u64, wanted: u64, whole: Duration, expected: &BTreeMap<String, Vec<u8>>) {
    let (mut kills, mut ends, mut attempts) = (0, 0, 0);
    // Run count of each stage when it was first seen committed.
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut project = study();
    while kills < wanted {
        attempts += 1;
        assert!(attempts < 20 * wanted, "{kills} kills and {ends} ends: runs end before they can be killed");
        let mut run = project.start(&RUN);
        let moment = Duration::from_nanos(pseudo_random(2 * attempts + lane) % whole.as_nanos() as u64);
        let begun = Instant::now();
        while begun.elapsed() < moment && run.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        if run.try_wait().unwrap().is_none() {
            run.kill().unwrap();
        }
        let status = run.wait().unwrap();
        let tally = project.run_counts();
        for name in committed(&project) {
            let now = tally.get(&name).copied().unwrap_or_default();
            let then = *seen.entry(name.clone()).or_insert(now);
            assert_eq!(then, now, "`{name}` was committed and ran again, {kills} kills in");
        }
        if status.success() {
            ends += 1;
            // A run that was killed several times and then ended equals an undisturbed one.
            assert_eq!(seen.len(), 301);
            assert_eq!(project.outputs("study"), *expected);
            project.assert_store_is_valid();
            let before = project.run_counts();
            project.ok(&RUN);
            assert_eq!(project.run_counts(), before, "a run that has ended leaves nothing to do");
            project = study();
            seen.clear();
        } else {
            assert!(status.code().is_none(), "the run failed after {kills} kills: {status}");
            kills += 1;
        }
    }
    // The run after the last kill also completes.
    project.ok(&RUN);
    assert_eq!(project.outputs("study"), *expected);
}
