//! Results that two stores share through a folder: push, pull, runs that fetch instead of running, damage, and `gc`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{Project, assert_contains, files_below};

/// Two stages in a row, and one without inputs.
const STUDY: &str = r#"
name = "study"
[stage.first]
kind = "command"
run = "$RAN first; echo data > table"
outputs = { table = "file" }
[stage.second]
kind = "command"
inputs = { table = "first:table" }
run = "$RAN second; mkdir deep; cat table table > deep/twice; printf '#!/bin/sh\n' > deep/run; chmod +x deep/run"
outputs = { deep = "file" }
[stage.other]
kind = "command"
run = "$RAN other; echo other > note"
outputs = { note = "file" }
"#;

/// A project with a store of its own, and the same files as every other.
fn project() -> Project {
    Project::with_study(STUDY)
}

/// An experiment with the same identity in every project: the log of what ran is not part of it.
fn shared_study(projects: &[&Project]) {
    for project in projects {
        // `$RAN` has the path of its project, so the command would have another identity in each.
        project.write(
            "study.toml",
            STUDY.replace("$RAN first; ", "").replace("$RAN second; ", "").replace("$RAN other; ", ""),
        );
    }
}

/// A folder that the projects share.
fn share() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let address = folder.path().join("results").display().to_string();
    (folder, address)
}

/// The object of the remote with these bytes.
fn object_with(address: &str, bytes: &[u8]) -> PathBuf {
    let objects = files_below(&Path::new(address).join("objects"));
    objects.into_iter().find(|path| fs::read(path).unwrap() == bytes).unwrap()
}

#[test]
fn what_one_store_pushes_is_fresh_in_another_after_a_pull() {
    let ((_share, address), a, b) = (share(), project(), project());
    shared_study(&[&a, &b]);
    a.ok(&["run", "study.toml"]);
    let sent = a.json(&["push", "study.toml", "--remote", &address]);
    assert_eq!((&sent["sent"]["records"], &sent["stale"]), (&3.into(), &0.into()));
    let again = a.ok(&["push", "study.toml", "--remote", &address]).stdout;
    assert_contains(&again, &["sent 0 results (0 objects, 0 B)", "3 results", "were there already"]);

    let plan = b.ok(&["plan", "study.toml", "--remote", &address]).stdout;
    assert_contains(&plan, &["2 must run, 1 may run, 0 fresh", "would fetch 3 results"]);
    b.ok(&["pull", "study.toml", "--remote", &address]);
    assert_contains(&b.ok(&["plan", "study.toml"]).stdout, &["0 must run, 0 may run, 3 fresh"]);
    assert_eq!(b.ran_instances(&["study.toml"]), Vec::<String>::new());
    assert_eq!(a.outputs("study"), b.outputs("study"));
    b.assert_store_is_valid();
    // `gc` knows that the experiment needs them, also before the first run.
    b.ok(&["gc", "--keep-runs", "0"]);
    assert_contains(&b.ok(&["plan", "study.toml"]).stdout, &["3 fresh"]);
}

#[test]
fn the_default_experiment_in_miniature_moves_to_another_machine() {
    let ((_share, address), a, b) = (share(), Project::smoke(), Project::smoke());
    a.ok(&["run", "smoke.toml"]);
    a.ok(&["push", "smoke.toml", "--remote", &address]);
    let pulled = b.json(&["pull", "smoke.toml", "--remote", &address]);
    assert_eq!((&pulled["missing"], &pulled["failed"]), (&serde_json::json!([]), &serde_json::json!([])));
    assert_contains(&b.ok(&["plan", "smoke.toml"]).stdout, &["0 must run, 0 may run"]);
    b.ok(&["run", "smoke.toml"]);
    // The report is written by a run in which a stage ran.
    let (made, moved) = (a.outputs("smoke"), b.outputs("smoke"));
    let outputs = made.iter().filter(|(name, _)| name.contains('@') && !name.starts_with("tensorboard/"));
    let lost: Vec<&String> =
        outputs.filter(|(name, bytes)| moved.get(*name) != Some(bytes)).map(|(name, _)| name).collect();
    assert!(lost.is_empty() && moved.len() > 100, "{lost:?}");
    b.assert_store_is_valid();
}

#[test]
fn a_run_fetches_what_is_there_and_sends_what_it_made() {
    let ((_share, address), a, b, c) = (share(), project(), project(), project());
    shared_study(&[&a, &b, &c]);
    a.ok(&["run", "study.toml", "first", "--remote", &address]).stderr_has(&["sent 1 result"]);
    let run = b.ok(&["run", "study.toml", "--remote", &address]);
    assert_contains(&run.stderr, &["fetched", "2 ran, 1 fetched", "sent 2 results"]);
    let events = c.ok(&["run", "study.toml", "--remote", &address, "--json"]).stdout;
    assert_eq!(crate::support::instances_that_ran(&events), Vec::<String>::new());
    assert_eq!(events.matches(r#""outcome":"fetched""#).count(), 3 + 3, "three events, and three in the report");
    // A forced stage is not fetched, and its equal result is there already.
    let forced = c.ok(&["run", "study.toml", "--force", "other", "--remote", &address]);
    assert_contains(&forced.stderr, &["1 ran, 2 fresh", "sent 0 results"]);
}

#[test]
fn a_damaged_object_is_refused_and_its_stage_runs_here() {
    let ((_share, address), a, b, c) = (share(), project(), project(), project());
    shared_study(&[&a, &b, &c]);
    a.ok(&["run", "study.toml", "--remote", &address]);
    let object = object_with(&address, b"other\n");
    fs::write(&object, "OTHER\n").unwrap();
    let pulled = b.fails(1, &["pull", "study.toml", "--remote", &address]);
    let name = object.file_name().unwrap().to_str().unwrap();
    assert_contains(&pulled.stderr, &["the result of `other` was not fetched", name, "is damaged", "It was not used"]);
    assert_contains(&b.ok(&["plan", "study.toml"]).stdout, &["1 must run, 0 may run, 2 fresh"]);
    b.assert_store_is_valid();
    // A run makes the result itself and repairs the remote.
    c.ok(&["run", "study.toml", "--remote", &address]).stderr_has(&["warning", name, "1 ran, 2 fetched"]);
    assert_eq!(fs::read_to_string(&object).unwrap(), "other\n");
    b.ok(&["pull", "study.toml", "--remote", &address]);
}

#[test]
fn a_record_without_its_objects_brings_nothing() {
    let ((_share, address), a, b) = (share(), project(), project());
    shared_study(&[&a, &b]);
    a.ok(&["run", "study.toml", "--remote", &address]);
    fs::remove_file(object_with(&address, b"data\ndata\n")).unwrap();
    let pulled = b.fails(1, &["pull", "study.toml", "--remote", &address]);
    assert_contains(&pulled.stderr, &["the result of `second` was not fetched", "is not at the remote"]);
    a.ok(&["push", "study.toml", "--remote", &address]);
    b.ok(&["pull", "study.toml", "--remote", &address]);
    assert_contains(&b.ok(&["plan", "study.toml"]).stdout, &["3 fresh"]);
}

#[test]
fn two_stores_push_at_the_same_time() {
    let ((_share, address), a, b, c) = (share(), project(), project(), project());
    shared_study(&[&a, &b, &c]);
    for project in [&a, &b] {
        project.ok(&["run", "study.toml"]);
    }
    let mut children: Vec<_> =
        [&a, &b, &a, &b].map(|one| one.start(&["push", "study.toml", "--remote", &address])).into();
    assert!(children.iter_mut().all(|child| child.wait().unwrap().success()));
    c.ok(&["pull", "study.toml", "--remote", &address]);
    assert_contains(&c.ok(&["plan", "study.toml"]).stdout, &["3 fresh"]);
    assert_eq!(files_below(&Path::new(&address).join("probes")), Vec::<PathBuf>::new());
}

#[test]
fn gc_of_a_remote_keeps_roots_and_what_is_young() {
    let ((_share, address), a, b) = (share(), project(), project());
    shared_study(&[&a, &b]);
    a.ok(&["run", "study.toml", "--remote", &address]);
    a.edit("study.toml", "echo other", "echo changed");
    a.ok(&["run", "study.toml", "--remote", &address]);
    // The earlier result of `other` has no root now, and is young.
    let gc = |arguments: &[&str]| a.json(&[&["gc", "--remote", &address], arguments].concat());
    assert_eq!(gc(&[])["records"], 0);
    // `gc` of the store does not touch the remote.
    a.ok(&["gc"]);
    let dry = gc(&["--grace", "0", "--dry-run"]);
    assert_eq!((&dry["records"], &dry["objects"], &dry["kept_records"]), (&1.into(), &1.into(), &3.into()));
    assert_eq!(gc(&["--grace", "0"])["objects"], 1);
    assert_eq!(b.json(&["pull", "study.toml", "--remote", &address])["fetched"], 2);
}

#[test]
fn wrong_addresses_are_refused_before_anything_runs() {
    let ((share, address), a) = (share(), project());
    a.fails(2, &["push", "study.toml"]).stderr_has(&[
        "there is no remote",
        "--remote s3://bucket/prefix",
        ".ablate.toml",
    ]);
    a.fails(2, &["pull", "study.toml", "--remote", &address]).stderr_has(&["there is no remote at"]);
    let run = |address: &str| a.fails(2, &["run", "study.toml", "--remote", address]).stderr;
    assert_contains(&run("gs://bucket"), &["`gs://`", "s3://bucket/prefix"]);
    assert_contains(&run("/nowhere/at/all"), &["`/nowhere/at` of the remote does not exist"]);
    let secret = run("s3://key:topsecret@bucket/x");
    assert!(secret.contains("not allowed") && !secret.contains("topsecret"), "{secret}");
    fs::write(share.path().join("thesis.tex"), "").unwrap();
    assert_contains(&run(&share.path().display().to_string()), &["contains `thesis.tex`"]);
    fs::create_dir(&address).unwrap();
    fs::write(Path::new(&address).join("FORMAT"), "ablate remote 99\n").unwrap();
    assert_contains(&run(&address), &["`ablate remote 99`", "`ablate remote 1`"]);
    assert_eq!(a.take_ran(), "");
}

#[test]
fn the_remote_of_the_configuration_is_used_unless_it_is_switched_off() {
    let ((_share, address), a, b) = (share(), project(), project());
    shared_study(&[&a, &b]);
    for project in [&a, &b] {
        project.write(".ablate.toml", format!("[remote]\nurl = \"{address}\"\n"));
    }
    // Before the first push there is nothing to fetch.
    a.ok(&["plan", "study.toml"]);
    a.ok(&["run", "study.toml"]).stderr_has(&["sent 3 results"]);
    let plan = b.ok(&["plan", "study.toml", "--no-remote"]).stdout;
    assert!(!plan.contains("would fetch"), "{plan}");
    b.ok(&["run", "study.toml"]).stderr_has(&["3 fetched"]);
    assert_eq!(b.json(&["gc", "--remote"])["kept_records"], 3);
}

#[test]
fn credentials_are_in_no_file_and_no_message() {
    let ((_share, address), a) = (share(), project());
    shared_study(&[&a]);
    let secret = "wJalrXUtnFEMI/K7MDENG";
    // Nothing listens on this port, so every request fails.
    let command = |arguments: &[&str]| {
        let mut command = a.command(arguments);
        command.env("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE").env("AWS_SECRET_ACCESS_KEY", secret);
        command.env("AWS_SESSION_TOKEN", format!("token-{secret}")).env("AWS_ENDPOINT_URL", "http://127.0.0.1:9");
        a.finish(&mut command)
    };
    let unreachable = command(&["run", "study.toml", "-vv", "--remote", "s3://bucket/x"]).exited(0);
    assert_contains(&unreachable.stderr, &["the remote is not used", "cannot be reached", "3 ran"]);
    let failed = command(&["push", "study.toml", "-vv", "--remote", "s3://bucket/x"]).exited(2);
    command(&["run", "study.toml", "-vv", "--force", "other", "--remote", &address]).exited(0);
    for text in [&unreachable.stderr, &unreachable.stdout, &failed.stderr, &failed.stdout] {
        assert!(!text.contains(secret), "{text}");
    }
    for path in files_below(&a.path("")).into_iter().chain(files_below(Path::new(&address))) {
        let bytes = fs::read(&path).unwrap();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "{}", path.display());
    }
}
