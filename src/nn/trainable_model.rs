//! What a training run changes: a checkpoint, an optional adapter on it, and which of their parameters are trainable.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::adapter::Adapter;
use super::checkpoint::Checkpoint;
use super::parameters::{self, ParamGroup, Parameter};

/// Parameters have an index: first those of the checkpoint in its order, then two per module of the adapter.
#[derive(Clone)]
pub(crate) struct TrainableModel {
    pub(crate) checkpoint: Checkpoint,
    pub(crate) adapter: Option<Adapter>,
    parameters: Vec<Parameter>,
    /// By name.
    indices: BTreeMap<String, usize>,
    trainable: Vec<bool>,
    /// The number of parameters of the checkpoint.
    base_count: usize,
    /// Names of the adapter's modules.
    modules: Vec<String>,
}

impl TrainableModel {
    /// `trainable` selects the parameters to train. With an adapter, only its parameters can be trainable.
    pub(crate) fn new(
        checkpoint: Checkpoint,
        adapter: Option<Adapter>,
        trainable: impl Fn(&Parameter) -> bool,
    ) -> TrainableModel {
        let modules: Vec<String> = adapter.iter().flat_map(|adapter| adapter.modules.keys().cloned()).collect();
        let mut parameters = checkpoint.list();
        let base_count = parameters.len();
        let mut indices: BTreeMap<String, usize> =
            parameters.iter().enumerate().map(|(index, parameter)| (parameter.name.clone(), index)).collect();
        let selected = |parameter: &Parameter| parameter.used && trainable(parameter);
        let mut marks: Vec<bool> =
            parameters.iter().map(|parameter| adapter.is_none() && selected(parameter)).collect();
        for (inner, parameter) in adapter.iter().flat_map(Adapter::list).enumerate() {
            // The output does not depend on the adapter of a layer that is not used.
            let layer = indices.get(&parameters::weight(&modules[inner / 2]));
            let parameter = Parameter { used: layer.is_some_and(|&layer| parameters[layer].used), ..parameter };
            marks.push(selected(&parameter));
            indices.insert(parameter.name.clone(), base_count + inner);
            parameters.push(parameter);
        }
        TrainableModel { checkpoint, adapter, parameters, indices, trainable: marks, base_count, modules }
    }

    /// A model without trainable parameters, for inference.
    pub(crate) fn frozen(checkpoint: &Checkpoint) -> TrainableModel {
        TrainableModel::new(checkpoint.clone(), None, |_| false)
    }

    /// The number of parameters.
    pub(crate) fn count(&self) -> usize {
        self.parameters.len()
    }

    /// The index of the parameter with this name.
    pub(crate) fn index(&self, name: &str) -> Option<usize> {
        self.indices.get(name).copied()
    }

    pub(crate) fn shape(&self, index: usize) -> &[usize] {
        &self.parameters[index].shape
    }

    pub(crate) fn is_trainable(&self, index: usize) -> bool {
        self.trainable[index]
    }

    pub(crate) fn group(&self, index: usize) -> ParamGroup {
        self.parameters[index].group
    }

    /// Whether any parameter of a group is trainable.
    pub(crate) fn trains_group(&self, group: ParamGroup) -> bool {
        self.trainable_parameters().any(|(_, parameter)| parameter.group == group)
    }

    /// The trainable parameters with their indices.
    pub(crate) fn trainable_parameters(&self) -> impl Iterator<Item = (usize, &Parameter)> {
        self.parameters.iter().enumerate().filter(|(index, _)| self.trainable[*index])
    }

    pub(crate) fn weights(&self, index: usize) -> &[f32] {
        match (index.checked_sub(self.base_count), &self.adapter) {
            (None, _) => &self.checkpoint.weights[index],
            (Some(inner), Some(adapter)) => {
                let module = &adapter.modules[&self.modules[inner / 2]];
                if inner.is_multiple_of(2) { &module.down } else { &module.up }
            }
            (Some(_), None) => panic!("BUG: parameter {index} of {}", self.base_count),
        }
    }

    /// Weights that can be kept. Those of an adapter are copied.
    pub(crate) fn shared_weights(&self, index: usize) -> Arc<Vec<f32>> {
        match self.checkpoint.weights.get(index) {
            Some(weights) => weights.clone(),
            None => Arc::new(self.weights(index).to_vec()),
        }
    }

    /// The trainable weights with their indices, for writing.
    pub(crate) fn trainable_weights_mut(&mut self) -> impl Iterator<Item = (usize, &mut Vec<f32>)> {
        let (base_count, trainable) = (self.base_count, &self.trainable);
        let modules = self.adapter.iter_mut().flat_map(|adapter| adapter.modules.values_mut());
        let adapter = (base_count..).zip(modules.flat_map(|module| [&mut module.down, &mut module.up]));
        let adapter = adapter.filter(|(index, _)| trainable[*index]);
        let base = self.checkpoint.weights.iter_mut().enumerate().filter(|(index, _)| trainable[*index]);
        base.map(|(index, weights)| (index, Arc::make_mut(weights))).chain(adapter)
    }
}
