//! The model card of an exported checkpoint: what it was trained on and how, its scores, and how to make it again.
//!
//! It has no time, host or path of this machine, except for paths that the experiment file names.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use anyhow::Result;
use serde_json::{Map, Value};

use super::load::load_results;
use super::markdown::{code, escape};
use super::results::{self, ExperimentResults};
use ablate_core::stage::{ArtifactKind, HubRepository, InputSource};
use ablate_engine::{Plan, PlanState};
use ablate_experiment::{Expansion, Experiment, Instance, InstanceId, Lineage, Upstream};
use ablate_store::{StageRecord, Store};

/// What a card is about.
pub struct CardInput<'a> {
    pub experiment: &'a Experiment,
    pub expansion: &'a Expansion,
    pub plan: &'a Plan,
    pub store: &'a Store,
    /// The instance with the checkpoint. Its result is fresh.
    pub id: InstanceId,
    /// The keys that were changed with `--set`.
    pub overrides: &'a [String],
    /// Whether transformers can load the folder.
    pub transformers: bool,
}

/// The text of `README.md`: front matter as the Hugging Face hub reads it, then Markdown.
pub fn render(input: &CardInput) -> Result<String> {
    let CardInput { experiment, expansion, id, .. } = input;
    let card = Card { ancestors: ancestors(expansion, *id), lineage: expansion.lineage(*id)?, input };
    let mut text = card.front_matter()?;
    let name = &expansion.get(*id).name;
    _ = writeln!(text, "\n# {}", escape(&format!("{} {name}", experiment.name)));
    if !experiment.about.is_empty() {
        _ = writeln!(text, "\n{}", escape(&experiment.about));
    }
    _ = writeln!(
        text,
        "\nThe checkpoint `{}` of the experiment `{}`, trained with [ablate](https://crates.io/crates/ablate).",
        code(name),
        code(&experiment.name)
    );
    card.training(&mut text)?;
    card.data(&mut text)?;
    card.scores(&mut text)?;
    card.stages(&mut text)?;
    card.commands(&mut text);
    Ok(text)
}

struct Card<'a> {
    input: &'a CardInput<'a>,
    /// Everything that the checkpoint was made from, and its own instance, in the order of the experiment.
    ancestors: BTreeSet<InstanceId>,
    lineage: Lineage,
}

fn ancestors(expansion: &Expansion, id: InstanceId) -> BTreeSet<InstanceId> {
    let (mut found, mut pending) = (BTreeSet::new(), vec![id]);
    while let Some(id) = pending.pop() {
        if found.insert(id) {
            pending.extend(expansion.get(id).inputs.iter().filter_map(|input| match input.upstream {
                Upstream::Output { instance, .. } => Some(instance),
                Upstream::External { .. } | Upstream::Environment { .. } => None,
            }));
        }
    }
    found
}

impl Card<'_> {
    fn get(&self, id: InstanceId) -> &Instance {
        self.input.expansion.get(id)
    }

    fn record(&self, id: InstanceId) -> Option<StageRecord> {
        let entry = self.input.plan.get(id);
        let record = entry.record.as_ref().filter(|_| entry.state == PlanState::Fresh)?;
        self.input.store.record(record.fingerprint)
    }

    /// The models of the hub that the lineage starts from, and the data sets of the hub.
    fn repositories(&self) -> Result<(BTreeSet<String>, BTreeSet<String>)> {
        let (mut models, mut datasets) = (BTreeSet::new(), BTreeSet::new());
        for &id in &self.ancestors {
            for input in self.get(id).parsed()?.inputs() {
                let InputSource::External { path, hub } = input.source else { continue };
                let Some((is_dataset, name)) = hub_repository(&path) else { continue };
                if is_dataset || hub == HubRepository::Dataset {
                    datasets.insert(name);
                } else if hub == HubRepository::Model && id == self.lineage.root {
                    models.insert(name);
                }
                // Others are models that only made data, or repositories whose type is not known.
            }
        }
        Ok((models, datasets))
    }

    /// The license of the model is that of its base and its data, which ablate cannot decide: the key is left out.
    fn front_matter(&self) -> Result<String> {
        let (models, datasets) = self.repositories()?;
        let kinds: BTreeSet<&str> = self.lineage.training.iter().map(|id| self.get(*id).kind.name).collect();
        let mut keys = Map::new();
        match Vec::from_iter(models).as_slice() {
            [] => {}
            [one] => {
                keys.insert("base_model".to_string(), one.as_str().into());
            }
            several => {
                keys.insert("base_model".to_string(), several.to_vec().into());
            }
        }
        if !datasets.is_empty() {
            keys.insert("datasets".to_string(), Vec::from_iter(datasets).into());
        }
        if self.input.transformers {
            keys.insert("library_name".to_string(), "transformers".into());
        }
        let tags: Vec<&str> = std::iter::once("ablate").chain(kinds).collect();
        keys.insert("tags".to_string(), tags.into());
        // A JSON value is a YAML value.
        let lines: Vec<String> = keys.iter().map(|(key, value)| format!("{key}: {value}")).collect();
        Ok(format!("---\n{}\n---\n", lines.join("\n")))
    }

    /// The training stages with their hyperparameters and their length.
    fn training(&self, text: &mut String) -> Result<()> {
        let root = self.get(self.lineage.root);
        let models = std::iter::once(&self.lineage.root).chain(&self.lineage.training).chain([&self.input.id]);
        let mut records = models.filter_map(|id| self.record(*id));
        let parameters = records.find_map(|record| record.summary.0.get("parameters").and_then(Value::as_u64));
        text.push_str("\n## Training\n\n");
        let count = parameters.map(|count| format!("{count} parameters. ")).unwrap_or_default();
        let origin = self.lineage.trained_elsewhere.unwrap_or("a model with random weights");
        _ = writeln!(text, "{count}The model starts from `{}`, {origin}.", code(&root.name));
        if self.lineage.training.is_empty() {
            return Ok(());
        }
        text.push_str("\n| stage | kind | keys | steps | tokens | device |\n|---|---|---|---:|---:|---|\n");
        for &id in &self.lineage.training {
            let (instance, record) = (self.get(id), self.record(id));
            let fact = |key: &str| {
                let value = record.as_ref().and_then(|record| record.summary.0.get(key).cloned());
                value.map(|value| value.to_string()).unwrap_or_default()
            };
            let device = record.as_ref().map(|record| escape(&record.provenance.device)).unwrap_or_default();
            _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {device} |",
                escape(&instance.name),
                instance.kind.name,
                table_cell(&instance.table()?),
                fact("steps"),
                fact("tokens")
            );
        }
        Ok(())
    }

    /// The stages whose outputs are rows of data, with their counts.
    fn data(&self, text: &mut String) -> Result<()> {
        let is_data = |id: &&InstanceId| {
            let kinds = [ArtifactKind::Items, ArtifactKind::Rows, ArtifactKind::Pairs];
            self.get(**id).outputs.iter().any(|output| kinds.contains(&output.kind))
        };
        let stages: Vec<InstanceId> = self.ancestors.iter().filter(is_data).copied().collect();
        if stages.is_empty() {
            return Ok(());
        }
        text.push_str("\n## Data\n\n| stage | kind | keys | size |\n|---|---|---|---|\n");
        for id in stages {
            let (instance, record) = (self.get(id), self.record(id));
            let summary = record.map(|record| record.summary.0).unwrap_or_default();
            let counts = ["rows", "items", "pairs", "questions", "images"]
                .into_iter()
                .filter_map(|key| Some(format!("{} {key}", summary.get(key).and_then(Value::as_u64)?)));
            _ = writeln!(
                text,
                "| {} | {} | {} | {} |",
                escape(&instance.name),
                instance.kind.name,
                table_cell(&instance.table()?),
                counts.collect::<Vec<_>>().join(", ")
            );
        }
        Ok(())
    }

    /// The scores of the evaluations of this model.
    fn scores(&self, text: &mut String) -> Result<()> {
        let CardInput { experiment, expansion, plan, store, .. } = self.input;
        let (all, _) = load_results(experiment, expansion, plan, store);
        let (mut evaluations, mut missing) = (Vec::new(), Vec::new());
        for evaluation in all.evaluations {
            let Some(id) = expansion.find(&evaluation.instance) else { continue };
            if expansion.lineage(id)? != self.lineage {
                continue;
            }
            match evaluation.scores {
                Some(_) => evaluations.push(evaluation),
                None => missing.push(evaluation.instance),
            }
        }
        text.push_str("\n## Scores\n\n");
        if evaluations.is_empty() {
            text.push_str("This checkpoint had no scores when it was exported.\n");
        } else {
            let results = ExperimentResults { experiment: experiment.name.clone(), evaluations };
            let rows = results::table(&[results], false)?.json();
            score_table(rows.as_array().map(Vec::as_slice).unwrap_or_default(), text);
        }
        if !missing.is_empty() {
            let names: Vec<String> = missing.iter().map(|name| format!("`{}`", code(name))).collect();
            _ = writeln!(text, "\nNot measured when it was exported: {}.", names.join(", "));
        }
        Ok(())
    }

    /// Everything that the checkpoint was made from, with the hashes of its outputs.
    fn stages(&self, text: &mut String) -> Result<()> {
        text.push_str(
            "\n## Lineage\n\n| stage | kind | version | seed | keys | output |\n|---|---|---:|---:|---|---|\n",
        );
        for &id in &self.ancestors {
            let (instance, record) = (self.get(id), self.record(id));
            let outputs: BTreeMap<_, _> = record.map(|record| record.outputs).unwrap_or_default();
            let outputs = outputs.iter().map(|(name, artifact)| format!("{} {}", escape(name), artifact.hash.short()));
            let seed = if instance.kind.seeded { instance.seed.to_string() } else { String::new() };
            _ = writeln!(
                text,
                "| {} | {} | {} | {seed} | {} | {} |",
                escape(&instance.name),
                instance.kind.name,
                instance.kind.version,
                table_cell(&instance.table()?),
                outputs.collect::<Vec<_>>().join(", ")
            );
        }
        text.push_str("\nAn output is named by the start of the BLAKE3 hash of its content.\n");
        Ok(())
    }

    fn commands(&self, text: &mut String) {
        let CardInput { experiment, id, overrides, .. } = self.input;
        let file = experiment.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let changes = overrides.iter().map(|change| format!(" --set {}", shell_quoted(change)));
        let changes = changes.collect::<Vec<_>>().concat();
        let (file, target) = (shell_quoted(&file), shell_quoted(&self.get(*id).name));
        text.push_str("\n## Reproduce\n\nWith the experiment file and its data:\n\n");
        let commands = [
            format!("ablate run {file} {target}{changes}"),
            format!("ablate export {file} {target} checkpoint{changes}"),
            format!("ablate results {file}{changes}"),
        ];
        for command in commands {
            _ = writeln!(text, "    {}", command.replace('\n', " "));
        }
        text.push_str("\nThe hashes of the new outputs are those above, if the device, its driver and the version of ablate are the same.\n");
    }
}

/// A repository in a reference `hf://org/name`: whether it is a data set, and its name.
fn hub_repository(text: &str) -> Option<(bool, String)> {
    let path = text.strip_prefix(ablate_experiment::hub_cache::SCHEME)?;
    let (is_dataset, path) = match path.strip_prefix("datasets/") {
        Some(rest) => (true, rest),
        None => (false, path.strip_prefix("models/").unwrap_or(path)),
    };
    let name: Vec<&str> = path.splitn(3, '/').take(2).collect();
    let name = name.join("/");
    Some((is_dataset, name.split('@').next().unwrap_or_default().to_string()))
}

/// A table of the experiment file in a cell: `batch = 16, lr = 0.003`.
fn table_cell(table: &Value) -> String {
    let keys = table.as_object().into_iter().flatten();
    escape(&keys.map(|(key, value)| format!("{key} = {value}")).collect::<Vec<_>>().join(", "))
}

/// A table of rows that have the same keys. Shares are in percent.
fn score_table(rows: &[Value], text: &mut String) {
    let Some(first) = rows.first().and_then(Value::as_object) else { return };
    let has_values = |key: &str| rows.iter().any(|row| row.get(key).is_some_and(|value| !value.is_null()));
    let columns: Vec<&str> = first.keys().map(String::as_str).collect();
    let columns: Vec<&str> =
        columns.into_iter().filter(|key| !["experiment", "stage"].contains(key) && has_values(key)).collect();
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    text.push_str(&line(columns.iter().map(|column| escape(column)).collect()));
    text.push_str(&line(columns.iter().map(|_| "---".to_string()).collect()));
    for row in rows {
        let cell = |column: &&str| match row.get(*column) {
            Some(Value::String(text)) => escape(text),
            Some(Value::Number(number)) if number.is_f64() => {
                let share = ["accuracy", "compliance", "readable", "accuracy_given_compliance"].contains(column);
                let number = number.as_f64().unwrap_or_default();
                if share { format!("{:.1} %", 100.0 * number) } else { number.to_string() }
            }
            None | Some(Value::Null) => String::new(),
            Some(value) => value.to_string(),
        };
        text.push_str(&line(columns.iter().map(cell).collect()));
    }
}

/// A word of a command line.
fn shell_quoted(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "@=,._+-/:".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_string()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_have_an_owner_and_a_name() {
        let cases = [
            ("hf://org/name", Some((false, "org/name"))),
            ("hf://models/org/name@main/file", Some((false, "org/name"))),
            ("hf://datasets/org/name@v1/train.parquet", Some((true, "org/name"))),
            ("org/name", None),
        ];
        for (text, expected) in cases {
            assert_eq!(hub_repository(text), expected.map(|(dataset, name)| (dataset, name.to_string())), "{text}");
        }
    }

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(shell_quoted("eval@model=dpo,lr=0.1"), "eval@model=dpo,lr=0.1");
        assert_eq!(shell_quoted("it's *"), r"'it'\''s *'");
    }
}
