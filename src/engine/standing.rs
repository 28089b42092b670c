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
    looks: Looks,
}

/// How the outputs of an instance look.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Looks {
    /// Their objects, one by one; `None` for a tree, of which each file is looked at.
    objects: Vec<Option<Stamp>>,
    /// The folder of their links, which changes when one of them is taken away or replaced.
    links: Option<Stamp>,
}

impl Looks {
    /// A look at everything. An output that is gone by now is no finding.
    fn take(store: &Store, instance: &Instance, committed: &Committed, links: Option<&Links>) -> Option<Looks> {
        let look = |artifact: &Artifact| if artifact.tree { Some(None) } else { store.look(artifact).map(Some) };
        let objects = committed.outputs.values().map(look).collect::<Option<_>>()?;
        Some(Looks { objects, links: links.and_then(|links| links.look(instance)) })
    }
}

/// An instance that is fresh: the content of its inputs, its record, and how it looked when the plan was made.
pub(super) type Fresh<'a> = (&'a [Hash], &'a Committed, Option<&'a Looks>);

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

    /// Notes what is fresh now. What stood when the plan was made is not looked at again.
    pub(super) fn keep<'a>(
        store: &Store,
        name: &str,
        expansion: &Expansion,
        links: Option<&Links>,
        fresh: impl Iterator<Item = Option<Fresh<'a>>>,
    ) {
        let entries = expansion.instances.iter().zip(fresh).map(|(instance, found)| {
            let (inputs, committed, looks) = found?;
            let looks = looks.cloned().or_else(|| Looks::take(store, instance, committed, links))?;
            Some(Stood { inputs: inputs.to_vec(), committed: committed.clone(), looks })
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
    ) -> Option<(Committed, Looks)> {
        let stood = self.entries.get_mut(index)?.take().filter(|stood| stood.inputs == inputs)?;
        let Stood { committed, looks, .. } = stood;
        let outputs = &committed.outputs;
        if looks.objects.len() != outputs.values().count()
            || !instance.outputs.iter().all(|output| outputs.get(&output.name).is_some())
        {
            return None;
        }
        let objects = outputs.values().zip(&looks.objects).all(|(artifact, look)| match look {
            Some(stamp) => store.look(artifact) == Some(*stamp),
            None => store.is_present(artifact),
        });
        let linked = || links.is_none_or(|links| looks.links.is_some() && links.look(instance) == looks.links);
        (objects && linked()).then_some((committed, looks))
    }
}
