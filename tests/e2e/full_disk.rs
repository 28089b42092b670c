//! A full disk and a read-only disk, as a separate file system for the store. Needs root to mount it.

use std::path::PathBuf;
use std::process::Command;

use crate::support::{Outcome, Project, assert_contains, command_stage, skipped};

/// A small tmpfs mounted in a project. It must be dropped before the project.
struct Disk {
    mount_point: PathBuf,
}

impl Disk {
    /// `None`, with a message, if mounting is not permitted.
    fn mount(project: &Project, size: &str) -> Option<Disk> {
        let mount_point = project.path("disk");
        std::fs::create_dir_all(&mount_point).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "ablate-test"]).arg(&mount_point);
        match mount.output() {
            Ok(output) if output.status.success() => Some(Disk { mount_point }),
            Ok(output) => skipped(&String::from_utf8_lossy(&output.stderr)),
            Err(error) => skipped(&error.to_string()),
        }
    }

    fn remount(&self, options: &str) {
        let mut mount = Command::new("mount");
        let status = mount.args(["-o", &format!("remount,{options}")]).arg(&self.mount_point).status();
        assert!(status.unwrap().success(), "cannot remount with {options}");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily, because a failing test may leave a process with an open file.
        Command::new("umount").arg("--lazy").arg(&self.mount_point).status().ok();
    }
}

fn run(project: &Project) -> Outcome {
    project.ablate(&["run", "study.toml", "--store", "disk/cache", "--jobs", "2"])
}

fn assert_store_is_valid(project: &Project) {
    assert_contains(&project.ok(&["verify", "--store", "disk/cache"]).stdout, &[" 0 problems"]);
}

/// Stages that write half a MiB each.
fn bulky(stages: usize) -> String {
    let stage = |number: usize| {
        let line = format!("(echo {number}; head -c 524288 /dev/zero) > out.bin");
        command_stage(&format!("bulk-{number}"), "", &line, "'out.bin'")
    };
    "name = 'study'\n".to_string() + &(0..stages).map(stage).collect::<String>()
}

/// Panics unless the run failed with a message about the full disk.
fn assert_disk_full(outcome: Outcome) -> Outcome {
    let named = ["No space left on device", "the disk of the store `[ROOT]/disk/cache` is full"];
    assert!(named.iter().any(|cause| outcome.stderr.contains(cause)), "{}", outcome.stderr);
    outcome.exited(1)
}

#[test]
fn full_disk_loses_no_result() {
    let project = Project::new();
    let Some(disk) = Disk::mount(&project, "6m") else { return };
    project.write_study(&bulky(20));
    assert_disk_full(run(&project));
    let listed = project.json(&["ls", "study.toml", "--store", "disk/cache"]);
    let committed = listed.as_array().unwrap().iter().filter(|line| line["state"] == "fresh");
    let committed: Vec<&str> = committed.map(|line| line["name"].as_str().unwrap()).collect();
    assert!(!committed.is_empty() && committed.len() < 20, "{committed:?}");
    assert_store_is_valid(&project);
    // The disk is still full, so the run fails again.
    assert_disk_full(run(&project));
    disk.remount("size=64m");
    run(&project).exited(0);
    let tally = project.run_counts();
    assert!(committed.iter().all(|name| tally[*name] == 1), "{committed:?} were committed: {tally:?}");
    for number in 0..20 {
        let bytes = std::fs::read(project.path(&format!("out/study/bulk-{number}/out.bin"))).unwrap();
        assert_eq!(bytes.len(), 524_288 + format!("{number}\n").len());
        assert!(bytes.starts_with(format!("{number}\n").as_bytes()));
    }
    assert_store_is_valid(&project);
}

#[test]
fn gc_frees_space_on_a_full_disk() {
    let project = Project::new();
    let Some(disk) = Disk::mount(&project, "6m") else { return };
    for stages in [6, 2] {
        project.write_study(&bulky(stages));
        run(&project).exited(0);
    }
    // Fill the disk.
    let mut rest = std::fs::File::create(disk.mount_point.join("rest")).unwrap();
    while std::io::Write::write_all(&mut rest, &[0; 1 << 12]).is_ok() {}
    assert!(std::fs::write(disk.mount_point.join("more"), [0; 1 << 13]).is_err(), "there is room");
    let outcome = project.ok(&["gc", "--keep-runs", "0", "--store", "disk/cache"]);
    assert!(outcome.stdout.starts_with("removed 4 records, 4 objects"), "{}", outcome.stdout);
    assert_store_is_valid(&project);
    project.take_ran();
    run(&project).exited(0);
    assert_eq!(project.take_ran(), "");
}

#[test]
fn stage_that_fills_the_disk_fails_alone() {
    let project = Project::new();
    let Some(disk) = Disk::mount(&project, "6m") else { return };
    let greedy = command_stage("greedy", "", "head -c 20000000 /dev/zero > out.bin", "'out.bin'");
    project.write_study(&(bulky(4) + &greedy));
    let outcome = project.ablate(&["run", "study.toml", "--store", "disk/cache", "--jobs", "1"]);
    assert_disk_full(outcome).stderr_has(&["`greedy` failed"]);
    assert_eq!(project.take_ran(), "bulk-0 bulk-1 bulk-2 bulk-3 greedy");
    assert_store_is_valid(&project);
    disk.remount("size=64m");
    run(&project).exited(0);
    assert_eq!(project.take_ran(), "greedy", "committed results stay");
    assert_eq!(project.path("out/study/greedy/out.bin").metadata().unwrap().len(), 20_000_000);
    assert_store_is_valid(&project);
}

#[test]
fn read_only_store_allows_queries_only() {
    let project = Project::new();
    let Some(disk) = Disk::mount(&project, "6m") else { return };
    project.write_study(&bulky(2));
    run(&project).exited(0);
    project.take_ran();
    disk.remount("ro");
    // A run with nothing to do writes nothing.
    run(&project).exited(0);
    assert_eq!(project.take_ran(), "");
    project.write_study(&bulky(3));
    let query = |arguments: &[&str]| project.ok(&[arguments, &["--store", "disk/cache"]].concat()).stdout;
    assert!(query(&["plan", "study.toml"]).contains("1 must run, 0 may run, 2 fresh"));
    assert!(query(&["why", "study.toml", "bulk-2"]).contains("`bulk-2` must run"));
    assert!(query(&["ls", "study.toml"]).contains("fresh"));
    assert!(query(&["show", "study.toml", "bulk-0"]).contains("out.bin"));
    assert_eq!(query(&["logs", "study.toml", "bulk-0"]).trim(), "");
    assert_store_is_valid(&project);
    let expected = ["is not writable: only `plan`, `why`, `ls` and `report` work", "Read-only file system"];
    run(&project).exited(2).stderr_has(&expected);
    assert_eq!(project.take_ran(), "");
    disk.remount("rw");
    run(&project).exited(0);
    assert_eq!(project.take_ran(), "bulk-2");
}

#[test]
fn report_works_on_a_read_only_store() {
    let project = Project::smoke();
    let Some(disk) = Disk::mount(&project, "64m") else { return };
    project.ok(&["run", "smoke.toml", "--store", "disk/cache", "--quiet"]);
    disk.remount("ro");
    let printed = project.ok(&["report", "smoke.toml", "--store", "disk/cache", "--out", "tables"]).stdout;
    assert!(printed.contains("4 both (SFT)"), "{printed}");
    assert!(project.path("tables/report.html").exists());
}
