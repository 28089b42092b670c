//! Killed two hundred times at moments that nobody chose: nothing that was committed runs again, and the end is the same.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use crate::space::{Space, kill, rows_of_stages};

/// 301 command stages.
fn study() -> Space {
    let space = Space::new();
    space.study(&rows_of_stages("study", 0..30));
    space
}

const RUN: [&str; 5] = ["run", "study.toml", "--jobs", "2", "--quiet"];

/// Names of the stages that have a record.
fn committed(space: &Space) -> Vec<String> {
    let text = fs::read(space.path("cache/records")).unwrap_or_default();
    // What has no line break was never wholly written.
    let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let records = std::str::from_utf8(&text[..whole]).unwrap().lines().filter(|line| line.contains('{'));
    let name = |line: &str| line.split("; t ").nth(1).unwrap().split(';').next().unwrap().to_string();
    records.map(name).collect()
}

/// A number that follows from a seed and its place, as even as dice.
fn draw(place: u64) -> u64 {
    let mut bits = place.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x1234_5678);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[test]
fn a_run_killed_at_two_hundred_moments_loses_nothing_and_repeats_nothing() {
    let wanted: u64 = std::env::var("ABLATE_TEST_KILLS").map_or(200, |kills| kills.parse().unwrap());
    let space = study();
    let begun = Instant::now();
    space.ok(&RUN);
    let whole = begun.elapsed();
    let expected = space.outputs("study");
    assert_eq!(expected.len(), 301);
    assert!(space.tally().values().all(|count| *count == 1));
    // Two at a time: most of this is waiting for the disk.
    std::thread::scope(|scope| {
        for lane in [0, 1] {
            let expected = &expected;
            scope.spawn(move || kill_again_and_again(lane, wanted / 2, whole, expected));
        }
    });
}

/// Kills run after run at moments spread over the whole length of one. A run that ends is followed by one of a new store.
fn kill_again_and_again(lane: u64, wanted: u64, whole: Duration, expected: &BTreeMap<String, Vec<u8>>) {
    let (mut kills, mut ends, mut attempts) = (0, 0, 0);
    // Tally of each stage when it was first seen to be committed.
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut space = study();
    while kills < wanted {
        attempts += 1;
        assert!(attempts < 20 * wanted, "{kills} kills and {ends} ends: runs end before they can be killed");
        let mut run = space.start(&RUN);
        let moment = Duration::from_nanos(draw(2 * attempts + lane) % whole.as_nanos() as u64);
        let begun = Instant::now();
        while begun.elapsed() < moment && run.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        if run.try_wait().unwrap().is_none() {
            kill(run.id());
        }
        let status = run.wait().unwrap();
        let tally = space.tally();
        for name in committed(&space) {
            let now = tally.get(&name).copied().unwrap_or_default();
            let then = *seen.entry(name.clone()).or_insert(now);
            assert_eq!(then, now, "`{name}` was committed and ran again, {kills} kills in");
        }
        if status.success() {
            ends += 1;
            finish(&space, &seen, expected);
            space = study();
            seen.clear();
        } else {
            assert!(status.code().is_none(), "the run failed after {kills} kills: {status}");
            kills += 1;
        }
    }
    // What the last kill has left goes on as well.
    space.ok(&RUN);
    assert_eq!(space.outputs("study"), *expected);
}

/// A run that was killed now and then, and has ended, is as one that never was.
fn finish(space: &Space, seen: &BTreeMap<String, usize>, expected: &BTreeMap<String, Vec<u8>>) {
    assert_eq!(seen.len(), 301);
    assert_eq!(space.outputs("study"), *expected);
    space.is_sound();
    let before = space.tally();
    space.ok(&RUN);
    assert_eq!(space.tally(), before, "a run that has ended leaves nothing to do");
}
