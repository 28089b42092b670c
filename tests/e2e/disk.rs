//! A disk that is full, and one that cannot be written: a file system of its own for the store. Needs root to mount it.

use std::path::PathBuf;
use std::process::Command;

use crate::space::{Outcome, Space};

/// A small file system in memory at the place of a space's store. Dropped before the space is.
struct Disk {
    place: PathBuf,
}

impl Disk {
    /// `None`, said aloud, where mounting is not permitted.
    fn mount(space: &Space, size: &str) -> Option<Disk> {
        let place = space.path("disk");
        std::fs::create_dir_all(&place).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "ablate-test"]).arg(&place);
        match mount.output() {
            Ok(output) if output.status.success() => Some(Disk { place }),
            Ok(output) => skipped(&String::from_utf8_lossy(&output.stderr)),
            Err(error) => skipped(&error.to_string()),
        }
    }

    fn remount(&self, options: &str) {
        let mut mount = Command::new("mount");
        let status = mount.args(["-o", &format!("remount,{options}")]).arg(&self.place).status();
        assert!(status.unwrap().success(), "cannot remount with {options}");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a test that fails may leave a process with a file open.
        Command::new("umount").arg("--lazy").arg(&self.place).status().ok();
    }
}

#[allow(clippy::print_stderr, reason = "a test that is left out says so")]
fn skipped(why: &str) -> Option<Disk> {
    eprintln!("left out, for want of a file system to fill: {}", why.trim());
    None
}

fn run(space: &Space) -> Outcome {
    space.ablate(&["run", "study.toml", "--store", "disk/cache", "--jobs", "2"])
}

fn is_sound(space: &Space) {
    let told = space.ok(&["verify", "--store", "disk/cache"]).stdout;
    assert!(told.contains(" 0 problems"), "{told}");
}

/// Stages that write half a MiB each.
fn bulky(stages: usize) -> String {
    let stage = |number: usize| {
        format!(
            "[stage.bulk-{number}]\nkind = \"command\"\nrun = '$RAN bulk-{number}; \
             (echo {number}; head -c 524288 /dev/zero) > out.bin'\noutputs = [\"out.bin\"]\n"
        )
    };
    "name = \"study\"\n".to_string() + &(0..stages).map(stage).collect::<String>()
}

/// Insists that the run failed for want of room, and says so.
fn says_full(outcome: &Outcome) {
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    let named = ["No space left on device", "the disk of the store `[ROOT]/disk/cache` is full"];
    assert!(named.iter().any(|cause| outcome.stderr.contains(cause)), "{}", outcome.stderr);
}

#[test]
fn a_full_disk_fails_with_its_name_and_loses_nothing() {
    let space = Space::new();
    let Some(disk) = Disk::mount(&space, "6m") else { return };
    space.study(&bulky(20));
    let outcome = run(&space);
    says_full(&outcome);
    let committed = space.json(&["ls", "study.toml", "--store", "disk/cache"]);
    let committed: Vec<String> = committed
        .as_array()
        .unwrap()
        .iter()
        .filter(|line| line["state"] == "fresh")
        .map(|line| line["name"].as_str().unwrap().to_string())
        .collect();
    assert!(!committed.is_empty() && committed.len() < 20, "{committed:?}");
    is_sound(&space);
    // As full as before, it fails as before.
    says_full(&run(&space));
    disk.remount("size=64m");
    let outcome = run(&space);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    let tally = space.tally();
    assert!(committed.iter().all(|name| tally[name] == 1), "{committed:?} were committed: {tally:?}");
    for number in 0..20 {
        let bytes = std::fs::read(space.path(&format!("out/study/bulk-{number}/out.bin"))).unwrap();
        assert_eq!(bytes.len(), 524_288 + format!("{number}\n").len());
        assert!(bytes.starts_with(format!("{number}\n").as_bytes()));
    }
    is_sound(&space);
}

#[test]
fn gc_makes_room_on_a_disk_without_any() {
    let space = Space::new();
    let Some(disk) = Disk::mount(&space, "6m") else { return };
    space.study(&bulky(6));
    assert_eq!(run(&space).code, Some(0));
    space.study(&bulky(2));
    assert_eq!(run(&space).code, Some(0));
    // Whoever else writes to the disk takes what is left of it.
    let mut rest = std::fs::File::create(disk.place.join("rest")).unwrap();
    while std::io::Write::write_all(&mut rest, &[0; 1 << 12]).is_ok() {}
    assert!(std::fs::write(disk.place.join("more"), [0; 1 << 13]).is_err(), "there is room");
    let outcome = space.ablate(&["gc", "--keep-runs", "0", "--store", "disk/cache"]);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert!(outcome.stdout.starts_with("removed 4 records, 4 objects"), "{}", outcome.stdout);
    is_sound(&space);
    space.told();
    assert_eq!((run(&space).code, space.told().as_str()), (Some(0), ""));
}

#[test]
fn a_stage_that_fills_the_disk_fails_and_leaves_room_for_the_others() {
    let space = Space::new();
    let Some(disk) = Disk::mount(&space, "6m") else { return };
    let greedy =
        "[stage.greedy]\nkind = \"command\"\nrun = 'head -c 20000000 /dev/zero > out.bin'\noutputs = [\"out.bin\"]\n";
    space.study(&(bulky(4) + greedy));
    let outcome = space.ablate(&["run", "study.toml", "--store", "disk/cache", "--jobs", "1"]);
    says_full(&outcome);
    assert!(outcome.stderr.contains("`greedy` failed"), "{}", outcome.stderr);
    assert_eq!(space.told(), "bulk-0 bulk-1 bulk-2 bulk-3");
    is_sound(&space);
    disk.remount("size=64m");
    let outcome = run(&space);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    assert_eq!(space.told(), "", "what was committed stays");
    assert_eq!(space.path("out/study/greedy/out.bin").metadata().unwrap().len(), 20_000_000);
    is_sound(&space);
}

#[test]
fn a_store_on_a_read_only_disk_answers_questions_and_says_before_a_run_that_it_cannot() {
    let space = Space::new();
    let Some(disk) = Disk::mount(&space, "6m") else { return };
    space.study(&bulky(2));
    let outcome = run(&space);
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    space.told();
    disk.remount("ro");
    // Nothing to do is nothing to write.
    let outcome = run(&space);
    assert_eq!((outcome.code, space.told().as_str()), (Some(0), ""), "{}", outcome.stderr);
    space.study(&bulky(3));
    let ask = |words: &[&str]| space.ok(&[words, &["--store", "disk/cache"]].concat()).stdout;
    assert!(ask(&["plan", "study.toml"]).contains("1 must run, 0 may run, 2 fresh"));
    assert!(ask(&["why", "study.toml", "bulk-2"]).contains("`bulk-2` must run"));
    assert!(ask(&["ls", "study.toml"]).contains("fresh"));
    assert!(ask(&["show", "study.toml", "bulk-0"]).contains("out.bin"));
    assert_eq!(ask(&["logs", "study.toml", "bulk-0"]).trim(), "");
    is_sound(&space);
    let outcome = run(&space);
    assert_eq!((outcome.code, space.told().as_str()), (Some(2), ""), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("is not writable: only `plan`, `why`, `ls` and `report` work"));
    assert!(outcome.stderr.contains("Read-only file system"), "{}", outcome.stderr);
    disk.remount("rw");
    assert_eq!(run(&space).code, Some(0));
    assert_eq!(space.told(), "bulk-2");
}

#[test]
fn a_report_needs_no_store_that_can_be_written() {
    let space = Space::new();
    let Some(disk) = Disk::mount(&space, "64m") else { return };
    space.with_experiment("reasoner.toml").with_experiment("smoke.toml");
    space.ok(&["run", "smoke.toml", "--store", "disk/cache", "--quiet"]);
    disk.remount("ro");
    let told = space.ok(&["report", "smoke.toml", "--store", "disk/cache", "--out", "tables"]).stdout;
    assert!(told.contains("4 both (SFT)"), "{told}");
    assert!(space.path("tables/report.html").exists());
}
