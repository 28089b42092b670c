//! What a training changes: a checkpoint, the adapter that may sit on it, and which of their parameters learn.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::adapter::Adapter;
use super::checkpoint::Checkpoint;
use super::parameters::{Parameter, Part};

/// A model as it learns. Parameters are numbered: the checkpoint's in its order, then two per module of the adapter.
#[derive(Clone)]
pub(crate) struct Learner {
    pub(crate) checkpoint: Checkpoint,
    pub(crate) adapter: Option<Adapter>,
    parameters: Vec<Parameter>,
    /// By name.
    numbers: BTreeMap<String, usize>,
    learns: Vec<bool>,
    /// Parameters that are the checkpoint's.
    own: usize,
    /// Names of the adapter's modules.
    modules: Vec<String>,
}

impl Learner {
    /// A model that learns what `learns` says of its parameters; beside an adapter only the adapter does.
    pub(crate) fn new(
        checkpoint: Checkpoint,
        adapter: Option<Adapter>,
        learns: impl Fn(&Parameter) -> bool,
    ) -> Learner {
        let modules: Vec<String> = adapter.iter().flat_map(|adapter| adapter.modules.keys().cloned()).collect();
        let mut parameters = checkpoint.list();
        let own = parameters.len();
        let mut numbers: BTreeMap<String, usize> =
            parameters.iter().enumerate().map(|(number, parameter)| (parameter.name.clone(), number)).collect();
        let mut marks: Vec<bool> =
            parameters.iter().map(|parameter| adapter.is_none() && parameter.used && learns(parameter)).collect();
        for (inner, parameter) in adapter.iter().flat_map(Adapter::list).enumerate() {
            // A module beside a layer that the output does not depend on has nothing to learn from.
            let beside = numbers.get(&format!("{}.weight", modules[inner / 2]));
            let used = beside.is_some_and(|&layer| parameters[layer].used);
            marks.push(used && learns(&parameter));
            numbers.insert(parameter.name.clone(), own + inner);
            parameters.push(Parameter { used, ..parameter });
        }
        Learner { checkpoint, adapter, parameters, numbers, learns: marks, own, modules }
    }

    /// A model that only answers.
    pub(crate) fn frozen(checkpoint: &Checkpoint) -> Learner {
        Learner::new(checkpoint.clone(), None, |_| false)
    }

    /// How many parameters there are.
    pub(crate) fn count(&self) -> usize {
        self.parameters.len()
    }

    /// The number of the parameter of this name.
    pub(crate) fn number(&self, name: &str) -> Option<usize> {
        self.numbers.get(name).copied()
    }

    pub(crate) fn shape(&self, index: usize) -> &[usize] {
        &self.parameters[index].shape
    }

    pub(crate) fn learns(&self, index: usize) -> bool {
        self.learns[index]
    }

    pub(crate) fn part(&self, index: usize) -> Part {
        self.parameters[index].part
    }

    /// Whether anything of a part learns.
    pub(crate) fn part_learns(&self, part: Part) -> bool {
        self.learning().any(|(_, parameter)| parameter.part == part)
    }

    /// The parameters that learn, with their numbers.
    pub(crate) fn learning(&self) -> impl Iterator<Item = (usize, &Parameter)> {
        self.parameters.iter().enumerate().filter(|(index, _)| self.learns[*index])
    }

    pub(crate) fn weights(&self, index: usize) -> &[f32] {
        match (index.checked_sub(self.own), &self.adapter) {
            (None, _) => &self.checkpoint.weights[index],
            (Some(inner), Some(adapter)) => {
                let module = &adapter.modules[&self.modules[inner / 2]];
                if inner.is_multiple_of(2) { &module.down } else { &module.up }
            }
            (Some(_), None) => panic!("BUG: parameter {index} of {}", self.own),
        }
    }

    /// The same to be held; an adapter's are copied.
    pub(crate) fn shared(&self, index: usize) -> Arc<Vec<f32>> {
        match self.checkpoint.weights.get(index) {
            Some(weights) => weights.clone(),
            None => Arc::new(self.weights(index).to_vec()),
        }
    }

    /// The weights of the parameters that learn, with their numbers, to be changed.
    pub(crate) fn learning_mut(&mut self) -> impl Iterator<Item = (usize, &mut Vec<f32>)> {
        let (own, learns) = (self.own, &self.learns);
        let modules = self.adapter.iter_mut().flat_map(|adapter| adapter.modules.values_mut());
        let beside = modules.flat_map(|module| [&mut module.down, &mut module.up]);
        let beside = (own..).zip(beside).filter(|(index, _)| learns[*index]);
        let model = self.checkpoint.weights.iter_mut().enumerate().filter(|(index, _)| learns[*index]);
        model.map(|(index, weights)| (index, Arc::make_mut(weights))).chain(beside)
    }
}
