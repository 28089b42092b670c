//! The attention of the decoder's layers: their heads, their rotary positions, and the window that some layers have.

use std::sync::Arc;

use anyhow::Result;

use super::architecture::Decoder;
use super::kernels::attention::Heads;
use super::kernels::rope::RotaryEmbedding;

pub(crate) struct DecoderAttention {
    pub(crate) heads: Heads,
    rotary: RotaryEmbedding,
    /// Of the layers with a window.
    local: Option<Local>,
}

struct Local {
    window: usize,
    rotary: RotaryEmbedding,
    /// Whether each layer has the window.
    layers: Arc<[bool]>,
}

/// What attention needs besides its inputs in one forward pass, by layer.
pub(crate) struct AttentionPlans<T> {
    global: T,
    local: Option<(T, Arc<[bool]>)>,
}

impl DecoderAttention {
    pub(crate) fn new(decoder: &Decoder) -> DecoderAttention {
        let width = decoder.head_width;
        DecoderAttention {
            heads: heads(decoder),
            rotary: RotaryEmbedding::new(&decoder.rope, width),
            local: decoder.local.as_ref().map(|local| Local {
                window: local.window,
                rotary: RotaryEmbedding::new(&local.rope, width),
                layers: local.layers.as_slice().into(),
            }),
        }
    }

    /// The plans that `plan` makes from rotary positions and a window.
    pub(crate) fn plans<T>(
        &self,
        mut plan: impl FnMut(&RotaryEmbedding, Option<usize>) -> Result<T>,
    ) -> Result<AttentionPlans<T>> {
        let local = match &self.local {
            Some(Local { window, rotary, layers }) => Some((plan(rotary, Some(*window))?, layers.clone())),
            None => None,
        };
        Ok(AttentionPlans { global: plan(&self.rotary, None)?, local })
    }
}

impl<T> AttentionPlans<T> {
    pub(crate) fn of(&self, layer: usize) -> &T {
        match &self.local {
            Some((local, layers)) if layers[layer] => local,
            _ => &self.global,
        }
    }
}

/// The decoder's attention heads: a position attends to itself and those before it.
pub(crate) fn heads(decoder: &Decoder) -> Heads {
    let Decoder { heads, kv_heads, head_width: width, score_factor, .. } = *decoder;
    let factor = score_factor.map_or_else(|| Heads::usual_factor(width), |factor| factor as f32);
    Heads { heads, kv_heads, width, causal: true, factor }
}
