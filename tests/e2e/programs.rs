//! Command stages: the program's sandbox and environment, its outputs, time limits and retries.

use expect_test::expect;

use crate::support::{Project, assert_contains, command_stages, without_record};

/// A project with one stage `it` that writes `out.txt`, with these lines.
fn stage(lines: &str) -> Project {
    let header = "name = \"study\"\n[stage.it]\nkind = \"command\"\noutputs = [\"out.txt\"]\n";
    Project::with_study(&format!("{header}{lines}\n"))
}

/// Runs the study, which must fail, and returns its error messages.
fn failure(project: &Project) -> String {
    project.fails(1, &["run", "study.toml"]).errors()
}

#[test]
fn sandbox_contains_only_the_inputs() {
    let inputs = "'in/a' = 'data/a.txt', 'folder' = './data/more', 'y' = 'first:y.txt'";
    let line = ": > out.txt; find -L . -type f | sort >> out.txt; cat in/a folder/deep/c.txt y >> out.txt";
    let project = Project::with_study(&command_stages(&[
        ("first", "", "echo first > x.txt; echo second > y.txt", "'x.txt', 'y.txt'"),
        ("it", inputs, line, "'out.txt'"),
    ]));
    project.write("data/a.txt", "a\n").write("data/more/b.txt", "b\n").write("data/more/deep/c.txt", "c\n");
    project.ok(&["run", "study.toml"]);
    expect![[r#"
        ./folder/b.txt
        ./folder/deep/c.txt
        ./in/a
        ./out.txt
        ./y
        a
        c
        second
    "#]]
    .assert_eq(&project.read("out/study/it/out.txt"));
}

#[test]
fn environment_contains_only_declared_variables() {
    let project =
        stage("run = '/usr/bin/env | sort > out.txt; pwd >> out.txt'\nenv = [\"KEPT\", \"OWN=x y=z\", \"NONE\"]");
    let mut command = project.command(&["run", "study.toml", "--quiet"]);
    command.env("KEPT", "as outside").env("SECRET", "x").env("LC_ALL", "de_DE").env_remove("NONE");
    assert!(command.status().unwrap().success());
    let text = project.read("out/study/it/out.txt");
    let sandbox = text.lines().last().unwrap();
    assert!(sandbox.contains("/cache/work/"));
    let seed = text.lines().find_map(|line| line.strip_prefix("ABLATE_SEED=")).unwrap();
    assert!(seed.parse::<u64>().is_ok());
    let of_shell = |line: &str| ["PWD=", "_", "SHLVL=", "OLDPWD="].iter().any(|name| line.starts_with(name));
    let printed: Vec<&str> = text.lines().filter(|line| line.contains('=') && !of_shell(line)).collect();
    expect![[r#"
        ABLATE_SEED=[SEED]
        CUDA_VISIBLE_DEVICES=
        HOME=[SANDBOX]
        KEPT=as outside
        LANG=C.UTF-8
        OWN=x y=z
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
        TMPDIR=[SANDBOX]"#]]
    .assert_eq(&printed.join("\n").replace(sandbox, "[SANDBOX]").replace(&format!("SEED={seed}"), "SEED=[SEED]"));
}

#[test]
fn passed_variables_are_not_inputs() {
    let project = stage(
        "run = 'echo $TOKEN $CACHE_A $CACHE_B $MODE $OWN > out.txt; echo \"$PATH\" >> out.txt; echo ran >> $COUNTER'\n\
         env = { pass = [\"TOKEN\", \"CACHE_*\", \"PATH\", \"COUNTER\", \"NO_SUCH\"], inputs = [\"MODE\"], set = { OWN = 1 } }",
    );
    let run = |token: &str, mode: &str| {
        let mut command = project.command(&["run", "study.toml"]);
        command
            .env("TOKEN", token)
            .env("CACHE_A", "a")
            .env("CACHE_B", "b")
            .env("MODE", mode)
            .env("COUNTER", project.path("ran"));
        command.env("PATH", "/opt/venv/bin:/usr/bin:/bin");
        project.finish(&mut command).exited(0)
    };
    run("secret", "one");
    assert_eq!(project.read("out/study/it/out.txt"), "secret a b one 1\n/opt/venv/bin:/usr/bin:/bin\n");
    run("other", "one");
    assert_eq!(project.read("ran"), "ran\n");
    run("other", "two");
    assert_eq!(project.read("ran"), "ran\nran\n");
    assert_eq!(project.read("out/study/it/out.txt").lines().next(), Some("other a b two 1"));
    let log = project.ok(&["logs", "study.toml", "it"]).stdout;
    assert_contains(&log, &["no environment variable `NO_SUCH` is set, which `env.pass` names"]);
    let shown = project.ok(&["show", "study.toml", "it", "--json"]).stdout;
    assert!(!shown.contains("secret") && !shown.contains("other"), "{shown}");
}

#[test]
fn changed_variable_reruns_the_stage() {
    let project = stage("run = '$RAN it; echo $MODE > out.txt'\nenv = [\"MODE\"]");
    let run = |mode: &str, ran: &str| {
        project.finish(project.command(&["run", "study.toml"]).env("MODE", mode)).exited(0);
        assert_eq!(project.take_ran(), ran);
        assert_eq!(project.read("out/study/it/out.txt"), format!("{mode}\n"));
    };
    run("one", "it");
    run("one", "");
    let why = project.finish(project.command(&["why", "study.toml", "it"]).env("MODE", "two"));
    expect![[r#"
        note: `it` must run: the environment variable `MODE` changed
         --> study.toml:6:7
          |
        6 | env = ["MODE"]
          |       ^^^^^^^^ compared with record [RECORD]
    "#]]
    .assert_eq(&without_record(&why.stdout));
    run("two", "it");
    run("one", "");
}

#[test]
fn program_may_be_a_list_with_a_working_directory() {
    let project = stage(
        "run = [\"sh\", \"-c\", \"echo \\\"$1\\\" > ../out.txt; pwd >> ../out.txt\", \"sh\", \"a  b\"]\ndir = \"deep\"",
    );
    project.ok(&["run", "study.toml"]);
    let text = project.read("out/study/it/out.txt");
    assert!(text.starts_with("a  b\n/") && text.ends_with("/deep\n"), "{text}");
    expect!["error: `it` failed: cannot start `no-such-program`: No such file or directory (os error 2)"]
        .assert_eq(&failure(&stage("run = [\"no-such-program\"]")));
}

#[test]
fn typed_outputs_are_checked() {
    let project = Project::with_study(
        r#"name = "study"
[stage.rows]
kind    = "command"
run     = '''echo '{"id":"1","dataset":"d","prompt":"?","response":"4"}' > rows.jsonl; mkdir model; echo 1 > model/weights'''
outputs = { "rows.jsonl" = "rows", "model" = "file" }
[stage.below]
kind    = "command"
inputs  = { "in" = "rows:rows.jsonl", "m" = "rows:model" }
run     = 'cat in m/weights > out.txt'
outputs = ["out.txt"]
"#,
    );
    project.ok(&["run", "study.toml"]);
    let row = r#"{"id":"1","dataset":"d","prompt":"?","response":"4"}"#;
    assert_eq!(project.read("out/study/below/out.txt"), format!("{row}\n1\n"));
    let shown = project.json(&["show", "study.toml", "rows"]);
    assert_eq!(shown["record"]["outputs"]["rows.jsonl"]["kind"], "rows");
    project.edit("study.toml", r#"{"id":"1","dataset":"d","prompt":"?","response":"4"}"#, r#"{"id":"#);
    expect![[r#"
        error: `rows` failed: the output `rows.jsonl` is not valid
          because line 1 is not JSON
          because EOF while parsing a value at line 1 column 6"#]]
    .assert_eq(&failure(&project));
}

#[test]
fn failures_state_their_cause() {
    let failure = |(line, output): (&str, &str)| {
        failure(&Project::with_study(&command_stages(&[("it", "", line, &format!("'{output}'"))])))
    };
    let cases = [
        ("echo working; echo no such luck >&2; exit 7", "out.txt"),
        ("kill -9 $$", "out.txt"),
        ("true", "out.txt"),
        ("ln -s /etc/hostname out.txt", "out.txt"),
        ("mkdir real; echo x > real/out.txt; ln -s real there", "there/out.txt"),
        ("mkfifo out.txt", "out.txt"),
    ];
    expect![[r#"
        error: `it` failed: its program ended with exit code 7
          because the end of its log: working
        error: `it` failed: the child process was killed by signal 9, as the kernel does when memory runs out
        error: `it` failed: the stage ended without writing its output `out.txt`
        error: `it` failed: the output `out.txt` may be outside the stage's folder: `out.txt` is a symbolic link
        error: `it` failed: the output `there/out.txt` may be outside the stage's folder: `there` is a symbolic link
        error: `it` failed: the output `out.txt` is neither a file nor a folder: it is a named pipe"#]]
    .assert_eq(&cases.map(failure).join("\n"));
    // The message has a path that varies.
    let link = failure(("mkdir tree; ln -s /etc/hostname tree/link", "tree"));
    assert_contains(&link, &["which is not a plain file"]);
}

#[test]
fn editing_an_input_fails_the_stage() {
    // Root may write sealed files; other users need `chmod`.
    let project = Project::with_study(&command_stages(&[
        ("first", "", "echo first > x.txt", "'x.txt'"),
        ("it", "'x.txt' = 'first'", "chmod u+w x.txt; echo edited >> x.txt; cat x.txt > out.txt", "'out.txt'"),
    ]));
    expect!["error: `it` failed: its input `inputs.x.txt` changed while the stage ran: inputs are read-only"]
        .assert_eq(&failure(&project));
    project.edit("study.toml", "chmod u+w x.txt; echo edited >> x.txt; ", "");
    project.take_ran();
    assert_eq!(project.ran(), "first it");
    assert_eq!(project.read("out/study/it/out.txt"), "first\n");
    project.assert_store_is_valid();
}

#[test]
fn time_limit_and_retries() {
    let project = stage("run = 'exec sleep 600'\nlimits = { time = 0.2 }");
    expect!["error: `it` failed: it took longer than its limit of 0.2 s"].assert_eq(&failure(&project));
    let line = "run = '$RAN it; [ $(wc -l < LOG) -ge 3 ] && echo done > out.txt'\n";
    for (limits, arguments) in [("limits = { retries = 2 }", &[][..]), ("", &["--retries", "2"])] {
        let project = stage(&(line.to_string() + limits));
        project.edit("study.toml", "LOG", &project.path("ran").display().to_string());
        let outcome = project.ok(&[&["run", "study.toml", "-v"], arguments].concat());
        outcome.stderr_has(&["attempt 2 of 3 failed: its program ended with exit code 1"]);
        assert_eq!(project.take_ran(), "it it it");
        assert_eq!(project.read("out/study/it/out.txt"), "done\n");
    }
}

#[test]
fn log_keeps_the_order_of_stdout_and_stderr() {
    let line =
        r#"for i in 1 2 3; do echo out $i; echo err $i >&2; done; printf "\\377 no line break"; echo x > out.txt"#;
    let project = Project::with_study(&command_stages(&[("it", "", line, "'out.txt'")]));
    project.ok(&["run", "study.toml"]);
    expect![[r#"
        out 1
        err 1
        out 2
        err 2
        out 3
        err 3
        � no line break
    "#]]
    .assert_eq(&project.ok(&["logs", "study.toml", "it"]).stdout);
}

#[test]
fn pool_with_one_slot_runs_one_stage_at_a_time() {
    let project = Project::new();
    let busy = project.path("busy").display().to_string();
    let stage = |number: usize| {
        format!(
            "[stage.s{number}]\nkind = \"command\"\nlimits = {{ pool = \"licence\" }}\noutputs = [\"out.txt\"]\n\
             run = 'mkdir {busy} && echo {number} > out.txt && sleep 0.02 && rmdir {busy}'\n"
        )
    };
    let stages: String = (0..8).map(stage).collect();
    project.write_study(&format!("name = \"study\"\n{stages}[settings.pools]\nlicence = 1\n"));
    // `mkdir` fails if two stages run at the same time.
    project.ok(&["run", "study.toml", "--jobs", "4"]);
    assert_eq!(project.outputs("study").len(), 8);
}
