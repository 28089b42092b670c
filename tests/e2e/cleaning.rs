//! `gc` and `forget`: what goes, what stays, and that nothing is taken away that was paid for.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::space::Space;

/// A teacher that answers every request but the fourth, and counts them.
fn teacher() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    // Ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).unwrap() > 0 {}
            let length = head.to_lowercase().split_once("content-length: ").unwrap().1.lines().next().unwrap().parse();
            reader.read_exact(&mut vec![0; length.unwrap()]).unwrap();
            let (status, reply) = if count.fetch_add(1, Ordering::SeqCst) == 3 {
                ("401 Unauthorized", "{}")
            } else {
                (
                    "200 OK",
                    r#"{"choices": [{"message": {"content": "I count.\n\n### Answer: 2"}, "finish_reason": "stop"}]}"#,
                )
            };
            let length = reply.len();
            write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{reply}")
                .unwrap();
        }
    });
    (url, asked)
}

#[test]
fn replies_that_were_paid_for_outlive_gc_until_they_are_given_up_by_a_flag() {
    let space = Space::new();
    let (url, asked) = teacher();
    space.write(
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
    let fails = || assert_ne!(space.ablate(&["run", "study.toml"]).code, Some(0));
    fails();
    assert_eq!(asked.load(Ordering::SeqCst), 4);
    let dry = space.ok(&["gc", "--keep-runs", "0", "--dry-run"]).stdout;
    assert!(dry.contains("kept interrupted stages, for 14 days after their last write"), "{dry}");
    assert!(dry.contains("  rationales (distill): 3 of 6 requests, "), "{dry}");
    assert!(dry.contains(" s of work, last written 0.0 days ago"), "{dry}");
    let freed = space.json(&["gc", "--keep-runs", "0"]);
    assert_eq!(freed["interrupted"], serde_json::json!([]));
    let kept = &freed["resumable"][0];
    assert_eq!((&kept["kind"], &kept["done"], &kept["unit"]), (&"distill".into(), &3.into(), &"requests".into()));
    assert!(kept["bytes"].as_u64().unwrap() > 0);
    space.ok(&["run", "study.toml"]);
    assert_eq!(asked.load(Ordering::SeqCst), 7, "three replies were kept, three were asked for");
    assert_eq!(space.json(&["gc"])["resumable"], serde_json::json!([]));

    // Given up by name: the next run asks for everything.
    asked.store(0, Ordering::SeqCst);
    space.ok(&["gc", "--dry-run"]);
    space.write("study.toml", space.read("study.toml").replace("model = \"m\"", "model = \"n\""));
    fails();
    let dry = space.ok(&["gc", "--dry-run", "--keep-interrupted", "0"]).stdout;
    assert!(
        dry.contains(
            "would remove interrupted stages, which will start from the beginning:\n  rationales (distill): 3 of 6"
        ),
        "{dry}"
    );
    let told = space.ok(&["gc", "--keep-interrupted", "0"]).stdout;
    assert!(
        told.contains(
            "removed interrupted stages, which will start from the beginning:\n  rationales (distill): 3 of 6"
        ),
        "{told}"
    );
    space.ok(&["run", "study.toml"]);
    assert_eq!(asked.load(Ordering::SeqCst), 4 + 6);
}

/// A command stage that writes its own name, once per value of an axis.
fn stage(name: &str, line: &str) -> String {
    format!("[stage.{name}]\nkind = \"command\"\nrun = '$RAN {name}; {line}'\noutputs = [\"out.txt\"]\n")
}

fn gc(space: &Space, arguments: &[&str]) -> serde_json::Value {
    space.json(&[&["gc", "--keep-runs", "0"], arguments].concat())
}

#[test]
fn results_of_removed_stages_axis_values_and_files_are_forgotten() {
    let space = Space::new();
    let axis = |values: &str| format!("[axis.n]\nkey = \"stage.b.dir\"\nvalues = {values}\n");
    let stages = stage("a", "echo a > out.txt") + &stage("b", "echo b > ../out.txt");
    let b = |values: &str| stages.clone() + &axis(values);
    let study = |text: &str| "name = \"study\"\n".to_string() + text;
    space.study(&study(&b("[\"one\", \"two\"]")));
    assert_eq!(space.ran(), "a b b");
    assert_eq!(gc(&space, &[])["records"], 0);
    // A value for this run only forgets nothing.
    space.ok(&["run", "study.toml", "--set", "axis.n.values=[\"one\"]"]);
    assert_eq!(gc(&space, &[])["forgotten"], 0);
    space.study(&study(&b("[\"one\"]")));
    space.ran();
    let dry = gc(&space, &["--dry-run"]);
    assert_eq!((&dry["records"], &dry["forgotten"]), (&1.into(), &1.into()));
    assert_eq!(gc(&space, &[])["records"], 1);
    space.study(&study(&stage("a", "echo a > out.txt")));
    assert_eq!(space.ran(), "");
    assert_eq!(gc(&space, &[])["records"], 1);
    space.write("other/study.toml", space.read("study.toml").replace("echo a", "echo c"));
    space.ok(&["run", "other/study.toml", "--out", "elsewhere"]);
    assert_eq!(gc(&space, &[])["records"], 0, "two files, each with its result");
    std::fs::remove_file(space.path("study.toml")).unwrap();
    let told = space.ok(&["gc", "--keep-runs", "0"]).stdout;
    assert!(told.contains("removed 1 records, 1 objects"), "{told}");
    assert!(told.contains("forgot 1 instances that are not in their experiment any more"), "{told}");
    assert_eq!(gc(&space, &[])["records"], 0);
    space.is_sound();
}

#[test]
fn two_experiments_of_one_name_keep_their_results_and_are_warned_of_their_links() {
    let space = Space::new();
    for folder in ["one", "other"] {
        space.study(&("name = \"study\"\n".to_string() + &stage("a", &format!("echo {folder} > out.txt"))));
        std::fs::create_dir(space.path(folder)).unwrap();
        std::fs::rename(space.path("study.toml"), space.path(&format!("{folder}/study.toml"))).unwrap();
    }
    assert!(!space.ok(&["run", "one/study.toml"]).stderr.contains("warning"));
    let told = space.ok(&["run", "other/study.toml"]).stderr;
    let warning = "warning: `[ROOT]/one/study.toml` has the same name `study`: the two experiments overwrite each other's links in \
                   `out/study`\nhelp: change one `name`, or use another `--out`";
    assert!(told.contains(warning), "{told}");
    assert_eq!(gc(&space, &[])["records"], 0);
    space.told();
    for folder in ["one", "other"] {
        space.ok(&["run", &format!("{folder}/study.toml")]);
        assert_eq!(space.read("out/study/a/out.txt"), format!("{folder}\n"));
    }
    assert_eq!(space.told(), "");
    assert_eq!(space.ablate(&["forget", "study"]).code, Some(2), "it is not said which");
    let told = space.ok(&["forget", "one/study.toml"]).stdout;
    assert_eq!(told, "forgot 1 instances and 1 results\n`ablate gc` frees their space\n");
    space.ok(&["run", "other/study.toml"]);
    assert_eq!(space.told(), "");
    space.ok(&["run", "one/study.toml"]);
    assert_eq!(space.told(), "a");
}

#[test]
fn what_is_forgotten_runs_again_and_pins_stay() {
    let space = Space::new();
    space
        .study(&("name = \"study\"\n".to_string() + &stage("a", "echo a > out.txt") + &stage("b", "echo b > out.txt")));
    assert_eq!(space.ran(), "a b");
    let error = space.ablate(&["forget", "stduy"]);
    assert_eq!(error.code, Some(2));
    assert_eq!(
        error.stderr,
        "error: no experiment `stduy` has results in this store\n  help: a similar name exists: `study`\n"
    );
    space.ok(&["forget", "study", "b"]);
    assert_eq!(space.ran(), "b");
    space.ok(&["pin", "study.toml", "a", "--name", "kept"]);
    let told = space.json(&["forget", "study.toml"]);
    assert_eq!((&told["records"], &told["kept"]), (&1.into(), &1.into()));
    assert_eq!(gc(&space, &[])["objects"], 1);
    assert_eq!(space.ran(), "b");
    // Limits are above everything but pins.
    let freed = space.json(&["gc", "--max-size", "0"]);
    assert_eq!((&freed["records"], &freed["objects"]), (&1.into(), &1.into()));
    assert_eq!(space.ran(), "b");
    assert_eq!(space.json(&["gc", "--max-age", "1"])["records"], 0);
    assert_eq!(space.json(&["gc", "--max-age", "0"])["records"], 1);
}

#[test]
fn gc_says_which_values_its_limits_accept() {
    let space = Space::new();
    let days = "it must be a number of days, at least 0, such as `14` or `0.5`";
    let size = "it must be a number with a unit, such as `500MB` or `20GiB`";
    for (argument, accepted) in [
        ("--keep-interrupted=-1", days),
        ("--max-age=-1", days),
        ("--max-age=soon", days),
        ("--max-age=inf", days),
        ("--max-size=many", size),
    ] {
        let error = space.ablate(&["gc", argument]);
        assert_eq!(error.code, Some(2), "{argument}");
        assert!(error.stderr.contains(accepted), "{argument}: {}", error.stderr);
    }
}

/// The program as a user that modes bind; `None`, said aloud, where that cannot be.
fn as_a_user(space: &Space, arguments: &[&str]) -> Option<std::process::Output> {
    let own = space.command(arguments);
    if !rustix::process::geteuid().is_root() {
        return Some({ own }.output().unwrap());
    }
    std::os::unix::fs::chown(space.path("."), Some(65534), Some(65534)).unwrap();
    let mut user = std::process::Command::new("setpriv");
    user.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(own.get_program()).args(arguments);
    user.current_dir(space.path(".")).env("NO_COLOR", "1").stdin(std::process::Stdio::null());
    match user.output() {
        // 126 and 127: the program, or setpriv's way to it, is closed to others.
        Ok(output) if !matches!(output.status.code(), Some(126 | 127)) => Some(output),
        Ok(output) => left_out(&String::from_utf8_lossy(&output.stderr)),
        Err(error) => left_out(&error.to_string()),
    }
}

#[allow(clippy::print_stderr, reason = "a test that is left out says so")]
fn left_out<T>(why: &str) -> Option<T> {
    eprintln!("left out, for want of another user: {}", why.trim());
    None
}

#[test]
fn folders_that_a_program_closed_are_opened_before_they_are_kept_or_removed() {
    let space = Space::new();
    let line = "mkdir -p m/deep; echo x > m/deep/file; chmod 0 m/deep/file; chmod 0 m/deep; chmod 500 m";
    space.write(
        "study.toml",
        format!(
            "name = \"study\"\n[stage.a]\nkind = \"command\"\nrun = '{line}'\noutputs = [\"m\"]\n\
             [stage.b]\nkind = \"command\"\nrun = '{line}; exit 1'\noutputs = [\"m\"]\n\
             [stage.c]\nkind = \"command\"\ninputs = {{ m = \"a\" }}\nrun = 'cat m/deep/file > out.txt; echo y > m/deep/new'\noutputs = [\"out.txt\"]\n"
        ),
    );
    let user = |arguments: &[&str]| {
        let output = as_a_user(&space, arguments)?;
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        Some((output.status.code(), text))
    };
    let Some((code, told)) = user(&["run", "study.toml"]) else { return };
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("2 ran, 1 failed"), "{told}");
    assert_eq!(space.read("out/study/c/out.txt"), "x\n");
    let (code, told) = user(&["gc"]).unwrap();
    assert_eq!(code, Some(0), "{told}");
    assert_eq!(std::fs::read_dir(space.path("cache/work")).map_or(0, Iterator::count), 0);
    // Sealed results go as well, and damaged ones are set aside.
    let object = space.object("a/m");
    std::fs::remove_file(object.join("deep/file"))
        .or_else(|_| {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(object.join("deep"), std::fs::Permissions::from_mode(0o755))?;
            std::fs::remove_file(object.join("deep/file"))
        })
        .unwrap();
    let (code, told) = user(&["verify"]).unwrap();
    assert_eq!(code, Some(2), "{told}");
    let (code, told) = user(&["gc", "--max-size", "0"]).unwrap();
    assert_eq!(code, Some(0), "{told}");
    let (code, told) = user(&["verify"]).unwrap();
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("0 records, 0 objects"), "{told}");
}
