//! The walks of docs/guide run as written: their files are saved, their commands run in order in an empty folder, and the
//! output that they show appears. `tests/tools` runs tools.md, which needs other programs.
//!
//! A block ```` ```sh ```` is run, a block with `title=NAME` is saved as that file, and a block ```` ```text ```` is output of the
//! commands before it: each of its lines appears there in order, where `...` stands for any text.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::support::{Project, repository};

/// A fenced block of a page.
struct Block {
    /// The language and the rest of the first line.
    info: String,
    text: String,
}

fn blocks(page: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut open: Option<Block> = None;
    for line in page.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(info)) => open = Some(Block { info: info.trim().to_string(), text: String::new() }),
            (Some(_), Some("")) => found.extend(open.take()),
            (Some(block), _) => block.text += &format!("{line}\n"),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block is not closed");
    found
}

/// Whether `line` fits `pattern`, in which `...` stands for any text.
fn fits(line: &str, pattern: &str) -> bool {
    let mut rest = line;
    for (index, part) in pattern.split("...").enumerate() {
        match rest.find(part) {
            Some(at) if at == 0 || index > 0 => rest = &rest[at + part.len()..],
            _ => return false,
        }
    }
    pattern.ends_with("...") || rest.is_empty()
}

/// A command `hf` that "downloads" a small checkpoint with random weights into the hub's cache.
fn fake_hub(folder: &Path) {
    let golden = repository("tests/golden/hub/smolvlm");
    let script = format!(
        "#!/bin/sh\nset -eu\n[ \"$1\" = download ]\nrepo=$HF_HOME/hub/models--$(echo \"$2\" | sed 's#/#--#g')\n\
         mkdir -p \"$repo/snapshots/0123abc\" \"$repo/refs\"\nprintf 0123abc > \"$repo/refs/main\"\n\
         cp {}/* \"$repo/snapshots/0123abc\"\nrm -f \"$repo\"/snapshots/0123abc/expected*\n",
        golden.display()
    );
    let path = folder.join("hf");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Runs a page in an empty folder.
fn walk(page: &str) {
    let project = Project::new();
    let tools = project.path(".tools");
    fs::create_dir_all(&tools).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_ablate"), tools.join("ablate")).unwrap();
    fake_hub(&tools);
    let path = format!("{}:{}", tools.display(), std::env::var("PATH").unwrap());
    let text = fs::read_to_string(repository("docs/guide").join(page)).unwrap();
    let (mut output, mut ran) = (String::new(), 0);
    for Block { info, text } in blocks(&text) {
        if let Some((_, name)) = info.split_once("title=") {
            project.write(name, text);
        } else if info == "sh" {
            let mut command = Command::new("bash");
            command.args(["-euo", "pipefail", "-c", &format!("exec 2>&1\n{text}")]).current_dir(project.path("."));
            command
                .env("PATH", &path)
                .env("HF_HOME", project.path("hub"))
                .env_remove("ABLATE_STORE")
                .env("NO_COLOR", "1");
            let finished = command.output().unwrap();
            output = String::from_utf8_lossy(&finished.stdout).into_owned();
            assert!(finished.status.success(), "{page}: these commands failed:\n{text}\n{output}");
            ran += 1;
        } else if info == "text" {
            let mut lines = output.lines();
            for expected in text.lines().filter(|line| !line.trim().is_empty()) {
                let found = lines.any(|line| fits(line.trim_end(), expected.trim_end()));
                assert!(found, "{page}: the output has no line `{expected}`:\n{output}");
            }
        }
    }
    assert!(ran > 1, "{page} has {ran} blocks of commands");
}

#[test]
fn your_own_images() {
    walk("images.md");
}

#[test]
fn a_mix_ratio_sweep_with_seeds() {
    walk("mix-ratio.md");
}

#[test]
fn your_trainer_as_a_stage() {
    walk("trainer.md");
}

#[test]
fn a_checkpoint_that_you_downloaded() {
    walk("checkpoint.md");
}

#[test]
fn a_walk_has_at_most_two_pages() {
    for page in ["images.md", "mix-ratio.md", "trainer.md", "checkpoint.md", "tools.md"] {
        let lines = fs::read_to_string(repository("docs/guide").join(page)).unwrap().lines().count();
        assert!(lines <= 165, "{page} has {lines} lines");
    }
}

#[test]
fn patterns_match_lines() {
    for (line, pattern, expected) in [
        ("ran 0.3 s  sft", "ran ... s  sft", true),
        ("ran 0.3 s  sft@seed=1", "ran ... s  sft", false),
        ("a b", "a b", true),
        ("xa b", "a b", false),
        ("wrote 5 rows", "wrote ...", true),
    ] {
        assert_eq!(fits(line, pattern), expected, "{line} {pattern}");
    }
}
