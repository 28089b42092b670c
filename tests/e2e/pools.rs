//! Pools and GPUs are shared by all runs of a store. A waiting stage prints one line.

use std::process::{Child, Stdio};

use expect_test::expect;

use crate::support::{Project, command_stages, wait_until};

/// Two studies, `one` and `two`, with one stage each that uses the same resource. The stage of `one` holds it until
/// the file `go` exists.
fn studies(limits: &str, pools: &str) -> Project {
    let project = Project::new();
    let [held, go, busy] = ["held", "go", "busy"].map(|name| project.path(name).display().to_string());
    let lines = [
        format!(
            "mkdir {busy}; echo held > {held}; until [ -e {go} ]; do sleep 0.01; done; echo one > out.txt; rmdir {busy}"
        ),
        // Fails if the other stage still holds it.
        format!("mkdir {busy} && echo two > out.txt && rmdir {busy}"),
    ];
    for (name, line) in ["one", "two"].iter().zip(lines) {
        project.write(
            &format!("{name}.toml"),
            format!(
                "name = \"{name}\"\n{pools}\n[stage.{name}]\nkind = \"command\"\nlimits = {limits}\nrun = '{line}'\noutputs = [\"out.txt\"]\n"
            ),
        );
    }
    project
}

/// The lines about waiting of a successful run.
fn wait_lines(run: Child) -> String {
    let output = run.wait_with_output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}");
    text.lines().filter(|line| line.starts_with("wait")).collect::<Vec<_>>().join("\n")
}

/// Starts both runs and checks what the second one and `status` print about waiting.
fn assert_second_waits(project: &Project, arguments: &[&str], reason: &str) {
    let start = |file: &str| {
        let mut command = project.command(&[&["run", file], arguments].concat());
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let one = start("one.toml");
    project.wait_for_file("held");
    let two = start("two.toml");
    let waiting = || {
        let status = project.ablate(&["status"]).stdout;
        status.lines().filter(|line| line.contains("waiting")).collect::<Vec<_>>().join("\n")
    };
    wait_until("the second run waits", &|| waiting().contains("waiting two"));
    // Long enough for several attempts.
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(waiting(), format!("  waiting two: {reason}"));
    project.write("go", "");
    assert_eq!(wait_lines(one), "");
    assert_eq!(wait_lines(two), format!("wait  two: {reason}"));
    assert_eq!(waiting(), "");
}

#[test]
fn pool_slots_are_shared_by_all_runs() {
    let project = studies("{ pool = \"licence\" }", "[settings.pools]\nlicence = 1");
    assert_second_waits(&project, &[], "other runs use all slots of the pool `licence`");
}

#[test]
fn gpus_are_shared_by_all_runs() {
    let project = studies("{ gpu = 1 }", "");
    assert_second_waits(&project, &["--gpus", "77"], "other runs use all GPUs of this run");
}

#[test]
fn run_waits_for_a_stage_of_another_run() {
    let project = studies("{}", "");
    let text = project.read("one.toml").replace("\"one\"", "\"two\"").replace("stage.one", "stage.two");
    project.write("two.toml", text);
    assert_second_waits(&project, &[], "another run is working on it");
}

#[test]
fn invalid_slot_options_are_refused() {
    let project = studies("{}", "");
    let errors = [&["--jobs", "0"][..], &["--threads", "0"], &["--timeout", "0"], &["--gpus", ""], &["--gpus", "0,0"]]
        .map(|arguments| {
            let outcome = project.fails(2, &[&["run", "one.toml"], arguments].concat());
            outcome.stderr.lines().next().unwrap().to_string()
        });
    expect![[r#"
        error: invalid value '0' for '--jobs <N>': it must be a whole number from 1
        error: invalid value '0' for '--threads <N>': it must be a whole number from 1
        error: invalid value '0' for '--timeout <SECONDS>': it must be a number of seconds above 0
        error: invalid value '' for '--gpus <IDS>': it names no GPU: write numbers or UUIDs, such as `0,1`, or omit the option
        error: `--gpus` names `0` twice"#]]
    .assert_eq(&errors.join("\n"));
}

#[test]
fn failed_links_are_only_a_warning() {
    let project = Project::with_study(&command_stages(&[("it", "", "echo x > out.txt", "'out.txt'")]));
    project.write("out", "a file of mine");
    let outcome = project.ok(&["run", "study.toml", "--quiet"]);
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    let expected =
        "warning: the results are in the store, but the links to them cannot be written: `it`: cannot link `";
    assert!(lines[0].starts_with(expected) && lines[0].contains("out/study/it/out.txt`"), "{lines:?}");
    assert_eq!(lines[1], "help: choose a writable folder with `--out`");
    assert_eq!(project.read("out"), "a file of mine");
    project.ok(&["run", "study.toml", "--out", "elsewhere"]);
    assert_eq!(project.read("elsewhere/study/it/out.txt"), "x\n");
}
