//! Programs that stop or kill their supervisor, and programs that leave unusual files as outputs.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use expect_test::expect;

use crate::support::{Project, command_stages, is_alive, set_mode};

/// A project with one stage `it` that runs a line. `$DAEMON` in it starts a daemon whose process id is written to
/// `daemon`.
fn stage(line: &str, more: &str) -> Project {
    let project = Project::new();
    let daemon = project.path("daemon").display().to_string();
    let line = line.replace(
        "$DAEMON",
        &format!(
            "(setsid sh -c \"echo \\$\\$ > {daemon}; trap : TERM; while :; do sleep 1; done\" &); \
             until [ -s {daemon} ]; do sleep 0.01; done"
        ),
    );
    project.write_study(&format!("name = \"study\"\n[stage.it]\nkind = \"command\"\nrun = '''{line}'''\n{more}\n"));
    project
}

/// Runs the study, which must fail, and returns the error lines.
fn failure(project: &Project) -> String {
    project.fails(1, &["run", "study.toml"]).errors()
}

/// Runs a program that attacks its supervisor, which must end its daemon, and returns the error lines.
fn attack(line: &str, more: &str) -> String {
    let project = stage(line, more);
    let errors = failure(&project);
    assert!(!is_alive(&project.wait_for_file("daemon")));
    errors
}

const OUT: &str = "outputs = [\"out.txt\"]";

#[test]
fn killing_the_supervisor_ends_all_processes() {
    expect!["error: `it` failed: the supervisor process of the stage was killed"]
        .assert_eq(&attack("$DAEMON; kill -9 $PPID; sleep 600", OUT));
}

#[test]
fn stopped_supervisor_is_resumed() {
    let project = stage("$DAEMON; kill -STOP $PPID; echo right > out.txt", OUT);
    project.ok(&["run", "study.toml"]);
    assert_eq!(project.read("out/study/it/out.txt"), "right\n");
    assert!(!is_alive(&project.wait_for_file("daemon")));
    expect!["error: `it` failed: it took longer than its limit of 0.4 s"]
        .assert_eq(&attack("$DAEMON; kill -STOP $PPID; sleep 600", &format!("{OUT}\nlimits = {{ time = 0.4 }}")));
}

#[test]
fn stopping_the_supervisor_repeatedly_fails() {
    expect!["error: `it` failed: its program keeps stopping the supervisor process of the stage"]
        .assert_eq(&attack("$DAEMON; while :; do kill -STOP $PPID; done", OUT));
}

#[test]
fn special_files_as_outputs_are_refused() {
    let typed = "outputs = { \"rows.jsonl\" = \"rows\", \"facts.json\" = \"facts\", \"model\" = \"file\" }";
    let rest = |missing: &str| {
        let make = ["echo {} > rows.jsonl", "echo {} > facts.json", "mkdir model"];
        make.iter().filter(|line| !line.contains(missing)).flat_map(|line| [line, "; "]).collect::<String>()
    };
    let mut answers = Vec::new();
    for (name, line) in [
        ("rows", "mkfifo rows.jsonl"),
        ("rows", "mkdir rows.jsonl"),
        ("facts", "mkfifo facts.json"),
        ("facts", "ln -s /dev/zero facts.json"),
        ("model", "mkfifo model"),
        ("model", "mkdir model; mkfifo model/weights"),
        ("rows", "truncate -s 1T rows.jsonl"),
    ] {
        let project = stage(&format!("{}{line}", rest(name)), typed);
        let printed = failure(&project);
        // The name of the sandbox varies.
        let work = printed.find("[ROOT]/cache/work/").map(|at| printed[at..].split('/').nth(3).unwrap().to_string());
        answers.push(printed.replace(&work.unwrap_or("?".to_string()), "WORK"));
    }
    expect![[r#"
        error: `it` failed: the output `rows.jsonl` is neither a file nor a folder: it is a named pipe
        error: `it` failed: the output `rows.jsonl` is not valid
          because it is a folder, but `rows` is a file
        error: `it` failed: the output `facts.json` is neither a file nor a folder: it is a named pipe
        error: `it` failed: the output `facts.json` may be outside the stage's folder: `facts.json` is a symbolic link
        error: `it` failed: the output `model` is neither a file nor a folder: it is a named pipe
        error: `it` failed: the output holds `model/weights`, which is not a plain file: it is a named pipe
        error: `it` failed: the output `rows.jsonl` is not valid
          because line 1 is longer than 64 MiB"#]]
    .assert_eq(&answers.join("\n"));
}

#[test]
fn hard_linked_output_does_not_change_the_other_file() {
    let project = Project::new();
    let mine = project.path("mine.txt");
    project.write("mine.txt", "mine\n");
    set_mode(&mine, 0o644);
    let before = fs::metadata(&mine).unwrap().modified().unwrap();
    let line = format!("ln {0} out.txt; mkdir tree; ln {0} tree/a", mine.display());
    project.write_study(&command_stages(&[("it", "", &line, "'out.txt', 'tree'")]));
    project.ok(&["run", "study.toml"]);
    let after = fs::metadata(&mine).unwrap();
    assert_eq!((after.mode() & 0o7777, after.nlink()), (0o644, 1));
    assert_eq!(after.modified().unwrap(), before);
    project.write("mine.txt", "edited\n");
    assert_eq!(project.read("out/study/it/out.txt"), "mine\n");
    assert_eq!(project.read("out/study/it/tree/a"), "mine\n");
    project.assert_store_is_valid();
}

#[test]
fn modes_of_outputs_are_normalized() {
    let line = "mkdir -p deep/tree/below; echo a > deep/tree/below/a; cp deep/tree/below/a out.txt; \
                chmod 4755 deep/tree/below/a; chmod 0 out.txt deep/tree/below deep/tree deep .";
    let project = stage(line, "outputs = [\"out.txt\", \"deep/tree\"]");
    project.ok(&["run", "study.toml"]);
    assert_eq!(project.read("out/study/it/deep/tree/below/a"), "a\n");
    let mode = |name: &str| fs::metadata(project.path("out/study/it").join(name)).unwrap().mode();
    assert_eq!(mode("deep/tree/below/a") & 0o7000, 0);
    assert_eq!(mode("deep/tree/below") & 0o500, 0o500);
    assert_eq!(mode("out.txt") & 0o400, 0o400);
    assert_eq!(fs::read_dir(project.path("cache/work")).unwrap().count(), 0);
}

#[test]
fn attempts_quote_only_their_own_log() {
    let project = stage("echo no luck; exit 3", &format!("{OUT}\nlimits = {{ retries = 2 }}"));
    expect![[r#"
        error: `it` failed: its program ended with exit code 3
          because the end of its log: no luck"#]]
    .assert_eq(&failure(&project));
    let once = "no luck\nfailed: its program ended with exit code 3\n";
    assert_eq!(project.ok(&["logs", "study.toml", "it"]).stdout, once.repeat(3));
}

#[test]
fn pipe_instead_of_a_file_is_an_error() {
    let project = Project::new();
    let make_pipe = |path: &Path| assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    make_pipe(&project.path("pipe.toml"));
    let refusal = "it is a named pipe, not a file";
    project.fails(2, &["check", "pipe.toml"]).stderr_has(&[refusal]);
    project.write("study.toml", "extends = \"pipe.toml\"\nname = \"study\"\n");
    project.fails(2, &["check", "study.toml"]).stderr_has(&[refusal, "study.toml:1:11"]);
    // A store with a pipe instead of a file.
    let project = stage("echo x > out.txt", OUT);
    project.ok(&["run", "study.toml"]);
    for (name, command) in [("records", "ls"), ("FORMAT", "ls"), ("notes", "run")] {
        let path = project.path("cache").join(name);
        let kept = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        make_pipe(&path);
        // The message depends on the file; the test checks that the command ends.
        project.ablate(&[command, "study.toml"]);
        fs::remove_file(&path).unwrap();
        fs::write(&path, kept).unwrap();
    }
    // A model folder.
    project.write("model.toml", "name = \"model\"\n[stage.base]\nkind = \"base\"\npath = \"./folder\"\n");
    fs::create_dir(project.path("folder")).unwrap();
    make_pipe(&project.path("folder/config.json"));
    let refused = project.fails(2, &["run", "model.toml"]);
    refused.stderr_has(&["folder/config.json` is neither a file nor a folder"]);
}
