//! Pools and GPUs are shared by all runs of a store, and what waits for another run says so once.

use std::process::{Child, Stdio};

use expect_test::expect;

use crate::space::{Space, until};

/// Two studies, `one` and `two`, with a stage each that holds the same scarce thing: `one` until the file `go` is there.
fn studies(limits: &str, pools: &str) -> Space {
    let space = Space::new();
    let [held, go, busy] = ["held", "go", "busy"].map(|name| space.path(name).display().to_string());
    let lines = [
        format!(
            "mkdir {busy}; echo held > {held}; until [ -e {go} ]; do sleep 0.01; done; echo one > out.txt; rmdir {busy}"
        ),
        // Fails where the other one still has it.
        format!("mkdir {busy} && echo two > out.txt && rmdir {busy}"),
    ];
    for (name, line) in ["one", "two"].iter().zip(lines) {
        space.write(
            &format!("{name}.toml"),
            format!(
                "name = \"{name}\"\n{pools}\n[stage.{name}]\nkind = \"command\"\nlimits = {limits}\nrun = '{line}'\noutputs = [\"out.txt\"]\n"
            ),
        );
    }
    space
}

/// The stderr of a run that ended well, without times.
fn told(run: Child) -> String {
    let output = run.wait_with_output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}");
    text.lines().filter(|line| line.starts_with("wait")).collect::<Vec<_>>().join("\n")
}

/// Starts both runs, and gives what the second one said and what `status` told while it waited.
fn second(space: &Space, arguments: &[&str]) -> (String, String) {
    let start = |file: &str| {
        let mut command = space.command(&[&["run", file], arguments].concat());
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let one = start("one.toml");
    space.until_written("held");
    let two = start("two.toml");
    let status = || space.ablate(&["status"]).stdout;
    until("the second run waits", &|| status().contains("waiting two"));
    // Long enough to ask several times.
    std::thread::sleep(std::time::Duration::from_millis(500));
    let waiting = status().lines().filter(|line| line.contains("waiting")).collect::<Vec<_>>().join("\n");
    space.write("go", "");
    assert_eq!(told(one), "");
    let said = told(two);
    assert!(!status().contains("waiting"));
    (said, waiting)
}

#[test]
fn a_pool_of_one_slot_takes_one_stage_at_a_time_in_all_runs_together() {
    let space = studies("{ pool = \"licence\" }", "[settings.pools]\nlicence = 1");
    let (said, status) = second(&space, &[]);
    expect!["wait  two: other runs use all slots of the pool `licence`"].assert_eq(&said);
    expect!["  waiting two: other runs use all slots of the pool `licence`"].assert_eq(&status);
}

#[test]
fn a_gpu_is_given_to_one_stage_of_all_runs_together() {
    let space = studies("{ gpu = 1 }", "");
    let (said, status) = second(&space, &["--gpus", "77"]);
    expect!["wait  two: other runs use all GPUs of this run"].assert_eq(&said);
    expect!["  waiting two: other runs use all GPUs of this run"].assert_eq(&status);
}

#[test]
fn a_stage_that_another_run_works_on_is_waited_for_in_one_line() {
    let space = studies("{}", "");
    let text = space.read("one.toml").replace("\"one\"", "\"two\"").replace("stage.one", "stage.two");
    space.write("two.toml", text);
    let (said, status) = second(&space, &[]);
    expect!["wait  two: another run is working on it"].assert_eq(&said);
    expect!["  waiting two: another run is working on it"].assert_eq(&status);
}

#[test]
fn slots_that_make_no_sense_are_refused() {
    let space = studies("{}", "");
    let errors = [&["--jobs", "0"][..], &["--threads", "0"], &["--timeout", "0"], &["--gpus", ""], &["--gpus", "0,0"]]
        .map(|arguments| {
            let outcome = space.ablate(&[&["run", "one.toml"], arguments].concat());
            assert_eq!(outcome.code, Some(2));
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
fn results_that_cannot_be_linked_are_a_warning_and_not_lost() {
    let space = Space::new();
    space
        .study("name = \"study\"\n[stage.it]\nkind = \"command\"\nrun = 'echo x > out.txt'\noutputs = [\"out.txt\"]\n");
    space.write("out", "a file of mine");
    let outcome = space.ok(&["run", "study.toml", "--quiet"]);
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    let expected =
        "warning: the results are in the store, but the links to them cannot be written: `it`: cannot link `";
    assert!(lines[0].starts_with(expected) && lines[0].contains("out/study/it/out.txt`"), "{lines:?}");
    assert_eq!(lines[1], "help: name a folder that can be written with `--out`");
    assert_eq!(space.read("out"), "a file of mine");
    space.ok(&["run", "study.toml", "--out", "elsewhere"]);
    assert_eq!(space.read("elsewhere/study/it/out.txt"), "x\n");
}
