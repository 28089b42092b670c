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
    /// Records and notes as they were: others may have been taken away or damaged since.
    logs: Option<[Stamp; 2]>,
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
    /// How the folder of its links looks, which changes when one of them is taken away or replaced.
    links: Option<Stamp>,
}

impl Standing {
    /// What was found for these instances, if nothing was written to records and notes since.
    pub(super) fn load(store: &Store, name: Option<&str>, expansion: &Expansion) -> Standing {
        let found = name.and_then(|name| store.derived(name)).and_then(|bytes| postcard::from_bytes(&bytes).ok());
        let standing: Standing = found.unwrap_or_default();
        // What nobody has told apart from all else may be anything.
        let holds = standing.expansion.is_some()
            && standing.expansion == expansion.hash
            && standing.logs.is_some()
            && standing.logs == store.stamps()
            && standing.entries.len() == expansion.instances.len();
        if holds { standing } else { Standing::default() }
    }

    /// Notes what is fresh now: the content of each instance's inputs, and its record.
    pub(super) fn keep<'a>(
        store: &Store,
        name: &str,
        expansion: &Expansion,
        links: Option<&Links>,
        fresh: impl Iterator<Item = Option<(&'a [Hash], &'a Committed)>>,
    ) {
        let entries = expansion.instances.iter().zip(fresh).map(|(instance, found)| {
            let (inputs, committed) = found?;
            // An output that is gone by now is no finding.
            let look = |artifact: &Artifact| if artifact.tree { Some(None) } else { store.look(artifact).map(Some) };
            let looks = committed.outputs.values().map(look).collect::<Option<_>>()?;
            let links = links.and_then(|links| links.look(instance));
            Some(Stood { inputs: inputs.to_vec(), committed: committed.clone(), looks, links })
        });
        let entries = entries.collect();
        let standing = Standing { expansion: expansion.hash, logs: store.stamps(), entries };
        if let Ok(bytes) = postcard::to_stdvec(&standing) {
            store.keep_derived(name, &bytes);
        }
    }

    /// Takes out the record of an instance whose inputs have the content that they had, and whose outputs look as they
    /// did, and the folder of their links, where somebody asks for these.
    pub(super) fn take(
        &mut self,
        store: &Store,
        index: usize,
        instance: &Instance,
        inputs: &[Hash],
        links: Option<&Links>,
    ) -> Option<Committed> {
        let stood = self.entries.get_mut(index)?.take().filter(|stood| stood.inputs == inputs)?;
        let outputs = &stood.committed.outputs;
        if stood.looks.len() != outputs.values().count()
            || !instance.outputs.iter().all(|output| outputs.get(&output.name).is_some())
        {
            return None;
        }
        let objects = outputs.values().zip(&stood.looks).all(|(artifact, look)| match look {
            Some(stamp) => store.look(artifact) == Some(*stamp),
            None => store.is_present(artifact),
        });
        let linked = || links.is_none_or(|links| stood.links.is_some() && links.look(instance) == stood.links);
        (objects && linked()).then_some(stood.committed)
    }
}
