//! What a terminal, a shell and a batch system send to a run.

use std::fs;
use std::process::{Child, Command};

use rustix::process::{Pid, Signal, kill_process};

use crate::space::{Space, ignores, until};

/// A stage that runs until the file `go` is there, with a child out of its group.
fn waiting() -> Space {
    let space = Space::new();
    let [pid, child, go] = ["pid", "child", "go"].map(|name| space.path(name).display().to_string());
    space.study(&format!(
        "name = \"study\"\n[stage.it]\nkind = \"command\"\noutputs = [\"out.txt\"]\n\
         run = '''setsid sleep 600 & echo $! > {child}; echo $$ > {pid}; until [ -e {go} ]; do sleep 0.01; done; echo x > out.txt'''\n"
    ));
    space
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// The state of a process in one letter.
fn state(id: &str) -> String {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    stat.rsplit(')').next().unwrap_or_default().split_whitespace().next().unwrap_or_default().to_string()
}

/// Starts a run under a shell that has set a trap.
fn under(space: &Space, trap: &str) -> Child {
    let ablate = space.command(&["run", "study.toml"]);
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{trap}; exec \"$0\" \"$@\"")]).arg(ablate.get_program()).args(ablate.get_args());
    command.current_dir(space.path("")).spawn().unwrap()
}

#[test]
fn a_signal_that_was_ignored_at_the_start_stays_ignored() {
    let space = waiting();
    let mut run = under(&space, "trap '' HUP INT");
    space.until_written("pid");
    send(&run, Signal::HUP);
    send(&run, Signal::INT);
    // Without the trap the same signal stops a run.
    if !ignores(1) {
        let other = waiting();
        let mut stopped = under(&other, ":");
        other.until_written("pid");
        send(&stopped, Signal::HUP);
        assert_eq!(stopped.wait().unwrap().code(), Some(130));
    }
    space.write("go", "");
    assert_eq!(run.wait().unwrap().code(), Some(0));
    assert_eq!(space.read("out/study/it/out.txt"), "x\n");
}

#[test]
fn ctrl_z_stops_the_programs_too_and_they_go_on_with_the_run() {
    let space = waiting();
    let text = space.read("study.toml") + "limits = { time = 600 }\n";
    space.study(&text);
    let mut run = space.start(&["run", "study.toml"]);
    let [program, child] = ["pid", "child"].map(|name| space.until_written(name));
    let engine = run.id().to_string();
    for _ in 0..2 {
        send(&run, Signal::TSTP);
        for id in [&engine, &program, &child] {
            until("all are stopped", &|| state(id) == "T");
        }
        send(&run, Signal::CONT);
        for id in [&engine, &program, &child] {
            until("all go on", &|| state(id) != "T" && !state(id).is_empty());
        }
    }
    space.write("go", "");
    assert_eq!(run.wait().unwrap().code(), Some(0));
    assert_eq!(space.read("out/study/it/out.txt"), "x\n");
}

#[test]
fn time_in_which_a_run_was_stopped_is_not_the_stages() {
    let space = waiting();
    let text = space.read("study.toml") + "limits = { time = 2 }\n";
    space.study(&text);
    let mut run = space.start(&["run", "study.toml"]);
    space.until_written("pid");
    send(&run, Signal::TSTP);
    until("it is stopped", &|| state(&run.id().to_string()) == "T");
    std::thread::sleep(std::time::Duration::from_millis(2200));
    space.write("go", "");
    send(&run, Signal::CONT);
    assert_eq!(run.wait().unwrap().code(), Some(0));
}
