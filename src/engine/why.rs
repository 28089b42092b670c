//! `why`: the states of a plan as diagnostics, each at its line in the user's file.

use std::collections::BTreeSet;

use super::dirty::DirtyReason;
use super::graph::Graph;
use super::manifest_diff::diff_manifests;
use super::plan::{Plan, PlanState};
use ablate_core::base::{Diagnostic, Hash, Span};
use ablate_core::stage::{Manifest, ManifestEntry};
use ablate_experiment::{Expansion, Instance, InstanceId};
use ablate_store::{ExperimentId, Store};

/// Why an instance is fresh, dirty or waiting: one note per reason.
pub fn why(expansion: &Expansion, plan: &Plan, id: InstanceId) -> Vec<Diagnostic> {
    let instance = expansion.get(id);
    let entry = plan.get(id);
    match &entry.state {
        PlanState::Fresh => {
            let fingerprint = entry.identity.as_ref().map(|identity| identity.fingerprint.short()).unwrap_or_default();
            vec![Diagnostic::note(format!("`{}` is fresh: its result is record {fingerprint}", instance.name))]
        }
        PlanState::Waiting(upstream) => {
            let name = |id: &InstanceId| format!("`{}`", expansion.get(*id).name);
            let names: Vec<String> = upstream.iter().map(name).collect();
            vec![Diagnostic::note(format!("`{}` waits for {}", instance.name, names.join(", ")))]
        }
        PlanState::Dirty(reasons) => {
            let record = entry.compared.map(|hash| hash.short());
            let verdict = |reason: &DirtyReason| if reason.is_obstacle() { "cannot run" } else { "must run" };
            reasons.iter().map(|reason| note(instance, verdict(reason), reason, record.as_deref())).collect()
        }
    }
}

/// An instance and everything upstream of it that is not fresh, in the order of the expansion.
pub fn stale_upstream(expansion: &Expansion, plan: &Plan, id: InstanceId) -> BTreeSet<InstanceId> {
    let graph = Graph::new(expansion);
    let mut found = BTreeSet::from([id]);
    let mut pending = vec![id];
    while let Some(id) = pending.pop() {
        let upstream = graph.upstream(id).into_iter().filter(|id| plan.get(*id).state != PlanState::Fresh);
        pending.extend(upstream.filter(|id| found.insert(*id)));
    }
    found
}

/// How the values of a waiting instance differ from the record of its last result, with the fingerprint of that record.
/// Its inputs are not compared, because they are not known yet.
pub fn known_differences(
    store: &Store,
    experiment: &ExperimentId,
    instance: &Instance,
) -> Option<(Hash, Vec<DirtyReason>)> {
    let old = store.record(store.latest(experiment, &instance.name).fingerprint?)?;
    let mut new: Manifest = serde_json::from_str(&instance.identity).ok()?;
    if instance.kind.seeded {
        new.seed(instance.seed);
    }
    let mut manifest = old.manifest;
    manifest.entries.retain(|entry| !matches!(entry, ManifestEntry::Input { .. }));
    Some((old.fingerprint, diff_manifests(&manifest, &new)))
}

/// The [`known_differences`] of a waiting instance, as notes.
pub fn why_waiting(store: &Store, experiment: &ExperimentId, instance: &Instance) -> Vec<Diagnostic> {
    let Some((record, reasons)) = known_differences(store, experiment, instance) else { return Vec::new() };
    let record = record.short();
    reasons.iter().map(|reason| note(instance, "must run in any case", reason, Some(&record))).collect()
}

/// A reason as a diagnostic that points at the value, or at the header of the stage.
fn note(instance: &Instance, verdict: &str, reason: &DirtyReason, record: Option<&str>) -> Diagnostic {
    let label = match (reason, record) {
        (DirtyReason::ValueChanged { old, .. }, Some(record)) => format!("was {old} in record {record}"),
        (DirtyReason::ValueAdded { .. }, Some(record)) => format!("not in record {record}"),
        (DirtyReason::InputChanged { .. }, Some(record)) => format!("record {record} has different content"),
        (_, Some(record)) => format!("compared with record {record}"),
        (_, None) => String::new(),
    };
    let message = format!("`{}` {verdict}: {reason}", instance.name);
    let diagnostic = if reason.is_obstacle() { Diagnostic::error(message) } else { Diagnostic::note(message) };
    match span(instance, reason.key()) {
        Some(span) => diagnostic.at(span.clone(), label),
        None => diagnostic,
    }
}

/// The place of a key in the file: the key itself, else the nearest enclosing table, else the header of the stage.
fn span<'a>(instance: &'a Instance, key: &str) -> Option<&'a Span> {
    let mut key = key;
    loop {
        if let Some(span) = instance.spans.get(key) {
            return Some(span);
        }
        if key.is_empty() {
            return None;
        }
        key = key.rsplit_once('.').map_or("", |(table, _)| table);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PlanOptions;
    use crate::plan::plan;
    use crate::tests::support::TestProject;
    use ablate_core::base::Sources;
    use expect_test::expect;
    use serde_json::json;
    use std::sync::Arc;

    const TEXT: &str =
        "[stage.train]\nkind = \"text\"\npath = \"data.txt\"\nword = \"b\"\n\n[stage.eval]\nfrom = [\"train\"]\n";

    /// The stages of `TEXT`, with the spans of their keys.
    fn stages(project: &TestProject, sources: &mut Sources, path: &str, word: &str) -> Expansion {
        let source = sources.add("a.toml".to_string(), TEXT.to_string());
        let train = json!({ "path": path, "word": word });
        let mut stages = project.stages(&[("train", train), ("eval", json!({ "from": ["train"] }))]);
        let spans = [(0, "", "stage.train"), (0, "path", "\"data.txt\""), (0, "word", "\"b\""), (1, "", "stage.eval")];
        for (instance, key, text) in spans {
            let start = TEXT.find(text).unwrap();
            let span = Span { source, range: start..start + text.len() };
            Arc::make_mut(&mut stages.instances[instance].spans).insert(key.to_string(), span);
        }
        stages
    }

    fn render(project: &TestProject, stages: &Expansion, sources: &Sources) -> String {
        let options = PlanOptions { experiment: "test".into(), ..PlanOptions::default() };
        let plan = plan(stages, &project.store(), &options).unwrap();
        let notes = stages.ids().flat_map(|id| why(stages, &plan, id));
        let text = notes.map(|note| note.render(sources, false)).collect::<Vec<_>>().join("\n");
        project.normalize(&text)
    }

    #[test]
    fn a_reason_points_at_its_line() {
        let project = TestProject::with_data();
        let mut sources = Sources::default();
        let first = stages(&project, &mut sources, "data.txt", "a");
        expect![[r#"
            note: `train` must run: it has not run yet
             --> a.toml:1:2
              |
            1 | [stage.train]
              |  ^^^^^^^^^^^
            note: `eval` waits for `train`"#]]
        .assert_eq(&render(&project, &first, &sources));
        project.run(&first);
        expect![[r#"
            note: `train` is fresh: its result is record HASH
            note: `eval` is fresh: its result is record HASH"#]]
        .assert_eq(&render(&project, &first, &sources));
        project.write("data.txt", "two");
        expect![[r#"
            note: `train` must run: `word` changed from "a" to "b"
             --> a.toml:4:8
              |
            4 | word = "b"
              |        ^^^ was "a" in record HASH
            note: `train` must run: the content of `PROJECT/data.txt` (`path`) changed from HASH to HASH
             --> a.toml:3:8
              |
            3 | path = "data.txt"
              |        ^^^^^^^^^^ record HASH has different content
            note: `eval` waits for `train`"#]]
        .assert_eq(&render(&project, &stages(&project, &mut sources, "data.txt", "b"), &sources));
        expect![[r#"
            error: `train` cannot run: `PROJECT/none.txt` (`path`) does not exist
             --> a.toml:3:8
              |
            3 | path = "data.txt"
              |        ^^^^^^^^^^
            note: `eval` waits for `train`"#]]
        .assert_eq(&render(&project, &stages(&project, &mut sources, "none.txt", "b"), &sources));
    }
}
