//! What a program reads is what was hashed: its inputs stand in its folder as files of its own.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::space::Space;

/// A study of commands, each with inputs, a line and outputs.
fn study(stages: &[(&str, &str, &str, &str)]) -> String {
    let stage = |(name, inputs, line, outputs): &(&str, &str, &str, &str)| {
        format!(
            "[stage.{name}]\nkind = \"command\"\ninputs = {{ {inputs} }}\nrun = '''$RAN {name}; {line}'''\noutputs = [{outputs}]\n"
        )
    };
    "name = \"study\"\n".to_string() + &stages.iter().map(stage).collect::<String>()
}

fn set_mode(space: &Space, name: &str, mode: u32) {
    fs::set_permissions(space.path(name), Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_script_does_not_find_what_lies_beside_it_and_is_not_declared() {
    let space = Space::new();
    space.write("tools/main.sh", ". \"$(dirname \"$(readlink -f \"$0\")\")/helper.sh\"\n");
    space.write("tools/helper.sh", "echo helped\n");
    space.study(&study(&[("it", "\"main.sh\" = \"tools/main.sh\"", "sh main.sh > out.txt", "\"out.txt\"")]));
    let outcome = space.ablate(&["run", "study.toml"]);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("/helper.sh"), "{}", outcome.stderr);
    // Declared, it is found, and an edit of it counts.
    let both = "\"main.sh\" = \"tools/main.sh\", \"helper.sh\" = \"tools/helper.sh\"";
    space.study(&study(&[("it", both, "sh main.sh > out.txt", "\"out.txt\"")]));
    assert_eq!(space.ran(), "it");
    assert_eq!(space.read("out/study/it/out.txt"), "helped\n");
    space.write("tools/helper.sh", "echo helped again\n");
    assert_eq!(space.ran(), "it");
    assert_eq!(space.read("out/study/it/out.txt"), "helped again\n");
}

#[test]
fn an_undeclared_import_of_python_fails_and_its_caches_count_for_nothing() {
    let space = Space::new();
    if !Command::new("python3").arg("--version").output().is_ok_and(|output| output.status.success()) {
        return skipped("there is no python3");
    }
    space.write("code/main.py", "import helper\nprint(helper.WORD)\n").write("code/helper.py", "WORD = 'one'\n");
    space.study(&study(&[("it", "\"main.py\" = \"code/main.py\"", "python3 main.py > out.txt", "\"out.txt\"")]));
    let outcome = space.ablate(&["run", "study.toml"]);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("No module named 'helper'"), "{}", outcome.stderr);
    space.study(&study(&[("it", "\"code\" = \"./code\"", "python3 code/main.py > out.txt", "\"out.txt\"")]));
    assert_eq!(space.ran(), "it");
    assert_eq!(space.read("out/study/it/out.txt"), "one\n");
    assert!(!space.path("code/__pycache__").exists());
    // The user runs it by hand.
    let mut by_hand = Command::new("python3");
    by_hand.env_remove("PYTHONDONTWRITEBYTECODE").env_remove("PYTHONPYCACHEPREFIX");
    assert!(by_hand.arg(space.path("code/main.py")).output().unwrap().status.success());
    assert!(space.path("code/__pycache__").exists());
    assert_eq!(space.ran(), "");
    space.write("code/helper.py", "WORD = 'two'\n");
    assert_eq!(space.ran(), "it");
    assert_eq!(space.read("out/study/it/out.txt"), "two\n");
}

#[test]
fn a_program_that_writes_to_its_inputs_changes_nobody_elses() {
    let space = Space::new();
    space.write("data/a.txt", "a\n").write("one.txt", "one\n");
    let line =
        "echo more >> d/a.txt; echo x > d/new; mkdir d/deep; echo y > m/new; echo z >> one.txt; echo done > out.txt";
    let see = "(find d m -type f | sort; cat d/a.txt m/a.txt one.txt) > out.txt";
    let inputs = "\"d\" = \"./data\", \"m\" = \"make\", \"one.txt\" = \"./one.txt\"";
    space.study(&study(&[
        ("make", "", "mkdir m; echo made > m/a.txt", "\"m\""),
        ("meddle", inputs, line, "\"out.txt\""),
        ("see", &format!("{inputs}, \"after\" = \"meddle\""), see, "\"out.txt\""),
    ]));
    assert_eq!(space.ran(), "make meddle see");
    assert_eq!(space.read("out/study/see/out.txt"), "d/a.txt\nm/a.txt\na\nmade\none\n");
    assert_eq!((space.read("data/a.txt"), space.read("one.txt")), ("a\n".to_string(), "one\n".to_string()));
    assert!(!space.path("data/new").exists());
    space.is_sound();
    assert_eq!(space.ran(), "");
}

#[test]
fn what_somebody_adds_to_a_folder_of_the_store_is_found_and_taken_out() {
    let space = Space::new();
    space.study(&study(&[
        ("make", "", "mkdir m; echo made > m/a.txt", "\"m\""),
        ("see", "\"m\" = \"make\"", "ls m > out.txt", "\"out.txt\""),
    ]));
    space.ran();
    let tree = space.object("make/m");
    assert_eq!(fs::metadata(&tree).unwrap().permissions().mode() & 0o222, 0, "nobody may add to it");
    set_mode(&space, "out/study/make/m", 0o755);
    fs::write(tree.join("b.txt"), "added").unwrap();
    space.study(&space.read("study.toml").replace("ls m >", "ls m | tee"));
    space.ok(&["run", "study.toml"]);
    assert_eq!(space.read("out/study/see/out.txt"), "a.txt\n");
    let log = space.ok(&["logs", "study.toml", "see"]).stdout;
    assert!(log.contains("b.txt` is not part of the input `inputs.m` and was moved to `quarantine/`"), "{log}");
    set_mode(&space, "out/study/make/m", 0o755);
    fs::write(tree.join("c.txt"), "added").unwrap();
    let told = space.ablate(&["verify"]);
    assert_eq!(told.code, Some(2));
    assert!(told.stdout.contains("c.txt: is not part of the stored folder: it was added later"), "{}", told.stdout);
    space.is_sound();
}

#[test]
fn equal_bytes_with_another_mode_are_another_result_whichever_comes_first() {
    let stages = [
        ("plain", "", "echo 'echo ran' > tool", "\"tool\""),
        ("executable", "", "echo 'echo ran' > tool; chmod u+x tool", "\"tool\""),
        ("use-plain", "\"tool\" = \"plain\"", "./tool > out.txt", "\"out.txt\""),
        ("use-executable", "\"tool\" = \"executable\"", "./tool > out.txt", "\"out.txt\""),
    ];
    for first in ["use-plain", "use-executable"] {
        let space = Space::new();
        space.study(&study(&stages));
        for target in [first, "use-plain", "use-executable"] {
            let outcome = space.ablate(&["run", "study.toml", target]);
            let wanted = if target == "use-plain" { Some(1) } else { Some(0) };
            assert_eq!(outcome.code, wanted, "{target} after {first}: {}", outcome.stderr);
        }
        assert_eq!(space.read("out/study/use-executable/out.txt"), "ran\n");
        space.is_sound();
    }
}

#[test]
fn the_mode_of_an_input_is_a_part_of_it() {
    let space = Space::new();
    space.write("tool", "#!/bin/sh\necho ran\n");
    space.study(&study(&[("it", "\"tool\" = \"./tool\"", "./tool > out.txt", "\"out.txt\"")]));
    assert_eq!(space.ablate(&["run", "study.toml"]).code, Some(1));
    set_mode(&space, "tool", 0o755);
    space.told();
    assert_eq!(space.ran(), "it");
    set_mode(&space, "tool", 0o700);
    assert_eq!(space.ran(), "");
    set_mode(&space, "tool", 0o644);
    let told = space.ok(&["plan", "study.toml"]).stdout;
    assert!(told.contains("1 must run"), "{told}");
}

#[test]
fn folders_without_files_are_left_out_and_said() {
    let space = Space::new();
    fs::create_dir_all(space.path("data/none/deep")).unwrap();
    space.write("data/a.txt", "a\n");
    space.study(&study(&[
        ("make", "\"d\" = \"./data\"", "mkdir -p m/logs; ls d > m/a.txt", "\"m\""),
        ("see", "\"m\" = \"make\"", "(ls m; cat m/a.txt) > out.txt", "\"out.txt\""),
    ]));
    assert_eq!(space.ran(), "make see");
    assert_eq!(space.read("out/study/see/out.txt"), "a.txt\na.txt\n");
    let log = space.ok(&["logs", "study.toml", "make"]).stdout;
    assert_eq!(log, "the empty folder `m/logs` is not part of the output\n");
    fs::remove_dir_all(space.path("data/none")).unwrap();
    assert_eq!(space.ran(), "");
}

#[test]
fn what_is_ignored_is_neither_hashed_nor_seen_and_a_store_inside_is_named() {
    let space = Space::new();
    space.write("data/a.txt", "a\n").write("data/.ablateignore", "*.log\n").write("data/x.log", "1\n");
    std::os::unix::fs::symlink("me@host.1:2", space.path("data/.#a.txt")).unwrap();
    space.study(&study(&[("it", "\"d\" = \"./data\"", "find d -type f > out.txt", "\"out.txt\"")]));
    assert_eq!(space.ran(), "it");
    assert_eq!(space.read("out/study/it/out.txt"), "d/a.txt\n");
    space.write("data/x.log", "2\n").write("data/y.log", "3\n").write("data/.git/HEAD", "ref\n");
    assert_eq!(space.ran(), "");
    // A stage that writes where it should not, into the user's own folder.
    let own = space.path("data").display().to_string();
    let line = format!("mkdir -p {own}/__pycache__; echo x > {own}/__pycache__/a.pyc; echo y > out.txt");
    space.study(&study(&[("it", "\"d\" = \"./data\"", &line, "\"out.txt\"")]));
    assert_eq!(space.ran(), "it");

    let inside = space.ablate(&["run", "study.toml", "--store", "data/cache"]);
    assert_eq!(inside.code, Some(2));
    let named = "`[ROOT]/data/cache` is a store of ablate inside an input";
    assert!(inside.stderr.contains(named), "{}", inside.stderr);
    space.write("data/.ablateignore", "*.log\ncache/\n");
    space.ok(&["run", "study.toml", "--store", "data/cache"]);
}

#[allow(clippy::print_stderr, reason = "a test that is left out says so")]
fn skipped(why: &str) {
    eprintln!("left out: {why}");
}
