//! Programs that stop or kill their supervisor, and programs that leave unusual files as outputs.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use expect_test::expect;

use crate::support::{Project, is_alive};

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
    let outcome = project.ablate(&["run", "study.toml"]);
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    let why = |line: &&str| line.starts_with("error") || line.starts_with("  because");
    outcome.stderr.lines().filter(why).collect::<Vec<_>>().join("\n")
}

const OUT: &str = "outputs = [\"out.txt\"]";

#[test]
fn killing_the_supervisor_ends_all_processes() {
    let project = stage("$DAEMON; kill -9 $PPID; sleep 600", OUT);
    expect!["error: `it` failed: the supervisor process of the stage was killed"].assert_eq(&failure(&project));
    assert!(!is_alive(&project.wait_for_file("daemon")));
}

#[test]
fn stopped_supervisor_is_resumed() {
    let project = stage("$DAEMON; kill -STOP $PPID; echo right > out.txt", OUT);
    project.ok(&["run", "study.toml"]);
    assert_eq!(project.read("out/study/it/out.txt"), "right\n");
    assert!(!is_alive(&project.wait_for_file("daemon")));
    let project = stage("$DAEMON; kill -STOP $PPID; sleep 600", &format!("{OUT}\nlimits = {{ time = 0.4 }}"));
    expect!["error: `it` failed: it took longer than its limit of 0.4 s"].assert_eq(&failure(&project));
    assert!(!is_alive(&project.wait_for_file("daemon")));
}

#[test]
fn stopping_the_supervisor_repeatedly_fails() {
    let project = stage("$DAEMON; while :; do kill -STOP $PPID; done", OUT);
    expect!["error: `it` failed: its program keeps stopping the supervisor process of the stage"]
        .assert_eq(&failure(&project));
    assert!(!is_alive(&project.wait_for_file("daemon")));
}

#[test]
fn special_files_as_outputs_are_refused() {
    let typed = "outputs = { \"rows.jsonl\" = \"rows\", \"facts.json\" = \"facts\", \"model\" = \"checkpoint\" }";
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
        error: `it` failed: the output holds `[ROOT]/cache/work/WORK/model/weights`, which is not a plain file
        error: `it` failed: the output `rows.jsonl` is not valid
          because line 1 is longer than 64 MiB"#]]
    .assert_eq(&answers.join("\n"));
}

#[test]
fn hard_linked_output_does_not_change_the_other_file() {
    let project = Project::new();
    let mine = project.path("mine.txt");
    project.write("mine.txt", "mine\n");
    fs::set_permissions(&mine, fs::Permissions::from_mode(0o644)).unwrap();
    let before = fs::metadata(&mine).unwrap().modified().unwrap();
    project.write_study(&format!(
        "name = \"study\"\n[stage.it]\nkind = \"command\"\nrun = 'ln {0} out.txt; mkdir tree; ln {0} tree/a'\noutputs = [\"out.txt\", \"tree\"]\n",
        mine.display()
    ));
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
    assert!(Command::new("mkfifo").arg(project.path("pipe.toml")).status().unwrap().success());
    let printed = project.ablate(&["check", "pipe.toml"]);
    assert_eq!(printed.code, Some(2));
    assert!(printed.stderr.contains("it is a named pipe, not a file"), "{}", printed.stderr);
    project.write("study.toml", "extends = \"pipe.toml\"\nname = \"study\"\n");
    let printed = project.ablate(&["check", "study.toml"]);
    assert_eq!(printed.code, Some(2));
    assert!(printed.stderr.contains("it is a named pipe, not a file"), "{}", printed.stderr);
    assert!(printed.stderr.contains("study.toml:1:11"), "{}", printed.stderr);
    // A store with a pipe instead of a file.
    let project = stage("echo x > out.txt", OUT);
    project.ok(&["run", "study.toml"]);
    for (name, arguments) in
        [("records", &["ls", "study.toml"][..]), ("FORMAT", &["ls", "study.toml"]), ("notes", &["run", "study.toml"])]
    {
        let path = project.path("cache").join(name);
        let kept = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        // The message depends on the file; the test checks that the command ends.
        project.ablate(arguments);
        fs::remove_file(&path).unwrap();
        fs::write(&path, kept).unwrap();
    }
    // A model folder.
    project.write("model.toml", "name = \"model\"\n[stage.base]\nkind = \"base\"\npath = \"./folder\"\n");
    fs::create_dir(project.path("folder")).unwrap();
    assert!(Command::new("mkfifo").arg(project.path("folder/config.json")).status().unwrap().success());
    let printed = project.ablate(&["run", "model.toml"]);
    assert_eq!(printed.code, Some(2), "{}", printed.stderr);
    assert!(printed.stderr.contains("folder/config.json` is neither a file nor a folder"), "{}", printed.stderr);
}
