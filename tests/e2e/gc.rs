//! `gc` and `forget`: which results are removed and which stay.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::{Project, chat_response, endpoint};

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
fn gc_keeps_responses_of_an_interrupted_stage() {
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
teacher = {{ api = "openai", url = "{url}", model = "m", retries = 0, concurrency = 1 }}
"#
        ),
    );
    let fails = || assert_ne!(project.ablate(&["run", "study.toml"]).code, Some(0));
    fails();
    assert_eq!(requests.load(Ordering::SeqCst), 4);
    let dry = project.ok(&["gc", "--keep-runs", "0", "--dry-run"]).stdout;
    assert!(dry.contains("kept interrupted stages, for 14 days after their last write"), "{dry}");
    assert!(dry.contains("  rationales (distill): 3 of 6 requests, "), "{dry}");
    assert!(dry.contains(" s of work, last written 0.0 days ago"), "{dry}");
    let freed = project.json(&["gc", "--keep-runs", "0"]);
    assert_eq!(freed["interrupted"], serde_json::json!([]));
    let kept = &freed["resumable"][0];
    assert_eq!((&kept["kind"], &kept["done"], &kept["unit"]), (&"distill".into(), &3.into(), &"requests".into()));
    assert!(kept["bytes"].as_u64().unwrap() > 0);
    project.ok(&["run", "study.toml"]);
    assert_eq!(requests.load(Ordering::SeqCst), 7, "three responses were kept, three are requested again");
    assert_eq!(project.json(&["gc"])["resumable"], serde_json::json!([]));

    // With `--keep-interrupted 0` the next run requests everything again.
    requests.store(0, Ordering::SeqCst);
    project.ok(&["gc", "--dry-run"]);
    project.write("study.toml", project.read("study.toml").replace("model = \"m\"", "model = \"n\""));
    fails();
    let dry = project.ok(&["gc", "--dry-run", "--keep-interrupted", "0"]).stdout;
    assert!(
        dry.contains(
            "would remove interrupted stages, which will start from the beginning:\n  rationales (distill): 3 of 6"
        ),
        "{dry}"
    );
    let printed = project.ok(&["gc", "--keep-interrupted", "0"]).stdout;
    assert!(
        printed.contains(
            "removed interrupted stages, which will start from the beginning:\n  rationales (distill): 3 of 6"
        ),
        "{printed}"
    );
    project.ok(&["run", "study.toml"]);
    assert_eq!(requests.load(Ordering::SeqCst), 4 + 6);
}

/// A command stage.
fn stage(name: &str, line: &str) -> String {
    format!("[stage.{name}]\nkind = \"command\"\nrun = '$RAN {name}; {line}'\noutputs = [\"out.txt\"]\n")
}

fn gc(project: &Project, arguments: &[&str]) -> serde_json::Value {
    project.json(&[&["gc", "--keep-runs", "0"], arguments].concat())
}

#[test]
fn gc_removes_results_that_no_experiment_has() {
    let project = Project::new();
    let axis = |values: &str| format!("[axis.n]\nkey = \"stage.b.dir\"\nvalues = {values}\n");
    let stages = stage("a", "echo a > out.txt") + &stage("b", "echo b > ../out.txt");
    let b = |values: &str| stages.clone() + &axis(values);
    let study = |text: &str| "name = \"study\"\n".to_string() + text;
    project.write_study(&study(&b("[\"one\", \"two\"]")));
    assert_eq!(project.ran(), "a b b");
    assert_eq!(gc(&project, &[])["records"], 0);
    // `--set` does not change the stored experiment.
    project.ok(&["run", "study.toml", "--set", "axis.n.values=[\"one\"]"]);
    assert_eq!(gc(&project, &[])["forgotten"], 0);
    project.write_study(&study(&b("[\"one\"]")));
    project.ran();
    let dry = gc(&project, &["--dry-run"]);
    assert_eq!((&dry["records"], &dry["forgotten"]), (&1.into(), &1.into()));
    assert_eq!(gc(&project, &[])["records"], 1);
    project.write_study(&study(&stage("a", "echo a > out.txt")));
    assert_eq!(project.ran(), "");
    assert_eq!(gc(&project, &[])["records"], 1);
    project.write("other/study.toml", project.read("study.toml").replace("echo a", "echo c"));
    project.ok(&["run", "other/study.toml", "--out", "elsewhere"]);
    assert_eq!(gc(&project, &[])["records"], 0, "each file has its own results");
    std::fs::remove_file(project.path("study.toml")).unwrap();
    let printed = project.ok(&["gc", "--keep-runs", "0"]).stdout;
    assert!(printed.contains("removed 1 records, 1 objects"), "{printed}");
    assert!(printed.contains("forgot 1 instances that are not in their experiment any more"), "{printed}");
    assert_eq!(gc(&project, &[])["records"], 0);
    project.assert_store_is_valid();
}

#[test]
fn two_experiments_may_have_one_name() {
    let project = Project::new();
    for folder in ["one", "other"] {
        project.write_study(&("name = \"study\"\n".to_string() + &stage("a", &format!("echo {folder} > out.txt"))));
        std::fs::create_dir(project.path(folder)).unwrap();
        std::fs::rename(project.path("study.toml"), project.path(&format!("{folder}/study.toml"))).unwrap();
    }
    assert!(!project.ok(&["run", "one/study.toml"]).stderr.contains("warning"));
    let printed = project.ok(&["run", "other/study.toml"]).stderr;
    let warning = "warning: `[ROOT]/one/study.toml` has the same name `study`: the two experiments overwrite each other's links in \
                   `out/study`\nhelp: change one `name`, or use another `--out`";
    assert!(printed.contains(warning), "{printed}");
    assert_eq!(gc(&project, &[])["records"], 0);
    project.take_ran();
    for folder in ["one", "other"] {
        project.ok(&["run", &format!("{folder}/study.toml")]);
        assert_eq!(project.read("out/study/a/out.txt"), format!("{folder}\n"));
    }
    assert_eq!(project.take_ran(), "");
    assert_eq!(project.ablate(&["forget", "study"]).code, Some(2), "the name is ambiguous");
    let printed = project.ok(&["forget", "one/study.toml"]).stdout;
    assert_eq!(printed, "forgot 1 instances and 1 results\n`ablate gc` frees their space\n");
    project.ok(&["run", "other/study.toml"]);
    assert_eq!(project.take_ran(), "");
    project.ok(&["run", "one/study.toml"]);
    assert_eq!(project.take_ran(), "a");
}

#[test]
fn forgotten_results_run_again_and_pins_stay() {
    let project = Project::new();
    project.write_study(
        &("name = \"study\"\n".to_string() + &stage("a", "echo a > out.txt") + &stage("b", "echo b > out.txt")),
    );
    assert_eq!(project.ran(), "a b");
    let error = project.ablate(&["forget", "stduy"]);
    assert_eq!(error.code, Some(2));
    assert_eq!(
        error.stderr,
        "error: no experiment `stduy` has results in this store\n  help: a similar name exists: `study`\n"
    );
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
        let error = project.ablate(&["gc", argument]);
        assert_eq!(error.code, Some(2), "{argument}");
        assert!(error.stderr.contains(accepted), "{argument}: {}", error.stderr);
    }
}

/// Runs the program as a user who is subject to file modes; `None`, with a message, where that is not possible.
fn as_a_user(project: &Project, arguments: &[&str]) -> Option<std::process::Output> {
    let own = project.command(arguments);
    if !rustix::process::geteuid().is_root() {
        return Some({ own }.output().unwrap());
    }
    std::os::unix::fs::chown(project.path("."), Some(65534), Some(65534)).unwrap();
    let mut user = std::process::Command::new("setpriv");
    user.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(own.get_program()).args(arguments);
    user.current_dir(project.path(".")).env("NO_COLOR", "1").stdin(std::process::Stdio::null());
    match user.output() {
        // 126 and 127: another user cannot execute the program or setpriv.
        Ok(output) if !matches!(output.status.code(), Some(126 | 127)) => Some(output),
        Ok(output) => skipped(&String::from_utf8_lossy(&output.stderr)),
        Err(error) => skipped(&error.to_string()),
    }
}

#[allow(clippy::print_stderr, reason = "a skipped test prints the reason")]
fn skipped<T>(why: &str) -> Option<T> {
    eprintln!("skipped, no other user: {}", why.trim());
    None
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
    let user = |arguments: &[&str]| {
        let output = as_a_user(&project, arguments)?;
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        Some((output.status.code(), text))
    };
    let Some((code, printed)) = user(&["run", "study.toml"]) else { return };
    assert_eq!(code, Some(1), "{printed}");
    assert!(printed.contains("2 ran, 1 failed"), "{printed}");
    assert_eq!(project.read("out/study/c/out.txt"), "x\n");
    let (code, printed) = user(&["gc"]).unwrap();
    assert_eq!(code, Some(0), "{printed}");
    assert_eq!(std::fs::read_dir(project.path("cache/work")).map_or(0, Iterator::count), 0);
    // Sealed results are removed too, and damaged ones are quarantined.
    let object = project.object("a/m");
    std::fs::remove_file(object.join("deep/file"))
        .or_else(|_| {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(object.join("deep"), std::fs::Permissions::from_mode(0o755))?;
            std::fs::remove_file(object.join("deep/file"))
        })
        .unwrap();
    let (code, printed) = user(&["verify"]).unwrap();
    assert_eq!(code, Some(2), "{printed}");
    let (code, printed) = user(&["gc", "--max-size", "0"]).unwrap();
    assert_eq!(code, Some(0), "{printed}");
    let (code, printed) = user(&["verify"]).unwrap();
    assert_eq!(code, Some(0), "{printed}");
    assert!(printed.contains("0 records, 0 objects"), "{printed}");
}
