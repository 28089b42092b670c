//! Low-rank adapters (LoRA, Hu et al. 2021) on the linear layers of a model: `W x` becomes `W x + scale B A x`.
//! Knows no file format and no device.

use std::sync::Arc;

use anyhow::{Result, bail};
use rand::Rng;

use super::checkpoint::Checkpoint;
use super::kernels::elementwise::accumulate_scaled;
use super::kernels::matmul::{Into, View, matmul};
use super::parameters::{Parameter, Part};
use super::patterns::{self, Pattern};
use crate::base::Seed;

/// How a model is adapted.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    pub rank: usize,
    /// The adapter counts `alpha / rank` times, or
    pub alpha: f64,
    /// `alpha / sqrt(rank)` times (rsLoRA, Kalajdzievski 2023).
    pub rank_stabilized: bool,
    /// Share of the inputs of an adapter that are dropped in training.
    pub dropout: f64,
    /// Linear layers that get an adapter.
    pub targets: Vec<Pattern>,
}

impl LoraConfig {
    /// What the product of the two matrices is multiplied with.
    pub fn scale(&self) -> f32 {
        let rank = self.rank as f64;
        (self.alpha / if self.rank_stabilized { rank.sqrt() } else { rank }) as f32
    }
}

/// An adapter's weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    pub config: LoraConfig,
    /// In the order of the model's parameters.
    pub modules: Vec<Module>,
}

/// The two matrices beside one linear layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Module {
    /// The layer's name, without `.weight`.
    pub name: String,
    pub part: Part,
    pub inputs: usize,
    pub outputs: usize,
    pub a: Vec<f32>, // (rank, inputs)
    pub b: Vec<f32>, // (outputs, rank)
}

impl Adapter {
    /// An adapter that changes nothing yet: `B` is zero, `A` uniform between plus and minus `1 / sqrt(inputs)`, as PEFT
    /// draws it, from the stream of the layer's name.
    pub fn fresh(model: &Checkpoint, config: &LoraConfig, seed: Seed) -> Result<Adapter> {
        let layers = linear_layers(model);
        let names: Vec<&str> = layers.iter().map(|(name, _)| name.as_str()).collect();
        let mut chosen = vec![false; layers.len()];
        for target in &config.targets {
            let mut found = false;
            for (chosen, name) in chosen.iter_mut().zip(&names) {
                let here = target.matches(name);
                *chosen |= here;
                found |= here;
            }
            if !found {
                bail!("`{target}` matches no linear layer of the model{}", patterns::nearest(target, &names));
            }
        }
        let modules = layers.into_iter().zip(chosen).filter(|(_, chosen)| *chosen).map(|((name, parameter), _)| {
            let (outputs, inputs) = (parameter.shape[0], parameter.shape[1]);
            let bound = 1.0 / (inputs as f64).sqrt();
            let mut generator = seed.stream(&format!("{name}.lora_A"));
            let mut uniform = || (generator.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
            let a = (0..config.rank * inputs).map(|_| ((2.0 * uniform() - 1.0) * bound) as f32).collect();
            Module { name, part: parameter.part, inputs, outputs, a, b: vec![0.0; outputs * config.rank] }
        });
        Ok(Adapter { config: config.clone(), modules: modules.collect() })
    }

    /// The number of the module beside a linear layer.
    pub(crate) fn place(&self, name: &str) -> Option<usize> {
        self.modules.iter().position(|module| module.name == name)
    }

    /// The adapter's own parameters, two per module.
    pub(crate) fn list(&self) -> Vec<Parameter> {
        let rank = self.config.rank;
        let of = |module: &Module, side: &str, shape: Vec<usize>| {
            let name = format!("{}.lora_{side}.weight", module.name);
            Parameter { name, shape, part: module.part, deviation: None, used: true }
        };
        let both =
            |module: &Module| [of(module, "A", vec![rank, module.inputs]), of(module, "B", vec![module.outputs, rank])];
        self.modules.iter().flat_map(both).collect()
    }

    /// Adds the adapter to the weights that it stands beside: `W + scale B A`.
    pub fn merge(&self, model: &mut Checkpoint) -> Result<()> {
        let layers = model.list();
        for Module { name, inputs, outputs, a, b, .. } in &self.modules {
            let weight = format!("{name}.weight");
            let Some(index) = layers.iter().position(|layer| layer.name == weight) else {
                bail!("the adapter is for a linear layer `{name}`, which this model does not have");
            };
            if layers[index].shape != [*outputs, *inputs] {
                bail!("the adapter of `{name}` is for a layer of {outputs} x {inputs}, not {:?}", layers[index].shape);
            }
            let rank = self.config.rank;
            let mut product = vec![0.0; outputs * inputs];
            let (b, a) = (View::rows(b, rank), View::rows(a, *inputs));
            matmul(*outputs, *inputs, rank, b, a, &mut product, *inputs, Into::Replace);
            let weights: &mut Vec<f32> = Arc::make_mut(&mut model.weights[index]);
            accumulate_scaled(weights, &product, self.config.scale());
        }
        Ok(())
    }
}

/// The linear layers of a model's blocks and its projector by name, in the order of its parameters.
pub(crate) fn linear_layers(model: &Checkpoint) -> Vec<(String, Parameter)> {
    let inside = |name: &str| name.contains("layers.") || name.starts_with("multi_modal_projector.");
    let layer = |parameter: Parameter| {
        let name = parameter.name.strip_suffix(".weight")?.to_string();
        (parameter.used && parameter.shape.len() == 2 && inside(&name)).then_some((name, parameter))
    };
    model.list().into_iter().filter_map(layer).collect()
}
