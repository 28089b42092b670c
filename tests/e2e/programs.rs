//! Command stages: the program's sandbox and environment, its outputs, time limits and retries.

use expect_test::expect;

use crate::support::{Project, without_record};

/// A project with one stage `it` with these lines.
fn stage(lines: &str) -> Project {
    let project = Project::new();
    project.write_study(&format!("name = \"study\"\n[stage.it]\nkind = \"command\"\n{lines}\n"));
    project
}

/// Runs the study, which must fail, and returns its error messages and exit code.
fn failure(project: &Project) -> String {
    let outcome = project.ablate(&["run", "study.toml"]);
    let is_error = |line: &&str| ["error", "  because", "  help"].iter().any(|word| line.starts_with(word));
    let printed: Vec<&str> =
        outcome.stderr.lines().filter(is_error).filter(|line| !line.contains("fix the cause")).collect();
    format!("{}, exit code {}", printed.join("\n"), outcome.code.unwrap())
}

#[test]
fn sandbox_contains_only_the_inputs() {
    let project = Project::new();
    project.write("data/a.txt", "a\n").write("data/more/b.txt", "b\n").write("data/more/deep/c.txt", "c\n");
    project.write_study(
        r#"name = "study"
[stage.first]
kind    = "command"
run     = 'echo first > x.txt; echo second > y.txt'
outputs = ["x.txt", "y.txt"]
[stage.it]
kind    = "command"
inputs  = { "in/a" = "data/a.txt", "folder" = "./data/more", "y" = "first:y.txt" }
run     = ': > out.txt; find -L . -type f | sort >> out.txt; cat in/a folder/deep/c.txt y >> out.txt'
outputs = ["out.txt"]
"#,
    );
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
    let project = stage(
        "run = '/usr/bin/env | sort > out.txt; pwd >> out.txt'\noutputs = [\"out.txt\"]\nenv = [\"KEPT\", \"OWN=x y=z\", \"NONE\"]",
    );
    let mut command = project.command(&["run", "study.toml", "--quiet"]);
    command.env("KEPT", "as outside").env("SECRET", "x").env("LC_ALL", "de_DE").env_remove("NONE");
    assert!(command.status().unwrap().success());
    let text = project.read("out/study/it/out.txt");
    let sandbox = text.lines().last().unwrap();
    assert!(sandbox.contains("/cache/work/"));
    let seed = text.lines().find_map(|line| line.strip_prefix("ABLATE_SEED=")).unwrap();
    assert!(seed.parse::<u64>().is_ok());
    // The shell adds PWD and others itself.
    let lines = text
        .lines()
        .filter(|line| line.contains('='))
        .filter(|line| !line.starts_with("PWD=") && !line.starts_with('_'));
    let printed: Vec<&str> = lines.filter(|line| !line.starts_with("SHLVL=") && !line.starts_with("OLDPWD=")).collect();
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
fn changed_variable_reruns_the_stage() {
    let project = stage("run = '$RAN it; echo $MODE > out.txt'\noutputs = [\"out.txt\"]\nenv = [\"MODE\"]");
    let run = |mode: &str| {
        let output = project.command(&["run", "study.toml"]).env("MODE", mode).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        (project.take_ran(), project.read("out/study/it/out.txt"))
    };
    assert_eq!(run("one"), ("it".to_string(), "one\n".to_string()));
    assert_eq!(run("one"), (String::new(), "one\n".to_string()));
    let why = project.command(&["why", "study.toml", "it"]).env("MODE", "two").output().unwrap();
    expect![[r#"
        note: `it` must run: the environment variable `MODE` changed
         --> study.toml:6:7
          |
        6 | env = ["MODE"]
          |       ^^^^^^^^ compared with record [RECORD]
    "#]]
    .assert_eq(&without_record(&String::from_utf8(why.stdout).unwrap()));
    assert_eq!(run("two"), ("it".to_string(), "two\n".to_string()));
    assert_eq!(run("one"), (String::new(), "one\n".to_string()));
}

#[test]
fn program_may_be_a_list_with_a_working_directory() {
    let project = stage(
        "run = [\"sh\", \"-c\", \"echo \\\"$1\\\" > ../out.txt; pwd >> ../out.txt\", \"sh\", \"a  b\"]\ndir = \"deep\"\noutputs = [\"out.txt\"]",
    );
    project.ok(&["run", "study.toml"]);
    let text = project.read("out/study/it/out.txt");
    assert!(text.starts_with("a  b\n/") && text.ends_with("/deep\n"), "{text}");
    let project = stage("run = [\"no-such-program\"]\noutputs = [\"out.txt\"]");
    expect!["error: `it` failed: cannot start `no-such-program`: No such file or directory (os error 2), exit code 1"]
        .assert_eq(&failure(&project));
}

#[test]
fn typed_outputs_are_checked() {
    let project = Project::new();
    let study = |row: &str| {
        format!(
            r#"name = "study"
[stage.rows]
kind    = "command"
run     = '''echo '{row}' > rows.jsonl; mkdir model; echo 1 > model/weights'''
outputs = {{ "rows.jsonl" = "rows", "model" = "checkpoint" }}
[stage.below]
kind    = "command"
inputs  = {{ "in" = "rows:rows.jsonl", "m" = "rows:model" }}
run     = 'cat in m/weights > out.txt'
outputs = ["out.txt"]
"#
        )
    };
    project.write_study(&study(r#"{"id":1}"#));
    project.ok(&["run", "study.toml"]);
    assert_eq!(project.read("out/study/below/out.txt"), "{\"id\":1}\n1\n");
    let shown = project.json(&["show", "study.toml", "rows"]);
    assert_eq!(shown["record"]["outputs"]["rows.jsonl"]["kind"], "rows");
    project.write_study(&study(r#"{"id":"#));
    expect![[r#"
        error: `rows` failed: the output `rows.jsonl` is not valid
          because line 1 is not JSON
          because EOF while parsing a value at line 1 column 6, exit code 1"#]]
    .assert_eq(&failure(&project));
}

#[test]
fn failure_quotes_the_log() {
    let project = stage("run = 'echo working; echo no such luck >&2; exit 7'\noutputs = [\"out.txt\"]");
    expect![[r#"
        error: `it` failed: its program ended with exit code 7
          because the end of its log: working, exit code 1"#]]
    .assert_eq(&failure(&project));
    let project = stage("run = 'kill -9 $$'\noutputs = [\"out.txt\"]");
    expect!["error: `it` failed: the child process was killed by signal 9, as the kernel does when memory runs out, exit code 1"].assert_eq(&failure(&project));
    let project = stage("run = 'true'\noutputs = [\"out.txt\"]");
    expect!["error: `it` failed: the stage ended without writing its output `out.txt`, exit code 1"]
        .assert_eq(&failure(&project));
}

#[test]
fn symbolic_links_as_outputs_are_refused() {
    let project = stage("run = 'ln -s /etc/hostname out.txt'\noutputs = [\"out.txt\"]");
    expect!["error: `it` failed: the output `out.txt` may be outside the stage's folder: `out.txt` is a symbolic link, exit code 1"].assert_eq(&failure(&project));
    let project = stage("run = 'mkdir real; echo x > real/out.txt; ln -s real there'\noutputs = [\"there/out.txt\"]");
    expect!["error: `it` failed: the output `there/out.txt` may be outside the stage's folder: `there` is a symbolic link, exit code 1"].assert_eq(&failure(&project));
    let project = stage("run = 'mkdir tree; ln -s /etc/hostname tree/link'\noutputs = [\"tree\"]");
    assert!(failure(&project).contains("which is not a plain file"));
    let project = stage("run = 'mkfifo out.txt'\noutputs = [\"out.txt\"]");
    assert!(failure(&project).contains("neither a file nor a folder"));
}

#[test]
fn editing_an_input_fails_the_stage() {
    let project = Project::new();
    let study = |line: &str| {
        format!(
            r#"name = "study"
[stage.first]
kind    = "command"
run     = '$RAN first; echo first > x.txt'
outputs = ["x.txt"]
[stage.it]
kind    = "command"
inputs  = {{ "x.txt" = "first" }}
run     = '$RAN it; {line}'
outputs = ["out.txt"]
"#
        )
    };
    // Root may write sealed files; other users need `chmod`.
    project.write_study(&study("chmod u+w x.txt; echo edited >> x.txt; cat x.txt > out.txt"));
    expect![
        "error: `it` failed: its input `inputs.x.txt` changed while the stage ran: inputs are read-only, exit code 1"
    ]
    .assert_eq(&failure(&project));
    project.write_study(&study("cat x.txt > out.txt"));
    project.take_ran();
    assert_eq!(project.ran(), "first it");
    assert_eq!(project.read("out/study/it/out.txt"), "first\n");
    project.assert_store_is_valid();
}

#[test]
fn time_limit_and_retries() {
    let project = stage("run = 'exec sleep 600'\noutputs = [\"out.txt\"]\nlimits = { time = 0.2 }");
    expect!["error: `it` failed: it took longer than its limit of 0.2 s, exit code 1"].assert_eq(&failure(&project));
    let again = "run = '$RAN it; [ $(wc -l < RAN) -ge 3 ] && echo done > out.txt'\noutputs = [\"out.txt\"]\n";
    for (limits, arguments) in [("limits = { retries = 2 }", &[][..]), ("", &["--retries", "2"])] {
        let project = Project::new();
        let lines = again.replace("RAN)", &format!("{})", project.path("ran").display())) + limits;
        project.write_study(&format!("name = \"study\"\n[stage.it]\nkind = \"command\"\n{lines}\n"));
        let printed = project.ok(&[&["run", "study.toml", "-v"], arguments].concat()).stderr;
        assert!(printed.contains("attempt 2 of 3 failed: its program ended with exit code 1"), "{printed}");
        assert_eq!(project.take_ran(), "it it it");
        assert_eq!(project.read("out/study/it/out.txt"), "done\n");
    }
}

#[test]
fn log_keeps_the_order_of_stdout_and_stderr() {
    let line =
        "for i in 1 2 3; do echo out $i; echo err $i >&2; done; printf '\\''\\377 no line break'\\''; echo x > out.txt";
    let project = stage(&format!(
        "run = '''{}'''\noutputs = [\"out.txt\"]",
        line.replace("'\\''", "\"").replace("\\377", "\\\\377")
    ));
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
