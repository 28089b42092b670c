//! What other processes and other users see of a run, and what data may say to the terminal.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::space::Space;

/// Whether a terminal would obey any character of a text.
fn is_plain(text: &str) -> bool {
    text.chars().all(|character| character == '\n' || character == '\t' || !character.is_control())
}

#[test]
#[cfg(target_os = "linux")]
fn a_program_reads_no_environment_of_its_parents() {
    let space = Space::new();
    space.study(
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
    let status = space.command(&["run", "study.toml", "--quiet"]).env("SECRET_OF_THE_SHELL", "x").status().unwrap();
    assert!(status.success());
    assert_eq!(space.read("out/study/it/parent.txt"), "");
    let rights = space.read("out/study/it/rights.txt");
    let rights = u64::from_str_radix(rights.trim().rsplit('\t').next().unwrap(), 16).unwrap();
    // CAP_SYS_PTRACE: nothing is closed to who may trace any process.
    if rights & (1 << 19) == 0 {
        assert_eq!(space.read("out/study/it/engine.txt"), "");
    }
}

#[test]
fn a_store_is_its_owners_and_what_was_opened_stays_open() {
    let space = Space::new();
    space.study(
        "[stage.it]\nkind = \"command\"\nrun = 'echo $VALUE > a.txt'\noutputs = [\"a.txt\"]\nenv = [\"VALUE\"]\n",
    );
    let run = |value: &str| {
        // As most systems have it: everybody may read what is made.
        let mut shell = std::process::Command::new("/bin/sh");
        shell.arg("-c").arg("umask 022; exec \"$0\" run study.toml --quiet").arg(env!("CARGO_BIN_EXE_ablate"));
        assert!(shell.current_dir(space.path("")).env("VALUE", value).status().unwrap().success());
    };
    let mode = |name: &str| {
        let mode = fs::metadata(space.path("cache").join(name)).unwrap().permissions().mode();
        format!("{name} {:o}", mode & 0o777)
    };
    fs::set_permissions(space.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    run("one");
    let modes = ["records", "notes", "memo", "salt", "runs", "work", "derived", "locks", "objects"].map(mode);
    let expected =
        "records 600, notes 600, memo 600, salt 600, runs 700, work 700, derived 700, locks 700, objects 755";
    assert_eq!(modes.join(", "), expected);
    for name in ["records", "runs"] {
        fs::set_permissions(space.path("cache").join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    run("two");
    space.ok(&["gc"]);
    assert_eq!(["records", "runs"].map(mode).join(", "), "records 755, runs 755");
}

#[test]
fn data_and_programs_do_not_speak_to_the_terminal() {
    let space = Space::new();
    space.write("rows.jsonl", "{\"id\": \"1\", \"image\": \"a\\u001b[2J\\nerror: all is well\\u0007.png\", \"answer\": \"2\", \"answer_type\": \"number\", \"conversations\": [{\"from\": \"human\", \"value\": \"<image>?\"}, {\"from\": \"gpt\", \"value\": \"2\"}]}\n");
    space.write("images/b.png", "");
    space.study(
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
    let run = space.ablate(&["run", "study.toml"]);
    assert!(is_plain(&run.stderr), "{:?}", run.stderr);
    assert!(!run.stderr.lines().any(|line| line.starts_with("error: all")), "{}", run.stderr);
    assert!(
        run.stderr.contains("a\\u{1b}[2J")
            && run.stderr.contains(": \\u{1b}]0;title\\u{7} 10%\n     20%\n    error: all"),
        "{}",
        run.stderr
    );
    // With colors only ours are there.
    let colored = space
        .ablate(&["run", "study.toml", "--color", "always"])
        .stderr
        .replace("\u{1b}[1;31m", "")
        .replace("\u{1b}[0m", "");
    assert!(is_plain(&colored), "{colored:?}");
    let logs = space.ok(&["logs", "study.toml", "it"]);
    assert!(logs.stdout.starts_with("\\u{1b}]0;title\\u{7} 10%\n 20%\nerror: all is well\n"), "{:?}", logs.stdout);
    let json = space.json(&["logs", "study.toml", "it"]);
    assert!(json["text"].as_str().unwrap().starts_with("\u{1b}]0;title\u{7} 10%\r 20%\n"));
    space.write("study.toml", "[stage.\"a\\u001b[2J\"]\nkind = \"com\\u009bmand\"\n");
    let check = space.ablate(&["check", "study.toml"]);
    assert!(is_plain(&check.stderr) && check.stderr.contains("a\\u{1b}[2J"), "{:?}", check.stderr);
}
