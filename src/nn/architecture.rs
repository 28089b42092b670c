//! What a model is made of: every size and choice that its arithmetic needs, whichever file they were written in.
//! Knows no file format, no weights and no tokenizer.

use anyhow::Result;

use super::anyres::pack_image_features;
use super::config::ModelConfig;
use super::pixel_values::ImageShape;

/// A decoder, and the eyes that it may have.
#[derive(Clone, Debug, PartialEq)]
pub struct Architecture {
    /// None: a language model, which takes no image.
    pub vision: Option<Vision>,
    pub decoder: Decoder,
    /// Token ids run from 0 to this, exclusive.
    pub vocab: usize,
}

/// The encoder of images with its projector.
#[derive(Clone, Debug, PartialEq)]
pub struct Vision {
    pub family: VisionFamily,
    /// The id that stands for one image token in a sequence.
    pub image_token: u32,
    /// Height and width of a tile in pixels.
    pub image_size: usize,
    /// Height and width of a patch in pixels; a border of a tile that fills no patch is left out.
    pub patch_size: usize,
    /// Width.
    pub dim: usize,
    /// Blocks that there are.
    pub layers: usize,
    pub heads: usize,
    /// Width of the feed-forward layer.
    pub ff: usize,
    pub norm_eps: f64,
    pub activation: Activation,
    /// After how many blocks the features are taken; those of several places lie side by side.
    pub features: Vec<usize>,
    /// Whether the first position is left out of the features: CLIP's class token, and the first patch of a SigLIP tower
    /// with the strategy `default`, as transformers does.
    pub skip_first: bool,
    /// Whether the tower has an attention pooling on top, which no decoder looks at (SigLIP).
    pub pooling: bool,
    pub projector: Projector,
    /// Whether images are cut into tiles beside the whole, each row of patches ending in a newline feature (LLaVA-NeXT).
    pub tiled: bool,
}

/// How the encoder's blocks are built, and what its parameters are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VisionFamily {
    /// Ours: linear patches, learned positions, `RMSNorm`, gated feed-forward, no bias, a norm on top.
    Plain,
    /// CLIP's ViT (Radford et al. 2021): a class token, a norm before the first block, `LayerNorm`, biases.
    Clip,
    /// SigLIP's ViT (Zhai et al. 2023): no class token, a bias on the patches, `LayerNorm`, biases.
    Siglip,
}

/// The function between the two layers of a feed-forward network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `silu(gate) * up` (Shazeer 2020).
    Swiglu,
    /// `x Phi(x)` (Hendrycks and Gimpel 2016).
    Gelu,
    /// The same with `Phi` by a hyperbolic tangent.
    GeluTanh,
    /// `x sigmoid(1.702 x)`.
    QuickGelu,
}

/// Two linear layers from the encoder's width to the decoder's (LLaVA 1.5).
#[derive(Clone, Debug, PartialEq)]
pub struct Projector {
    /// Width between the two layers.
    pub hidden: usize,
    pub activation: Activation,
    pub bias: bool,
}

/// The language model: `RMSNorm`, rotary positions, grouped-query attention, `SwiGLU`.
#[expect(clippy::struct_excessive_bools, reason = "families differ in what they have")]
#[derive(Clone, Debug, PartialEq)]
pub struct Decoder {
    /// Width.
    pub dim: usize,
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; each serves `heads / kv_heads` query heads.
    pub kv_heads: usize,
    /// Width of a head; `heads * head_width` need not be `dim`.
    pub head_width: usize,
    /// Width of the feed-forward layer.
    pub ff: usize,
    pub norm_eps: f64,
    /// Whether queries, keys and values have a bias (Qwen2).
    pub qkv_bias: bool,
    /// Whether the attention's output has one.
    pub output_bias: bool,
    /// Whether the feed-forward layers have one.
    pub mlp_bias: bool,
    /// Whether every query and key head is normalised before it is turned (Qwen3).
    pub head_norm: bool,
    /// Whether the head is the transposed token embedding.
    pub tied_head: bool,
    pub rope: Rope,
    /// Longest sequence, image tokens included.
    pub max_positions: usize,
}

/// Rotary position embeddings (Su et al. 2021).
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    pub scaling: RopeScaling,
    /// Whether frequencies and angles are rounded to `f32` on the way, as PyTorch models were trained with.
    pub rounded: bool,
}

/// How rotary frequencies are stretched over longer contexts.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    None,
    /// Every frequency over `factor` (Chen et al. 2023).
    Linear {
        factor: f64,
    },
    /// Low frequencies over `factor`, high ones as they are, a slope between (Llama 3.1).
    Llama3 {
        factor: f64,
        low_frequency_factor: f64,
        high_frequency_factor: f64,
        original_positions: usize,
    },
    /// YaRN (Peng et al. 2023): a ramp between stretched and plain frequencies; cosines and sines times `attention_factor`.
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

    /// Positions of a tile in the encoder.
    pub fn positions(&self) -> usize {
        self.side() * self.side() + usize::from(self.family == VisionFamily::Clip)
    }

    /// Features of a tile.
    pub fn tile_tokens(&self) -> usize {
        self.positions() - usize::from(self.skip_first)
    }

    /// Numbers per patch: height x width x RGB.
    pub fn patch_values(&self) -> usize {
        self.patch_size * self.patch_size * 3
    }

    /// Numbers per tile.
    pub fn tile_values(&self) -> usize {
        self.image_size * self.image_size * 3
    }

    /// Width of what the projector reads.
    pub fn feature_width(&self) -> usize {
        self.dim * self.features.len()
    }

    /// Features that stand for an image in a sequence, newlines included.
    pub fn image_tokens(&self, shape: ImageShape) -> Result<usize> {
        Ok(pack_image_features(self, shape)?.len())
    }

    /// Blocks that must be computed: those above have no say.
    pub fn used_layers(&self) -> usize {
        self.features.iter().copied().max().unwrap_or(0)
    }
}

impl Decoder {
    /// Width of a key or value token.
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head_width
    }

    /// Width of a query token.
    pub fn query_width(&self) -> usize {
        self.heads * self.head_width
    }
}

impl Architecture {
    /// A model of ours of these sizes. They must have been checked.
    pub fn of(config: &ModelConfig, vocab: usize, image_token: u32) -> Architecture {
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
                features: vec![vision.layers],
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
