//! Experiments that are wrong in one way each, and every word that `check` says of them: `tests/wrong/*.toml`, with the
//! message beside each. `UPDATE_EXPECT=1` writes the messages anew.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use expect_test::expect_file;

#[test]
fn every_mistake_is_told_at_its_place() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wrong");
    let mut files: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let messages = files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "txt"));
    for message in messages {
        assert!(files.contains(&message.with_extension("toml")), "{} belongs to no experiment", message.display());
    }
    let mut count = 0;
    for path in files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "toml")) {
        let name = path.file_name().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_ablate"));
        command.arg("check").arg(name).current_dir(&folder).env("NO_COLOR", "1").env_remove("ABLATE_LOG");
        let output = command.output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(2), &b""[..]), "{}", path.display());
        expect_file![path.with_extension("txt")].assert_eq(&told);
        count += 1;
    }
    assert!(count >= 80, "{count} experiments");
}

/// What the wrong files extend is sound, so that each has no mistake but its own.
#[test]
fn what_they_extend_is_sound() {
    let study = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wrong/parts/study.toml");
    let output = Command::new(env!("CARGO_BIN_EXE_ablate")).arg("check").arg(study).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
