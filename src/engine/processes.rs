//! The processes below this one: listed, paused, ended. Knows no stage.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions};

/// How often what was left behind is looked for again. What is still there then hangs in the kernel.
const ROUNDS: usize = 1000;

/// From now on, what the processes below leave behind becomes a child of this process.
pub(super) fn adopt_orphans() {
    #[cfg(target_os = "linux")]
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).ok();
}

/// Ends every child of this process that is not spared, and whatever these leave behind.
pub(super) fn end_children(spared: &dyn Fn(Pid) -> bool) {
    for _ in 0..ROUNDS {
        // Each round ends one generation: the next one becomes ours when its parent dies.
        let children: Vec<Pid> = children().into_iter().filter(|child| !spared(*child)).collect();
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

/// Sends a signal to a process group. It may be gone already, which is what we want.
pub(super) fn signal_group(group: Pid, signal: Signal) {
    rustix::process::kill_process_group(group, signal).ok();
}

/// Stops all processes below this one, whatever their group.
pub(super) fn pause_descendants() {
    let mut known = 0;
    // Until a look finds nobody new: one that is still running may start another.
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

/// Lets all processes below this one go on.
pub(super) fn continue_descendants() {
    for pid in descendants() {
        rustix::process::kill_process(pid, Signal::CONT).ok();
    }
}

/// The processes whose parent this one is.
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
    // A kernel that does not list them, or a thread that has just ended.
    let own = rustix::process::getpid().as_raw_nonzero().get();
    by_parent().remove(&own).unwrap_or_default()
}

fn descendants() -> Vec<Pid> {
    let mut by_parent = by_parent();
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
fn by_parent() -> BTreeMap<i32, Vec<Pid>> {
    let mut found: BTreeMap<i32, Vec<Pid>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| Pid::from_raw(name.parse().ok()?)) else { continue };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // The name of the program stands in brackets, and may hold any.
        let after = stat.rsplit(')').next().unwrap_or_default();
        if let Some(parent) = after.split_whitespace().nth(1).and_then(|parent| parent.parse().ok()) {
            found.entry(parent).or_default().push(pid);
        }
    }
    found
}
