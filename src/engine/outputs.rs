//! The check of a stage's outputs before they are committed: a result that is not one fails its stage here, not
//! the stage below it a day later. Knows no kind and no store.

use std::io::BufRead;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::base::files;
use crate::stage::{ArtifactKind, OutputSpec};

/// Every declared output exists and is what its type says.
pub(super) fn check(folder: &Path, outputs: &[OutputSpec]) -> Result<()> {
    for output in outputs {
        let path = folder.join(&*output.name);
        if !path.exists() {
            bail!("the stage ended without writing its output `{}`", output.name);
        }
        if let Some(link) = link_on_the_way(folder, &output.name) {
            bail!("the output `{}` may lie outside of the stage's folder: `{link}` is a link", output.name);
        }
        check_one(&path, output).with_context(|| format!("the output `{}` is not valid", output.name))?;
    }
    Ok(())
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

fn check_one(path: &Path, output: &OutputSpec) -> Result<()> {
    match output.kind {
        kind if has_rows(kind) => each_line(path, |_, _| Ok(())),
        ArtifactKind::Curve => each_line(path, |number, line| {
            // serde writes a number that is none as null.
            let row: Value = serde_json::from_str(line)?;
            if row.get("loss").is_some_and(Value::is_null) {
                bail!("line {number}: the loss is not a number");
            }
            Ok(())
        }),
        ArtifactKind::Facts => {
            let facts: Value = files::read_json(path)?;
            match first_null(&facts, String::new()) {
                Some(key) => bail!("`{key}` is not a number"),
                None => Ok(()),
            }
        }
        ArtifactKind::Checkpoint if !path.is_dir() => bail!("a checkpoint is a folder"),
        _ => Ok(()),
    }
}

fn each_line(path: &Path, check: impl Fn(usize, &str) -> Result<()>) -> Result<()> {
    for (index, line) in files::open(path)?.lines().enumerate() {
        let number = index + 1;
        let line = line.with_context(|| format!("line {number} is not UTF-8"))?;
        serde_json::from_str::<IgnoredAny>(&line).with_context(|| format!("line {number} is not JSON"))?;
        check(number, &line)?;
    }
    Ok(())
}

/// Dotted path of the first null of a document.
fn first_null(value: &Value, path: String) -> Option<String> {
    let below = |name: &str| if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
    match value {
        Value::Null => Some(path),
        Value::Array(list) => {
            list.iter().enumerate().find_map(|(index, value)| first_null(value, below(&index.to_string())))
        }
        Value::Object(table) => table.iter().find_map(|(key, value)| first_null(value, below(key))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    const OUTPUTS: &[OutputSpec] = &[
        OutputSpec::new("rows.jsonl", ArtifactKind::Rows),
        OutputSpec::new("metrics.json", ArtifactKind::Facts),
        OutputSpec::new("curve.jsonl", ArtifactKind::Curve),
    ];

    fn told(rows: &str, metrics: Option<&str>, curve: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        files::write_atomic(&folder.path().join("rows.jsonl"), rows.as_bytes()).unwrap();
        files::write_atomic(&folder.path().join("curve.jsonl"), curve.as_bytes()).unwrap();
        if let Some(metrics) = metrics {
            files::write_atomic(&folder.path().join("metrics.json"), metrics.as_bytes()).unwrap();
        }
        match check(folder.path(), OUTPUTS) {
            Ok(()) => "fine".to_string(),
            Err(error) => format!("{error:#}"),
        }
    }

    #[test]
    fn what_is_no_result_is_refused_with_its_place() {
        let answers = [
            told("{\"id\":1}\n", Some("{\"accuracy\":0.5}"), "{\"loss\":1.5}\n"),
            told("{\"id\":1}\n", None, ""),
            told("{\"id\":1}\n{\"id\"", Some("{}"), ""),
            told("", Some("{\"overall\":{\"accuracy\":[1,null]}}"), ""),
            told("", Some("{}"), "{\"loss\":1}\n{\"loss\":null}\n"),
        ];
        expect![[r#"
            fine
            the stage ended without writing its output `metrics.json`
            the output `rows.jsonl` is not valid: line 2 is not JSON: EOF while parsing an object at line 1 column 5
            the output `metrics.json` is not valid: `overall.accuracy.1` is not a number
            the output `curve.jsonl` is not valid: line 2: the loss is not a number"#]]
        .assert_eq(&answers.join("\n"));
    }
}
