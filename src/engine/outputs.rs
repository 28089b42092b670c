//! The check of a stage's outputs before they are committed: a result that is not one fails its stage here, not
//! the stage below it a day later. Knows no kind and no store.
//!
//! The outputs may be a program's, so nothing is believed: only plain files are opened, no line is read that does not fit
//! into a bounded buffer, and the check ends when the run is to stop.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, bail};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use ablate_core::base::{files, regular_file};
use ablate_core::stage::{ArtifactKind, OutputSpec};

/// Bytes of a line of rows, of a line of a curve, and of a document of facts.
const ROW: usize = 64 << 20;
const STEP: usize = 1 << 20;
const FACTS: u64 = 256 << 20;

/// Every declared output exists and is what its type says. False when it was stopped before that is known.
pub(super) fn check(folder: &Path, outputs: &[OutputSpec], stop: &AtomicBool) -> Result<bool> {
    for output in outputs {
        if let Some(link) = link_on_the_way(folder, &output.name) {
            bail!("the output `{}` may lie outside of the stage's folder: `{link}` is a link", output.name);
        }
        let path = folder.join(&*output.name);
        let Ok(metadata) = fs::symlink_metadata(&path) else {
            bail!("the stage ended without writing its output `{}`", output.name);
        };
        if !metadata.is_file() && !metadata.is_dir() {
            let kind = regular_file::type_name(metadata.file_type());
            bail!("the output `{}` is neither a file nor a folder: it is {kind}", output.name);
        }
        let checked = check_one(&path, metadata.is_dir(), output.kind, stop);
        if !checked.with_context(|| format!("the output `{}` is not valid", output.name))? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Artifacts whose rows may name images, and so keep their image packs alive.
pub(super) fn has_rows(kind: ArtifactKind) -> bool {
    use ArtifactKind::{Credits, Items, Judged, Pairs, Rollouts, Rows, Scores};
    matches!(kind, Items | Rows | Rollouts | Judged | Credits | Pairs | Scores)
}

/// The first part of an output's path that leads elsewhere.
fn link_on_the_way<'n>(folder: &Path, name: &'n str) -> Option<&'n str> {
    let ends = name.match_indices('/').map(|(at, _)| at).chain([name.len()]);
    ends.map(|end| &name[..end]).find(|part| folder.join(part).is_symlink())
}

fn check_one(path: &Path, is_folder: bool, kind: ArtifactKind, stop: &AtomicBool) -> Result<bool> {
    match kind {
        ArtifactKind::Checkpoint if !is_folder => bail!("a checkpoint is a folder"),
        ArtifactKind::Checkpoint | ArtifactKind::File => return Ok(true),
        // A tokenizer is a file of our own, or the folder of a released one.
        ArtifactKind::Tokenizer if is_folder => return Ok(true),
        _ if is_folder => bail!("it is a folder, and `{kind}` is a file"),
        _ => {}
    }
    match kind {
        kind if has_rows(kind) => each_line(path, ROW, stop, |_, _| Ok(())),
        ArtifactKind::Curve => each_line(path, STEP, stop, |number, line| {
            // serde writes a number that is none as null.
            let row: Value = serde_json::from_str(line)?;
            if row.get("loss").is_some_and(Value::is_null) {
                bail!("line {number}: the loss is not a number");
            }
            Ok(())
        }),
        ArtifactKind::Facts => match first_null(files::open_file(path)?)? {
            Some(key) => bail!("`{key}` is not a number"),
            None => Ok(true),
        },
        _ => Ok(true),
    }
}

fn each_line(path: &Path, limit: usize, stop: &AtomicBool, check: impl Fn(usize, &str) -> Result<()>) -> Result<bool> {
    let mut file = files::open(path)?;
    let mut line = Vec::new();
    for number in 1.. {
        if stop.load(Ordering::Relaxed) {
            return Ok(false);
        }
        line.clear();
        // One byte more than a line may have: the line break, or the proof that it is too long.
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

/// Dotted path of the first null of a document, which is not kept while it is read.
fn first_null(file: File) -> Result<Option<String>> {
    if file.metadata().context("cannot look at it")?.len() > FACTS {
        bail!("it is larger than {} MiB", FACTS >> 20);
    }
    let mut null = None;
    let mut document = serde_json::Deserializer::from_reader(BufReader::new(file.take(FACTS)));
    let search = Search { path: &mut Vec::new(), null: &mut null };
    search.deserialize(&mut document).and_then(|()| document.end()).context("it is not JSON")?;
    Ok(null)
}

/// Looks for nulls below a place in a document.
struct Search<'a> {
    path: &'a mut Vec<String>,
    null: &'a mut Option<String>,
}

impl Search<'_> {
    fn below(&mut self, key: String) -> Search<'_> {
        self.path.push(key);
        Search { path: self.path, null: self.null }
    }
}

impl<'de> DeserializeSeed<'de> for Search<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Search<'_> {
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
            let found = list.next_element_seed(self.below(index.to_string()))?;
            self.path.pop();
            if found.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut table: A) -> Result<(), A::Error> {
        while let Some(key) = table.next_key::<String>()? {
            table.next_value_seed(self.below(key))?;
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

    static GO: AtomicBool = AtomicBool::new(false);

    fn said(checked: Result<bool>) -> String {
        checked.map_or_else(|error| format!("{error:#}"), |whole| if whole { "fine" } else { "stopped" }.to_string())
    }

    fn told(rows: &str, metrics: Option<&str>, curve: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        files::write_atomic(&folder.path().join("rows.jsonl"), rows.as_bytes()).unwrap();
        files::write_atomic(&folder.path().join("curve.jsonl"), curve.as_bytes()).unwrap();
        if let Some(metrics) = metrics {
            files::write_atomic(&folder.path().join("metrics.json"), metrics.as_bytes()).unwrap();
        }
        said(check(folder.path(), OUTPUTS, &GO))
    }

    #[test]
    fn what_is_no_result_is_refused_with_its_place() {
        let long = format!("{{\"loss\":1}}\n\"{}\"\n", "x".repeat(STEP));
        let answers = [
            told("{\"id\":1}\n", Some("{\"accuracy\":0.5}"), "{\"loss\":1.5}\n"),
            told("{\"id\":1}\r\n{\"id\":2}", Some("{\"a\":[true,\"x\",-1,{}]}\n"), ""),
            told("{\"id\":1}\n", None, ""),
            told("{\"id\":1}\n{\"id\"", Some("{}"), ""),
            told("", Some("{\"overall\":{\"accuracy\":[1,null]},\"other\":null}"), ""),
            told("", Some("{\"a\":1"), ""),
            told("", Some("{} {}"), ""),
            told("", Some(&"[".repeat(100_000)), ""),
            told("", Some("{}"), "{\"loss\":1}\n{\"loss\":null}\n"),
            told("", Some("{}"), &long),
        ];
        expect![[r#"
            fine
            fine
            the stage ended without writing its output `metrics.json`
            the output `rows.jsonl` is not valid: line 2 is not JSON: EOF while parsing an object at line 1 column 5
            the output `metrics.json` is not valid: `overall.accuracy.1` is not a number
            the output `metrics.json` is not valid: it is not JSON: EOF while parsing an object at line 1 column 6
            the output `metrics.json` is not valid: it is not JSON: trailing characters at line 1 column 4
            the output `metrics.json` is not valid: it is not JSON: recursion limit exceeded at line 1 column 128
            the output `curve.jsonl` is not valid: line 2: the loss is not a number
            the output `curve.jsonl` is not valid: line 2 is longer than 1 MiB"#]]
        .assert_eq(&answers.join("\n"));
    }

    #[test]
    fn what_is_no_plain_file_is_refused_without_being_opened() {
        type Make<'a> = &'a dyn Fn(&Path);
        let rows = &OUTPUTS[..1];
        let make: [(&str, Make<'_>); 5] = [
            ("pipe", &|path| assert!(Command::new("mkfifo").arg(path).status().unwrap().success())),
            ("socket", &|path| drop(UnixListener::bind(path).unwrap())),
            ("link to a device", &|path| files::symlink(Path::new("/dev/zero"), path).unwrap()),
            ("link to nothing", &|path| files::symlink(Path::new("nowhere"), path).unwrap()),
            ("folder", &|path| files::create_dir(path).unwrap()),
        ];
        let answers = make.map(|(what, make)| {
            let folder = tempfile::tempdir().unwrap();
            make(&folder.path().join("rows.jsonl"));
            format!("{what}: {}", said(check(folder.path(), rows, &GO)))
        });
        expect![[r#"
            pipe: the output `rows.jsonl` is neither a file nor a folder: it is a named pipe
            socket: the output `rows.jsonl` is neither a file nor a folder: it is a socket
            link to a device: the output `rows.jsonl` may lie outside of the stage's folder: `rows.jsonl` is a link
            link to nothing: the output `rows.jsonl` may lie outside of the stage's folder: `rows.jsonl` is a link
            folder: the output `rows.jsonl` is not valid: it is a folder, and `rows` is a file"#]]
        .assert_eq(&answers.join("\n"));
    }

    #[test]
    fn a_line_without_an_end_is_refused_at_the_bound_and_a_stop_ends_the_check() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        // Holes: a terabyte that takes no room on the disk, and would take a terabyte of memory.
        files::create(&path).unwrap().set_len(1 << 40).unwrap();
        let told = said(check(folder.path(), &OUTPUTS[..1], &GO));
        assert_eq!(told, "the output `rows.jsonl` is not valid: line 1 is longer than 64 MiB");
        let told = said(check(folder.path(), &OUTPUTS[..1], &AtomicBool::new(true)));
        assert_eq!(told, "stopped");
        let metrics = folder.path().join("metrics.json");
        files::create(&metrics).unwrap().set_len(1 << 40).unwrap();
        let told = said(check(folder.path(), &OUTPUTS[1..2], &GO));
        assert_eq!(told, "the output `metrics.json` is not valid: it is larger than 256 MiB");
    }
}
