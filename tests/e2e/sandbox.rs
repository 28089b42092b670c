//! Sandboxes: a program gets its own copies of exactly the inputs that were hashed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::support::{Project, assert_contains, command_stages, set_mode, skipped};

#[test]
fn undeclared_script_is_not_found() {
    let project = Project::new();
    project.write("tools/main.sh", ". \"$(dirname \"$(readlink -f \"$0\")\")/helper.sh\"\n");
    project.write("tools/helper.sh", "echo helped\n");
    project.write_study(&command_stages(&[("it", "'main.sh' = 'tools/main.sh'", "sh main.sh > out.txt", "'out.txt'")]));
    project.fails(1, &["run", "study.toml"]).stderr_has(&["/helper.sh"]);
    // A declared script is found, and an edit of it reruns the stage.
    let both = "'main.sh' = 'tools/main.sh', 'helper.sh' = 'tools/helper.sh'";
    project.write_study(&command_stages(&[("it", both, "sh main.sh > out.txt", "'out.txt'")]));
    assert_eq!(project.ran(), "it");
    assert_eq!(project.read("out/study/it/out.txt"), "helped\n");
    project.write("tools/helper.sh", "echo helped again\n");
    assert_eq!(project.ran(), "it");
    assert_eq!(project.read("out/study/it/out.txt"), "helped again\n");
}

#[test]
fn python_caches_are_ignored() {
    let project = Project::new();
    if !Command::new("python3").arg("--version").output().is_ok_and(|output| output.status.success()) {
        skipped::<()>("there is no python3");
        return;
    }
    project.write("code/main.py", "import helper\nprint(helper.WORD)\n").write("code/helper.py", "WORD = 'one'\n");
    project.write_study(&command_stages(&[(
        "it",
        "'main.py' = 'code/main.py'",
        "python3 main.py > out.txt",
        "'out.txt'",
    )]));
    project.fails(1, &["run", "study.toml"]).stderr_has(&["No module named 'helper'"]);
    project.write_study(&command_stages(&[("it", "'code' = './code'", "python3 code/main.py > out.txt", "'out.txt'")]));
    assert_eq!(project.ran(), "it");
    assert_eq!(project.read("out/study/it/out.txt"), "one\n");
    assert!(!project.path("code/__pycache__").exists());
    // The user runs the script manually.
    let mut by_hand = Command::new("python3");
    by_hand.env_remove("PYTHONDONTWRITEBYTECODE").env_remove("PYTHONPYCACHEPREFIX");
    assert!(by_hand.arg(project.path("code/main.py")).output().unwrap().status.success());
    assert!(project.path("code/__pycache__").exists());
    assert_eq!(project.ran(), "");
    project.write("code/helper.py", "WORD = 'two'\n");
    assert_eq!(project.ran(), "it");
    assert_eq!(project.read("out/study/it/out.txt"), "two\n");
}

#[test]
fn writes_to_inputs_stay_in_the_sandbox() {
    let project = Project::new();
    project.write("data/a.txt", "a\n").write("one.txt", "one\n");
    let line =
        "echo more >> d/a.txt; echo x > d/new; mkdir d/deep; echo y > m/new; echo z >> one.txt; echo done > out.txt";
    let see = "(find d m -type f | sort; cat d/a.txt m/a.txt one.txt) > out.txt";
    let inputs = "'d' = './data', 'm' = 'make', 'one.txt' = './one.txt'";
    project.write_study(&command_stages(&[
        ("make", "", "mkdir m; echo made > m/a.txt", "'m'"),
        ("meddle", inputs, line, "'out.txt'"),
        ("see", &format!("{inputs}, 'after' = 'meddle'"), see, "'out.txt'"),
    ]));
    assert_eq!(project.ran(), "make meddle see");
    assert_eq!(project.read("out/study/see/out.txt"), "d/a.txt\nm/a.txt\na\nmade\none\n");
    assert_eq!((project.read("data/a.txt"), project.read("one.txt")), ("a\n".to_string(), "one\n".to_string()));
    assert!(!project.path("data/new").exists());
    project.assert_store_is_valid();
    assert_eq!(project.ran(), "");
}

#[test]
fn files_added_to_a_stored_folder_are_quarantined() {
    let project = Project::with_study(&command_stages(&[
        ("make", "", "mkdir m; echo made > m/a.txt", "'m'"),
        ("see", "'m' = 'make'", "ls m > out.txt", "'out.txt'"),
    ]));
    project.ran();
    let tree = project.object("make/m");
    assert_eq!(fs::metadata(&tree).unwrap().permissions().mode() & 0o222, 0, "the folder is read-only");
    set_mode(&tree, 0o755);
    fs::write(tree.join("b.txt"), "added").unwrap();
    project.edit("study.toml", "ls m >", "ls m | tee");
    project.ok(&["run", "study.toml"]);
    assert_eq!(project.read("out/study/see/out.txt"), "a.txt\n");
    let log = project.ok(&["logs", "study.toml", "see"]).stdout;
    assert_contains(&log, &["b.txt` is not part of the input `inputs.m` and was moved to `quarantine/`"]);
    set_mode(&tree, 0o755);
    fs::write(tree.join("c.txt"), "added").unwrap();
    let printed = project.fails(2, &["verify"]).stdout;
    assert_contains(&printed, &["c.txt: is not part of the stored folder: it was added later"]);
    project.assert_store_is_valid();
}

#[test]
fn executable_bit_of_outputs_counts() {
    let stages = [
        ("plain", "", "echo 'echo ran' > tool", "'tool'"),
        ("executable", "", "echo 'echo ran' > tool; chmod u+x tool", "'tool'"),
        ("use-plain", "'tool' = 'plain'", "./tool > out.txt", "'out.txt'"),
        ("use-executable", "'tool' = 'executable'", "./tool > out.txt", "'out.txt'"),
    ];
    for first in ["use-plain", "use-executable"] {
        let project = Project::with_study(&command_stages(&stages));
        for target in [first, "use-plain", "use-executable"] {
            project.ablate(&["run", "study.toml", target]).exited(i32::from(target == "use-plain"));
        }
        assert_eq!(project.read("out/study/use-executable/out.txt"), "ran\n");
        project.assert_store_is_valid();
    }
}

#[test]
fn executable_bit_of_inputs_counts() {
    let project = Project::new();
    project.write("tool", "#!/bin/sh\necho ran\n");
    project.write_study(&command_stages(&[("it", "'tool' = './tool'", "./tool > out.txt", "'out.txt'")]));
    project.fails(1, &["run", "study.toml"]);
    set_mode(&project.path("tool"), 0o755);
    project.take_ran();
    assert_eq!(project.ran(), "it");
    set_mode(&project.path("tool"), 0o700);
    assert_eq!(project.ran(), "");
    set_mode(&project.path("tool"), 0o644);
    assert_contains(&project.ok(&["plan", "study.toml"]).stdout, &["1 must run"]);
}

#[test]
fn empty_folders_are_left_out() {
    let project = Project::new();
    fs::create_dir_all(project.path("data/none/deep")).unwrap();
    project.write("data/a.txt", "a\n");
    project.write_study(&command_stages(&[
        ("make", "'d' = './data'", "mkdir -p m/logs; ls d > m/a.txt", "'m'"),
        ("see", "'m' = 'make'", "(ls m; cat m/a.txt) > out.txt", "'out.txt'"),
    ]));
    assert_eq!(project.ran(), "make see");
    assert_eq!(project.read("out/study/see/out.txt"), "a.txt\na.txt\n");
    let log = project.ok(&["logs", "study.toml", "make"]).stdout;
    assert_eq!(log, "the empty folder `m/logs` is not part of the output\n");
    fs::remove_dir_all(project.path("data/none")).unwrap();
    assert_eq!(project.ran(), "");
}

#[test]
fn ignored_files_are_neither_hashed_nor_visible() {
    let project = Project::new();
    project.write("data/a.txt", "a\n").write("data/.ablateignore", "*.log\n").write("data/x.log", "1\n");
    std::os::unix::fs::symlink("me@host.1:2", project.path("data/.#a.txt")).unwrap();
    project.write_study(&command_stages(&[("it", "'d' = './data'", "find d -type f > out.txt", "'out.txt'")]));
    assert_eq!(project.ran(), "it");
    assert_eq!(project.read("out/study/it/out.txt"), "d/a.txt\n");
    project.write("data/x.log", "2\n").write("data/y.log", "3\n").write("data/.git/HEAD", "ref\n");
    assert_eq!(project.ran(), "");
    // A stage that writes into the user's own folder.
    let own = project.path("data").display().to_string();
    let line = format!("mkdir -p {own}/__pycache__; echo x > {own}/__pycache__/a.pyc; echo y > out.txt");
    project.write_study(&command_stages(&[("it", "'d' = './data'", &line, "'out.txt'")]));
    assert_eq!(project.ran(), "it");

    let inside = project.fails(2, &["run", "study.toml", "--store", "data/cache"]);
    inside.stderr_has(&["`[ROOT]/data/cache` is a store of ablate inside an input"]);
    project.write("data/.ablateignore", "*.log\ncache/\n");
    project.ok(&["run", "study.toml", "--store", "data/cache"]);
}
