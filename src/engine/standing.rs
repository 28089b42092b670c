//! What the last run found, instance by instance, so that an idle run looks at the files and asks nobody else. It only
//! saves time: whatever does not look as it did is found out again.

use serde::{Deserialize, Serialize};

use super::publish::Links;
use crate::base::Hash;
use crate::experiment::{Expansion, Instance};
use crate::stage::Artifact;
use crate::store::{Committed, Stamp, Store};

/// The findings of a run.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Standing {
    /// The instances that they are about.
    expansion: Option<Hash>,
    /// The records as they were: others may have been taken away or damaged since.
    records: Option<Stamp>,
    entries: Vec<Option<Stood>>,
}

/// One instance that was fresh.
#[derive(Debug, Serialize, Deserialize)]
struct Stood {
    /// Content of its inputs.
    inputs: Vec<Hash>,
    committed: Committed,
    /// How the objects of its outputs look; `None` for a tree, of which each file is looked at.
    looks: Vec<Option<Stamp>>,
}

impl Standing {
    /// What was found for these instances, if nothing was written to the records since.
    pub(super) fn load(store: &Store, name: Option<&str>, expansion: &Expansion) -> Standing {
        let found = name.and_then(|name| store.derived(name)).and_then(|bytes| postcard::from_bytes(&bytes).ok());
        let standing: Standing = found.unwrap_or_default();
        let holds = standing.records.is_some()
            && standing.records == store.records_stamp()
            && standing.expansion == expansion.hash
            && standing.entries.len() == expansion.instances.len();
        if holds { standing } else { Standing::default() }
    }

    /// Notes what is fresh now: the content of each instance's inputs, and its record.
    pub(super) fn keep<'a>(
        store: &Store,
        name: &str,
        expansion: &Expansion,
        fresh: impl Iterator<Item = Option<(&'a [Hash], &'a Committed)>>,
    ) {
        let entries = fresh.map(|found| {
            let (inputs, committed) = found?;
            // An output that is gone by now is no finding.
            let look = |artifact: &Artifact| if artifact.tree { Some(None) } else { store.look(artifact).map(Some) };
            let looks = committed.outputs.values().map(look).collect::<Option<_>>()?;
            Some(Stood { inputs: inputs.to_vec(), committed: committed.clone(), looks })
        });
        let entries = entries.collect();
        let standing = Standing { expansion: expansion.hash, records: store.records_stamp(), entries };
        if let Ok(bytes) = postcard::to_stdvec(&standing) {
            store.keep_derived(name, &bytes);
        }
    }

    /// Takes out the record of an instance whose inputs have the content that they had, and whose outputs look as they
    /// did: over their links, where somebody asks for these.
    pub(super) fn take(
        &mut self,
        store: &Store,
        index: usize,
        instance: &Instance,
        inputs: &[Hash],
        links: Option<&Links>,
    ) -> Option<Committed> {
        let stood = self.entries.get_mut(index)?.take().filter(|stood| stood.inputs == inputs)?;
        let holds =
            stood.committed.outputs.iter().zip(&stood.looks).all(|((name, artifact), look)| match (look, links) {
                (Some(stamp), Some(links)) => links.look(instance, name) == Some(*stamp),
                (Some(stamp), None) => store.look(artifact) == Some(*stamp),
                (None, Some(links)) => links.leads_to(store, instance, name, artifact) && store.is_present(artifact),
                (None, None) => store.is_present(artifact),
            });
        holds.then_some(stood.committed)
    }
}
