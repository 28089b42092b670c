//! The lineage of a model: the stages that trained it, one after the other.

use anyhow::Result;

use super::instance::{Expansion, InstanceId, Upstream};
use ablate_core::stage::ModelOrigin;

/// The training stages of one model. Stages that only made data, and reference models, are not part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lineage {
    /// Oldest first.
    pub training: Vec<InstanceId>,
    /// The instance that the first training stage, or the evaluation, starts from.
    pub root: InstanceId,
    /// What the root is if its model was trained elsewhere. `None` for initialized parameters.
    pub trained_elsewhere: Option<&'static str>,
}

impl Expansion {
    /// The lineage of the model that the output of an instance comes from.
    pub fn lineage(&self, id: InstanceId) -> Result<Lineage> {
        let (mut root, mut training) = (id, Vec::new());
        let trained_elsewhere = loop {
            let instance = self.get(root);
            let stage = instance.parsed()?;
            if stage.training().is_some() {
                training.push(root);
            }
            let role = match stage.model_origin() {
                Some(ModelOrigin::Input(role)) => role,
                Some(ModelOrigin::Initialized) => break None,
                Some(ModelOrigin::Elsewhere(what)) => break Some(what),
                None => break Some("a stage that names no model"),
            };
            let upstream = instance.inputs.iter().find(|input| &*input.role == role).map(|input| &input.upstream);
            match upstream {
                // Instances are in topological order, so this ends.
                Some(Upstream::Output { instance, .. }) => root = *instance,
                _ => break Some("a model outside the experiment"),
            }
        };
        training.reverse();
        Ok(Lineage { training, root, trained_elsewhere })
    }
}
