//! The model in its place: eyes and decoder. Knows no loss, no optimizer, no tokenizer and no file.
//!
//! ```text
//! patches -> encoder -> projector --.
//! tokens  -> embedding ----------> splice -> causal blocks -> norm [-> head]
//! ```

use anyhow::Result;

use super::architecture::Decoder;
use super::batch::Batch;
use super::eyes::{self, Eyes, Learning};
use super::gradients::Part as GradientPart;
use super::kernels::attention::Heads;
use super::kernels::rope::RotaryEmbedding;
use super::layers::{Block, Norm, Pass};
use super::learner::Learner;
use super::loader::{Held, Loader};
use super::ops::{Ops, Param, Place, Source, Taped, Vector};
use super::parameters::Part;

/// From the log-probabilities of targets to the loss's derivative by each, and what else it tells.
type Derivative<'a, W> = dyn Fn(&[f32]) -> Result<(Vec<f32>, W)> + 'a;

/// A model whose weights are in place `P`.
pub(crate) struct Model<P: Place> {
    place: P,
    pub(crate) eyes: Option<Eyes<P>>,
    embedding: Param<P::Table>,
    decoder: Vec<Block<P>>,
    norm: Norm<P>,
    /// What turns hidden states into logits: (v, dim).
    head: Param<P::Matrix>,
    pub(crate) heads: Heads,
    pub(crate) rotary: RotaryEmbedding,
    learning: Learning,
    /// All parameters by number: what a gradient belongs to, and what stays when others are renewed.
    held: Vec<Option<Held<P>>>,
    /// Whether a backward pass goes through a parameter's operations, by number.
    reached: Vec<bool>,
}

/// What of a model stays as it is when the others change.
struct Frozen<P: Place> {
    held: Vec<Option<Held<P>>>,
    /// The head, which no parameter holds if it is tied.
    head: Option<P::Matrix>,
}

impl<P: Place> Model<P> {
    /// Copies the weights to their place.
    pub(crate) fn new(place: &P, learner: &Learner) -> Result<Model<P>> {
        let Decoder { rope, head_width, .. } = &learner.checkpoint.architecture.decoder;
        Model::load(place, learner, RotaryEmbedding::new(rope, *head_width), None)
    }

    /// Lets go of the weights that learn, lets `change` change them, and takes them up again.
    pub(crate) fn around(self, learner: &mut Learner, change: impl FnOnce(&mut Learner)) -> Result<Model<P>> {
        let (place, rotary, frozen) = self.without_learning(learner);
        change(learner);
        Model::load(&place, learner, rotary, Some(frozen))
    }

    fn without_learning(self, learner: &Learner) -> (P, RotaryEmbedding, Frozen<P>) {
        let head = (!self.head.learns).then_some(self.head.value);
        let held = self.held.into_iter().enumerate().map(|(number, held)| held.filter(|_| !learner.learns(number)));
        (self.place, self.rotary, Frozen { held: held.collect(), head })
    }

    fn load(place: &P, learner: &Learner, rotary: RotaryEmbedding, before: Option<Frozen<P>>) -> Result<Model<P>> {
        let architecture = &learner.checkpoint.architecture;
        let (held, frozen_head) = before.map(|Frozen { held, head }| (held, head)).unzip();
        let mut load = Loader::new(place, learner, held.as_deref());
        let eyes = architecture.vision.as_ref().map(|vision| Eyes::load(&mut load, vision)).transpose()?;
        let decoder = &architecture.decoder;
        let eps = decoder.norm_eps;
        let embedding = load.table("model.embed_tokens.weight")?;
        let mut block = |layer| {
            let name = |rest: &str| format!("model.layers.{layer}.{rest}");
            eyes::llama_block(&mut load, &name, eps, decoder.head_norm)
        };
        let blocks = (0..decoder.layers).map(&mut block).collect::<Result<_>>()?;
        let norm = load.rms_norm("model.norm", eps)?;
        let head = if decoder.tied_head {
            let Param { ref value, number, learns } = embedding;
            let value = frozen_head.flatten().map_or_else(|| place.tied(value), Ok)?;
            Param { value, number, learns }
        } else {
            load.matrix("lm_head.weight")?
        };
        let heads = heads(decoder);
        let learning =
            Learning { encoder: learner.part_learns(Part::Vision), projector: learner.part_learns(Part::Projector) };
        let (held, place) = (load.finish(), place.clone());
        let reached = (0..learner.count()).map(|number| learning.reaches(learner.part(number))).collect();
        Ok(Model { place, eyes, embedding, decoder: blocks, norm, head, heads, rotary, learning, held, reached })
    }

    /// The weights of all products, and whether a backward pass goes through them.
    pub(crate) fn matrices(&self) -> impl Iterator<Item = (&P::Matrix, bool)> {
        let matrices = self.held.iter().zip(&self.reached).filter_map(|(held, &reached)| match held {
            Some(Held::Matrix(matrix)) => Some((matrix, reached)),
            _ => None,
        });
        // A head that is tied to the embedding is no parameter of its own.
        let tied = matches!(self.held.get(self.head.number), Some(Some(Held::Table(_))));
        matrices.chain(tied.then_some((&self.head.value, true)))
    }

    /// Embeddings of tokens and features of images, spliced: (n, dim).
    pub(crate) fn embed<O: Ops<Place = P>>(
        &self,
        pass: &mut Pass<O>,
        features: Option<&O::X>,
        sources: &[Source],
    ) -> Result<O::X> {
        let newline = self.eyes.as_ref().and_then(|eyes| eyes.newline.as_ref()).filter(|_| features.is_some());
        pass.ops.splice(&self.embedding, features, newline, sources)
    }

    /// The decoder's normalised output, (n, dim) -> (n, dim), or that of the wanted tokens only.
    pub(crate) fn decode<O: Ops<Place = P>>(
        &self,
        pass: &mut Pass<O>,
        x: O::X,
        plan: &O::Plan,
        wanted: Option<&[usize]>,
    ) -> Result<O::X> {
        let mut x = x;
        for (layer, block) in self.decoder.iter().enumerate() {
            // The layers before the last need the other tokens' keys and values.
            let wanted = wanted.filter(|_| layer + 1 == self.decoder.len());
            x = block.apply(pass, layer, &x, plan, wanted)?;
        }
        self.norm.apply(pass, &x)
    }

    /// The decoder's normalised output at the selected positions of a batch: (selected, dim).
    pub(crate) fn hidden<O: Ops<Place = P>>(&self, ops: &mut O, batch: &Batch, recording: bool) -> Result<O::X> {
        let mut pass = Pass { ops, dropout: batch.dropout.as_ref().map(|seed| seed.stream("dropout")) };
        pass.ops.record(recording);
        let features = self.features(&mut pass, batch, recording)?;
        let x = self.embed(&mut pass, features.as_ref(), &batch.sources)?;
        let longest = batch.rows.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        let plan = pass.ops.plan(self.heads, &batch.rows, Some(&self.rotary.table(longest)))?;
        self.decode(&mut pass, x, &plan, Some(&batch.selected))
    }

    /// The features of a batch's images: (tiles x tile tokens, dim).
    pub(crate) fn features<O: Ops<Place = P>>(
        &self,
        pass: &mut Pass<O>,
        batch: &Batch,
        recording: bool,
    ) -> Result<Option<O::X>> {
        match &self.eyes {
            Some(eyes) if batch.tiles > 0 => {
                Ok(Some(eyes.see(pass, batch.tiles, batch.patches.clone(), self.learning, recording)?))
            }
            _ => Ok(None),
        }
    }

    /// Hidden states to logits: (n, dim) -> (n, v).
    pub(crate) fn logits<O: Ops<Place = P>>(&self, ops: &mut O, hidden: &O::X) -> Result<O::X> {
        ops.linear(hidden, &self.head, None)
    }
}

impl<P: Place> Model<P> {
    /// The log-probability of every target of a batch, in order: (targets,). There must be one at least.
    pub(crate) fn log_probs<O: Taped<Place = P>>(
        &self,
        ops: &mut O,
        batch: &Batch,
        recording: bool,
    ) -> Result<Vector<O::D>> {
        let hidden = self.hidden(ops, batch, recording)?;
        ops.log_probs(&hidden, &self.head, &batch.targets)
    }

    /// The logits after every selected position: (selected, v).
    #[cfg(test)]
    pub(crate) fn selected_logits<O: Taped<Place = P>>(&self, batch: &Batch) -> Result<Vec<f32>> {
        let mut ops = O::new(&self.place, None);
        let hidden = self.hidden(&mut ops, batch, false)?;
        Ok(O::numbers(&self.logits(&mut ops, &hidden)?))
    }

    /// Forward and backward on one tape: the log-probabilities of the targets go through `derivative`, which gives the
    /// loss's derivative by each of them. Gradients go to `part`.
    pub(crate) fn learn<O: Taped<Place = P>, W>(
        &self,
        part: &GradientPart,
        batch: &Batch,
        derivative: &Derivative<W>,
    ) -> Result<W> {
        let mut ops = O::new(&self.place, Some(part.clone()));
        let log_probs = self.log_probs(&mut ops, batch, true)?;
        let (derivative, told) = derivative(&log_probs.as_vec())?;
        ops.backward(&log_probs, derivative, &self.held)?;
        part.finish()?;
        Ok(told)
    }

    pub(crate) fn place(&self) -> &P {
        &self.place
    }
}

/// The decoder's heads: a position sees itself and those before it.
pub(crate) fn heads(decoder: &Decoder) -> Heads {
    let Decoder { heads, kv_heads, head_width, .. } = *decoder;
    Heads { heads, kv_heads, width: head_width, causal: true }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::shared::Shared;
    use crate::{Checkpoint, DecoderConfig, ModelConfig};
    use ablate_core::base::Seed;

    #[test]
    fn a_head_is_renewed_when_it_has_learned() {
        for tied_head in [true, false] {
            let decoder = DecoderConfig { tied_head, ..Default::default() };
            let config = ModelConfig { decoder, ..Default::default() };
            let checkpoint = Checkpoint::fresh(&config, 83, 1, Seed(1)).unwrap();
            for learns in [true, false] {
                let learns_itself = |name: &str| name.contains("norm") || learns;
                let mut learner = Learner::new(checkpoint.clone(), None, |parameter| learns_itself(&parameter.name));
                let model = Model::new(&Shared::default(), &learner).unwrap();
                let before = Arc::downgrade(&model.head.value);
                let model = model.around(&mut learner, |_| ()).unwrap();
                let same = before.upgrade().is_some_and(|before| Arc::ptr_eq(&before, &model.head.value));
                assert_eq!(same, !learns, "tied: {tied_head}");
            }
        }
    }

    #[test]
    fn a_backward_pass_goes_through_what_learns_and_all_behind_it() {
        let checkpoint = Checkpoint::fresh(&ModelConfig::default(), 83, 1, Seed(1)).unwrap();
        let unreached = |frozen: &[Part]| {
            let learner = Learner::new(checkpoint.clone(), None, |parameter| !frozen.contains(&parameter.part));
            let model = Model::new(&Shared::default(), &learner).unwrap();
            let reached: Vec<bool> = model.matrices().map(|(_, reached)| reached).collect();
            (reached.len(), reached.iter().filter(|reached| !**reached).count())
        };
        // The encoder's patches are a matrix, its block has seven, the projector two, the decoder's three blocks seven each;
        // then there is the head.
        let all = 1 + 7 + 2 + 3 * 7 + 1;
        assert_eq!(unreached(&[]), (all, 0));
        assert_eq!(unreached(&[Part::Projector]), (all, 0));
        assert_eq!(unreached(&[Part::Vision]), (all, 1 + 7));
        assert_eq!(unreached(&[Part::Vision, Part::Projector]), (all, 1 + 7 + 2));
    }
}
