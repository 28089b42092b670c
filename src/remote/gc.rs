//! `gc` of a remote: removes records that no root names, and objects that no kept record needs, when they are older than a grace
//! period.
//!
//! Other machines may push at the same time, and there is no lock. Objects are listed first, then roots and records, so that every
//! object that a listed record needs was there before. What is younger than the grace period stays, because its record may come. A
//! push renews an object that is older than half of the grace period before it writes a record, so each object is looked at again
//! right before it is removed.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::TryStreamExt;
use jiff::Timestamp;
use object_store::{ObjectMeta, ObjectStore};
use serde::Serialize;

use super::error::explain;
use super::layout::{FORMAT_NAME, OBJECTS, PROBES, RECORDS, ROOTS, hash_of_name, object_name, record_name};
use super::parallel::try_map;
use super::roots::Root;
use super::{GRACE, Remote, TRANSFERS, time_of};
use ablate_core::base::Hash;
use ablate_core::stage::Artifact;
use ablate_store::{StageRecord, Tree};

/// What `gc` removes.
#[derive(Clone, Copy, Debug)]
pub struct GcRules {
    /// What is younger stays.
    pub grace: Duration,
    /// Roots that were not written for this long are removed, and do not keep their results. `None` keeps all.
    pub max_age: Option<Duration>,
}

impl Default for GcRules {
    fn default() -> GcRules {
        GcRules { grace: GRACE, max_age: None }
    }
}

/// What was removed, or would be removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GcReport {
    pub roots: usize,
    pub records: usize,
    pub objects: usize,
    pub bytes: u64,
    pub kept_roots: usize,
    pub kept_records: usize,
    pub kept_objects: usize,
    pub kept_bytes: u64,
    /// Kept because they are younger than the grace period.
    pub young: usize,
    /// Files that ablate did not write or cannot read. They are kept.
    pub unknown: Vec<String>,
    /// Whether objects were kept because a record cannot be read: what it needs is not known.
    pub objects_kept_by_unknown: bool,
}

/// A file at the remote.
struct Listed {
    hash: Hash,
    name: String,
    meta: ObjectMeta,
}

impl Remote {
    /// Removes what nothing needs. With `dry_run`, removes nothing and reports what would be removed.
    pub fn gc(&self, rules: &GcRules, dry_run: bool) -> Result<GcReport> {
        let mut report = GcReport::default();
        let now = self.server_time()?;
        let age = |meta: &ObjectMeta| Duration::try_from(now.duration_since(time_of(meta))).unwrap_or_default();
        let is_young = |meta: &ObjectMeta| age(meta) < rules.grace;
        let objects = self.list_hashes(OBJECTS, &mut report.unknown)?;
        let (roots, dropped) = self.roots(rules, now, &mut report)?;
        let records = self.list_hashes(RECORDS, &mut report.unknown)?;
        self.note_other_files(&mut report)?;
        let named: BTreeSet<Hash> = roots.iter().flat_map(|root| &root.fingerprints).copied().collect();
        let (kept, removed): (Vec<Listed>, Vec<Listed>) =
            records.into_iter().partition(|record| named.contains(&record.hash) || is_young(&record.meta));
        report.young += kept.iter().filter(|record| !named.contains(&record.hash)).count();
        report.kept_records = kept.len();
        let needed = self.needed_objects(&kept, &mut report)?;
        let mut to_remove = Vec::new();
        for object in objects {
            if needed.contains(&object.hash) || is_young(&object.meta) || report.objects_kept_by_unknown {
                report.young += usize::from(!needed.contains(&object.hash) && is_young(&object.meta));
                report.kept_objects += 1;
                report.kept_bytes += object.meta.size;
            } else {
                to_remove.push(object);
            }
        }
        report.kept_roots = roots.len();
        (report.roots, report.records) = (dropped.len(), removed.len());
        if dry_run {
            report.objects = to_remove.len();
            report.bytes = to_remove.iter().map(|object| object.meta.size).sum();
            return Ok(report);
        }
        try_map(&dropped, TRANSFERS, |name| self.delete(name))?;
        // A record without its objects would look damaged, so records go first.
        try_map(&removed, TRANSFERS, |record| self.delete_unchanged(record))?;
        let deleted = try_map(&to_remove, TRANSFERS, |object| self.delete_unchanged(object))?;
        for (object, deleted) in to_remove.iter().zip(deleted) {
            if deleted {
                report.objects += 1;
                report.bytes += object.meta.size;
            } else {
                report.kept_objects += 1;
                report.kept_bytes += object.meta.size;
                report.young += 1;
            }
        }
        self.remove_probes(rules.grace, &age)?;
        Ok(report)
    }

    /// Removes a file, unless it was written again since it was listed.
    fn delete_unchanged(&self, listed: &Listed) -> Result<bool> {
        match self.head(&listed.name)? {
            Some(meta) if meta.last_modified == listed.meta.last_modified => self.delete(&listed.name).map(|()| true),
            Some(_) => Ok(false),
            // Another `gc` was faster.
            None => Ok(true),
        }
    }

    /// The roots that keep results, and the names of those that are too old.
    fn roots(&self, rules: &GcRules, now: Timestamp, report: &mut GcReport) -> Result<(Vec<Root>, Vec<String>)> {
        let (mut kept, mut dropped) = (Vec::new(), Vec::new());
        let listed = self.list(ROOTS)?;
        let read = try_map(&listed, TRANSFERS, |(name, _)| self.get(name))?;
        for ((name, meta), bytes) in listed.into_iter().zip(read) {
            let Some(bytes) = bytes else { continue };
            let root = serde_json::from_slice::<Root>(&bytes).ok().filter(|root| root.name() == name);
            let Some(root) = root else {
                // Its results are not known, so all would have to be kept.
                report.unknown.push(name.clone());
                anyhow::bail!(
                    "the file `{name}` of {} cannot be read, and it may name results that are needed: nothing was removed\nhelp: use the version of ablate that wrote it, or remove the file",
                    self.address
                );
            };
            let age = Duration::try_from(now.duration_since(time_of(&meta))).unwrap_or_default();
            match rules.max_age {
                Some(limit) if age > limit => dropped.push(name),
                _ => kept.push(root),
            }
        }
        Ok((kept, dropped))
    }

    /// The objects that records need. A record that cannot be read makes this unknown.
    fn needed_objects(&self, records: &[Listed], report: &mut GcReport) -> Result<BTreeSet<Hash>> {
        let read = try_map(records, TRANSFERS, |record| self.read_record(record.hash))?;
        let mut found: Vec<StageRecord> = Vec::new();
        for (listed, record) in records.iter().zip(read) {
            match record {
                Some(Ok(record)) => found.push(record),
                Some(Err(_)) => {
                    report.unknown.push(record_name(listed.hash));
                    report.objects_kept_by_unknown = true;
                }
                None => {}
            }
        }
        let outputs = || found.iter().flat_map(|record| record.outputs.values());
        let mut needed: BTreeSet<Hash> = outputs().flat_map(Artifact::needed_objects).collect();
        let mut trees: BTreeSet<Hash> = outputs().filter(|output| output.tree).map(|output| output.hash).collect();
        trees.extend(outputs().flat_map(|output| &output.bases).map(|base| base.hash));
        let trees: Vec<Hash> = trees.into_iter().collect();
        let manifests = try_map(&trees, TRANSFERS, |tree| self.get(&object_name(*tree)))?;
        for (tree, manifest) in trees.iter().zip(manifests) {
            let Some(manifest) = manifest else { continue };
            match Tree::parse(&manifest) {
                Ok(parsed) if Hash::of_bytes(&manifest) == *tree => {
                    needed.extend(parsed.files.values().map(|file| file.hash));
                }
                _ => {
                    report.unknown.push(object_name(*tree));
                    report.objects_kept_by_unknown = true;
                }
            }
        }
        Ok(needed)
    }

    /// Removes probes that a killed process left behind.
    fn remove_probes(&self, grace: Duration, age: &(dyn Fn(&ObjectMeta) -> Duration + Sync)) -> Result<()> {
        let mut probes = self.list(PROBES)?;
        probes.retain(|(_, meta)| age(meta) > grace.min(Duration::from_secs(24 * 3600)));
        try_map(&probes, TRANSFERS, |(name, _)| self.delete(name)).map(|_| ())
    }

    fn note_other_files(&self, report: &mut GcReport) -> Result<()> {
        let root = self.backend.path("");
        let listed = self.backend.wait(self.backend.objects.list_with_delimiter(Some(&root)))?;
        let listed = listed.map_err(|error| explain(&format!("cannot list {}", self.address), &error))?;
        let names = listed.common_prefixes.iter().chain(listed.objects.iter().map(|object| &object.location));
        let known = [OBJECTS, RECORDS, ROOTS, PROBES, FORMAT_NAME];
        let others = names.filter_map(|path| self.backend.name(path)).filter(|name| !known.contains(name));
        report.unknown.extend(others.map(str::to_string));
        Ok(())
    }

    /// The files below a folder whose names are hashes. Other names are added to `unknown`.
    fn list_hashes(&self, folder: &str, unknown: &mut Vec<String>) -> Result<Vec<Listed>> {
        let mut found = Vec::new();
        for (name, meta) in self.list(folder)? {
            match hash_of_name(folder, &name) {
                Some(hash) => found.push(Listed { hash, name, meta }),
                None => unknown.push(name),
            }
        }
        Ok(found)
    }

    /// The files below a folder, by their names without the prefix of the remote.
    fn list(&self, folder: &str) -> Result<Vec<(String, ObjectMeta)>> {
        let path = self.backend.path(folder);
        let listed = self.backend.wait(self.backend.objects.list(Some(&path)).try_collect::<Vec<ObjectMeta>>())?;
        let listed = listed.map_err(|error| explain(&format!("cannot list {}", self.address), &error))?;
        let named = listed.into_iter().map(|meta| {
            let name = self.backend.name(&meta.location).map(str::to_string);
            name.map(|name| (name, meta)).context("BUG: the remote listed a file outside of its prefix")
        });
        named.collect()
    }
}
