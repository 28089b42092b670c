//! Low-rank adapters (LoRA, Hu et al. 2021) on the linear layers of a model: `W x` becomes `W x + scale B A x`.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Result, bail};

use super::checkpoint::Checkpoint;
use super::kernels::elementwise::accumulate_scaled;
use super::kernels::matmul::{Accumulate, MatrixView, matmul};
use super::parameters::{POOL_PROJECTOR, ParamGroup, Parameter};
use super::patterns::{self, Pattern};
use ablate_core::base::Seed;
use ablate_data::rng::uniform;

/// The configuration of an adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    pub rank: usize,
    /// The scale is `alpha / rank`.
    pub alpha: f64,
    /// Probability that an input of an adapter is dropped in training.
    pub dropout: f64,
    /// The linear layers with an adapter.
    pub targets: Vec<Pattern>,
}

/// Low-rank updates of linear layers: `scale B A` is added to each layer's matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    pub rank: usize,
    pub alpha: f64,
    /// Probability that an input of `A` is dropped in training.
    pub dropout: f64,
    /// Whether the scale is `alpha / sqrt(rank)` (rsLoRA, Kalajdzievski 2023) instead of `alpha / rank`.
    pub rank_stabilized: bool,
    /// By the name of the parameter without `.weight`: `model.layers.0.self_attn.q_proj`.
    pub modules: BTreeMap<String, LowRank>,
}

/// The two matrices of a layer, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct LowRank {
    pub inputs: usize,
    pub outputs: usize,
    /// `A`: (rank, inputs).
    pub down: Vec<f32>,
    /// `B`: (outputs, rank).
    pub up: Vec<f32>,
}

impl Adapter {
    /// An initial adapter, which changes nothing: `B` is zero, and `A` is uniform in `[-1, 1) / sqrt(inputs)`, as in PEFT, from
    /// the random stream of the layer's name.
    pub fn initialize(model: &Checkpoint, config: &LoraConfig, seed: Seed) -> Result<Adapter> {
        let LoraConfig { rank, alpha, dropout, ref targets } = *config;
        let layers = linear_layers(model);
        let names: Vec<&str> = layers.iter().map(|(name, _)| name.as_str()).collect();
        if let Some(target) = targets.iter().find(|target| !names.iter().any(|name| target.matches(name))) {
            let nearest = patterns::nearest(target, &names);
            bail!("`lora.targets`: `{target}` matches no linear layer of the model{nearest}");
        }
        let chosen = layers.into_iter().filter(|(name, _)| targets.iter().any(|target| target.matches(name)));
        let modules = chosen.map(|(name, parameter)| {
            let (outputs, inputs) = (parameter.shape[0], parameter.shape[1]);
            let bound = 1.0 / (inputs as f64).sqrt();
            let mut generator = seed.stream(&format!("{name}.lora_A"));
            let mut value = || ((2.0 * uniform(&mut generator) - 1.0) * bound) as f32;
            let down = (0..rank * inputs).map(|_| value()).collect();
            (name, LowRank { inputs, outputs, down, up: vec![0.0; outputs * rank] })
        });
        Ok(Adapter { rank, alpha, dropout, rank_stabilized: false, modules: modules.collect() })
    }

    /// The factor of `B A`.
    pub fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.rank_stabilized { rank.sqrt() } else { rank }
    }

    /// The parameters of the adapter, two per module.
    pub(crate) fn list(&self) -> Vec<Parameter> {
        let of = |name: &str, side: &str, shape: Vec<usize>| {
            let full = format!("{name}.lora_{side}.weight");
            Parameter { name: full, shape, group: group_of(name), init_std: None, used: true }
        };
        let both = |(name, module): (&String, &LowRank)| {
            [of(name, "A", vec![self.rank, module.inputs]), of(name, "B", vec![module.outputs, self.rank])]
        };
        self.modules.iter().flat_map(both).collect()
    }

    /// Adds the adapter to the weights of its layers: `W + scale B A`.
    pub fn merge(&self, model: &mut Checkpoint) -> Result<()> {
        let layers = model.list();
        for (name, LowRank { inputs, outputs, down, up }) in &self.modules {
            let weight = format!("{name}.weight");
            let Some(index) = layers.iter().position(|layer| layer.name == weight) else {
                bail!("the adapter is for a linear layer `{name}`, which this model does not have");
            };
            if layers[index].shape != [*outputs, *inputs] {
                bail!("the adapter of `{name}` is for a layer of {outputs} x {inputs}, not {:?}", layers[index].shape);
            }
            let mut product = vec![0.0; outputs * inputs];
            let (up, down) = (MatrixView::row_major(up, self.rank), MatrixView::row_major(down, *inputs));
            matmul(*outputs, *inputs, self.rank, up, down, &mut product, *inputs, Accumulate::No);
            let weights: &mut Vec<f32> = Arc::make_mut(&mut model.weights[index]);
            accumulate_scaled(weights, &product, self.scale() as f32);
            if !weights.iter().all(|weight| weight.is_finite()) {
                bail!("the weights of `{name}` are NaN or infinite after the adapter was added");
            }
        }
        Ok(())
    }
}

/// The group that a layer belongs to.
fn group_of(name: &str) -> ParamGroup {
    match name.split('.').next() {
        Some("visual") if is_merger(name) => ParamGroup::Projector,
        Some("vision_tower" | "visual") => ParamGroup::Vision,
        Some("multi_modal_projector") => ParamGroup::Projector,
        _ => ParamGroup::Decoder,
    }
}

/// Whether a layer is part of a patch merger.
fn is_merger(name: &str) -> bool {
    name.starts_with("visual.merger.") || name.starts_with("visual.deepstack_merger_list.")
}

/// The linear layers of a model's blocks and its projector, with their names, in the order of the parameters. Gemma 3's projection is a
/// parameter and no layer in transformers, which PEFT cannot adapt.
pub(crate) fn linear_layers(model: &Checkpoint) -> Vec<(String, Parameter)> {
    let blocks =
        |name: &str| name.contains("layers.") || name.contains("encoder.layer.") || name.starts_with("visual.blocks.");
    let projector = |name: &str| name.starts_with("multi_modal_projector.") || is_merger(name);
    let inside = |name: &str| blocks(name) || (projector(name) && name != POOL_PROJECTOR);
    let layer = |parameter: Parameter| {
        let name = parameter.name.strip_suffix(".weight")?.to_string();
        (parameter.used && parameter.shape.len() == 2 && inside(&name)).then_some((name, parameter))
    };
    model.list().into_iter().filter_map(layer).collect()
}
