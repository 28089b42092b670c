//! What other processes and users can see of a run, and control characters in data.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::{Project, set_mode};

/// Whether a text has no control characters.
fn is_plain(text: &str) -> bool {
    text.chars().all(|character| character == '\n' || character == '\t' || !character.is_control())
}

#[test]
#[cfg(target_os = "linux")]
fn program_cannot_read_parent_environments() {
    let project = Project::with_study(
        r#"[stage.it]
kind    = "command"
run     = '''
{ tr '\0' '\n' < /proc/$PPID/environ; } > parent.txt 2> /dev/null || true
engine=$(cut -d ' ' -f 4 /proc/$PPID/stat)
{ tr '\0' '\n' < /proc/$engine/environ; } > engine.txt 2> /dev/null || true
grep CapEff /proc/self/status > rights.txt
'''
outputs = ["parent.txt", "engine.txt", "rights.txt"]
"#,
    );
    let status = project.command(&["run", "study.toml", "--quiet"]).env("SECRET_OF_THE_SHELL", "x").status().unwrap();
    assert!(status.success());
    assert_eq!(project.read("out/study/it/parent.txt"), "");
    let rights = project.read("out/study/it/rights.txt");
    let rights = u64::from_str_radix(rights.trim().rsplit('\t').next().unwrap(), 16).unwrap();
    // A process with CAP_SYS_PTRACE may read everything.
    if rights & (1 << 19) == 0 {
        assert_eq!(project.read("out/study/it/engine.txt"), "");
    }
}

#[test]
fn store_is_private_and_keeps_changed_modes() {
    let project = Project::with_study(
        "[stage.it]\nkind = \"command\"\nrun = 'echo $VALUE > a.txt'\noutputs = [\"a.txt\"]\nenv = [\"VALUE\"]\n",
    );
    let run = |value: &str| {
        // The usual umask: everyone may read new files.
        let mut shell = std::process::Command::new("/bin/sh");
        shell.arg("-c").arg("umask 022; exec \"$0\" run study.toml --quiet").arg(env!("CARGO_BIN_EXE_ablate"));
        assert!(shell.current_dir(project.path("")).env("VALUE", value).status().unwrap().success());
    };
    let mode = |name: &str| {
        let mode = fs::metadata(project.path("cache").join(name)).unwrap().permissions().mode();
        format!("{name} {:o}", mode & 0o777)
    };
    set_mode(&project.path(""), 0o755);
    run("one");
    let modes = ["records", "notes", "memo", "salt", "runs", "work", "derived", "locks", "objects"].map(mode);
    let expected =
        "records 600, notes 600, memo 600, salt 600, runs 700, work 700, derived 700, locks 700, objects 755";
    assert_eq!(modes.join(", "), expected);
    for name in ["cache/records", "cache/runs"] {
        set_mode(&project.path(name), 0o755);
    }
    run("two");
    project.ok(&["gc"]);
    assert_eq!(["records", "runs"].map(mode).join(", "), "records 755, runs 755");
}

#[test]
fn control_characters_never_reach_the_terminal() {
    let project = Project::new();
    project.write("rows.jsonl", "{\"id\": \"1\", \"image\": \"a\\u001b[2J\\nerror: all is well\\u0007.png\", \"answer\": \"2\", \"answer_type\": \"number\", \"conversations\": [{\"from\": \"human\", \"value\": \"<image>?\"}, {\"from\": \"gpt\", \"value\": \"2\"}]}\n");
    project.write("images/b.png", "");
    project.write_study(
        r#"[stage.items]
kind   = "items"
path   = "rows.jsonl"
images = "images"

[stage.it]
kind    = "command"
run     = '''printf '\033]0;title\007 10%%\r 20%%\nerror: all is well\n' >&2; exit 3'''
outputs = ["a.txt"]
"#,
    );
    let run = project.ablate(&["run", "study.toml"]);
    assert!(is_plain(&run.stderr), "{:?}", run.stderr);
    assert!(!run.stderr.lines().any(|line| line.starts_with("error: all")), "{}", run.stderr);
    run.stderr_has(&["a\\u{1b}[2J", ": \\u{1b}]0;title\\u{7} 10%\n     20%\n    error: all"]);
    // With colors, only the program's own color sequences appear.
    let colored = project.ablate(&["run", "study.toml", "--color", "always"]).stderr;
    let colored = colored.replace("\u{1b}[1;31m", "").replace("\u{1b}[0m", "");
    assert!(is_plain(&colored), "{colored:?}");
    let logs = project.ok(&["logs", "study.toml", "it"]);
    assert!(logs.stdout.starts_with("\\u{1b}]0;title\\u{7} 10%\n 20%\nerror: all is well\n"), "{:?}", logs.stdout);
    let json = project.json(&["logs", "study.toml", "it"]);
    assert!(json["text"].as_str().unwrap().starts_with("\u{1b}]0;title\u{7} 10%\r 20%\n"));
    project.write("study.toml", "[stage.\"a\\u001b[2J\"]\nkind = \"com\\u009bmand\"\n");
    let check = project.ablate(&["check", "study.toml"]);
    assert!(is_plain(&check.stderr) && check.stderr.contains("a\\u{1b}[2J"), "{:?}", check.stderr);
}
