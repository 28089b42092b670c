//! What a training changes: a checkpoint, the adapter that may sit on it, and which of their parameters learn.

use std::collections::BTreeSet;
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
        let modules = adapter.iter().flat_map(|adapter| adapter.modules.keys().cloned()).collect();
        let mut parameters = checkpoint.list();
        let own = parameters.len();
        let mut marks: Vec<bool> =
            parameters.iter().map(|parameter| adapter.is_none() && parameter.used && learns(parameter)).collect();
        if let Some(adapter) = &adapter {
            // A module beside a layer that the output does not depend on has nothing to learn from.
            let used: BTreeSet<&str> =
                parameters.iter().filter(|parameter| parameter.used).map(|parameter| parameter.name.as_str()).collect();
            let module = |index: usize| adapter.modules.keys().nth(index / 2).map(|name| format!("{name}.weight"));
            let beside = |index: usize| module(index).is_some_and(|layer| used.contains(layer.as_str()));
            let list = adapter.list().into_iter().enumerate();
            let list: Vec<Parameter> =
                list.map(|(index, parameter)| Parameter { used: beside(index), ..parameter }).collect();
            marks.extend(list.iter().map(|parameter| parameter.used && learns(parameter)));
            parameters.extend(list);
        }
        Learner { checkpoint, adapter, parameters, learns: marks, own, modules }
    }

    /// A model that only answers.
    pub(crate) fn frozen(checkpoint: &Checkpoint) -> Learner {
        Learner::new(checkpoint.clone(), None, |_| false)
    }

    /// How many parameters there are.
    pub(crate) fn count(&self) -> usize {
        self.parameters.len()
    }

    pub(crate) fn learns(&self, index: usize) -> bool {
        self.learns[index]
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

    pub(crate) fn weights_mut(&mut self, index: usize) -> &mut Vec<f32> {
        let found = match index.checked_sub(self.own) {
            None => return Arc::make_mut(&mut self.checkpoint.weights[index]),
            Some(inner) => {
                let name = &self.modules[inner / 2];
                self.adapter.as_mut().and_then(|adapter| adapter.modules.get_mut(name)).map(|module| (module, inner))
            }
        };
        match found {
            Some((module, inner)) if inner.is_multiple_of(2) => &mut module.down,
            Some((module, _)) => &mut module.up,
            None => panic!("BUG: parameter {index} of {}", self.own),
        }
    }
}
