//! The descendants of this process: lists, pauses and kills them.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions};

/// How often the search for descendants is repeated. A process that is still there afterwards hangs in the kernel.
const ROUNDS: usize = 1000;

/// Makes this process a subreaper: orphans among its descendants become its children.
pub(super) fn become_subreaper() {
    #[cfg(target_os = "linux")]
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).ok();
}

/// Kills every child of this process for which `spare` is false, and all descendants of the killed ones.
pub(super) fn kill_children(spare: &dyn Fn(Pid) -> bool) {
    for _ in 0..ROUNDS {
        // Each round kills one generation. The next generation becomes ours when its parent dies.
        let children: Vec<Pid> = children().into_iter().filter(|child| !spare(*child)).collect();
        if children.is_empty() {
            return;
        }
        for child in children {
            rustix::process::kill_process(child, Signal::KILL).ok();
            rustix::process::waitpid(Some(child), WaitOptions::NOHANG).ok();
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Sends a signal to a process group. An error is ignored: the group has ended already.
pub(super) fn signal_group(group: Pid, signal: Signal) {
    rustix::process::kill_process_group(group, signal).ok();
}

/// Pauses all descendants, in every process group.
pub(super) fn pause_descendants() {
    let mut known = 0;
    // Repeats until a search finds no new process, because a process that still runs may start others.
    for _ in 0..ROUNDS {
        let descendants = descendants();
        if descendants.len() <= known {
            return;
        }
        known = descendants.len();
        for pid in descendants {
            rustix::process::kill_process(pid, Signal::STOP).ok();
        }
    }
}

/// Continues all descendants.
pub(super) fn continue_descendants() {
    for pid in descendants() {
        rustix::process::kill_process(pid, Signal::CONT).ok();
    }
}

fn children() -> Vec<Pid> {
    // The kernel lists them per thread.
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = threads.map(|thread| fs::read_to_string(thread.path().join("children")));
    if let Ok(lists) = lists.collect::<Result<Vec<String>, _>>()
        && !lists.is_empty()
    {
        let pids = lists.iter().flat_map(|list| list.split_whitespace());
        return pids.filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect();
    }
    // The kernel has no such lists, or a thread has just ended.
    let own = rustix::process::getpid().as_raw_nonzero().get();
    processes_by_parent().remove(&own).unwrap_or_default()
}

fn descendants() -> Vec<Pid> {
    let mut by_parent = processes_by_parent();
    let mut pending = vec![rustix::process::getpid()];
    let mut found = Vec::new();
    while let Some(parent) = pending.pop() {
        let children = by_parent.remove(&parent.as_raw_nonzero().get()).unwrap_or_default();
        pending.extend(&children);
        found.extend(children);
    }
    found
}

/// Every process of this machine, by its parent.
fn processes_by_parent() -> BTreeMap<i32, Vec<Pid>> {
    let mut found: BTreeMap<i32, Vec<Pid>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| Pid::from_raw(name.parse().ok()?)) else { continue };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // The program's name is in parentheses and may itself contain some, so the fields are read after the last one.
        let after = stat.rsplit(')').next().unwrap_or_default();
        if let Some(parent) = after.split_whitespace().nth(1).and_then(|parent| parent.parse().ok()) {
            found.entry(parent).or_default().push(pid);
        }
    }
    found
}
