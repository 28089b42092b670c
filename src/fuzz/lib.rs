//! Time-limited fuzzing for the tests of all crates.
//!
//! Each case is generated from the name of the target and a seed. `ABLATE_FUZZ_SECONDS` sets the time per target, and
//! `ABLATE_FUZZ_SEED` runs only the case of that seed. A failure prints the seed and the smallest case that fails in
//! the same way.

use std::fmt::Debug;
use std::io::Write;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};

use ablate_core::base::Hash;

const SECONDS: u64 = 3;

/// Runs `test` on values of a strategy. A panic is a failure.
pub fn fuzz<S: Strategy>(name: &str, strategy: &S, test: impl Fn(S::Value)) {
    let number = |variable: &str| std::env::var(variable).ok().and_then(|text| text.parse::<u64>().ok());
    let (seconds, one) = (number("ABLATE_FUZZ_SECONDS"), number("ABLATE_FUZZ_SEED"));
    // Long searches start at another seed each time; tests of a change always use the same seeds.
    let first = one.unwrap_or_else(|| seconds.map_or(0, |_| jiff::Timestamp::now().as_millisecond() as u64));
    let begun = Instant::now();
    let budget = Duration::from_secs(seconds.unwrap_or(SECONDS));
    let (mut seed, mut slowest) = (first, (Duration::ZERO, first));
    while seed == first || (one.is_none() && begun.elapsed() < budget) {
        let case = Instant::now();
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, Hash::of_bytes(format!("{name} {seed}").as_bytes()).bytes());
        let config = Config { failure_persistence: None, max_shrink_time: 20_000, ..Config::default() };
        let mut runner = TestRunner::new_with_rng(config, rng);
        let value =
            strategy.new_tree(&mut runner).unwrap_or_else(|reason| panic!("BUG: no case of `{name}`: {reason}"));
        let result = runner.run_one(value, |value| {
            test(value);
            Ok(())
        });
        if let Err(TestError::Fail(reason, case)) = result {
            panic!("`{name}` fails with ABLATE_FUZZ_SEED={seed}: {reason}\nthe smallest such case: {case:#?}");
        }
        slowest = slowest.max((case.elapsed(), seed));
        seed += 1;
    }
    let (cases, taken) = (seed - first, begun.elapsed().as_secs_f64());
    let rate = cases as f64 / taken;
    let (slowest, slowest_seed) = (slowest.0.as_secs_f64(), slowest.1);
    let summary = format!(
        "fuzz {name}: {cases} cases in {taken:.1} s, {rate:.0}/s; the slowest {slowest:.2} s, seed {slowest_seed}\n"
    );
    std::io::stderr().write_all(summary.as_bytes()).ok();
}

/// Prints details of a case that is run alone.
pub fn print_case(more: &dyn Debug) {
    if std::env::var_os("ABLATE_FUZZ_SEED").is_some() {
        std::io::stderr().write_all(format!("{more:#?}\n").as_bytes()).ok();
    }
}

/// One change of some bytes.
#[derive(Clone, Debug)]
pub enum Edit {
    Byte(Index, u8),
    Insert(Index, Vec<u8>),
    Piece(Index, &'static str),
    Remove(Index, usize),
    Copy(Index, usize, Index),
    Cut(Index),
    /// Replaces what follows the `=` or `:` of a line.
    Value(Index, &'static str),
    RemoveLine(Index),
    CopyLine(Index, Index),
}

/// Edits that insert pieces of text or replace values with them.
pub fn edits(pieces: &'static [&'static str]) -> impl Strategy<Value = Vec<Edit>> {
    let place = any::<Index>;
    let edit = prop_oneof![
        1 => (place(), any::<u8>()).prop_map(|(at, byte)| Edit::Byte(at, byte)),
        1 => (place(), vec(any::<u8>(), 0..12)).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        1 => (place(), prop::sample::select(pieces)).prop_map(|(at, piece)| Edit::Piece(at, piece)),
        1 => (place(), 0..24_usize).prop_map(|(at, count)| Edit::Remove(at, count)),
        1 => (place(), 0..48_usize, place()).prop_map(|(from, count, to)| Edit::Copy(from, count, to)),
        1 => place().prop_map(Edit::Cut),
        4 => (place(), prop::sample::select(pieces)).prop_map(|(at, piece)| Edit::Value(at, piece)),
        2 => place().prop_map(Edit::RemoveLine),
        2 => (place(), place()).prop_map(|(from, to)| Edit::CopyLine(from, to)),
    ];
    vec(edit, 1..5)
}

/// The bytes after the edits.
pub fn apply_edits(bytes: &[u8], edits: &[Edit]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for edit in edits {
        let length = bytes.len();
        let upto = |start: usize, count: usize| start..(start + count).min(length);
        match edit {
            Edit::Insert(at, new) => drop(bytes.splice(upto(at.index(length + 1), 0), new.iter().copied())),
            Edit::Piece(at, new) => drop(bytes.splice(upto(at.index(length + 1), 0), new.bytes())),
            _ if bytes.is_empty() => {}
            Edit::Byte(at, byte) => bytes[at.index(length)] = *byte,
            Edit::Remove(at, count) => drop(bytes.drain(upto(at.index(length), *count))),
            Edit::Copy(from, count, to) => {
                let copied = bytes[upto(from.index(length), *count)].to_vec();
                bytes.splice(upto(to.index(length), 0), copied);
            }
            Edit::Cut(at) => bytes.truncate(at.index(length)),
            Edit::Value(..) | Edit::RemoveLine(_) | Edit::CopyLine(..) => edit_line(&mut bytes, edit),
        }
    }
    bytes
}

fn edit_line(bytes: &mut Vec<u8>, edit: &Edit) {
    let mut lines: Vec<Vec<u8>> = bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    let count = lines.len();
    match edit {
        Edit::Value(at, value) => {
            let line = &mut lines[at.index(count)];
            if let Some(sign) = line.iter().position(|byte| b"=:".contains(byte)) {
                let end = line.len() - usize::from(line.ends_with(b"\n"));
                line.splice(sign + 1..end.max(sign + 1), value.bytes());
            }
        }
        Edit::RemoveLine(at) => drop(lines.remove(at.index(count))),
        Edit::CopyLine(from, to) => lines.insert(to.index(count), lines[from.index(count)].clone()),
        _ => {}
    }
    *bytes = lines.concat();
}
