//! The encoder of images and its projector. Knows no decoder, no sequence and no file.
//!
//! ```text
//! patches -> linear [+ class token] + positions -> bidirectional blocks -> features -> linear, gelu, linear
//! ```

use anyhow::Result;

use super::architecture::{Activation, Vision, VisionFamily};
use super::kernels::attention::Heads;
use super::layers::{Block, Linear, Mlp, Norm, Pass};
use super::loader::Loader;
use super::ops::{Ops, Param, Place, Source};
use super::parameters::{Part, VIT};

/// The eyes of a model.
pub(crate) struct Eyes<P: Place> {
    vision: Vision,
    patches: Linear<P>,
    /// A row that stands before the patches.
    class: Option<Param<P::Table>>,
    positions: Param<P::Table>,
    norm_before: Option<Norm<P>>,
    blocks: Vec<Block<P>>,
    norm_after: Option<Norm<P>>,
    linear_1: Linear<P>,
    linear_2: Linear<P>,
    pub(crate) newline: Option<Param<P::Vector>>,
    heads: Heads,
}

/// Which of the two parts learn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Learning {
    pub(crate) encoder: bool,
    pub(crate) projector: bool,
}

impl Learning {
    /// Whether a backward pass goes through a part.
    pub(crate) fn reaches(self, part: Part) -> bool {
        match part {
            Part::Vision => self.encoder,
            Part::Projector => self.encoder || self.projector,
            Part::Decoder => true,
        }
    }
}

impl<P: Place> Eyes<P> {
    pub(crate) fn load(load: &mut Loader<P>, vision: &Vision) -> Result<Eyes<P>> {
        let eps = vision.norm_eps;
        let plain = vision.family == VisionFamily::Plain;
        let tower = if plain { "vision_tower".to_string() } else { format!("{VIT}.embeddings") };
        let patches = load.linear(&format!("{tower}.patch_embedding"))?;
        let class = format!("{tower}.class_embedding");
        let class = if load.has(&class) { Some(load.table(&class)?) } else { None };
        let positions = load.table(&format!("{tower}.position_embedding.weight"))?;
        let before = format!("{VIT}.pre_layrnorm");
        let norm_before =
            if load.has(&format!("{before}.weight")) { Some(load.layer_norm(&before, eps)?) } else { None };
        let block = |layer| if plain { plain_block(load, layer, eps) } else { vit_block(load, layer, vision) };
        let blocks = (0..vision.used_layers()).map(block).collect::<Result<_>>()?;
        let norm_after = if plain { Some(load.rms_norm("vision_tower.norm", eps)?) } else { None };
        let linear_1 = load.linear("multi_modal_projector.linear_1")?;
        let linear_2 = load.linear("multi_modal_projector.linear_2")?;
        let newline = if vision.tiled { Some(load.vector("image_newline")?) } else { None };
        let heads = heads(vision);
        let vision = vision.clone();
        Ok(Eyes {
            vision,
            patches,
            class,
            positions,
            norm_before,
            blocks,
            norm_after,
            linear_1,
            linear_2,
            newline,
            heads,
        })
    }

    /// Patches of `tiles` tiles to features of the decoder's width: (tiles x tile tokens, dim).
    pub(crate) fn see<O: Ops<Place = P>>(
        &self,
        pass: &mut Pass<O>,
        tiles: usize,
        patches: Vec<f32>,
        learning: Learning,
        recording: bool,
    ) -> Result<O::X> {
        pass.ops.record(recording && learning.reaches(Part::Vision));
        let x = self.encode(pass, tiles, patches)?;
        pass.ops.record(recording && learning.reaches(Part::Projector));
        let x = self.linear_1.apply(pass, &x)?;
        let x = pass.ops.activate(&x, self.vision.projector.activation)?;
        let x = self.linear_2.apply(pass, &x)?;
        pass.ops.record(recording);
        Ok(x)
    }

    /// The encoder's features: (tiles x tile tokens, feature width).
    fn encode<O: Ops<Place = P>>(&self, pass: &mut Pass<O>, tiles: usize, patches: Vec<f32>) -> Result<O::X> {
        let (positions, patches_per_tile) = (self.vision.positions(), self.vision.side().pow(2));
        let x = pass.ops.input(patches, self.vision.patch_values())?;
        let mut x = self.patches.apply(pass, &x)?;
        if let Some(class) = &self.class {
            let source = |at: usize| match at % positions {
                0 => Source::Token(0),
                patch => Source::Feature(at / positions * patches_per_tile + patch - 1),
            };
            let sources: Vec<Source> = (0..tiles * positions).map(source).collect();
            x = pass.ops.splice(class, Some(&x), None, &sources)?;
        }
        let places: Vec<usize> = (0..tiles * positions).map(|at| at % positions).collect();
        let places = pass.ops.lookup(&self.positions, &places)?;
        x = pass.ops.add(&x, &places)?;
        if let Some(norm) = &self.norm_before {
            x = norm.apply(pass, &x)?;
        }
        let rows: Vec<_> = (0..tiles).map(|tile| tile * positions..(tile + 1) * positions).collect();
        let plan = pass.ops.plan(self.heads, &rows, None)?;
        let mut features = Vec::new();
        for layer in 0..=self.blocks.len() {
            for _ in self.vision.features.iter().filter(|feature| **feature == layer) {
                features.push((layer, pass.ops.select(&x, &self.kept(tiles))?));
            }
            if let Some(block) = self.blocks.get(layer) {
                x = block.apply(pass, layer, &x, &plan, None)?;
            }
        }
        // In the order that the projector wants, not in that of the layers.
        let mut ordered = Vec::with_capacity(features.len());
        for wanted in &self.vision.features {
            if let Some(at) = features.iter().position(|(layer, _)| layer == wanted) {
                ordered.push(features.swap_remove(at).1);
            }
        }
        let mut x = if ordered.len() == 1 { ordered.swap_remove(0) } else { pass.ops.beside(&ordered)? };
        if let Some(norm) = &self.norm_after {
            x = norm.apply(pass, &x)?;
        }
        Ok(x)
    }

    /// The positions that are features.
    fn kept(&self, tiles: usize) -> Vec<usize> {
        let positions = self.vision.positions();
        let first = usize::from(self.vision.skip_first);
        (0..tiles * positions).filter(|at| at % positions >= first).collect()
    }
}

/// The encoder's heads: every position sees every other.
pub(crate) fn heads(vision: &Vision) -> Heads {
    let Vision { dim, heads, .. } = *vision;
    Heads { heads, kv_heads: heads, width: dim / heads, causal: false }
}

fn plain_block<P: Place>(load: &mut Loader<P>, layer: usize, eps: f64) -> Result<Block<P>> {
    let name = |rest: &str| format!("vision_tower.layers.{layer}.{rest}");
    llama_block(load, &name, eps, false)
}

/// A block of a LLaMA decoder, whose layout our encoder shares.
pub(crate) fn llama_block<P: Place>(
    load: &mut Loader<P>,
    name: &dyn Fn(&str) -> String,
    eps: f64,
    head_norm: bool,
) -> Result<Block<P>> {
    let attention_norm = load.rms_norm(&name("input_layernorm"), eps)?;
    let (q, k) = (load.linear(&name("self_attn.q_proj"))?, load.linear(&name("self_attn.k_proj"))?);
    let (v, o) = (load.linear(&name("self_attn.v_proj"))?, load.linear(&name("self_attn.o_proj"))?);
    let head_norms = if head_norm {
        Some((load.rms_norm(&name("self_attn.q_norm"), eps)?, load.rms_norm(&name("self_attn.k_norm"), eps)?))
    } else {
        None
    };
    let mlp_norm = load.rms_norm(&name("post_attention_layernorm"), eps)?;
    let (gate, up) = (load.linear(&name("mlp.gate_proj"))?, load.linear(&name("mlp.up_proj"))?);
    let mlp = Mlp::Gated { gate, up, down: load.linear(&name("mlp.down_proj"))? };
    Ok(Block { attention_norm, q, k, v, o, head_norms, mlp_norm, mlp })
}

fn vit_block<P: Place>(load: &mut Loader<P>, layer: usize, vision: &Vision) -> Result<Block<P>> {
    let (eps, activation): (f64, Activation) = (vision.norm_eps, vision.activation);
    let name = |rest: &str| format!("{VIT}.encoder.layers.{layer}.{rest}");
    let attention_norm = load.layer_norm(&name("layer_norm1"), eps)?;
    let (q, k) = (load.linear(&name("self_attn.q_proj"))?, load.linear(&name("self_attn.k_proj"))?);
    let (v, o) = (load.linear(&name("self_attn.v_proj"))?, load.linear(&name("self_attn.out_proj"))?);
    let mlp_norm = load.layer_norm(&name("layer_norm2"), eps)?;
    let mlp = Mlp::Plain { first: load.linear(&name("mlp.fc1"))?, second: load.linear(&name("mlp.fc2"))?, activation };
    Ok(Block { attention_norm, q, k, v, o, head_norms: None, mlp_norm, mlp })
}
