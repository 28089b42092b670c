//! `gc` and `forget`: which results are removed and which stay.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::{
    Outcome, Project, assert_contains, chat_response, command_stage, command_stages, endpoint, set_mode, skipped,
};

/// A teacher that answers every request except the fourth, and the number of its requests.
fn teacher() -> (String, Arc<AtomicUsize>) {
    let requests = Arc::new(AtomicUsize::new(0));
    let count = requests.clone();
    let (url, _thread) = endpoint(usize::MAX, move |_| match count.fetch_add(1, Ordering::SeqCst) {
        3 => ("401 Unauthorized", "{}".to_string()),
        _ => chat_response("I count.\n\n### Answer: 2"),
    });
    (url, requests)
}

#[test]
fn gc_keeps_replies_of_an_interrupted_stage() {
    let project = Project::new();
    let (url, requests) = teacher();
    project.write(
        "study.toml",
        format!(
            r#"
[stage.questions]
kind = "items"
synthetic = {{ datasets = ["count"], split = "test", count = 6 }}

[stage.rationales]
kind = "distill"
items = "questions"
keep = "all"
teacher = {{ api = "openai", url = "{url}", model = "m", concurrency = 1 }}
"#
        ),
    );
    assert_ne!(project.ablate(&["run", "study.toml"]).code, Some(0));
    assert_eq!(requests.load(Ordering::SeqCst), 4);
    gc(&project, &["--keep-interrupted", "0"]);
    project.ok(&["run", "study.toml"]);
    assert_eq!(requests.load(Ordering::SeqCst), 7, "three replies were kept, three are requested again");
}

/// A command stage that writes its name to a file.
fn stage(name: &str, file: &str) -> String {
    command_stage(name, "", &format!("echo {name} > {file}"), "'out.txt'")
}

fn gc(project: &Project, arguments: &[&str]) -> serde_json::Value {
    project.json(&[&["gc", "--keep-runs", "0"], arguments].concat())
}

#[test]
fn gc_removes_results_that_no_experiment_has() {
    let project = Project::new();
    let a = "name = 'study'\n".to_string() + &stage("a", "out.txt");
    let b = stage("b", "../out.txt");
    let study = |values: &str| format!("{a}{b}[axis.n]\nkey = 'stage.b.dir'\nvalues = [{values}]\n");
    project.write_study(&study("'one', 'two'"));
    assert_eq!(project.ran(), "a b b");
    assert_eq!(gc(&project, &[])["records"], 0);
    // `--set` does not change the stored experiment.
    project.ok(&["run", "study.toml", "--set", "axis.n.values=[\"one\"]"]);
    assert_eq!(gc(&project, &[])["forgotten"], 0);
    project.write_study(&study("'one'"));
    project.ran();
    let dry = gc(&project, &["--dry-run"]);
    assert_eq!((&dry["records"], &dry["forgotten"]), (&1.into(), &1.into()));
    assert_eq!(gc(&project, &[])["records"], 1);
    project.write_study(&a);
    assert_eq!(project.ran(), "");
    assert_eq!(gc(&project, &[])["records"], 1);
    project.write("other/study.toml", project.read("study.toml").replace("echo a", "echo c"));
    project.ok(&["run", "other/study.toml", "--out", "elsewhere"]);
    assert_eq!(gc(&project, &[])["records"], 0, "each file has its own results");
    std::fs::remove_file(project.path("study.toml")).unwrap();
    let printed = project.ok(&["gc", "--keep-runs", "0"]).stdout;
    let expected = ["removed 1 records, 1 objects", "forgot 1 instances that are not in their experiment any more"];
    assert_contains(&printed, &expected);
    assert_eq!(gc(&project, &[])["records"], 0);
    project.assert_store_is_valid();
}

#[test]
fn two_experiments_may_have_one_name() {
    let project = Project::new();
    for folder in ["one", "other"] {
        project.write_study(&command_stages(&[("a", "", &format!("echo {folder} > out.txt"), "'out.txt'")]));
        std::fs::create_dir(project.path(folder)).unwrap();
        std::fs::rename(project.path("study.toml"), project.path(folder).join("study.toml")).unwrap();
    }
    assert!(!project.ok(&["run", "one/study.toml"]).stderr.contains("warning"));
    let warning = "warning: `[ROOT]/one/study.toml` has the same name `study`: the two experiments overwrite each other's links in \
                   `out/study`\nhelp: change one `name`, or use another `--out`";
    project.ok(&["run", "other/study.toml"]).stderr_has(&[warning]);
    assert_eq!(gc(&project, &[])["records"], 0);
    project.take_ran();
    for folder in ["one", "other"] {
        project.ok(&["run", &format!("{folder}/study.toml")]);
        assert_eq!(project.read("out/study/a/out.txt"), format!("{folder}\n"));
    }
    assert_eq!(project.take_ran(), "");
    // The name is ambiguous.
    project.fails(2, &["forget", "study"]);
    let printed = project.ok(&["forget", "one/study.toml"]).stdout;
    assert_eq!(printed, "forgot 1 instances and 1 results\n`ablate gc` frees their space\n");
    project.ok(&["run", "other/study.toml"]);
    assert_eq!(project.take_ran(), "");
    project.ok(&["run", "one/study.toml"]);
    assert_eq!(project.take_ran(), "a");
}

#[test]
fn forgotten_results_run_again_and_pins_stay() {
    let project = Project::with_study(&command_stages(&[
        ("a", "", "echo a > out.txt", "'out.txt'"),
        ("b", "", "echo b > out.txt", "'out.txt'"),
    ]));
    assert_eq!(project.ran(), "a b");
    let error = "error: no experiment `stduy` has results in this store\n  help: a similar name exists: `study`\n";
    assert_eq!(project.fails(2, &["forget", "stduy"]).stderr, error);
    project.ok(&["forget", "study", "b"]);
    assert_eq!(project.ran(), "b");
    project.ok(&["pin", "study.toml", "a", "--name", "kept"]);
    let printed = project.json(&["forget", "study.toml"]);
    assert_eq!((&printed["records"], &printed["kept"]), (&1.into(), &1.into()));
    assert_eq!(gc(&project, &[])["objects"], 1);
    assert_eq!(project.ran(), "b");
    // Limits override everything except pins.
    let freed = project.json(&["gc", "--max-size", "0"]);
    assert_eq!((&freed["records"], &freed["objects"]), (&1.into(), &1.into()));
    assert_eq!(project.ran(), "b");
    assert_eq!(project.json(&["gc", "--max-age", "1"])["records"], 0);
    assert_eq!(project.json(&["gc", "--max-age", "0"])["records"], 1);
}

#[test]
fn gc_states_the_accepted_values_of_its_limits() {
    let project = Project::new();
    let days = "it must be a number of days, at least 0, such as `14` or `0.5`";
    let size = "it must be a number with a unit, such as `500MB` or `20GiB`";
    for (argument, accepted) in [
        ("--keep-interrupted=-1", days),
        ("--max-age=-1", days),
        ("--max-age=soon", days),
        ("--max-age=inf", days),
        ("--max-size=many", size),
    ] {
        project.fails(2, &["gc", argument]).stderr_has(&[accepted]);
    }
}

/// Runs the program as a user who is subject to file modes; `None`, with a message, where that is not possible.
fn as_a_user(project: &Project, arguments: &[&str]) -> Option<Outcome> {
    let own = project.command(arguments);
    if !rustix::process::geteuid().is_root() {
        return Some(project.ablate(arguments));
    }
    std::os::unix::fs::chown(project.path("."), Some(65534), Some(65534)).unwrap();
    let mut user = std::process::Command::new("setpriv");
    user.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(own.get_program()).args(arguments);
    user.current_dir(project.path(".")).env("NO_COLOR", "1").stdin(std::process::Stdio::null());
    if let Err(error) = std::process::Command::new("setpriv").arg("--version").output() {
        return skipped(&error.to_string());
    }
    let outcome = project.finish(&mut user);
    // 126 and 127: another user cannot execute the program or setpriv.
    if matches!(outcome.code, Some(126 | 127)) { skipped(&outcome.stderr) } else { Some(outcome) }
}

#[test]
fn gc_removes_folders_without_permissions() {
    let project = Project::new();
    let line = "mkdir -p m/deep; echo x > m/deep/file; chmod 0 m/deep/file; chmod 0 m/deep; chmod 500 m";
    project.write(
        "study.toml",
        format!(
            "name = \"study\"\n[stage.a]\nkind = \"command\"\nrun = '{line}'\noutputs = [\"m\"]\n\
             [stage.b]\nkind = \"command\"\nrun = '{line}; exit 1'\noutputs = [\"m\"]\n\
             [stage.c]\nkind = \"command\"\ninputs = {{ m = \"a\" }}\nrun = 'cat m/deep/file > out.txt; echo y > m/deep/new'\noutputs = [\"out.txt\"]\n"
        ),
    );
    let Some(outcome) = as_a_user(&project, &["run", "study.toml"]) else { return };
    outcome.exited(1).stderr_has(&["2 ran, 1 failed"]);
    assert_eq!(project.read("out/study/c/out.txt"), "x\n");
    let user = |code: i32, arguments: &[&str]| as_a_user(&project, arguments).unwrap().exited(code);
    user(0, &["gc"]);
    assert_eq!(std::fs::read_dir(project.path("cache/work")).map_or(0, Iterator::count), 0);
    // Sealed results are removed too, and damaged ones are quarantined.
    let object = project.object("a/m");
    set_mode(&object.join("deep"), 0o755);
    std::fs::remove_file(object.join("deep/file")).unwrap();
    set_mode(&object.join("deep"), 0o555);
    user(2, &["verify"]);
    user(0, &["gc", "--max-size", "0"]);
    assert_contains(&user(0, &["verify"]).stdout, &["0 records, 0 objects"]);
}
