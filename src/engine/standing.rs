//! What the last run found, instance by instance, so that an idle run looks at the files and asks nobody else. It only
//! saves time: whatever does not look as it did is found out again.

use serde::{Deserialize, Serialize};

use super::publish::Links;
use ablate_core::base::Hash;
use ablate_core::stage::Artifact;
use ablate_experiment::{Expansion, Instance};
use ablate_store::{SlimRecord, Stamp, Store};

/// The findings of a run, read one by one: all of them at once would take more memory than the plan.
#[derive(Debug, Default)]
pub(super) struct Standing {
    bytes: Vec<u8>,
    /// Where the next instance's begins.
    at: usize,
}

/// What the findings are about.
#[derive(PartialEq, Serialize, Deserialize)]
struct Head {
    /// The instances. What nobody has told apart from all else may be anything.
    expansion: Hash,
    /// Records and notes as they were: others may have been taken away or damaged since.
    logs: [Stamp; 2],
}

impl Head {
    fn now(store: &Store, expansion: &Expansion) -> Option<Head> {
        Some(Head { expansion: expansion.hash?, logs: store.stamps()? })
    }
}

/// One instance that was fresh.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Stood {
    /// Content of its inputs.
    inputs: Vec<Hash>,
    committed: SlimRecord,
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
    fn take(store: &Store, instance: &Instance, committed: &SlimRecord, links: Option<&Links>) -> Option<Looks> {
        let look =
            |artifact: &Artifact| if artifact.tree { Some(None) } else { store.object_stamp(artifact).map(Some) };
        let objects = committed.outputs.values().map(look).collect::<Option<_>>()?;
        Some(Looks { objects, links: links.and_then(|links| links.look(instance)) })
    }
}

/// An instance that is fresh: the content of its inputs, its record, and how it looked when the plan was made.
pub(super) type Fresh<'a> = (&'a [Hash], &'a SlimRecord, Option<&'a Looks>);

impl Standing {
    /// What was found for these instances, if nothing was written to records and notes since.
    pub(super) fn load(store: &Store, name: Option<&str>, expansion: &Expansion) -> Standing {
        let load = || {
            let bytes = store.read_cached(name?)?;
            let (head, rest) = postcard::take_from_bytes::<Head>(&bytes).ok()?;
            let at = bytes.len() - rest.len();
            (head == Head::now(store, expansion)?).then_some(Standing { bytes, at })
        };
        load().unwrap_or_default()
    }

    /// Notes what is fresh now. What stood when the plan was made is not looked at again.
    pub(super) fn keep<'a>(
        store: &Store,
        name: &str,
        expansion: &Expansion,
        links: Option<&Links>,
        fresh: impl Iterator<Item = Option<Fresh<'a>>>,
    ) {
        let write = || {
            let mut bytes = postcard::to_stdvec(&Head::now(store, expansion)?).ok()?;
            for (instance, found) in expansion.instances.iter().zip(fresh) {
                let stood = found.and_then(|(inputs, committed, looks)| {
                    let looks = looks.cloned().or_else(|| Looks::take(store, instance, committed, links))?;
                    Some(Stood { inputs: inputs.to_vec(), committed: committed.clone(), looks })
                });
                bytes = postcard::to_extend(&stood, bytes).ok()?;
            }
            Some(bytes)
        };
        if let Some(bytes) = write() {
            store.write_cached(name, &bytes);
        }
    }

    /// What was found of the next instance. To be asked once for each, in their order.
    pub(super) fn next(&mut self) -> Option<Stood> {
        let (stood, rest) = postcard::take_from_bytes::<Option<Stood>>(self.bytes.get(self.at..)?).ok()?;
        self.at = self.bytes.len() - rest.len();
        stood
    }
}

impl Stood {
    /// The record, if the inputs have the content that they had, and the outputs look as they did, and so does the
    /// folder of their links, where somebody asks for these.
    pub(super) fn holds(
        self,
        store: &Store,
        instance: &Instance,
        inputs: &[Hash],
        links: Option<&Links>,
    ) -> Option<(SlimRecord, Looks)> {
        let Stood { committed, looks, .. } = Some(self).filter(|stood| stood.inputs == inputs)?;
        let outputs = &committed.outputs;
        if looks.objects.len() != outputs.values().count()
            || !instance.outputs.iter().all(|output| outputs.get(&output.name).is_some())
        {
            return None;
        }
        let objects = outputs.values().zip(&looks.objects).all(|(artifact, look)| match look {
            Some(stamp) => store.object_stamp(artifact) == Some(*stamp),
            None => store.is_present(artifact),
        });
        let linked = || links.is_none_or(|links| looks.links.is_some() && links.look(instance) == looks.links);
        (objects && linked()).then_some((committed, looks))
    }
}
