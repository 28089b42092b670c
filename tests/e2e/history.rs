//! Runs looked at from outside: what one is doing, how two differ, why a stage far down would run, what a pin keeps.

use std::process::Stdio;
use std::time::{Duration, Instant};

use expect_test::expect;

use crate::pipeline::ran;
use crate::space::Space;

/// Three commands in a chain; the first waits while there is a file `hold`.
fn chain() -> Space {
    let space = Space::new();
    space.write("data/in.txt", "one\n");
    let hold = space.path("hold").display().to_string();
    space.write(
        "chain.toml",
        format!(
            r#"name = "chain"

[stage.first]
kind    = "command"
inputs  = {{ "in.txt" = "data/in.txt" }}
run     = "while [ -e {hold} ]; do sleep 0.01; done; cat in.txt > first.txt"
outputs = ["first.txt"]

[stage.second]
kind    = "command"
inputs  = {{ "first.txt" = "first" }}
run     = "cat first.txt > second.txt"
outputs = ["second.txt"]

[stage.third]
kind    = "command"
inputs  = {{ "second.txt" = "second" }}
run     = "cat second.txt > third.txt"
outputs = ["third.txt"]
"#
        ),
    );
    space
}

fn edit(space: &Space, from: &str, to: &str) {
    let text = space.read("chain.toml");
    assert!(text.contains(from), "{from} is not in\n{text}");
    space.write("chain.toml", text.replace(from, to));
}

/// Text without the names of runs, hashes and times.
fn clean(text: &str) -> String {
    let word = |word: &str| {
        let hex = |part: &str| part.len() == 10 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
        if word.len() == 27 && word.contains("Z-") {
            "[RUN]".to_string()
        } else if hex(word.trim_end_matches([',', ')'])) {
            "[HASH]".to_string()
        } else {
            word.to_string()
        }
    };
    let line = |line: &str| line.split(' ').map(word).collect::<Vec<_>>().join(" ");
    text.lines().map(line).collect::<Vec<_>>().join("\n") + "\n"
}

#[test]
fn a_run_is_watched_from_elsewhere_and_told_apart_from_a_dead_one() {
    let space = chain();
    space.write("hold", "");
    let mut run = space.command(&["run", "chain.toml"]).stderr(Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    let status = loop {
        let told = space.ablate(&["status", "--json"]);
        let status: serde_json::Value = serde_json::from_str(&told.stdout).unwrap_or_default();
        if status["running"][0]["instance"] == "first" {
            break status;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{told:?}");
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(status["state"], "running");
    assert_eq!((&status["experiment"], &status["selected"]), (&"chain".into(), &3.into()));
    run.kill().unwrap();
    run.wait().unwrap();
    let told = space.ok(&["status"]).stdout;
    assert!(told.contains("was killed; the same command resumes it"), "{told}");
    std::fs::remove_file(space.path("hold")).unwrap();
    space.ok(&["run", "chain.toml"]);
    let status = space.json(&["status"]);
    assert_eq!((&status["state"], &status["outcomes"]["ran"]), (&"ended".into(), &3.into()));
    let error = space.ablate(&["status", "latest~7"]);
    assert_eq!(error.code, Some(2));
    assert!(error.stderr.contains("there are 2 runs: `latest~7` is older than the oldest"), "{}", error.stderr);
}

#[test]
fn two_runs_differ_in_what_was_changed_and_what_follows() {
    let space = chain();
    space.ok(&["run", "chain.toml"]);
    edit(&space, "cat first.txt > second.txt", "tr a-z A-Z < first.txt > second.txt");
    space.ok(&["run", "chain.toml"]);
    expect![[r#"
        [RUN] -> [RUN]
          second
            `run` changed from "cat first.txt > second.txt" to "tr a-z A-Z < first.txt > second.txt"
            changed outputs: second.txt
          third
            the content of its input `inputs.second.txt` changed from [HASH] to [HASH]
            changed outputs: third.txt
    "#]]
    .assert_eq(&clean(&space.ok(&["diff", "latest~1", "latest"]).stdout));
    let diff = space.json(&["diff", "latest~1"]);
    assert_eq!(diff["differences"][0]["reasons"][0]["new"], "tr a-z A-Z < first.txt > second.txt");
    let same = space.ok(&["diff", "latest", "latest"]).stdout;
    assert!(same.contains("no difference: the same instances with the same results"), "{same}");
}

#[test]
fn why_tells_the_chain_above_and_what_would_change_in_any_case() {
    let space = chain();
    space.ok(&["run", "chain.toml"]);
    space.write("data/in.txt", "two\n");
    edit(&space, "cat second.txt > third.txt", "cat second.txt second.txt > third.txt");
    expect![[r#"
        note: `third` waits for `second`

        note: `third` must run in any case: `run` changed from "cat second.txt > third.txt" to "cat second.txt second.txt > third.txt"
          --> chain.toml:18:11
           |
        18 | run     = "cat second.txt second.txt > third.txt"
           |           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ was "cat second.txt > third.txt" in record [HASH]

        note: `first` must run: the content of `[ROOT]/data/in.txt` (`inputs.in.txt`) changed from [HASH] to [HASH]
         --> chain.toml:5:24
          |
        5 | inputs  = { "in.txt" = "data/in.txt" }
          |                        ^^^^^^^^^^^^^ record [HASH] has different content

        note: `second` waits for `first`
    "#]]
    .assert_eq(&clean(&space.ok(&["why", "chain.toml", "third"]).stdout));
    let why = space.json(&["why", "chain.toml", "third"]);
    assert_eq!(why[0]["above"][0]["instance"], "first");
    assert_eq!(why[0]["reasons"][0]["key"], "run");
    let plan = space.ok(&["plan", "chain.toml", "--explain"]).stdout;
    assert!(plan.contains("--> chain.toml:18:11") && plan.contains("1 must run, 2 may run, 0 fresh"), "{plan}");
}

#[test]
fn what_is_pinned_outlives_the_experiment() {
    let space = chain();
    space.ok(&["run", "chain.toml"]);
    let told = space.ok(&["pin", "chain.toml", "second", "--name", "old"]).stdout;
    assert!(told.contains("`old` keeps 2 results"), "{told}");
    let before = space.read("chain.toml");
    edit(&space, "cat in.txt", "cat in.txt in.txt");
    space.ok(&["run", "chain.toml"]);
    let dry = space.json(&["gc", "--keep-runs", "0", "--dry-run"]);
    let freed = space.json(&["gc", "--keep-runs", "0"]);
    assert_eq!(freed["records"], 1, "only `third` of the first form is nobody's");
    assert_eq!(dry["objects"], freed["objects"]);
    space.ok(&["verify"]);
    space.write("chain.toml", before);
    let again = space.ok(&["run", "chain.toml", "--json"]).stdout;
    assert_eq!(ran(&again), ["third"]);
    assert!(space.ok(&["unpin"]).stdout.starts_with("old  2 results of `chain`"));
    space.ok(&["unpin", "old"]);
    assert_eq!(space.ablate(&["unpin", "old"]).code, Some(2));
}
