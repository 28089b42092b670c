//! `status`, `diff`, `why` and `pin`.

use std::process::Stdio;
use std::time::{Duration, Instant};

use expect_test::expect;

use crate::default_experiment::ran;
use crate::support::Project;

/// Three commands in a chain. The first waits while the file `hold` exists.
fn chain() -> Project {
    let project = Project::new();
    project.write("data/in.txt", "one\n");
    let hold = project.path("hold").display().to_string();
    project.write(
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
    project
}

fn edit(project: &Project, from: &str, to: &str) {
    let text = project.read("chain.toml");
    assert!(text.contains(from), "{from} is not in\n{text}");
    project.write("chain.toml", text.replace(from, to));
}

/// The text with names of runs, hashes and times replaced.
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
fn status_distinguishes_running_and_killed_runs() {
    let project = chain();
    project.write("hold", "");
    let mut run = project.command(&["run", "chain.toml"]).stderr(Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    let status = loop {
        let printed = project.ablate(&["status", "--json"]);
        let status: serde_json::Value = serde_json::from_str(&printed.stdout).unwrap_or_default();
        if status["running"][0]["instance"] == "first" {
            break status;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{printed:?}");
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(status["state"], "running");
    assert_eq!((&status["experiment"], &status["selected"]), (&"chain".into(), &3.into()));
    run.kill().unwrap();
    run.wait().unwrap();
    let printed = project.ok(&["status"]).stdout;
    assert!(printed.contains("was killed; the same command resumes it"), "{printed}");
    std::fs::remove_file(project.path("hold")).unwrap();
    project.ok(&["run", "chain.toml"]);
    let status = project.json(&["status"]);
    assert_eq!((&status["state"], &status["outcomes"]["ran"]), (&"ended".into(), &3.into()));
    let error = project.ablate(&["status", "latest~7"]);
    assert_eq!(error.code, Some(2));
    assert!(error.stderr.contains("there are 2 runs: `latest~7` is older than the oldest"), "{}", error.stderr);
}

#[test]
fn diff_shows_changes_and_their_consequences() {
    let project = chain();
    project.ok(&["run", "chain.toml"]);
    edit(&project, "cat first.txt > second.txt", "tr a-z A-Z < first.txt > second.txt");
    project.ok(&["run", "chain.toml"]);
    expect![[r#"
        [RUN] -> [RUN]
          second
            `run` changed from "cat first.txt > second.txt" to "tr a-z A-Z < first.txt > second.txt"
            changed outputs: second.txt
          third
            the content of its input `inputs.second.txt` changed from [HASH] to [HASH]
            changed outputs: third.txt
    "#]]
    .assert_eq(&clean(&project.ok(&["diff", "latest~1", "latest"]).stdout));
    let diff = project.json(&["diff", "latest~1"]);
    assert_eq!(diff["differences"][0]["reasons"][0]["new"], "tr a-z A-Z < first.txt > second.txt");
    let same = project.ok(&["diff", "latest", "latest"]).stdout;
    assert!(same.contains("no difference: the same instances with the same results"), "{same}");
}

#[test]
fn why_explains_upstream_stages() {
    let project = chain();
    project.ok(&["run", "chain.toml"]);
    project.write("data/in.txt", "two\n");
    edit(&project, "cat second.txt > third.txt", "cat second.txt second.txt > third.txt");
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
    .assert_eq(&clean(&project.ok(&["why", "chain.toml", "third"]).stdout));
    let why = project.json(&["why", "chain.toml", "third"]);
    assert_eq!(why[0]["above"][0]["instance"], "first");
    assert_eq!(why[0]["reasons"][0]["key"], "run");
    let plan = project.ok(&["plan", "chain.toml", "--explain"]).stdout;
    assert!(plan.contains("--> chain.toml:18:11") && plan.contains("1 must run, 2 may run, 0 fresh"), "{plan}");
}

#[test]
fn pinned_results_survive_gc() {
    let project = chain();
    project.ok(&["run", "chain.toml"]);
    let printed = project.ok(&["pin", "chain.toml", "second", "--name", "old"]).stdout;
    assert!(printed.contains("`old` keeps 2 results"), "{printed}");
    let before = project.read("chain.toml");
    edit(&project, "cat in.txt", "cat in.txt in.txt");
    project.ok(&["run", "chain.toml"]);
    let dry = project.json(&["gc", "--keep-runs", "0", "--dry-run"]);
    let freed = project.json(&["gc", "--keep-runs", "0"]);
    assert_eq!(freed["records"], 1, "only the first result of `third` is unused");
    assert_eq!(dry["objects"], freed["objects"]);
    project.ok(&["verify"]);
    project.write("chain.toml", before);
    let again = project.ok(&["run", "chain.toml", "--json"]).stdout;
    assert_eq!(ran(&again), ["third"]);
    assert!(project.ok(&["unpin"]).stdout.starts_with("old  2 results of `chain`"));
    project.ok(&["unpin", "old"]);
    assert_eq!(project.ablate(&["unpin", "old"]).code, Some(2));
}
