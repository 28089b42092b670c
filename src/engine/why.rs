//! `why`: a plan's verdicts in words, each at its line of the user's file.

use std::collections::BTreeSet;

use super::difference::differences;
use super::dirty::DirtyReason;
use super::graph::Graph;
use super::plan::{Plan, PlanState};
use ablate_core::base::{Diagnostic, Hash, Span};
use ablate_core::stage::{Manifest, ManifestEntry};
use ablate_experiment::{Expansion, Instance, InstanceId};
use ablate_store::{ExperimentId, Store};

/// Why an instance is fresh, must run or waits: one note per reason.
pub fn why(expansion: &Expansion, plan: &Plan, id: InstanceId) -> Vec<Diagnostic> {
    let instance = expansion.get(id);
    let entry = plan.get(id);
    match &entry.state {
        PlanState::Fresh => {
            let fingerprint = entry.identity.as_ref().map(|identity| identity.fingerprint.short()).unwrap_or_default();
            vec![Diagnostic::note(format!("`{}` is fresh: its result is record {fingerprint}", instance.name))]
        }
        PlanState::Waits(above) => {
            let names: Vec<String> = above.iter().map(|above| format!("`{}`", expansion.get(*above).name)).collect();
            vec![Diagnostic::note(format!("`{}` waits for {}", instance.name, names.join(", ")))]
        }
        PlanState::Dirty(reasons) => {
            let record = entry.compared.map(|hash| hash.short());
            reasons.iter().map(|reason| explain(instance, reason, record.as_deref())).collect()
        }
    }
}

/// An instance and everything above it that is not fresh, upstream first: where its own state comes from.
pub fn chain(expansion: &Expansion, plan: &Plan, id: InstanceId) -> BTreeSet<InstanceId> {
    let graph = Graph::of(expansion);
    let mut found = BTreeSet::from([id]);
    let mut pending = vec![id];
    while let Some(id) = pending.pop() {
        let above = graph.above(id).into_iter().filter(|above| plan.get(*above).state != PlanState::Fresh);
        pending.extend(above.filter(|above| found.insert(*above)));
    }
    found
}

/// What is known already of an instance that waits: the record of its last result, and how its own values differ from
/// that. Its inputs are not known yet.
pub fn so_far(store: &Store, experiment: &ExperimentId, instance: &Instance) -> Option<(Hash, Vec<DirtyReason>)> {
    let old = store.record(store.latest(experiment, &instance.name).fingerprint?)?;
    let mut new: Manifest = serde_json::from_str(&instance.identity).ok()?;
    if instance.kind.seeded {
        new.seed(instance.seed);
    }
    let mut manifest = old.manifest;
    manifest.entries.retain(|entry| !matches!(entry, ManifestEntry::Input { .. }));
    Some((old.fingerprint, differences(&manifest, &new)))
}

/// The differences of an instance that waits, as notes.
pub fn why_so_far(store: &Store, experiment: &ExperimentId, instance: &Instance) -> Vec<Diagnostic> {
    let Some((record, reasons)) = so_far(store, experiment, instance) else { return Vec::new() };
    let record = record.short();
    reasons.iter().map(|reason| note(instance, "must run in any case", reason, Some(&record))).collect()
}

/// One reason as a note that points at the value, or at the stage's header.
fn explain(instance: &Instance, reason: &DirtyReason, record: Option<&str>) -> Diagnostic {
    let verdict = if reason.is_obstacle() { "cannot run" } else { "must run" };
    note(instance, verdict, reason, record)
}

fn note(instance: &Instance, verdict: &str, reason: &DirtyReason, record: Option<&str>) -> Diagnostic {
    let label = match (reason, record) {
        (DirtyReason::ValueChanged { old, .. }, Some(record)) => format!("was {old} in record {record}"),
        (DirtyReason::ValueAdded { .. }, Some(record)) => format!("not in record {record}"),
        (DirtyReason::InputChanged { .. }, Some(record)) => format!("other content than in record {record}"),
        (_, Some(record)) => format!("compared with record {record}"),
        (_, None) => String::new(),
    };
    let message = format!("`{}` {verdict}: {reason}", instance.name);
    let diagnostic = if reason.is_obstacle() { Diagnostic::error(message) } else { Diagnostic::note(message) };
    match origin(instance, reason.key()) {
        Some(origin) => diagnostic.at(origin.clone(), label),
        None => diagnostic,
    }
}

/// Where a key was written: itself, else the nearest table around it, else the stage's header.
fn origin<'a>(instance: &'a Instance, key: &str) -> Option<&'a Span> {
    let mut key = key;
    loop {
        if let Some(origin) = instance.spans.get(key) {
            return Some(origin);
        }
        if key.is_empty() {
            return None;
        }
        key = key.rsplit_once('.').map_or("", |(around, _)| around);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PlanOptions;
    use crate::plan::plan;
    use crate::toys::Space;
    use ablate_core::base::Sources;
    use expect_test::expect;
    use serde_json::json;
    use std::sync::Arc;

    const TEXT: &str =
        "[stage.train]\nkind = \"toy\"\npath = \"data.txt\"\nword = \"b\"\n\n[stage.eval]\nfrom = [\"train\"]\n";

    /// The stages of `TEXT`, with the places of their keys.
    fn stages(space: &Space, sources: &mut Sources, path: &str, word: &str) -> Expansion {
        let source = sources.add("a.toml".to_string(), TEXT.to_string());
        let mut stages =
            space.stages(&[("train", json!({ "path": path, "word": word })), ("eval", json!({ "from": ["train"] }))]);
        let places = [(0, "", "stage.train"), (0, "path", "\"data.txt\""), (0, "word", "\"b\""), (1, "", "stage.eval")];
        for (instance, key, text) in places {
            let start = TEXT.find(text).unwrap();
            let origin = Span { source, range: start..start + text.len() };
            Arc::make_mut(&mut stages.instances[instance].spans).insert(key.to_string(), origin);
        }
        stages
    }

    fn told(space: &Space, stages: &Expansion, sources: &Sources) -> String {
        let options = PlanOptions { experiment: "test".into(), ..PlanOptions::default() };
        let plan = plan(stages, &space.store(), &options).unwrap();
        let notes = stages.ids().flat_map(|id| why(stages, &plan, id));
        let text = notes.map(|note| note.render(sources, false)).collect::<Vec<_>>().join("\n");
        space.clean(&text)
    }

    #[test]
    fn a_reason_points_at_its_line() {
        let space = Space::new();
        space.write("data.txt", "one");
        let mut sources = Sources::default();
        let first = stages(&space, &mut sources, "data.txt", "a");
        expect![[r#"
            note: `train` must run: it has not run yet
             --> a.toml:1:2
              |
            1 | [stage.train]
              |  ^^^^^^^^^^^
            note: `eval` waits for `train`"#]]
        .assert_eq(&told(&space, &first, &sources));
        space.run(&first);
        expect![[r#"
            note: `train` is fresh: its result is record HASH
            note: `eval` is fresh: its result is record HASH"#]]
        .assert_eq(&told(&space, &first, &sources));
        space.write("data.txt", "two");
        expect![[r#"
            note: `train` must run: `word` changed from "a" to "b"
             --> a.toml:4:8
              |
            4 | word = "b"
              |        ^^^ was "a" in record HASH
            note: `train` must run: the content of `SPACE/data.txt` (`path`) changed from HASH to HASH
             --> a.toml:3:8
              |
            3 | path = "data.txt"
              |        ^^^^^^^^^^ other content than in record HASH
            note: `eval` waits for `train`"#]]
        .assert_eq(&told(&space, &stages(&space, &mut sources, "data.txt", "b"), &sources));
        expect![[r#"
            error: `train` cannot run: `SPACE/none.txt` (`path`) does not exist
             --> a.toml:3:8
              |
            3 | path = "data.txt"
              |        ^^^^^^^^^^
            note: `eval` waits for `train`"#]]
        .assert_eq(&told(&space, &stages(&space, &mut sources, "none.txt", "b"), &sources));
    }
}
