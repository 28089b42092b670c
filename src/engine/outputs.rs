//! Checks the outputs of a stage before they are committed, so that an invalid result fails its own stage and not a
//! later one.
//!
//! The outputs may come from a program, so they are not trusted: only plain files are opened, lines are read up to a
//! limit, and the check ends when the run is to stop.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::stop::StopFlag;
use ablate_core::base::{files, listing, regular_file};
use ablate_core::stage::{ArtifactKind, OutputChecker, OutputSpec};

/// The most bytes of a line of rows, of a line of a curve, and of a facts file.
const MAX_ROW: usize = 64 << 20;
const MAX_STEP: usize = 1 << 20;
const MAX_FACTS: u64 = 256 << 20;

/// The most wrong lines that an error lists.
const MAX_ERRORS: usize = 10;

/// Makes the checker of the content of an output, if a program wrote it.
pub(super) type CheckerOf<'a> = &'a dyn Fn(&OutputSpec) -> Option<Box<dyn OutputChecker>>;

/// Checks that every declared output exists and is valid for its type. Returns warnings about the content; `None` if the
/// check was stopped.
pub(super) fn check(
    folder: &Path,
    outputs: &[OutputSpec],
    checker: CheckerOf<'_>,
    stop: &StopFlag,
) -> Result<Option<Vec<String>>> {
    let mut warnings = Vec::new();
    for output in outputs {
        if let Some(link) = first_link(folder, &output.name) {
            bail!("the output `{}` may be outside the stage's folder: `{link}` is a symbolic link", output.name);
        }
        let path = folder.join(&*output.name);
        let Ok(metadata) = fs::symlink_metadata(&path) else {
            bail!("the stage ended without writing its output `{}`", output.name);
        };
        if !metadata.is_file() && !metadata.is_dir() {
            let kind = regular_file::type_name(metadata.file_type());
            bail!("the output `{}` is neither a file nor a folder: it is {kind}", output.name);
        }
        if metadata.is_dir() {
            check_plain(&path, &output.name)?;
        }
        let mut checker = checker(output);
        let checked = check_one(&path, metadata.is_dir(), output.kind, checker.as_deref_mut(), stop);
        // Users know the output's name, and not the folder of the program.
        let checked = checked.map_err(|error| rename(&error, folder));
        let Some(found) = checked.with_context(|| format!("the output `{}` is not valid", output.name))? else {
            return Ok(None);
        };
        warnings.extend(found.into_iter().map(|warning| format!("the output `{}`: {warning}", output.name)));
    }
    Ok(Some(warnings))
}

/// Checks that a folder has only plain files and folders. Opening a pipe would block.
fn check_plain(folder: &Path, name: &str) -> Result<()> {
    for (below, path) in listing::walk(folder)? {
        let metadata =
            fs::symlink_metadata(&path).with_context(|| format!("cannot read the metadata of `{name}/{below}`"))?;
        if !metadata.is_file() {
            let kind = regular_file::type_name(metadata.file_type());
            bail!("the output holds `{name}/{below}`, which is not a plain file: it is {kind}");
        }
    }
    Ok(())
}

/// The error with paths relative to the folder of the outputs.
fn rename(error: &anyhow::Error, folder: &Path) -> anyhow::Error {
    let prefix = format!("{}/", folder.display());
    let mut causes = error.chain().map(|cause| cause.to_string().replace(&prefix, "")).rev();
    let first = anyhow::Error::msg(causes.next().unwrap_or_default());
    causes.fold(first, anyhow::Error::context)
}

/// Whether an artifact has rows, which may refer to images in image packs.
pub(super) fn has_rows(kind: ArtifactKind) -> bool {
    use ArtifactKind::{Credits, Items, Judged, Pairs, Rollouts, Rows, Scores};
    matches!(kind, Items | Rows | Rollouts | Judged | Credits | Pairs | Scores)
}

/// The first part of an output's path that is a symbolic link.
fn first_link<'n>(folder: &Path, name: &'n str) -> Option<&'n str> {
    let ends = name.match_indices('/').map(|(at, _)| at).chain([name.len()]);
    ends.map(|end| &name[..end]).find(|part| folder.join(part).is_symlink())
}

fn check_one(
    path: &Path,
    is_folder: bool,
    kind: ArtifactKind,
    checker: Option<&mut (dyn OutputChecker + 'static)>,
    stop: &StopFlag,
) -> Result<Option<Vec<String>>> {
    match kind {
        ArtifactKind::Checkpoint if !is_folder => bail!("a checkpoint is a folder"),
        // A tokenizer of ablate is a file, a released one is a folder.
        ArtifactKind::Checkpoint | ArtifactKind::File | ArtifactKind::Tokenizer => {}
        _ if is_folder => bail!("it is a folder, but `{kind}` is a file"),
        _ => {}
    }
    let mut checker = checker;
    let (mut wrong, mut more) = (Vec::new(), 0);
    let mut check_row = |number: usize, line: &str| {
        if let Some(Err(error)) = checker.as_mut().map(|checker| checker.row(line)) {
            if wrong.len() < MAX_ERRORS {
                wrong.push(format!("line {number}: {error:#}"));
            } else {
                more += 1;
            }
        }
        Ok(())
    };
    let complete = match kind {
        kind if has_rows(kind) => each_line(path, MAX_ROW, stop, &mut check_row)?,
        ArtifactKind::Curve => each_line(path, MAX_STEP, stop, &mut |number, line| {
            // serde_json writes NaN and infinity as null.
            let row: Value = serde_json::from_str(line)?;
            if row.get("loss").is_some_and(Value::is_null) {
                bail!("line {number}: the loss is not a number");
            }
            check_row(number, line)
        })?,
        ArtifactKind::Facts => match first_null(files::open_file(path)?)? {
            Some(key) => bail!("`{key}` is not a number"),
            None => true,
        },
        _ => {
            if let Some(checker) = &mut checker {
                checker.file(path)?;
            }
            true
        }
    };
    if more > 0 {
        wrong.push(format!("and {more} more lines"));
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(match checker {
        _ if !complete => None,
        Some(checker) => Some(checker.finish()?),
        None => Some(Vec::new()),
    })
}

fn each_line(
    path: &Path,
    limit: usize,
    stop: &StopFlag,
    check: &mut dyn FnMut(usize, &str) -> Result<()>,
) -> Result<bool> {
    let mut file = files::open(path)?;
    let mut line = Vec::new();
    for number in 1.. {
        if stop.is_set() {
            return Ok(false);
        }
        line.clear();
        // One byte above the limit: either the line break, or the proof that the line is too long.
        let read = file.by_ref().take(limit as u64 + 1).read_until(b'\n', &mut line);
        if read.with_context(|| format!("cannot read line {number}"))? == 0 {
            break;
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        } else if line.len() > limit {
            bail!("line {number} is longer than {} MiB", limit >> 20);
        }
        let text = std::str::from_utf8(&line).with_context(|| format!("line {number} is not UTF-8"))?;
        let text = text.strip_suffix('\r').unwrap_or(text);
        serde_json::from_str::<IgnoredAny>(text).with_context(|| format!("line {number} is not JSON"))?;
        check(number, text)?;
    }
    Ok(true)
}

/// The dotted path of the first null in a JSON document. The document is not kept in memory.
fn first_null(file: File) -> Result<Option<String>> {
    if file.metadata().context("cannot read its metadata")?.len() > MAX_FACTS {
        bail!("it is larger than {} MiB", MAX_FACTS >> 20);
    }
    let mut null = None;
    let mut document = serde_json::Deserializer::from_reader(BufReader::new(file.take(MAX_FACTS)));
    let find = FindNull { path: &mut Vec::new(), null: &mut null };
    find.deserialize(&mut document).and_then(|()| document.end()).context("it is not JSON")?;
    Ok(null)
}

/// Visits a JSON value and notes the path of the first null.
struct FindNull<'a> {
    path: &'a mut Vec<String>,
    null: &'a mut Option<String>,
}

impl FindNull<'_> {
    fn child(&mut self, key: String) -> FindNull<'_> {
        self.path.push(key);
        FindNull { path: self.path, null: self.null }
    }
}

impl<'de> DeserializeSeed<'de> for FindNull<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for FindNull<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.null.get_or_insert_with(|| self.path.join("."));
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        for index in 0.. {
            let found = list.next_element_seed(self.child(index.to_string()))?;
            self.path.pop();
            if found.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut table: A) -> Result<(), A::Error> {
        while let Some(key) = table.next_key::<String>()? {
            table.next_value_seed(self.child(key))?;
            self.path.pop();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use std::os::unix::net::UnixListener;
    use std::process::Command;

    const OUTPUTS: &[OutputSpec] = &[
        OutputSpec::new("rows.jsonl", ArtifactKind::Rows),
        OutputSpec::new("metrics.json", ArtifactKind::Facts),
        OutputSpec::new("curve.jsonl", ArtifactKind::Curve),
    ];

    fn verdict(checked: Result<Option<Vec<String>>>) -> String {
        checked.map_or_else(
            |error| format!("{error:#}"),
            |complete| if complete.is_some() { "valid" } else { "stopped" }.to_string(),
        )
    }

    fn check(folder: &Path, outputs: &[OutputSpec], stop: &StopFlag) -> Result<Option<Vec<String>>> {
        super::check(folder, outputs, &|_| None, stop)
    }

    fn check_files(rows: &str, metrics: Option<&str>, curve: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        files::write_atomic(&folder.path().join("rows.jsonl"), rows.as_bytes()).unwrap();
        files::write_atomic(&folder.path().join("curve.jsonl"), curve.as_bytes()).unwrap();
        if let Some(metrics) = metrics {
            files::write_atomic(&folder.path().join("metrics.json"), metrics.as_bytes()).unwrap();
        }
        verdict(check(folder.path(), OUTPUTS, &StopFlag::default()))
    }

    #[test]
    fn invalid_outputs_are_refused_with_their_position() {
        let long = format!("{{\"loss\":1}}\n\"{}\"\n", "x".repeat(MAX_STEP));
        let verdicts = [
            check_files("{\"id\":1}\n", Some("{\"accuracy\":0.5}"), "{\"loss\":1.5}\n"),
            check_files("{\"id\":1}\r\n{\"id\":2}", Some("{\"a\":[true,\"x\",-1,{}]}\n"), ""),
            check_files("{\"id\":1}\n", None, ""),
            check_files("{\"id\":1}\n{\"id\"", Some("{}"), ""),
            check_files("", Some("{\"overall\":{\"accuracy\":[1,null]},\"other\":null}"), ""),
            check_files("", Some("{\"a\":1"), ""),
            check_files("", Some("{} {}"), ""),
            check_files("", Some(&"[".repeat(100_000)), ""),
            check_files("", Some("{}"), "{\"loss\":1}\n{\"loss\":null}\n"),
            check_files("", Some("{}"), &long),
        ];
        expect![[r#"
            valid
            valid
            the stage ended without writing its output `metrics.json`
            the output `rows.jsonl` is not valid: line 2 is not JSON: EOF while parsing an object at line 1 column 5
            the output `metrics.json` is not valid: `overall.accuracy.1` is not a number
            the output `metrics.json` is not valid: it is not JSON: EOF while parsing an object at line 1 column 6
            the output `metrics.json` is not valid: it is not JSON: trailing characters at line 1 column 4
            the output `metrics.json` is not valid: it is not JSON: recursion limit exceeded at line 1 column 128
            the output `curve.jsonl` is not valid: line 2: the loss is not a number
            the output `curve.jsonl` is not valid: line 2 is longer than 1 MiB"#]]
        .assert_eq(&verdicts.join("\n"));
    }

    #[test]
    fn special_files_are_refused_without_opening_them() {
        type Make<'a> = &'a dyn Fn(&Path);
        let rows = &OUTPUTS[..1];
        let make: [(&str, Make<'_>); 5] = [
            ("pipe", &|path| assert!(Command::new("mkfifo").arg(path).status().unwrap().success())),
            ("socket", &|path| drop(UnixListener::bind(path).unwrap())),
            ("link to a device", &|path| files::symlink(Path::new("/dev/zero"), path).unwrap()),
            ("link to nothing", &|path| files::symlink(Path::new("nowhere"), path).unwrap()),
            ("folder", &|path| files::create_dir(path).unwrap()),
        ];
        let verdicts = make.map(|(what, make)| {
            let folder = tempfile::tempdir().unwrap();
            make(&folder.path().join("rows.jsonl"));
            format!("{what}: {}", verdict(check(folder.path(), rows, &StopFlag::default())))
        });
        expect![[r#"
            pipe: the output `rows.jsonl` is neither a file nor a folder: it is a named pipe
            socket: the output `rows.jsonl` is neither a file nor a folder: it is a socket
            link to a device: the output `rows.jsonl` may be outside the stage's folder: `rows.jsonl` is a symbolic link
            link to nothing: the output `rows.jsonl` may be outside the stage's folder: `rows.jsonl` is a symbolic link
            folder: the output `rows.jsonl` is not valid: it is a folder, but `rows` is a file"#]]
        .assert_eq(&verdicts.join("\n"));
    }

    #[test]
    fn endless_lines_are_refused_and_the_check_can_stop() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        // A sparse file of 1 TiB: it needs no disk space, but would need 1 TiB of memory.
        files::create(&path).unwrap().set_len(1 << 40).unwrap();
        let message = verdict(check(folder.path(), &OUTPUTS[..1], &StopFlag::default()));
        assert_eq!(message, "the output `rows.jsonl` is not valid: line 1 is longer than 64 MiB");
        let stop = StopFlag::default();
        stop.stop_instance();
        let message = verdict(check(folder.path(), &OUTPUTS[..1], &stop));
        assert_eq!(message, "stopped");
        let metrics = folder.path().join("metrics.json");
        files::create(&metrics).unwrap().set_len(1 << 40).unwrap();
        let message = verdict(check(folder.path(), &OUTPUTS[1..2], &StopFlag::default()));
        assert_eq!(message, "the output `metrics.json` is not valid: it is larger than 256 MiB");
    }
}
