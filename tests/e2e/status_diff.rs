//! `status`, `diff`, `why` and `pin`.

use expect_test::expect;
use serde_json::Value;

use crate::support::{Project, assert_contains, kill, wait_until};

/// Three commands in a chain. The first waits while the file `hold` exists.
fn chain() -> Project {
    let project = Project::new();
    let first = format!("while [ -e {} ]; do sleep 0.01; done; cat in.txt > first.txt", project.path("hold").display());
    let stages = [
        ("first", "in.txt", "data/in.txt", first.as_str()),
        ("second", "first.txt", "first", "cat first.txt > second.txt"),
        ("third", "second.txt", "second", "cat second.txt > third.txt"),
    ];
    let stage = |(name, file, source, line): (&str, &str, &str, &str)| {
        format!(
            "\n[stage.{name}]\nkind    = \"command\"\ninputs  = {{ \"{file}\" = \"{source}\" }}\nrun     = \"{line}\"\n\
             outputs = [\"{name}.txt\"]\n"
        )
    };
    project.write("data/in.txt", "one\n");
    project.write("chain.toml", "name = \"chain\"\n".to_string() + &stages.map(stage).concat());
    project
}

/// The text with names of runs, hashes and times replaced.
fn clean(text: &str) -> String {
    let is_hash = |word: &str| word.len() == 10 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let clean = |word: &str| match word.trim_end() {
        run if run.len() == 27 && run.contains("Z-") => word.replace(run, "[RUN]"),
        hash if is_hash(hash.trim_end_matches([',', ')'])) => word.replace(hash, "[HASH]"),
        _ => word.to_string(),
    };
    text.split_inclusive([' ', '\n']).map(clean).collect()
}

#[test]
fn status_distinguishes_running_and_killed_runs() {
    let project = chain();
    project.write("hold", "");
    let mut run = project.start(&["run", "chain.toml"]);
    let status =
        || -> Value { serde_json::from_str(&project.ablate(&["status", "--json"]).stdout).unwrap_or_default() };
    wait_until("`first` runs", &|| status()["running"][0]["instance"] == "first");
    let status = status();
    assert_eq!(status["state"], "running");
    assert_eq!((&status["experiment"], &status["selected"]), (&"chain".into(), &3.into()));
    kill(&mut run);
    assert_contains(&project.ok(&["status"]).stdout, &["was killed; the same command resumes it"]);
    std::fs::remove_file(project.path("hold")).unwrap();
    project.ok(&["run", "chain.toml"]);
    let status = project.json(&["status"]);
    assert_eq!((&status["state"], &status["outcomes"]["ran"]), (&"finished".into(), &3.into()));
    let error = project.fails(2, &["status", "latest~7"]);
    error.stderr_has(&["there are 2 runs: `latest~7` is older than the oldest"]);
}

#[test]
fn diff_shows_the_cause_and_counts_its_consequences() {
    let project = chain();
    project.ok(&["run", "chain.toml"]);
    project.edit("chain.toml", "cat first.txt > second.txt", "tr a-z A-Z < first.txt > second.txt");
    project.ok(&["run", "chain.toml"]);
    expect![[r#"
        [RUN] -> [RUN]
          second: `run` changed from "cat first.txt > second.txt" to "tr a-z A-Z < first.txt > second.txt"
          with other inputs because of these: third (1)
    "#]]
    .assert_eq(&clean(&project.ok(&["diff", "latest~1", "latest"]).stdout));
    let diff = project.json(&["diff", "latest~1"]);
    let differences = &diff["changes"]["differences"];
    assert_eq!(differences[0]["reasons"][0]["new"], "tr a-z A-Z < first.txt > second.txt");
    assert_eq!((&differences[0]["consequence"], &differences[1]["consequence"]), (&false.into(), &true.into()));
    let same = project.ok(&["diff", "latest", "latest"]).stdout;
    assert_contains(&same, &["no difference: the same instances with the same results"]);
}

#[test]
fn why_explains_upstream_stages() {
    let project = chain();
    project.ok(&["run", "chain.toml"]);
    project.write("data/in.txt", "two\n");
    project.edit("chain.toml", "cat second.txt > third.txt", "cat second.txt second.txt > third.txt");
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
    assert_contains(&plan, &["--> chain.toml:18:11", "1 must run, 2 may run, 0 fresh"]);
}

#[test]
fn pinned_results_survive_gc() {
    let project = chain();
    project.ok(&["run", "chain.toml"]);
    let printed = project.ok(&["pin", "chain.toml", "second", "--name", "old"]).stdout;
    assert_contains(&printed, &["`old` keeps 2 results"]);
    let before = project.read("chain.toml");
    project.edit("chain.toml", "cat in.txt", "cat in.txt in.txt");
    project.ok(&["run", "chain.toml"]);
    let dry = project.json(&["gc", "--keep-runs", "0", "--dry-run"]);
    let freed = project.json(&["gc", "--keep-runs", "0"]);
    assert_eq!(freed["records"], 1, "only the first result of `third` is unused");
    assert_eq!(dry["objects"], freed["objects"]);
    project.ok(&["verify"]);
    project.write("chain.toml", before);
    assert_eq!(project.ran_instances(&["chain.toml"]), ["third"]);
    assert!(project.ok(&["unpin"]).stdout.starts_with("old  2 results of `chain`"));
    project.ok(&["unpin", "old"]);
    project.fails(2, &["unpin", "old"]);
}
