//! Signals that a terminal, a shell or a batch system sends to a run.

use std::process::{Child, Command};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Project, ignores_signal, process_state, wait_until};

/// A stage that runs until the file `go` exists, with a child in another process group.
fn waiting(limits: &str) -> Project {
    let project = Project::new();
    let [pid, child, go] = ["pid", "child", "go"].map(|name| project.path(name).display().to_string());
    project.write_study(&format!(
        "name = \"study\"\n[stage.it]\nkind = \"command\"\noutputs = [\"out.txt\"]\n{limits}\n\
         run = '''setsid sleep 600 & echo $! > {child}; echo $$ > {pid}; until [ -e {go} ]; do sleep 0.01; done; echo x > out.txt'''\n"
    ));
    project
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// Starts a run under a shell with a trap.
fn start_with_trap(project: &Project, trap: &str) -> Child {
    let ablate = project.command(&["run", "study.toml"]);
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{trap}; exec \"$0\" \"$@\"")]).arg(ablate.get_program()).args(ablate.get_args());
    command.current_dir(project.path("")).spawn().unwrap()
}

#[test]
fn signal_ignored_at_start_stays_ignored() {
    let project = waiting("");
    let mut run = start_with_trap(&project, "trap '' HUP INT");
    project.wait_for_file("pid");
    send(&run, Signal::HUP);
    send(&run, Signal::INT);
    // Without the trap the same signal stops a run.
    if !ignores_signal(1) {
        let other = waiting("");
        let mut stopped = start_with_trap(&other, ":");
        other.wait_for_file("pid");
        send(&stopped, Signal::HUP);
        assert_eq!(stopped.wait().unwrap().code(), Some(130));
    }
    project.write("go", "");
    assert_eq!(run.wait().unwrap().code(), Some(0));
    assert_eq!(project.read("out/study/it/out.txt"), "x\n");
}

#[test]
fn ctrl_z_pauses_and_resumes_programs() {
    let project = waiting("limits = { time = 600 }");
    let mut run = project.start(&["run", "study.toml"]);
    let [program, child] = ["pid", "child"].map(|name| project.wait_for_file(name));
    let engine = run.id().to_string();
    let states = || [&engine, &program, &child].map(|id| process_state(id));
    for _ in 0..2 {
        send(&run, Signal::TSTP);
        // A shell that has just called `vfork` waits in state D for its stopped child.
        wait_until("all are stopped", &|| states().iter().all(|state| ["T", "D"].contains(&state.as_str())));
        send(&run, Signal::CONT);
        wait_until("all are resumed", &|| states().iter().all(|state| !["T", ""].contains(&state.as_str())));
    }
    project.write("go", "");
    assert_eq!(run.wait().unwrap().code(), Some(0));
    assert_eq!(project.read("out/study/it/out.txt"), "x\n");
}

#[test]
fn paused_time_does_not_count_for_time_limits() {
    let project = waiting("limits = { time = 2 }");
    let mut run = project.start(&["run", "study.toml"]);
    project.wait_for_file("pid");
    send(&run, Signal::TSTP);
    wait_until("it is stopped", &|| process_state(&run.id().to_string()) == "T");
    std::thread::sleep(std::time::Duration::from_millis(2200));
    project.write("go", "");
    send(&run, Signal::CONT);
    assert_eq!(run.wait().unwrap().code(), Some(0));
}
