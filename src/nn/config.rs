//! The sizes of a model in our own layout, as the user writes them.

use serde::{Deserialize, Serialize};

/// Sizes of a vision-language model: vision tower, projector, decoder. The vocabulary comes from the tokenizer.
///
/// The defaults are the small model of the default experiment, about 230,000 parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ModelConfig {
    /// Height and width of the image in pixels; images are resized to it.
    pub image_size: usize,
    /// Height and width of a patch in pixels. One patch is one image token.
    pub patch_size: usize,
    pub vision: VisionConfig,
    pub projector: ProjectorConfig,
    pub decoder: DecoderConfig,
}

/// The vision tower: linear patches, learned positions, bidirectional blocks, `RMSNorm`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VisionConfig {
    /// Width.
    pub dim: usize,
    /// Blocks; with 0 there are only patches and positions.
    pub layers: usize,
    pub heads: usize,
    /// Width of the gated feed-forward layer.
    pub ff: usize,
}

/// Two linear layers with a GELU between them, from the vision tower's width to the decoder's (LLaVA 1.5).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ProjectorConfig {
    /// Width between the two layers.
    pub hidden: usize,
}

/// The language model: a Llama decoder (`RMSNorm`, rotary position embeddings, grouped-query attention, `SwiGLU`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DecoderConfig {
    /// Width.
    pub dim: usize,
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; each is shared by `heads / kv_heads` query heads.
    pub kv_heads: usize,
    /// Width of the gated feed-forward layer.
    pub ff: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Added to the mean square in every `RMSNorm`, also those of the vision tower.
    pub norm_eps: f64,
    /// Whether the head is the transposed token embedding.
    pub tied_head: bool,
    /// Longest sequence, image tokens included.
    pub max_positions: usize,
}

impl Default for ModelConfig {
    fn default() -> Self {
        ModelConfig {
            image_size: 32,
            patch_size: 8,
            vision: VisionConfig::default(),
            projector: ProjectorConfig::default(),
            decoder: DecoderConfig::default(),
        }
    }
}

impl Default for VisionConfig {
    fn default() -> Self {
        VisionConfig { dim: 64, layers: 1, heads: 4, ff: 176 }
    }
}

impl Default for ProjectorConfig {
    fn default() -> Self {
        ProjectorConfig { hidden: 64 }
    }
}

impl Default for DecoderConfig {
    fn default() -> Self {
        DecoderConfig {
            dim: 64,
            layers: 3,
            heads: 4,
            kv_heads: 4,
            ff: 176,
            rope_theta: 1000.0,
            norm_eps: 1e-5,
            tied_head: false,
            max_positions: 512,
        }
    }
}

/// Largest size: a typing error must not allocate a petabyte.
const MAX_SIZE: usize = 1 << 20;

/// Largest number of weights of the vision tower or the decoder: 400 GB.
const MAX_WEIGHTS: f64 = 1e11;

impl ModelConfig {
    /// Image tokens per image: one per patch.
    pub fn image_tokens(&self) -> usize {
        let side = self.image_size / self.patch_size.max(1);
        side * side
    }

    /// Numbers per patch: height x width x RGB.
    pub fn patch_values(&self) -> usize {
        self.patch_size * self.patch_size * 3
    }

    /// Numbers per image.
    pub fn pixel_values(&self) -> usize {
        self.image_size * self.image_size * 3
    }

    /// Checks the sizes. Returns all problems, each with its dotted key.
    pub fn check(&self) -> Result<(), Vec<(String, String)>> {
        let ModelConfig { image_size, patch_size, vision, projector, decoder } = self;
        let mut wrong: Vec<(String, String)> = Vec::new();
        let sizes = [
            ("image_size", *image_size),
            ("patch_size", *patch_size),
            ("vision.dim", vision.dim),
            ("vision.heads", vision.heads),
            ("vision.ff", vision.ff),
            ("projector.hidden", projector.hidden),
            ("decoder.dim", decoder.dim),
            ("decoder.layers", decoder.layers),
            ("decoder.heads", decoder.heads),
            ("decoder.kv_heads", decoder.kv_heads),
            ("decoder.ff", decoder.ff),
            ("decoder.max_positions", decoder.max_positions),
        ];
        for (key, size) in sizes {
            if size == 0 {
                wrong.push((key.to_string(), "must be at least 1".to_string()));
            } else if size > MAX_SIZE {
                wrong.push((key.to_string(), format!("must be at most {MAX_SIZE}, not {size}")));
            }
        }
        if vision.layers > MAX_SIZE {
            wrong.push(("vision.layers".to_string(), format!("must be at most {MAX_SIZE}, not {}", vision.layers)));
        }
        let divides = |key: &'static str, of: &str, whole: usize, part: usize| {
            let message = format!("must divide `{of}` ({whole}), which {part} does not");
            (key, part != 0 && whole.is_multiple_of(part), message)
        };
        let above = |key: &'static str, least: f64, value: f64| {
            (key, value.is_finite() && value > least, format!("must be a number above {least}, not {value}"))
        };
        let even = decoder.heads == 0 || (decoder.dim / decoder.heads).is_multiple_of(2);
        let odd = "gives heads of an odd width, which rotary position embeddings do not support: choose another number";
        let rules = [
            divides("patch_size", "image_size", *image_size, *patch_size),
            divides("vision.heads", "vision.dim", vision.dim, vision.heads),
            divides("decoder.heads", "decoder.dim", decoder.dim, decoder.heads),
            ("decoder.heads", even, odd.to_string()),
            divides("decoder.kv_heads", "decoder.heads", decoder.heads, decoder.kv_heads),
            above("decoder.rope_theta", 1.0, decoder.rope_theta),
            above("decoder.norm_eps", 0.0, decoder.norm_eps),
        ];
        for (key, holds, message) in rules {
            if !holds && !wrong.iter().any(|(known, _)| known == key) {
                wrong.push((key.to_string(), message));
            }
        }
        // Each size may be valid and their product still too large for any memory.
        let block_weights =
            |layers: usize, dim: usize, ff: usize| layers as f64 * dim as f64 * (4.0 * dim as f64 + 3.0 * ff as f64);
        let vision_weights =
            block_weights(vision.layers, vision.dim, vision.ff) + self.image_tokens() as f64 * vision.dim as f64;
        let decoder_weights = block_weights(decoder.layers, decoder.dim, decoder.ff);
        for (key, weights) in [("vision.dim", vision_weights), ("decoder.dim", decoder_weights)] {
            if wrong.is_empty() && weights > MAX_WEIGHTS {
                let message =
                    format!("and the related sizes give about {weights:.0e} weights: at most {MAX_WEIGHTS:.0e}");
                wrong.push((key.to_string(), message));
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_model_is_valid() {
        let config = ModelConfig::default();
        assert_eq!(config.check(), Ok(()));
        assert_eq!(config.image_tokens(), 16);
        assert_eq!(config.patch_values(), 192);
    }

    #[test]
    fn too_large_a_product_of_sizes_is_refused() {
        let mut config = ModelConfig::default();
        (config.decoder.dim, config.decoder.heads, config.decoder.kv_heads) = (1 << 20, 1 << 10, 1 << 10);
        (config.decoder.layers, config.decoder.ff) = (1 << 20, 1 << 20);
        let messages = "and the related sizes give about 8e18 weights: at most 1e11";
        assert_eq!(config.check(), Err(vec![("decoder.dim".to_string(), messages.to_string())]));
    }

    #[test]
    fn every_problem_has_its_key() {
        let mut config = ModelConfig { patch_size: 7, ..ModelConfig::default() };
        config.decoder.kv_heads = 3;
        config.decoder.ff = 0;
        config.vision.dim = 1 << 40;
        let messages: Vec<String> =
            config.check().unwrap_err().iter().map(|(key, text)| format!("{key} {text}")).collect();
        assert_eq!(
            messages,
            [
                "vision.dim must be at most 1048576, not 1099511627776",
                "decoder.ff must be at least 1",
                "patch_size must divide `image_size` (32), which 7 does not",
                "decoder.kv_heads must divide `decoder.heads` (4), which 3 does not",
            ]
        );
    }
}
