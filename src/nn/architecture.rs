//! All sizes and options that a model's arithmetic needs, independent of the file format that they come from.

use super::config::ModelConfig;

/// A decoder, optionally with a vision tower.
#[derive(Clone, Debug, PartialEq)]
pub struct Architecture {
    /// None for a language model without images.
    pub vision: Option<Vision>,
    pub decoder: Decoder,
    /// Size of the vocabulary.
    pub vocab: usize,
}

/// The vision tower and its projector.
#[derive(Clone, Debug, PartialEq)]
pub struct Vision {
    pub family: VisionFamily,
    /// The token id that marks the position of an image feature.
    pub image_token: u32,
    /// Height and width of a tile in pixels.
    pub image_size: usize,
    /// Height and width of a patch in pixels. Pixels at the border that do not fill a patch are ignored.
    pub patch_size: usize,
    /// Hidden size.
    pub dim: usize,
    pub layers: usize,
    pub heads: usize,
    /// Intermediate size of the MLP.
    pub ff: usize,
    pub norm_eps: f64,
    pub activation: Activation,
    /// The numbers of blocks after which features are taken; several are concatenated.
    pub feature_layers: Vec<usize>,
    /// Whether the first position is not a feature: CLIP's class token, and the first patch of a SigLIP tower with the
    /// strategy `default`, as in transformers.
    pub skip_first: bool,
    /// Whether the tower has an attention pooling on top (SigLIP), which no decoder reads.
    pub pooling: bool,
    pub projector: Projector,
    /// Whether images are also cut into tiles, with a newline feature after each row of patches (LLaVA-NeXT).
    pub tiled: bool,
}

/// The structure of the tower's blocks and the names of its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VisionFamily {
    /// Our own layout: linear patches, learned positions, `RMSNorm`, gated MLP, no bias, a norm on top.
    Plain,
    /// CLIP's ViT (Radford et al. 2021): a class token, a norm before the first block, `LayerNorm`, biases.
    Clip,
    /// SigLIP's ViT (Zhai et al. 2023): no class token, a bias on the patches, `LayerNorm`, biases.
    Siglip,
}

/// The activation of an MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `silu(gate) * up` (Shazeer 2020).
    Swiglu,
    /// `x Phi(x)` (Hendrycks and Gimpel 2016).
    Gelu,
    /// GELU with the tanh approximation of `Phi`.
    GeluTanh,
    /// `x sigmoid(1.702 x)`.
    QuickGelu,
}

/// Two linear layers from the tower's features to the decoder's hidden size (LLaVA 1.5).
#[derive(Clone, Debug, PartialEq)]
pub struct Projector {
    /// Size between the two layers.
    pub hidden: usize,
    pub activation: Activation,
    pub bias: bool,
}

/// The language model: `RMSNorm`, rotary positions, grouped-query attention, `SwiGLU`.
#[expect(clippy::struct_excessive_bools, reason = "families differ in what they have")]
#[derive(Clone, Debug, PartialEq)]
pub struct Decoder {
    /// Hidden size.
    pub dim: usize,
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; each serves `heads / kv_heads` query heads.
    pub kv_heads: usize,
    /// Size of a head; `heads * head_width` can differ from `dim`.
    pub head_width: usize,
    /// Intermediate size of the MLP.
    pub ff: usize,
    pub norm_eps: f64,
    /// Whether the projections of queries, keys and values have a bias (Qwen2).
    pub qkv_bias: bool,
    /// Whether the attention's output projection has a bias.
    pub output_bias: bool,
    /// Whether the MLP has biases.
    pub mlp_bias: bool,
    /// Whether every query and key head is normalized before the rotation (Qwen3).
    pub head_norm: bool,
    /// Whether the head uses the weights of the token embedding.
    pub tied_head: bool,
    pub rope: Rope,
    /// The longest sequence, image tokens included.
    pub max_positions: usize,
}

/// Rotary position embeddings (Su et al. 2021).
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    pub scaling: RopeScaling,
    /// Whether frequencies and angles are rounded to `f32`, as in PyTorch.
    pub rounded: bool,
}

/// Scaling of the rotary frequencies for longer contexts.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    None,
    /// Every frequency is divided by `factor` (Chen et al. 2023).
    Linear {
        factor: f64,
    },
    /// Low frequencies are divided by `factor`, high ones are not, with a ramp between (Llama 3.1).
    Llama3 {
        factor: f64,
        low_frequency_factor: f64,
        high_frequency_factor: f64,
        original_positions: usize,
    },
    /// YaRN (Peng et al. 2023): a ramp between scaled and original frequencies; cosines and sines times
    /// `attention_factor`.
    Yarn {
        factor: f64,
        beta_fast: f64,
        beta_slow: f64,
        original_positions: usize,
        attention_factor: f64,
        truncate: bool,
    },
}

impl Vision {
    /// Patches along a side of a tile.
    pub fn side(&self) -> usize {
        self.image_size / self.patch_size.max(1)
    }

    /// Positions of a tile in the tower.
    pub fn positions(&self) -> usize {
        self.side() * self.side() + usize::from(self.family == VisionFamily::Clip)
    }

    /// Features of a tile.
    pub fn tile_tokens(&self) -> usize {
        self.positions() - usize::from(self.skip_first)
    }

    /// Pixel values per patch: height x width x RGB.
    pub fn patch_values(&self) -> usize {
        self.patch_size * self.patch_size * 3
    }

    /// Pixel values per tile.
    pub fn tile_values(&self) -> usize {
        self.image_size * self.image_size * 3
    }

    /// Size of the projector's input.
    pub fn feature_width(&self) -> usize {
        self.dim * self.feature_layers.len()
    }

    /// The number of blocks that are computed. No feature depends on the blocks above.
    pub fn used_layers(&self) -> usize {
        self.feature_layers.iter().copied().max().unwrap_or(0)
    }
}

impl Decoder {
    /// Size of all key heads of a token.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_width
    }

    /// Size of all query heads of a token.
    pub fn query_width(&self) -> usize {
        self.heads * self.head_width
    }
}

impl Architecture {
    /// A model in our own layout. The sizes must have been checked.
    pub fn from_config(config: &ModelConfig, vocab: usize, image_token: u32) -> Architecture {
        let ModelConfig { image_size, patch_size, vision, projector, decoder } = config;
        Architecture {
            vision: Some(Vision {
                family: VisionFamily::Plain,
                image_token,
                image_size: *image_size,
                patch_size: *patch_size,
                dim: vision.dim,
                layers: vision.layers,
                heads: vision.heads,
                ff: vision.ff,
                norm_eps: decoder.norm_eps,
                activation: Activation::Swiglu,
                feature_layers: vec![vision.layers],
                skip_first: false,
                pooling: false,
                projector: Projector { hidden: projector.hidden, activation: Activation::Gelu, bias: false },
                tiled: false,
            }),
            decoder: Decoder {
                dim: decoder.dim,
                layers: decoder.layers,
                heads: decoder.heads,
                kv_heads: decoder.kv_heads,
                head_width: decoder.dim / decoder.heads.max(1),
                ff: decoder.ff,
                norm_eps: decoder.norm_eps,
                qkv_bias: false,
                output_bias: false,
                mlp_bias: false,
                head_norm: false,
                tied_head: decoder.tied_head,
                rope: Rope { theta: decoder.rope_theta, scaling: RopeScaling::None, rounded: false },
                max_positions: decoder.max_positions,
            },
            vocab,
        }
    }
}
