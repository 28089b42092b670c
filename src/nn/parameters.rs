//! The list of a model's parameters: names, shapes, parts, first values. The one walk that counting, reading,
//! writing, building and optimizing share. Knows no tensor and no file.
//!
//! Names follow Hugging Face's LLaVA and LLaMA as transformers 4 writes them, without the prefix that a composite puts
//! before its decoder.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::architecture::{Architecture, Decoder, Projector, Vision, VisionFamily};
use ablate_core::base::Seed;

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
    /// `[n]` for a norm's weight or a bias, `[out, in]` for a matrix, `[out, 3, height, width]` for ViT patches.
    pub shape: Vec<usize>,
    pub part: Part,
    /// Standard deviation of the first values; none: all are 1.
    pub deviation: Option<f64>,
    /// Whether the model's output depends on it. What is on top of the features that a decoder reads is only kept.
    pub used: bool,
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

    /// A matrix is decayed; a norm's weight, a bias or another single row is not.
    pub fn is_matrix(&self) -> bool {
        self.shape.len() >= 2
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

/// All parameters of a model, in a fixed order: encoder, projector, decoder. The sizes must have been checked.
///
/// First values of a model of ours: linear layers have deviation `1 / sqrt(fan_in)`, the two matrices of a block that
/// write into the residual stream `1 / sqrt(layers + 1)` of that and at most half of it, positions 0.1, token embeddings
/// 0.5, the head 0.02.
pub fn parameters(architecture: &Architecture) -> Vec<Parameter> {
    let Architecture { vision, decoder, vocab } = architecture;
    let mut list = List(Vec::new());
    if let Some(vision) = vision {
        match vision.family {
            VisionFamily::Plain => list.plain_tower(vision),
            VisionFamily::Clip | VisionFamily::Siglip => list.vit(vision),
        }
        let Projector { hidden, bias, .. } = vision.projector;
        list.linear(Part::Projector, "multi_modal_projector.linear_1", hidden, vision.feature_width(), bias);
        list.linear(Part::Projector, "multi_modal_projector.linear_2", decoder.dim, hidden, bias);
        if vision.tiled {
            list.vector(Part::Projector, "image_newline", decoder.dim);
        }
    }
    list.decoder(decoder, *vocab);
    list.0
}

/// Names of the towers of Hugging Face's LLaVA begin so.
pub(crate) const VIT: &str = "vision_tower.vision_model";

struct List(Vec<Parameter>);

/// Scale of the matrices that write into the residual stream.
fn residual(layers: usize) -> f64 {
    0.5f64.min(1.0 / ((layers + 1) as f64).sqrt())
}

impl List {
    fn push(&mut self, part: Part, name: String, shape: Vec<usize>, deviation: Option<f64>) {
        self.0.push(Parameter { name, shape, part, deviation, used: true });
    }

    fn matrix(&mut self, part: Part, name: &str, columns: usize, rows: usize, deviation: f64) {
        self.push(part, format!("{name}.weight"), vec![rows, columns], Some(deviation));
    }

    fn linear(&mut self, part: Part, name: &str, outputs: usize, inputs: usize, bias: bool) {
        self.matrix(part, name, inputs, outputs, 1.0 / (inputs as f64).sqrt());
        if bias {
            self.vector(part, &format!("{name}.bias"), outputs);
        }
    }

    /// A linear layer whose output is added to the residual stream of `layers` blocks.
    fn writing(&mut self, part: Part, name: &str, outputs: usize, inputs: usize, bias: bool, layers: usize) {
        self.matrix(part, name, inputs, outputs, residual(layers) / (inputs as f64).sqrt());
        if bias {
            self.vector(part, &format!("{name}.bias"), outputs);
        }
    }

    fn vector(&mut self, part: Part, name: &str, dim: usize) {
        self.push(part, name.to_string(), vec![dim], None);
    }

    fn norm(&mut self, part: Part, name: &str, dim: usize) {
        self.vector(part, &format!("{name}.weight"), dim);
    }

    fn layer_norm(&mut self, part: Part, name: &str, dim: usize) {
        self.norm(part, name, dim);
        self.vector(part, &format!("{name}.bias"), dim);
    }

    fn plain_tower(&mut self, vision: &Vision) {
        let Vision { dim, layers, ff, .. } = *vision;
        let part = Part::Vision;
        self.linear(part, "vision_tower.patch_embedding", dim, vision.patch_values(), false);
        self.matrix(part, "vision_tower.position_embedding", dim, vision.positions(), 0.1);
        for layer in 0..layers {
            let name = |rest: &str| format!("vision_tower.layers.{layer}.{rest}");
            self.norm(part, &name("input_layernorm"), dim);
            for projection in ["q_proj", "k_proj", "v_proj"] {
                self.linear(part, &name(&format!("self_attn.{projection}")), dim, dim, false);
            }
            self.writing(part, &name("self_attn.o_proj"), dim, dim, false, layers);
            self.norm(part, &name("post_attention_layernorm"), dim);
            self.linear(part, &name("mlp.gate_proj"), ff, dim, false);
            self.linear(part, &name("mlp.up_proj"), ff, dim, false);
            self.writing(part, &name("mlp.down_proj"), dim, ff, false, layers);
        }
        self.norm(part, "vision_tower.norm", dim);
    }

    fn vit(&mut self, vision: &Vision) {
        let Vision { dim, layers, ff, patch_size, .. } = *vision;
        let part = Part::Vision;
        let clip = vision.family == VisionFamily::Clip;
        if clip {
            self.vector(part, &format!("{VIT}.embeddings.class_embedding"), dim);
        }
        let patches = format!("{VIT}.embeddings.patch_embedding");
        self.push(part, format!("{patches}.weight"), vec![dim, 3, patch_size, patch_size], None);
        if !clip {
            self.vector(part, &format!("{patches}.bias"), dim);
        }
        self.matrix(part, &format!("{VIT}.embeddings.position_embedding"), dim, vision.positions(), 0.1);
        if clip {
            self.layer_norm(part, &format!("{VIT}.pre_layrnorm"), dim);
        }
        for layer in 0..layers {
            let start = self.0.len();
            let name = |rest: &str| format!("{VIT}.encoder.layers.{layer}.{rest}");
            self.layer_norm(part, &name("layer_norm1"), dim);
            for projection in ["q_proj", "k_proj", "v_proj", "out_proj"] {
                self.linear(part, &name(&format!("self_attn.{projection}")), dim, dim, true);
            }
            self.layer_norm(part, &name("layer_norm2"), dim);
            self.linear(part, &name("mlp.fc1"), ff, dim, true);
            self.linear(part, &name("mlp.fc2"), dim, ff, true);
            self.used_if(start, layer < vision.used_layers());
        }
        // What sits on top serves the pooled output, which no decoder looks at.
        let start = self.0.len();
        self.layer_norm(part, &format!("{VIT}.post_layernorm"), dim);
        if vision.pooling {
            let name = |rest: &str| format!("{VIT}.head.{rest}");
            self.push(part, name("probe"), vec![1, 1, dim], None);
            self.push(part, name("attention.in_proj_weight"), vec![3 * dim, dim], None);
            self.vector(part, &name("attention.in_proj_bias"), 3 * dim);
            self.linear(part, &name("attention.out_proj"), dim, dim, true);
            self.layer_norm(part, &name("layernorm"), dim);
            self.linear(part, &name("mlp.fc1"), ff, dim, true);
            self.linear(part, &name("mlp.fc2"), dim, ff, true);
        }
        self.used_if(start, false);
    }

    fn decoder(&mut self, decoder: &Decoder, vocab: usize) {
        let Decoder { dim, layers, ff, qkv_bias, output_bias, mlp_bias, .. } = *decoder;
        let (query, key) = (decoder.query_width(), decoder.kv_width());
        let part = Part::Decoder;
        // A tied embedding is the head as well, whose logits must start small.
        let deviation = if decoder.tied_head { 0.02 } else { 0.5 };
        self.matrix(part, "model.embed_tokens", dim, vocab, deviation);
        for layer in 0..layers {
            let name = |rest: &str| format!("model.layers.{layer}.{rest}");
            self.norm(part, &name("input_layernorm"), dim);
            for (projection, width) in [("q_proj", query), ("k_proj", key), ("v_proj", key)] {
                self.linear(part, &name(&format!("self_attn.{projection}")), width, dim, qkv_bias);
            }
            self.writing(part, &name("self_attn.o_proj"), dim, query, output_bias, layers);
            if decoder.head_norm {
                self.norm(part, &name("self_attn.q_norm"), decoder.head_width);
                self.norm(part, &name("self_attn.k_norm"), decoder.head_width);
            }
            self.norm(part, &name("post_attention_layernorm"), dim);
            self.linear(part, &name("mlp.gate_proj"), ff, dim, mlp_bias);
            self.linear(part, &name("mlp.up_proj"), ff, dim, mlp_bias);
            self.writing(part, &name("mlp.down_proj"), dim, ff, mlp_bias, layers);
        }
        self.norm(part, "model.norm", dim);
        if !decoder.tied_head {
            self.matrix(part, "lm_head", dim, vocab, 0.02);
        }
    }

    fn used_if(&mut self, start: usize, used: bool) {
        self.0[start..].iter_mut().for_each(|parameter| parameter.used = used);
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
    use crate::config::ModelConfig;

    #[test]
    fn the_default_model_has_the_parameters_that_were_counted_by_hand() {
        let parameters = parameters(&Architecture::of(&ModelConfig::default(), 83, 1));
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
        let parameters = parameters(&Architecture::of(&ModelConfig::default(), 83, 1));
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
