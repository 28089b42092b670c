//! All sizes and options that a model's arithmetic needs, independent of the file format that they come from.

use super::config::ModelConfig;

/// A decoder, optionally with a vision tower.
#[derive(Clone, Debug, PartialEq)]
pub struct Architecture {
    pub family: Family,
    /// None for a language model without images.
    pub vision: Option<Vision>,
    pub decoder: Decoder,
    /// Size of the vocabulary.
    pub vocab: usize,
}

/// The family of a model: which files it has, and the names of its arrays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Our own layout.
    Own,
    /// A language model of transformers: Gemma 3, Llama, Mistral, Qwen2, Qwen3.
    Decoder,
    /// LLaVA 1.5 and LLaVA-NeXT.
    Llava,
    /// Gemma 3 with images.
    Gemma3,
    /// Idefics3 and SmolVLM.
    Idefics3,
    /// InternVL 3 as transformers has it.
    InternVl,
    /// Qwen2-VL and Qwen2.5-VL.
    Qwen2Vl,
    /// Qwen3-VL.
    Qwen3Vl,
}

/// The vision tower and its projector.
#[derive(Clone, Debug, PartialEq)]
pub struct Vision {
    /// The token id that marks the position of an image feature.
    pub image_token: u32,
    pub tower: Tower,
    pub projector: Projector,
    /// Whether images are also cut into tiles, with a newline feature after each row of patches (LLaVA-NeXT).
    pub newlines: bool,
}

/// The image encoder.
#[derive(Clone, Debug, PartialEq)]
pub enum Tower {
    Vit(Vit),
    Dynamic(DynamicVit),
}

/// A vision transformer for images of any size, with rotary rows and columns (Wang et al. 2024). A tile is a whole image.
#[derive(Clone, Debug, PartialEq)]
pub struct DynamicVit {
    pub family: DynamicFamily,
    /// Height and width of a patch in pixels.
    pub patch_size: usize,
    /// How often an image is repeated in time. The patch embedding reads videos.
    pub frames: usize,
    /// Patches along a side of a cell, which becomes one feature.
    pub merge: usize,
    /// Hidden size.
    pub dim: usize,
    pub layers: usize,
    pub heads: usize,
    /// Intermediate size of the MLP.
    pub ff: usize,
    pub activation: Activation,
    /// Whether norms are `RMSNorm`s (Qwen2.5-VL); otherwise `LayerNorm`s.
    pub rms_norm: bool,
    /// The rotary embedding of rows and columns.
    pub rope: Rope,
    /// The windows of attention (Qwen2.5-VL).
    pub windows: Option<Windows>,
    /// The side of the square grid of learned positions, which is interpolated to the grid of an image (Qwen3-VL); none: positions are
    /// only rotary.
    pub position_side: Option<usize>,
    /// The blocks whose outputs have mergers of their own, in rising order: block `deepstack[i]` is added to the hidden states after
    /// decoder layer `i`, at the image tokens (DeepStack, Meng et al. 2024). Empty but for Qwen3-VL.
    pub deepstack: Vec<usize>,
}

/// The names of the parameters of a tower for images of any size and of its mergers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DynamicFamily {
    /// Qwen2-VL (Wang et al. 2024) and Qwen2.5-VL (Bai et al. 2025): no bias on the patches.
    Qwen2Vl,
    /// Qwen3-VL (Bai et al. 2025): a bias on the patches.
    Qwen3Vl,
}

/// Attention within windows.
#[derive(Clone, Debug, PartialEq)]
pub struct Windows {
    /// Cells along a side of a window.
    pub side: usize,
    /// The blocks that attend to the whole image.
    pub full: Vec<usize>,
}

/// A vision transformer for tiles of one size (Dosovitskiy et al. 2021).
#[expect(clippy::struct_excessive_bools, reason = "families differ in what they have")]
#[derive(Clone, Debug, PartialEq)]
pub struct Vit {
    pub family: VisionFamily,
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
    /// Whether the features are normalized by the norm on top.
    pub final_norm: bool,
    /// Whether queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Whether all queries of a position are normalized together, and all keys (InternViT).
    pub qk_norm: bool,
    /// Whether the norms of the blocks are `RMSNorm` and not `LayerNorm`.
    pub rms_norm: bool,
    /// Whether the tower has an attention pooling on top (SigLIP), which no decoder reads.
    pub pooling: bool,
}

/// The patches of a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TileShape {
    pub rows: usize,
    pub columns: usize,
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
    /// InternViT (Chen et al. 2024): a class token, a bias on the patches, `LayerNorm` or `RMSNorm`, and a factor per column for the
    /// output of each half of a block (layer scale, Touvron et al. 2021).
    InternVit,
}

/// The activation of an MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `silu(gate) * up` (Shazeer 2020).
    Swiglu,
    /// `gelu(gate) * up` with the tanh approximation (Shazeer 2020).
    Geglu,
    /// `x Phi(x)` (Hendrycks and Gimpel 2016).
    Gelu,
    /// GELU with the tanh approximation of `Phi`.
    GeluTanh,
    /// `x sigmoid(1.702 x)`.
    QuickGelu,
}

/// From the tower's features to the decoder's hidden size.
#[derive(Clone, Debug, PartialEq)]
pub enum Projector {
    /// Two linear layers (LLaVA 1.5).
    Mlp {
        /// Size between the two layers.
        hidden: usize,
        activation: Activation,
        bias: bool,
    },
    /// Each square of `factor` x `factor` features becomes one feature, side by side (pixel shuffle, Shi et al. 2016), and one
    /// linear layer (Idefics3, Laurençon et al. 2024).
    PixelShuffle { factor: usize },
    /// Pixel shuffle, a norm, and two linear layers with biases (InternVL, Chen et al. 2024).
    NormedPixelShuffle { factor: usize, activation: Activation },
    /// A norm, the `merge` x `merge` features of a cell side by side, and two linear layers with a GELU (Wang et al. 2024).
    PatchMerger { family: DynamicFamily, merge: usize, rms_norm: bool },
    /// The mean of each square of `side` x `side` features, a norm, and one linear layer (Gemma 3).
    AveragePool { side: usize },
}

/// The language model: `RMSNorm`, rotary positions, grouped-query attention, a gated MLP.
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
    /// Of the gated MLP.
    pub activation: Activation,
    pub norm_eps: f64,
    /// Whether a norm multiplies by 1 plus its weight (Gemma).
    pub norm_offset: bool,
    /// Whether the outputs of attention and MLP are normalized before they are added to the residual stream (Gemma 2).
    pub output_norms: bool,
    /// Factor of the token embeddings, but not of image features (Gemma).
    pub embedding_scale: Option<f64>,
    /// Factor of the scores of attention; none: the inverse square root of `head_width`.
    pub score_factor: Option<f64>,
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
    /// The layers whose attention has a window.
    pub local: Option<LocalAttention>,
    /// Whether the tokens of an image attend to each other in both directions (Gemma 3).
    pub bidirectional_images: bool,
    /// The longest sequence, image tokens included.
    pub max_positions: usize,
}

/// Attention to the last positions only, in some layers, which have rotary positions of their own (Gemma 3).
#[derive(Clone, Debug, PartialEq)]
pub struct LocalAttention {
    /// The number of positions, the position itself included.
    pub window: usize,
    pub rope: Rope,
    /// Whether each layer has the window.
    pub layers: Vec<bool>,
}

/// Rotary position embeddings (Su et al. 2021).
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    pub scaling: RopeScaling,
    /// Whether frequencies and angles are rounded to `f32`, as in PyTorch.
    pub rounded: bool,
    /// In multimodal rotary embeddings (Wang et al. 2024), how many frequencies that follow each other count time, height, width, and
    /// time again; otherwise empty. In interleaved ones (Qwen3-VL), the sections have one frequency or none.
    pub sections: Vec<usize>,
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
    /// The patches of a tile of `height` x `width` pixels.
    pub fn tile(&self, (height, width): (u32, u32)) -> TileShape {
        let patches = |pixels: u32| pixels as usize / self.tower.patch_size().max(1);
        TileShape { rows: patches(height), columns: patches(width) }
    }

    /// The patches of a tile of the size that the tower was trained with. For a tower without one, those of an image with 256 features,
    /// which estimates assume.
    pub fn own_tile(&self) -> TileShape {
        let side = match &self.tower {
            Tower::Vit(vit) => vit.side(),
            Tower::Dynamic(vit) => 16 * vit.merge,
        };
        TileShape { rows: side, columns: side }
    }

    /// Positions of a tile in the tower.
    pub fn positions(&self, tile: TileShape) -> usize {
        tile.patches() + self.tower.vit().map_or(0, Vit::class_tokens)
    }

    /// Features of a tile, as the decoder reads them.
    pub fn tile_tokens(&self, tile: TileShape) -> usize {
        let features = self.positions(tile) - usize::from(self.tower.vit().is_some_and(|vit| vit.skip_first));
        match self.projector {
            Projector::Mlp { .. } => features,
            Projector::PixelShuffle { factor } | Projector::NormedPixelShuffle { factor, .. } => {
                features / (factor * factor)
            }
            Projector::PatchMerger { merge, .. } => features / (merge * merge),
            Projector::AveragePool { side } => features / (side * side),
        }
    }

    /// Size of the input of the projector's first layer.
    pub fn projector_inputs(&self) -> usize {
        let width = self.tower.feature_width();
        match self.projector {
            Projector::Mlp { .. } | Projector::AveragePool { .. } => width,
            Projector::PixelShuffle { factor } | Projector::NormedPixelShuffle { factor, .. } => {
                width * factor * factor
            }
            Projector::PatchMerger { merge, .. } => width * merge * merge,
        }
    }
}

impl Tower {
    /// The tower, if it is for tiles of one size.
    pub fn vit(&self) -> Option<&Vit> {
        match self {
            Tower::Vit(vit) => Some(vit),
            Tower::Dynamic(_) => None,
        }
    }

    /// Height and width of a patch in pixels.
    pub fn patch_size(&self) -> usize {
        match self {
            Tower::Vit(vit) => vit.patch_size,
            Tower::Dynamic(vit) => vit.patch_size,
        }
    }

    /// Pixel values per patch.
    pub fn patch_values(&self) -> usize {
        match self {
            Tower::Vit(vit) => vit.patch_values(),
            Tower::Dynamic(vit) => vit.patch_values(),
        }
    }

    /// Size of the features that the projector reads.
    pub fn feature_width(&self) -> usize {
        match self {
            Tower::Vit(vit) => vit.feature_width(),
            Tower::Dynamic(vit) => vit.dim,
        }
    }

    /// Hidden size and intermediate size of a block.
    pub fn widths(&self) -> (usize, usize) {
        match self {
            Tower::Vit(vit) => (vit.dim, vit.ff),
            Tower::Dynamic(vit) => (vit.dim, vit.ff),
        }
    }

    /// The number of blocks.
    pub fn layers(&self) -> usize {
        match self {
            Tower::Vit(vit) => vit.layers,
            Tower::Dynamic(vit) => vit.layers,
        }
    }

    /// The number of blocks that are computed.
    pub fn used_layers(&self) -> usize {
        match self {
            Tower::Vit(vit) => vit.used_layers(),
            Tower::Dynamic(vit) => vit.layers,
        }
    }

    /// How many of a tile's positions a position attends to in a block. At the right and lower borders of an image, windows are smaller.
    pub fn attended(&self, layer: usize, positions: usize) -> usize {
        match self {
            Tower::Dynamic(DynamicVit { windows: Some(windows), merge, .. }) if !windows.full.contains(&layer) => {
                positions.min((windows.side * merge).pow(2))
            }
            _ => positions,
        }
    }

    /// The blocks whose outputs are added to the hidden states of the decoder's first layers.
    pub fn deepstack(&self) -> &[usize] {
        match self {
            Tower::Vit(_) => &[],
            Tower::Dynamic(vit) => &vit.deepstack,
        }
    }

    pub fn activation(&self) -> Activation {
        match self {
            Tower::Vit(vit) => vit.activation,
            Tower::Dynamic(vit) => vit.activation,
        }
    }
}

impl DynamicVit {
    /// Pixel values per patch: RGB x frames x height x width.
    pub fn patch_values(&self) -> usize {
        self.patch_size * self.patch_size * 3 * self.frames
    }

    /// Rows and columns of the cells of a tile.
    pub fn cells(&self, tile: TileShape) -> (usize, usize) {
        (tile.rows / self.merge, tile.columns / self.merge)
    }
}

impl TileShape {
    pub fn patches(self) -> usize {
        self.rows * self.columns
    }
}

impl Vit {
    /// Patches along a side of a tile.
    pub fn side(&self) -> usize {
        self.image_size / self.patch_size.max(1)
    }

    /// Positions before the patches: the class token of CLIP and InternViT.
    pub fn class_tokens(&self) -> usize {
        usize::from(matches!(self.family, VisionFamily::Clip | VisionFamily::InternVit))
    }

    /// Rows of the position embedding.
    pub fn positions(&self) -> usize {
        self.side() * self.side() + self.class_tokens()
    }

    /// Pixel values per patch: height x width x RGB.
    pub fn patch_values(&self) -> usize {
        self.patch_size * self.patch_size * 3
    }

    /// Size of the features, of all feature layers together.
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
        let tower = Vit {
            family: VisionFamily::Plain,
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
            final_norm: true,
            qkv_bias: false,
            qk_norm: false,
            rms_norm: true,
            pooling: false,
        };
        let projector = Projector::Mlp { hidden: projector.hidden, activation: Activation::Gelu, bias: false };
        Architecture {
            family: Family::Own,
            vision: Some(Vision { image_token, tower: Tower::Vit(tower), projector, newlines: false }),
            decoder: Decoder {
                dim: decoder.dim,
                layers: decoder.layers,
                heads: decoder.heads,
                kv_heads: decoder.kv_heads,
                head_width: decoder.dim / decoder.heads.max(1),
                ff: decoder.ff,
                activation: Activation::Swiglu,
                norm_eps: decoder.norm_eps,
                norm_offset: false,
                output_norms: false,
                embedding_scale: None,
                score_factor: None,
                qkv_bias: false,
                output_bias: false,
                mlp_bias: false,
                head_norm: false,
                tied_head: decoder.tied_head,
                rope: Rope {
                    theta: decoder.rope_theta,
                    scaling: RopeScaling::None,
                    rounded: false,
                    sections: Vec::new(),
                },
                local: None,
                bidirectional_images: false,
                max_positions: decoder.max_positions,
            },
            vocab,
        }
    }
}
