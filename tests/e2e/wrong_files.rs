//! Experiments with one error each and the exact output of `check`: `tests/wrong/*.toml` with the message in a `.txt`
//! file. `UPDATE_EXPECT=1` rewrites the messages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use expect_test::expect_file;

#[test]
fn check_reports_each_error_with_its_location() {
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
        let printed = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(2), &b""[..]), "{}", path.display());
        expect_file![path.with_extension("txt")].assert_eq(&printed);
        count += 1;
    }
    assert!(count >= 80, "{count} experiments");
}

/// The files that the wrong ones extend are valid, so that each has only its own error.
#[test]
fn extended_files_are_valid() {
    let study = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wrong/parts/study.toml");
    let output = Command::new(env!("CARGO_BIN_EXE_ablate")).arg("check").arg(study).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
