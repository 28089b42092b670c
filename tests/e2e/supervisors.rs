//! Programs that ignore signals, that leave descendants behind, and that write endless output.

use std::fs;

use expect_test::expect;

use crate::support::{Project, command_stages, entries, is_alive, kill, wait_until};

#[test]
fn a_program_that_ignores_sigterm_is_killed() {
    let project = Project::new();
    let pid = project.path("pid").display().to_string();
    project.write_study(&format!(
        r#"name = "study"
[stage.stubborn]
kind    = "command"
run     = 'trap "" TERM; echo $$ > {pid}; echo I stay; while :; do sleep 1; done'
outputs = ["out.txt"]
limits  = {{ time = 0.2 }}
"#
    ));
    let outcome = project.fails(1, &["run", "study.toml"]);
    expect![[r#"
        error: `stubborn` failed: it took longer than its limit of 0.2 s
          because the end of its log: I stay"#]]
    .assert_eq(&outcome.errors());
    assert!(!is_alive(&project.wait_for_file("pid")));
}

/// A stage that leaves a daemon behind, in another process group and session, which later writes to an output.
fn daemonic(project: &Project, then: &str) {
    let [pid, daemon, go] = ["pid", "daemon", "go"].map(|name| project.path(name).display().to_string());
    let line = format!(
        "(setsid sh -c \"echo \\$\\$ > {daemon}; sleep 600; echo late >> out.txt\" &); \
         until [ -s {daemon} ]; do sleep 0.01; done; echo $$ > {pid}; {then}; echo right > out.txt"
    );
    let line = line.replace("$GO", &go);
    project.write_study(&command_stages(&[("host", "", &line, "'out.txt'")]));
}

#[test]
fn descendants_are_killed_with_their_program() {
    let project = Project::new();
    daemonic(&project, "true");
    project.ok(&["run", "study.toml"]);
    assert_eq!(project.read("out/study/host/out.txt"), "right\n");
    assert!(!is_alive(&project.wait_for_file("daemon")));
    project.assert_store_is_valid();
}

#[test]
fn a_run_after_a_killed_engine_is_correct() {
    let project = Project::new();
    daemonic(&project, "until [ -e $GO ]; do sleep 0.01; done");
    let mut run = project.start(&["run", "study.toml"]);
    let first = [project.wait_for_file("pid"), project.wait_for_file("daemon")];
    kill(&mut run);
    // Otherwise the next stage would take the file of this daemon for that of its own, and end too early.
    fs::remove_file(project.path("daemon")).unwrap();
    project.write("go", "");
    project.ok(&["run", "study.toml"]);
    assert_eq!(project.read("out/study/host/out.txt"), "right\n");
    wait_until("stage and daemon of the killed engine die", &|| !first.iter().any(|id| is_alive(id)));
    assert!(!is_alive(&project.wait_for_file("daemon")));
    project.assert_store_is_valid();
}

#[test]
fn a_log_of_gibibytes_is_capped_and_keeps_its_end() {
    let size = std::env::var("ABLATE_TEST_LOG_SIZE").unwrap_or_else(|_| "1G".to_string());
    let line = format!("yes some output | head -c {size}; echo; echo the end; echo x > out.txt");
    let project = Project::with_study(&command_stages(&[("print", "", &line, "'out.txt'")]));
    project.ok(&["run", "study.toml"]);
    let log = project.ok(&["logs", "study.toml", "print"]).stdout;
    assert!(log.ends_with("\nthe end\n"), "{}", &log[log.len().saturating_sub(200)..]);
    let run = entries(project.path("cache/runs")).next().unwrap();
    let kept: u64 = entries(run.join("logs")).map(|log| log.metadata().unwrap().len()).sum();
    assert!((8 << 20..17 << 20).contains(&kept), "{kept} bytes of log are kept");
    assert!(log.len() as u64 <= kept + 1);
}
