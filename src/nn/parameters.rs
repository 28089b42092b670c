//! The list of a model's parameters: names, shapes, parts, first values. The one walk that counting, reading,
//! writing, building and optimizing share. Knows no tensor and no file.
//!
//! Names follow Hugging Face's LLaVA and LLaMA, so that an exported file reads like any other.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::config::ModelConfig;
use crate::base::Seed;

/// The part of a model that a parameter belongs to: each may have its own learning rate or be frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    Vision,
    Projector,
    Decoder,
}

/// One parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    pub name: String,
    /// `[n]` for a norm's weight, `[out, in]` for a matrix.
    pub shape: Vec<usize>,
    pub part: Part,
    /// Standard deviation of the first values; none: all are 1.
    pub deviation: Option<f64>,
}

impl Parameter {
    /// How many numbers it holds. [`parameters`] has seen to it that the product fits.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// True for a parameter without numbers, which no checked config yields.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A matrix is decayed, a norm's weight is not.
    pub fn is_matrix(&self) -> bool {
        self.shape.len() == 2
    }

    /// First values, from the stream of the parameter's own name: another layer more shifts none of them.
    pub fn draw(&self, seed: Seed) -> Vec<f32> {
        match self.deviation {
            None => vec![1.0; self.len()],
            Some(deviation) => {
                let mut generator = seed.stream(&self.name);
                (0..self.len()).map(|_| (normal(&mut generator) * deviation) as f32).collect()
            }
        }
    }
}

/// All parameters of a model, in a fixed order: encoder, projector, decoder. The config must have been checked.
///
/// First values: linear layers have deviation `1 / sqrt(fan_in)`, the two matrices of a block that write into the
/// residual stream `1 / sqrt(layers + 1)` of that and at most half of it, positions 0.1, token embeddings 0.5, the
/// head 0.02.
pub fn parameters(config: &ModelConfig, vocab: usize) -> Vec<Parameter> {
    let ModelConfig { vision, projector, decoder, .. } = config;
    let mut list = List(Vec::new());
    let part = Part::Vision;
    list.linear(part, "vision_tower.patch_embedding", vision.dim, config.patch_values());
    list.matrix(part, "vision_tower.position_embedding", vision.dim, config.image_tokens(), 0.1);
    for layer in 0..vision.layers {
        let sizes = BlockSizes { dim: vision.dim, kv_dim: vision.dim, ff: vision.ff, layers: vision.layers };
        list.block(part, &format!("vision_tower.layers.{layer}"), sizes);
    }
    list.norm(part, "vision_tower.norm", vision.dim);
    let part = Part::Projector;
    list.linear(part, "multi_modal_projector.linear_1", projector.hidden, vision.dim);
    list.linear(part, "multi_modal_projector.linear_2", decoder.dim, projector.hidden);
    let part = Part::Decoder;
    // A tied embedding is the head as well, whose logits must start small.
    let deviation = if decoder.tied_head { 0.02 } else { 0.5 };
    list.matrix(part, "model.embed_tokens", decoder.dim, vocab, deviation);
    for layer in 0..decoder.layers {
        let kv_dim = decoder.dim / decoder.heads * decoder.kv_heads;
        let sizes = BlockSizes { dim: decoder.dim, kv_dim, ff: decoder.ff, layers: decoder.layers };
        list.block(part, &format!("model.layers.{layer}"), sizes);
    }
    list.norm(part, "model.norm", decoder.dim);
    if !decoder.tied_head {
        list.matrix(part, "lm_head", decoder.dim, vocab, 0.02);
    }
    list.0
}

#[derive(Clone, Copy)]
struct BlockSizes {
    dim: usize,
    kv_dim: usize,
    ff: usize,
    layers: usize,
}

struct List(Vec<Parameter>);

impl List {
    fn matrix(&mut self, part: Part, name: &str, columns: usize, rows: usize, deviation: f64) {
        let name = format!("{name}.weight");
        self.0.push(Parameter { name, shape: vec![rows, columns], part, deviation: Some(deviation) });
    }

    fn linear(&mut self, part: Part, name: &str, outputs: usize, inputs: usize) {
        self.matrix(part, name, inputs, outputs, 1.0 / (inputs as f64).sqrt());
    }

    fn norm(&mut self, part: Part, name: &str, dim: usize) {
        self.0.push(Parameter { name: format!("{name}.weight"), shape: vec![dim], part, deviation: None });
    }

    fn block(&mut self, part: Part, name: &str, sizes: BlockSizes) {
        let BlockSizes { dim, kv_dim, ff, layers } = sizes;
        let residual = 0.5f64.min(1.0 / ((layers + 1) as f64).sqrt());
        self.norm(part, &format!("{name}.input_layernorm"), dim);
        self.linear(part, &format!("{name}.self_attn.q_proj"), dim, dim);
        self.linear(part, &format!("{name}.self_attn.k_proj"), kv_dim, dim);
        self.linear(part, &format!("{name}.self_attn.v_proj"), kv_dim, dim);
        self.matrix(part, &format!("{name}.self_attn.o_proj"), dim, dim, residual / (dim as f64).sqrt());
        self.norm(part, &format!("{name}.post_attention_layernorm"), dim);
        self.linear(part, &format!("{name}.mlp.gate_proj"), ff, dim);
        self.linear(part, &format!("{name}.mlp.up_proj"), ff, dim);
        self.matrix(part, &format!("{name}.mlp.down_proj"), ff, dim, residual / (ff as f64).sqrt());
    }
}

/// A standard normal number (Box and Muller 1958).
fn normal(generator: &mut ChaCha8Rng) -> f64 {
    let mut uniform = || (generator.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
    let (radius, angle) = (1.0 - uniform(), uniform());
    (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_model_has_the_parameters_that_were_counted_by_hand() {
        let parameters = parameters(&ModelConfig::default(), 83);
        let total: usize = parameters.iter().map(Parameter::len).sum();
        // Block: 2 norms of 64, 4 squares of 64, 3 x 64 x 176. Encoder and decoder: 4 blocks, 2 norms,
        // patches 192 x 64, positions 16 x 64, projector 2 x 64 x 64, embedding and head 83 x 64.
        let block = 2 * 64 + 4 * 64 * 64 + 3 * 64 * 176;
        assert_eq!(total, 4 * block + 2 * 64 + 192 * 64 + 16 * 64 + 2 * 64 * 64 + 2 * 83 * 64);
        let names: std::collections::BTreeSet<&str> = parameters.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names.len(), parameters.len());
    }

    #[test]
    fn first_values_have_the_deviation_they_should() {
        let parameters = parameters(&ModelConfig::default(), 83);
        let gate = parameters.iter().find(|p| p.name == "model.layers.1.mlp.gate_proj.weight").unwrap();
        let values = gate.draw(Seed(3));
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len() as f64;
        let square = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / values.len() as f64;
        assert!(mean.abs() < 0.005, "{mean}");
        // 11,264 draws of deviation 1/8: the sample's deviation lies within 3 % of it.
        assert!((square.sqrt() / 0.125 - 1.0).abs() < 0.03, "{square}");
        assert_eq!(values, gate.draw(Seed(3)));
        assert_ne!(values, gate.draw(Seed(4)));
    }
}
