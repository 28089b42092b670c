//! Programs that will not end, that leave others behind, and that never stop talking.

use std::fs;

use expect_test::expect;

use crate::space::{Space, kill, lives, until};

/// The lines that begin as an error does, and those that say why.
fn errors(stderr: &str) -> String {
    let lines = stderr.lines().filter(|line| line.starts_with("error") || line.starts_with("  because"));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_program_that_ignores_its_end_is_ended_after_the_grace() {
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

/// A stage that leaves a daemon behind, out of its group and its session, with its own output at hand.
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
fn what_a_program_leaves_behind_dies_with_it() {
    let space = Space::new();
    daemonic(&space, "true");
    space.ok(&["run", "study.toml"]);
    assert_eq!(space.read("out/study/host/out.txt"), "right\n");
    assert!(!lives(&space.until_written("daemon")));
    space.is_sound();
}

#[test]
fn what_a_killed_engine_leaves_behind_dies_and_a_run_at_once_is_right() {
    let space = Space::new();
    daemonic(&space, "until [ -e $GO ]; do sleep 0.01; done");
    let mut run = space.start(&["run", "study.toml"]);
    let first = [space.until_written("pid"), space.until_written("daemon")];
    kill(run.id());
    run.wait().unwrap();
    // Else the next stage would take the daemon of this one for its own, and end while its own begins to write.
    fs::remove_file(space.path("daemon")).unwrap();
    space.write("go", "");
    space.ok(&["run", "study.toml"]);
    assert_eq!(space.read("out/study/host/out.txt"), "right\n");
    until("stage and daemon of the killed engine die", &|| !first.iter().any(|id| lives(id)));
    assert!(!lives(&space.until_written("daemon")));
    space.is_sound();
}

#[test]
fn gibibytes_of_words_are_kept_within_bounds_and_their_end_is_told() {
    let space = Space::new();
    let size = std::env::var("ABLATE_TEST_WORDS").unwrap_or_else(|_| "1G".to_string());
    space.study(&format!(
        r#"name = "study"
[stage.talk]
kind    = "command"
run     = 'yes some words of no use to anybody | head -c {size}; echo; echo the end; echo x > out.txt'
outputs = ["out.txt"]
"#
    ));
    space.ok(&["run", "study.toml"]);
    let told = space.ok(&["logs", "study.toml", "talk"]).stdout;
    assert!(told.ends_with("\nthe end\n"), "{}", &told[told.len().saturating_sub(200)..]);
    let run = fs::read_dir(space.path("cache/runs")).unwrap().next().unwrap().unwrap().path();
    let kept: u64 = fs::read_dir(run.join("logs")).unwrap().map(|log| log.unwrap().metadata().unwrap().len()).sum();
    assert!((8 << 20..17 << 20).contains(&kept), "{kept} bytes of log are kept");
    assert!(told.len() as u64 <= kept + 1);
}
