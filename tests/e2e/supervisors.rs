//! Programs that ignore signals, that leave descendants behind, and that write endless output.

use std::fs;

use expect_test::expect;

use crate::space::{Space, kill, lives, until};

/// The lines with an error or a cause.
fn errors(stderr: &str) -> String {
    let lines = stderr.lines().filter(|line| line.starts_with("error") || line.starts_with("  because"));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_program_that_ignores_sigterm_is_killed() {
    let space = Space::new();
    let pid = space.path("pid").display().to_string();
    space.study(&format!(
        r#"name = "study"
[stage.stubborn]
kind    = "command"
run     = 'trap "" TERM; echo $$ > {pid}; echo I stay; while :; do sleep 1; done'
outputs = ["out.txt"]
limits  = {{ time = 0.2 }}
"#
    ));
    let outcome = space.ablate(&["run", "study.toml"]);
    assert_eq!(outcome.code, Some(1));
    expect![[r#"
        error: `stubborn` failed: it took longer than its limit of 0.2 s
          because the end of its log: I stay"#]]
    .assert_eq(&errors(&outcome.stderr));
    assert!(!lives(&space.until_written("pid")));
}

/// A stage that leaves a daemon behind, in another process group and session, which later writes to an output.
fn daemonic(space: &Space, then: &str) {
    let [pid, daemon, go] = ["pid", "daemon", "go"].map(|name| space.path(name).display().to_string());
    let line = format!(
        "(setsid sh -c \"echo \\$\\$ > {daemon}; sleep 600; echo late >> out.txt\" &); \
         until [ -s {daemon} ]; do sleep 0.01; done; echo $$ > {pid}; {then}; echo right > out.txt"
    );
    let line = line.replace("$GO", &go);
    space.study(&format!(
        "name = \"study\"\n[stage.host]\nkind = \"command\"\nrun = '{line}'\noutputs = [\"out.txt\"]\n"
    ));
}

#[test]
fn descendants_are_killed_with_their_program() {
    let space = Space::new();
    daemonic(&space, "true");
    space.ok(&["run", "study.toml"]);
    assert_eq!(space.read("out/study/host/out.txt"), "right\n");
    assert!(!lives(&space.until_written("daemon")));
    space.is_sound();
}

#[test]
fn a_run_after_a_killed_engine_is_correct() {
    let space = Space::new();
    daemonic(&space, "until [ -e $GO ]; do sleep 0.01; done");
    let mut run = space.start(&["run", "study.toml"]);
    let first = [space.until_written("pid"), space.until_written("daemon")];
    kill(run.id());
    run.wait().unwrap();
    // Otherwise the next stage would take the file of this daemon for that of its own, and end too early.
    fs::remove_file(space.path("daemon")).unwrap();
    space.write("go", "");
    space.ok(&["run", "study.toml"]);
    assert_eq!(space.read("out/study/host/out.txt"), "right\n");
    until("stage and daemon of the killed engine die", &|| !first.iter().any(|id| lives(id)));
    assert!(!lives(&space.until_written("daemon")));
    space.is_sound();
}

#[test]
fn a_log_of_gibibytes_is_capped_and_keeps_its_end() {
    let space = Space::new();
    let size = std::env::var("ABLATE_TEST_LOG_SIZE").unwrap_or_else(|_| "1G".to_string());
    space.study(&format!(
        r#"name = "study"
[stage.print]
kind    = "command"
run     = 'yes some output | head -c {size}; echo; echo the end; echo x > out.txt'
outputs = ["out.txt"]
"#
    ));
    space.ok(&["run", "study.toml"]);
    let log = space.ok(&["logs", "study.toml", "print"]).stdout;
    assert!(log.ends_with("\nthe end\n"), "{}", &log[log.len().saturating_sub(200)..]);
    let run = fs::read_dir(space.path("cache/runs")).unwrap().next().unwrap().unwrap().path();
    let kept: u64 = fs::read_dir(run.join("logs")).unwrap().map(|log| log.unwrap().metadata().unwrap().len()).sum();
    assert!((8 << 20..17 << 20).contains(&kept), "{kept} bytes of log are kept");
    assert!(log.len() as u64 <= kept + 1);
}
