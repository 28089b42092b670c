//! Programs that stop or kill what watches over them, and that leave strange things where their outputs should be.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use expect_test::expect;

use crate::space::{Space, lives};

/// A space with one stage `it` that runs a line, and that may leave a daemon, whose process is written to `daemon`.
fn stage(line: &str, more: &str) -> Space {
    let space = Space::new();
    let daemon = space.path("daemon").display().to_string();
    let line = line.replace(
        "$DAEMON",
        &format!(
            "(setsid sh -c \"echo \\$\\$ > {daemon}; trap : TERM; while :; do sleep 1; done\" &); \
             until [ -s {daemon} ]; do sleep 0.01; done"
        ),
    );
    space.study(&format!("name = \"study\"\n[stage.it]\nkind = \"command\"\nrun = '''{line}'''\n{more}\n"));
    space
}

/// The lines of a run that must fail which say why.
fn failure(space: &Space) -> String {
    let outcome = space.ablate(&["run", "study.toml"]);
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    let why = |line: &&str| line.starts_with("error") || line.starts_with("  because");
    outcome.stderr.lines().filter(why).collect::<Vec<_>>().join("\n")
}

const OUT: &str = "outputs = [\"out.txt\"]";

#[test]
fn a_program_that_kills_its_supervisor_dies_with_all_that_it_left() {
    let space = stage("$DAEMON; kill -9 $PPID; sleep 600", OUT);
    expect!["error: `it` failed: the supervisor process of the stage was killed"].assert_eq(&failure(&space));
    assert!(!lives(&space.until_written("daemon")));
}

#[test]
fn a_supervisor_that_was_stopped_once_goes_on() {
    let space = stage("$DAEMON; kill -STOP $PPID; echo right > out.txt", OUT);
    space.ok(&["run", "study.toml"]);
    assert_eq!(space.read("out/study/it/out.txt"), "right\n");
    assert!(!lives(&space.until_written("daemon")));
    let space = stage("$DAEMON; kill -STOP $PPID; sleep 600", &format!("{OUT}\nlimits = {{ time = 0.4 }}"));
    expect!["error: `it` failed: it took longer than its limit of 0.4 s"].assert_eq(&failure(&space));
    assert!(!lives(&space.until_written("daemon")));
}

#[test]
fn a_program_that_stops_its_supervisor_again_and_again_is_ended() {
    let space = stage("$DAEMON; while :; do kill -STOP $PPID; done", OUT);
    expect!["error: `it` failed: its program keeps stopping the supervisor process of the stage"]
        .assert_eq(&failure(&space));
    assert!(!lives(&space.until_written("daemon")));
}

#[test]
fn outputs_that_are_no_plain_files_are_refused_and_never_opened() {
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
        let space = stage(&format!("{}{line}", rest(name)), typed);
        let told = failure(&space);
        // The folder of the program has a name of its own each time.
        let work = told.find("[ROOT]/cache/work/").map(|at| told[at..].split('/').nth(3).unwrap().to_string());
        answers.push(told.replace(&work.unwrap_or("?".to_string()), "WORK"));
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
fn an_output_that_is_a_hard_link_leaves_the_other_file_as_it_was() {
    let space = Space::new();
    let mine = space.path("mine.txt");
    space.write("mine.txt", "mine\n");
    fs::set_permissions(&mine, fs::Permissions::from_mode(0o644)).unwrap();
    let before = fs::metadata(&mine).unwrap().modified().unwrap();
    space.study(&format!(
        "name = \"study\"\n[stage.it]\nkind = \"command\"\nrun = 'ln {0} out.txt; mkdir tree; ln {0} tree/a'\noutputs = [\"out.txt\", \"tree\"]\n",
        mine.display()
    ));
    space.ok(&["run", "study.toml"]);
    let after = fs::metadata(&mine).unwrap();
    assert_eq!((after.mode() & 0o7777, after.nlink()), (0o644, 1));
    assert_eq!(after.modified().unwrap(), before);
    space.write("mine.txt", "edited\n");
    assert_eq!(space.read("out/study/it/out.txt"), "mine\n");
    assert_eq!(space.read("out/study/it/tree/a"), "mine\n");
    space.is_sound();
}

#[test]
fn modes_that_nobody_can_read_or_that_lend_rights_do_not_enter_the_store() {
    let line = "mkdir -p deep/tree/below; echo a > deep/tree/below/a; cp deep/tree/below/a out.txt; \
                chmod 4755 deep/tree/below/a; chmod 0 out.txt deep/tree/below deep/tree deep .";
    let space = stage(line, "outputs = [\"out.txt\", \"deep/tree\"]");
    space.ok(&["run", "study.toml"]);
    assert_eq!(space.read("out/study/it/deep/tree/below/a"), "a\n");
    let mode = |name: &str| fs::metadata(space.path("out/study/it").join(name)).unwrap().mode();
    assert_eq!(mode("deep/tree/below/a") & 0o7000, 0);
    assert_eq!(mode("deep/tree/below") & 0o500, 0o500);
    assert_eq!(mode("out.txt") & 0o400, 0o400);
    assert_eq!(fs::read_dir(space.path("cache/work")).unwrap().count(), 0);
}

#[test]
fn attempts_do_not_quote_each_other_in_the_log() {
    let space = stage("echo no luck; exit 3", &format!("{OUT}\nlimits = {{ retries = 2 }}"));
    expect![[r#"
        error: `it` failed: its program ended with exit code 3
          because the end of its log: no luck"#]]
    .assert_eq(&failure(&space));
    let once = "no luck\nfailed: its program ended with exit code 3\n";
    assert_eq!(space.ok(&["logs", "study.toml", "it"]).stdout, once.repeat(3));
}

#[test]
fn a_pipe_in_the_place_of_a_file_is_an_error_at_its_place() {
    let space = Space::new();
    assert!(Command::new("mkfifo").arg(space.path("pipe.toml")).status().unwrap().success());
    let told = space.ablate(&["check", "pipe.toml"]);
    assert_eq!(told.code, Some(2));
    assert!(told.stderr.contains("it is a named pipe, not a file"), "{}", told.stderr);
    space.write("study.toml", "extends = \"pipe.toml\"\nname = \"study\"\n");
    let told = space.ablate(&["check", "study.toml"]);
    assert_eq!(told.code, Some(2));
    assert!(told.stderr.contains("it is a named pipe, not a file"), "{}", told.stderr);
    assert!(told.stderr.contains("study.toml:1:11"), "{}", told.stderr);
    // A store of which a file was replaced.
    let space = stage("echo x > out.txt", OUT);
    space.ok(&["run", "study.toml"]);
    for (name, arguments) in
        [("records", &["ls", "study.toml"][..]), ("FORMAT", &["ls", "study.toml"]), ("notes", &["run", "study.toml"])]
    {
        let path = space.path("cache").join(name);
        let kept = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        // What it says depends on the file; that it ends is the point.
        space.ablate(arguments);
        fs::remove_file(&path).unwrap();
        fs::write(&path, kept).unwrap();
    }
    // A folder of a model.
    space.write("model.toml", "name = \"model\"\n[stage.base]\nkind = \"base\"\npath = \"./folder\"\n");
    fs::create_dir(space.path("folder")).unwrap();
    assert!(Command::new("mkfifo").arg(space.path("folder/config.json")).status().unwrap().success());
    let told = space.ablate(&["run", "model.toml"]);
    assert_eq!(told.code, Some(2), "{}", told.stderr);
    assert!(told.stderr.contains("folder/config.json` is neither a file nor a folder"), "{}", told.stderr);
}
