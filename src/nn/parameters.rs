//! The parameters of a model: names, shapes, groups, initial values. Counting, reading, writing, building and optimizing
//! all use this list.
//!
//! Names are those of LLaVA and LLaMA in transformers 4, without the prefix that LLaVA puts before its decoder.

use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::architecture::{
    Activation, Architecture, Decoder, DynamicFamily, DynamicVit, Projector, Tower, VisionFamily, Vit,
};
use ablate_core::base::Seed;
use ablate_data::rng::uniform;

/// A group of parameters with its own learning rate; it can also be frozen as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ParamGroup {
    Vision,
    Projector,
    Decoder,
}

/// One parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    pub name: String,
    /// `[n]` for a norm's weight or a bias, `[out, in]` for a matrix, `[out, 3, height, width]` for ViT patches,
    /// `[out, 3, frames, height, width]` for those of videos.
    pub shape: Vec<usize>,
    pub group: ParamGroup,
    /// Standard deviation of the initial values; none: all are 1.
    pub init_std: Option<f64>,
    /// Whether the model's output depends on it. Layers above the features that a decoder reads are kept, but not used.
    pub used: bool,
}

impl Parameter {
    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// True for a parameter without elements. A checked config has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether weight decay applies: to matrices, but not to norms, biases and other vectors.
    pub fn is_matrix(&self) -> bool {
        self.shape.len() >= 2
    }

    /// Initial values. Each parameter has its own random stream, so another layer does not change the values of the rest.
    pub fn init(&self, seed: Seed) -> Vec<f32> {
        match self.init_std {
            None => vec![1.0; self.len()],
            Some(std) => {
                let mut generator = seed.stream(&self.name);
                (0..self.len()).map(|_| (normal(&mut generator) * std) as f32).collect()
            }
        }
    }
}

/// The token embedding.
pub(crate) const EMBEDDING: &str = "model.embed_tokens";
/// The norm after the last block of the decoder.
pub(crate) const FINAL_NORM: &str = "model.norm";
/// The language model's head, where it is not tied to the embedding.
pub(crate) const HEAD: &str = "lm_head";
/// The two layers of LLaVA's projector.
pub(crate) const PROJECTOR: [&str; 2] = ["multi_modal_projector.linear_1", "multi_modal_projector.linear_2"];
/// The norm of InternVL's projector.
pub(crate) const PROJECTOR_NORM: &str = "multi_modal_projector.layer_norm";
/// The layer of Idefics3's projector.
pub(crate) const SHUFFLE_PROJECTOR: &str = "multi_modal_projector.modality_projection.proj";
/// The norm and the layer of Gemma 3's projector. Its weight has another name and is transposed in files.
pub(crate) const POOL_NORM: &str = "multi_modal_projector.mm_soft_emb_norm";
pub(crate) const POOL_PROJECTOR: &str = "multi_modal_projector.mm_input_projection";
/// The patch embedding of a tower for images of any size.
pub(crate) const DYNAMIC_PATCH_EMBEDDING: &str = "visual.patch_embed.proj";
/// The learned positions of such a tower.
pub(crate) const DYNAMIC_POSITION_EMBEDDING: &str = "visual.pos_embed";
/// The feature that ends a row of patches (LLaVA-NeXT).
pub(crate) const NEWLINE: &str = "image_newline";
/// The prefix of CLIP and SigLIP towers.
const VIT: &str = "vision_tower.vision_model";
/// The prefix of `InternViT` towers.
const INTERN: &str = "vision_tower";

/// The name of a layer's weight.
pub(crate) fn weight(layer: &str) -> String {
    format!("{layer}.weight")
}

/// The name of a layer's bias.
pub(crate) fn bias(layer: &str) -> String {
    format!("{layer}.bias")
}

/// The layers of a vision tower.
pub(crate) struct TowerNames {
    family: VisionFamily,
    pub(crate) patch_embedding: String,
    /// A parameter, not a layer.
    pub(crate) class_embedding: Option<String>,
    /// A parameter, not a layer.
    pub(crate) position_embedding: String,
    pub(crate) pre_norm: Option<String>,
    pub(crate) post_norm: String,
}

impl TowerNames {
    pub(crate) fn of(family: VisionFamily) -> TowerNames {
        let clip = |name: &str| (family == VisionFamily::Clip).then(|| format!("{VIT}.{name}"));
        let (embeddings, post_norm) = match family {
            VisionFamily::Plain => ("vision_tower".to_string(), "vision_tower.norm".to_string()),
            VisionFamily::Clip | VisionFamily::Siglip => (format!("{VIT}.embeddings"), format!("{VIT}.post_layernorm")),
            VisionFamily::InternVit => {
                return TowerNames {
                    family,
                    patch_embedding: format!("{INTERN}.embeddings.patch_embeddings.projection"),
                    class_embedding: Some(format!("{INTERN}.embeddings.cls_token")),
                    position_embedding: format!("{INTERN}.embeddings.position_embeddings"),
                    pre_norm: None,
                    post_norm: format!("{INTERN}.layernorm"),
                };
            }
        };
        TowerNames {
            family,
            patch_embedding: format!("{embeddings}.patch_embedding"),
            class_embedding: clip("embeddings.class_embedding"),
            position_embedding: weight(&format!("{embeddings}.position_embedding")),
            // CLIP's own spelling.
            pre_norm: clip("pre_layrnorm"),
            post_norm,
        }
    }

    pub(crate) fn block(&self, layer: usize) -> BlockNames {
        match self.family {
            VisionFamily::Plain => BlockNames::llama(&format!("vision_tower.layers.{layer}")),
            VisionFamily::Clip | VisionFamily::Siglip => BlockNames::vit(&format!("{VIT}.encoder.layers.{layer}")),
            VisionFamily::InternVit => BlockNames::intern_vit(&format!("{INTERN}.encoder.layer.{layer}")),
        }
    }
}

/// The layers of a patch merger.
pub(crate) struct MergerNames {
    pub(crate) norm: String,
    pub(crate) layers: [String; 2],
}

impl MergerNames {
    /// The merger of the tower's last block.
    pub(crate) fn of(family: DynamicFamily) -> MergerNames {
        match family {
            DynamicFamily::Qwen2Vl => MergerNames::new("visual.merger", "ln_q", ["mlp.0", "mlp.2"]),
            DynamicFamily::Qwen3Vl => MergerNames::new("visual.merger", "norm", ["linear_fc1", "linear_fc2"]),
        }
    }

    /// The merger of a block whose output is added after decoder layer `index`.
    pub(crate) fn deepstack(index: usize) -> MergerNames {
        let prefix = format!("visual.deepstack_merger_list.{index}");
        MergerNames::new(&prefix, "norm", ["linear_fc1", "linear_fc2"])
    }

    fn new(prefix: &str, norm: &str, layers: [&str; 2]) -> MergerNames {
        let name = |layer: &str| format!("{prefix}.{layer}");
        MergerNames { norm: name(norm), layers: layers.map(name) }
    }
}

/// The layers of a transformer block.
pub(crate) struct BlockNames {
    pub(crate) attention_norm: String,
    pub(crate) qkv: QkvNames,
    pub(crate) o: String,
    /// Norms of the query and key heads, which only some families have.
    pub(crate) qk_norms: Option<[String; 2]>,
    pub(crate) mlp_norm: String,
    pub(crate) mlp: MlpNames,
    /// What the outputs of attention and MLP pass through, in some families.
    pub(crate) outputs: Option<[OutputNames; 2]>,
}

/// What an output of a block passes through.
pub(crate) enum OutputNames {
    /// A parameter with the factors of the columns.
    Scale(String),
    /// A norm.
    Norm(String),
}

/// The projections to queries, keys and values: three layers, or one with their outputs side by side.
pub(crate) enum QkvNames {
    Separate([String; 3]),
    Fused(String),
}

pub(crate) enum MlpNames {
    Gated { gate: String, up: String, down: String },
    Plain { fc1: String, fc2: String },
}

impl BlockNames {
    /// A block of the decoder.
    pub(crate) fn decoder(decoder: &Decoder, layer: usize) -> BlockNames {
        let prefix = format!("model.layers.{layer}");
        let names = BlockNames::llama(&prefix);
        if !decoder.output_norms {
            return names;
        }
        // Llama's name of the norm before the MLP is here that of the output of attention.
        let norm = |name: &str| format!("{prefix}.{name}_feedforward_layernorm");
        BlockNames {
            outputs: Some([OutputNames::Norm(names.mlp_norm), OutputNames::Norm(norm("post"))]),
            mlp_norm: norm("pre"),
            ..names
        }
    }

    /// A block of a tower for images of any size.
    pub(crate) fn dynamic(vit: &DynamicVit, layer: usize) -> BlockNames {
        let name = |part: &str| format!("visual.blocks.{layer}.{part}");
        let mlp = if vit.activation == Activation::Swiglu {
            MlpNames::Gated { gate: name("mlp.gate_proj"), up: name("mlp.up_proj"), down: name("mlp.down_proj") }
        } else if vit.family == DynamicFamily::Qwen3Vl {
            MlpNames::Plain { fc1: name("mlp.linear_fc1"), fc2: name("mlp.linear_fc2") }
        } else {
            MlpNames::Plain { fc1: name("mlp.fc1"), fc2: name("mlp.fc2") }
        };
        BlockNames {
            attention_norm: name("norm1"),
            qkv: QkvNames::Fused(name("attn.qkv")),
            o: name("attn.proj"),
            qk_norms: None,
            mlp_norm: name("norm2"),
            mlp,
            outputs: None,
        }
    }

    fn llama(prefix: &str) -> BlockNames {
        let name = |layer: &str| format!("{prefix}.{layer}");
        BlockNames {
            attention_norm: name("input_layernorm"),
            qkv: QkvNames::Separate(["q_proj", "k_proj", "v_proj"].map(|layer| name(&format!("self_attn.{layer}")))),
            o: name("self_attn.o_proj"),
            qk_norms: Some([name("self_attn.q_norm"), name("self_attn.k_norm")]),
            mlp_norm: name("post_attention_layernorm"),
            mlp: MlpNames::Gated { gate: name("mlp.gate_proj"), up: name("mlp.up_proj"), down: name("mlp.down_proj") },
            outputs: None,
        }
    }

    fn vit(prefix: &str) -> BlockNames {
        let name = |layer: &str| format!("{prefix}.{layer}");
        BlockNames {
            attention_norm: name("layer_norm1"),
            qkv: QkvNames::Separate(["q_proj", "k_proj", "v_proj"].map(|layer| name(&format!("self_attn.{layer}")))),
            o: name("self_attn.out_proj"),
            qk_norms: None,
            mlp_norm: name("layer_norm2"),
            mlp: MlpNames::Plain { fc1: name("mlp.fc1"), fc2: name("mlp.fc2") },
            outputs: None,
        }
    }

    fn intern_vit(prefix: &str) -> BlockNames {
        let name = |layer: &str| format!("{prefix}.{layer}");
        BlockNames {
            attention_norm: name("layernorm_before"),
            qkv: QkvNames::Separate(["q_proj", "k_proj", "v_proj"].map(|layer| name(&format!("attention.{layer}")))),
            o: name("attention.projection_layer"),
            qk_norms: Some([name("attention.q_norm"), name("attention.k_norm")]),
            mlp_norm: name("layernorm_after"),
            mlp: MlpNames::Plain { fc1: name("mlp.fc1"), fc2: name("mlp.fc2") },
            outputs: Some([OutputNames::Scale(name("lambda_1")), OutputNames::Scale(name("lambda_2"))]),
        }
    }
}

/// All parameters of a model, in a fixed order: vision tower, projector, decoder. The sizes must have been checked.
///
/// Initial values of our own layout: linear layers have the standard deviation `1 / sqrt(fan_in)`; the two matrices of a
/// block that write into the residual stream have `min(1 / 2, 1 / sqrt(layers + 1))` times that; position embeddings 0.1,
/// token embeddings 0.5, the head 0.02.
pub fn parameters(architecture: &Architecture) -> Vec<Parameter> {
    let Architecture { family: _, vision, decoder, vocab } = architecture;
    let mut list = List { group: ParamGroup::Vision, parameters: Vec::new() };
    if let Some(vision) = vision {
        match &vision.tower {
            Tower::Vit(vit) => list.vision_tower(vit),
            Tower::Dynamic(vit) => list.dynamic_tower(vit),
        }
        list.group = ParamGroup::Projector;
        let inputs = vision.projector_inputs();
        match vision.projector {
            Projector::Mlp { hidden, bias, .. } => {
                list.linear(PROJECTOR[0], hidden, inputs, bias, 1.0);
                list.linear(PROJECTOR[1], decoder.dim, hidden, bias, 1.0);
            }
            Projector::PixelShuffle { .. } => list.linear(SHUFFLE_PROJECTOR, decoder.dim, inputs, false, 1.0),
            Projector::NormedPixelShuffle { .. } => {
                list.norm(PROJECTOR_NORM, inputs, true);
                list.linear(PROJECTOR[0], decoder.dim, inputs, true, 1.0);
                list.linear(PROJECTOR[1], decoder.dim, decoder.dim, true, 1.0);
            }
            Projector::PatchMerger { family, rms_norm, .. } => {
                let names = MergerNames::of(family);
                list.norm(&names.norm, vision.tower.feature_width(), !rms_norm);
                list.merger(&names.layers, inputs, decoder.dim);
            }
            Projector::AveragePool { .. } => {
                list.norm(POOL_NORM, inputs, false);
                list.linear(POOL_PROJECTOR, decoder.dim, inputs, false, 1.0);
            }
        }
        for index in 0..vision.tower.deepstack().len() {
            let names = MergerNames::deepstack(index);
            list.norm(&names.norm, inputs, true);
            list.merger(&names.layers, inputs, decoder.dim);
        }
        if vision.newlines {
            list.vector(NEWLINE.to_string(), decoder.dim);
        }
    }
    list.group = ParamGroup::Decoder;
    list.decoder(decoder, *vocab);
    list.parameters
}

struct List {
    /// The group of the parameters that come next.
    group: ParamGroup,
    parameters: Vec<Parameter>,
}

/// Sizes of a block.
#[expect(clippy::struct_excessive_bools, reason = "families differ in their biases")]
struct BlockSizes {
    dim: usize,
    /// Width of all query heads.
    query: usize,
    /// Width of all key heads.
    key: usize,
    ff: usize,
    qkv_bias: bool,
    output_bias: bool,
    mlp_bias: bool,
    norm_bias: bool,
    /// Width of a head whose queries and keys are normalized.
    qk_norm: Option<usize>,
    /// Scale of the initial values of the matrices that write into the residual stream.
    residual: f64,
}

fn residual(layers: usize) -> f64 {
    0.5f64.min(1.0 / ((layers + 1) as f64).sqrt())
}

impl List {
    fn push(&mut self, name: String, shape: Vec<usize>, init_std: Option<f64>) {
        self.parameters.push(Parameter { name, shape, group: self.group, init_std, used: true });
    }

    fn matrix(&mut self, layer: &str, columns: usize, rows: usize, init_std: f64) {
        self.push(weight(layer), vec![rows, columns], Some(init_std));
    }

    fn vector(&mut self, name: String, dim: usize) {
        self.push(name, vec![dim], None);
    }

    fn linear(&mut self, layer: &str, outputs: usize, inputs: usize, with_bias: bool, scale: f64) {
        self.matrix(layer, inputs, outputs, scale / (inputs as f64).sqrt());
        if with_bias {
            self.vector(bias(layer), outputs);
        }
    }

    fn norm(&mut self, layer: &str, dim: usize, with_bias: bool) {
        self.vector(weight(layer), dim);
        if with_bias {
            self.vector(bias(layer), dim);
        }
    }

    /// The two layers of a patch merger.
    fn merger(&mut self, [first, second]: &[String; 2], inputs: usize, outputs: usize) {
        self.linear(first, inputs, inputs, true, 1.0);
        self.linear(second, outputs, inputs, true, 1.0);
    }

    fn block(&mut self, names: &BlockNames, sizes: &BlockSizes) {
        let BlockSizes { dim, query, key, ff, qkv_bias, output_bias, mlp_bias, norm_bias, qk_norm, residual } = *sizes;
        self.norm(&names.attention_norm, dim, norm_bias);
        match &names.qkv {
            QkvNames::Separate(layers) => {
                for (layer, width) in layers.iter().zip([query, key, key]) {
                    self.linear(layer, width, dim, qkv_bias, 1.0);
                }
            }
            QkvNames::Fused(layer) => self.linear(layer, query + 2 * key, dim, qkv_bias, 1.0),
        }
        self.linear(&names.o, dim, query, output_bias, residual);
        if let (Some(layers), Some(width)) = (&names.qk_norms, qk_norm) {
            for layer in layers {
                self.norm(layer, width, false);
            }
        }
        self.norm(&names.mlp_norm, dim, norm_bias);
        for output in names.outputs.iter().flatten() {
            match output {
                OutputNames::Scale(name) => self.vector(name.clone(), dim),
                OutputNames::Norm(layer) => self.norm(layer, dim, norm_bias),
            }
        }
        match &names.mlp {
            MlpNames::Gated { gate, up, down } => {
                self.linear(gate, ff, dim, mlp_bias, 1.0);
                self.linear(up, ff, dim, mlp_bias, 1.0);
                self.linear(down, dim, ff, mlp_bias, residual);
            }
            MlpNames::Plain { fc1, fc2 } => {
                self.linear(fc1, ff, dim, mlp_bias, 1.0);
                self.linear(fc2, dim, ff, mlp_bias, residual);
            }
        }
    }

    fn vision_tower(&mut self, tower: &Vit) {
        let Vit { dim, layers, ff, patch_size, family, qkv_bias, qk_norm, rms_norm, .. } = *tower;
        let (names, plain) = (TowerNames::of(family), family == VisionFamily::Plain);
        let intern = family == VisionFamily::InternVit;
        if let Some(name) = &names.class_embedding {
            self.push(name.clone(), if intern { vec![1, 1, dim] } else { vec![dim] }, None);
        }
        if plain {
            self.linear(&names.patch_embedding, dim, tower.patch_values(), false, 1.0);
        } else {
            self.push(weight(&names.patch_embedding), vec![dim, 3, patch_size, patch_size], None);
        }
        if intern || family == VisionFamily::Siglip {
            self.vector(bias(&names.patch_embedding), dim);
        }
        let shape = if intern { vec![1, tower.positions(), dim] } else { vec![tower.positions(), dim] };
        self.push(names.position_embedding.clone(), shape, Some(0.1));
        if let Some(norm) = &names.pre_norm {
            self.norm(norm, dim, true);
        }
        let sizes = BlockSizes {
            dim,
            query: dim,
            key: dim,
            ff,
            qkv_bias,
            output_bias: !plain,
            mlp_bias: !plain,
            norm_bias: !rms_norm,
            qk_norm: qk_norm.then_some(dim),
            residual: if plain { residual(layers) } else { 1.0 },
        };
        for layer in 0..layers {
            let start = self.parameters.len();
            self.block(&names.block(layer), &sizes);
            self.set_used(start, layer < tower.used_layers());
        }
        let start = self.parameters.len();
        // InternViT has it only where it is read.
        if tower.final_norm || !intern {
            self.norm(&names.post_norm, dim, !plain);
        }
        self.set_used(start, tower.final_norm);
        let start = self.parameters.len();
        if tower.pooling {
            let name = |rest: &str| format!("{VIT}.head.{rest}");
            self.push(name("probe"), vec![1, 1, dim], None);
            self.push(name("attention.in_proj_weight"), vec![3 * dim, dim], None);
            self.vector(name("attention.in_proj_bias"), 3 * dim);
            self.linear(&name("attention.out_proj"), dim, dim, true, 1.0);
            self.norm(&name("layernorm"), dim, true);
            self.linear(&name("mlp.fc1"), ff, dim, true, 1.0);
            self.linear(&name("mlp.fc2"), dim, ff, true, 1.0);
        }
        self.set_used(start, false);
    }

    fn dynamic_tower(&mut self, tower: &DynamicVit) {
        let DynamicVit { dim, patch_size, frames, ff, .. } = *tower;
        self.push(weight(DYNAMIC_PATCH_EMBEDDING), vec![dim, 3, frames, patch_size, patch_size], None);
        if tower.family == DynamicFamily::Qwen3Vl {
            self.vector(bias(DYNAMIC_PATCH_EMBEDDING), dim);
        }
        if let Some(side) = tower.position_side {
            self.matrix(DYNAMIC_POSITION_EMBEDDING, dim, side * side, 0.1);
        }
        let sizes = BlockSizes {
            dim,
            query: dim,
            key: dim,
            ff,
            qkv_bias: true,
            output_bias: true,
            mlp_bias: true,
            norm_bias: !tower.rms_norm,
            qk_norm: None,
            residual: 1.0,
        };
        for layer in 0..tower.layers {
            self.block(&BlockNames::dynamic(tower, layer), &sizes);
        }
    }

    fn decoder(&mut self, decoder: &Decoder, vocab: usize) {
        let Decoder { dim, layers, ff, qkv_bias, output_bias, mlp_bias, .. } = *decoder;
        // A tied embedding is also the head, whose logits must start small.
        let init_std = if decoder.tied_head { 0.02 } else { 0.5 };
        self.matrix(EMBEDDING, dim, vocab, init_std);
        let sizes = BlockSizes {
            dim,
            query: decoder.query_width(),
            key: decoder.kv_width(),
            ff,
            qkv_bias,
            output_bias,
            mlp_bias,
            norm_bias: false,
            qk_norm: decoder.head_norm.then_some(decoder.head_width),
            residual: residual(layers),
        };
        for layer in 0..layers {
            self.block(&BlockNames::decoder(decoder, layer), &sizes);
        }
        self.norm(FINAL_NORM, dim, false);
        if !decoder.tied_head {
            self.matrix(HEAD, dim, vocab, 0.02);
        }
    }

    fn set_used(&mut self, start: usize, used: bool) {
        self.parameters[start..].iter_mut().for_each(|parameter| parameter.used = used);
    }
}

/// A standard normal number (Box and Muller 1958).
fn normal(generator: &mut ChaCha8Rng) -> f64 {
    let (radius, angle) = (1.0 - uniform(generator), uniform(generator));
    (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ModelConfig;

    #[test]
    fn default_model_has_the_expected_parameters() {
        let parameters = parameters(&Architecture::from_config(&ModelConfig::default(), 83, 1));
        let total: usize = parameters.iter().map(Parameter::len).sum();
        // Block: 2 norms of 64, 4 squares of 64, 3 x 64 x 176. Tower and decoder: 4 blocks, 2 norms,
        // patches 192 x 64, positions 16 x 64, projector 2 x 64 x 64, embedding and head 83 x 64.
        let block = 2 * 64 + 4 * 64 * 64 + 3 * 64 * 176;
        assert_eq!(total, 4 * block + 2 * 64 + 192 * 64 + 16 * 64 + 2 * 64 * 64 + 2 * 83 * 64);
        let names: std::collections::BTreeSet<&str> = parameters.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names.len(), parameters.len());
    }

    #[test]
    fn initial_values_have_their_standard_deviation() {
        let parameters = parameters(&Architecture::from_config(&ModelConfig::default(), 83, 1));
        let gate = parameters.iter().find(|p| p.name == "model.layers.1.mlp.gate_proj.weight").unwrap();
        let values = gate.init(Seed(3));
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len() as f64;
        let square = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / values.len() as f64;
        assert!(mean.abs() < 0.005, "{mean}");
        // 11,264 draws with standard deviation 1/8: that of the sample is within 3 % of it.
        assert!((square.sqrt() / 0.125 - 1.0).abs() < 0.03, "{square}");
        assert_eq!(values, gate.init(Seed(3)));
        assert_ne!(values, gate.init(Seed(4)));
    }
}
