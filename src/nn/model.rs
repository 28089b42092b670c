//! The model on a device: encoder, projector, decoder. Knows no loss, no optimizer, no tokenizer and no file.
//!
//! ```text
//! patches -> linear + positions -> bidirectional blocks -> norm -> linear, gelu, linear --.
//! tokens  -> embedding -----------------------------------------------------------> splice -> causal blocks -> norm
//! ```
//!
//! A block is `x + attention(norm(x))`, then `x + swiglu(norm(x))`; no layer has a bias. The blocks of the encoder have
//! no rotary positions: its positions are learned.

use std::sync::Arc;

use anyhow::{Result, anyhow};
use dfdx::prelude::*;

use super::batch::Batch;
use super::checkpoint::Checkpoint;
use super::kernels::attention::Heads;
use super::kernels::elementwise::Rotary;
use super::ops::{Fallible, Matrix, Ops, Vector};

/// A model on device `D`.
pub(crate) struct Model<D: Device<f32>> {
    device: D,
    patch_embedding: Matrix<D>,    // (vision, values)
    position_embedding: Matrix<D>, // (patches, vision)
    encoder: Vec<Block<D>>,
    encoder_norm: Vector<D>,
    linear_1: Matrix<D>,  // (hidden, vision)
    linear_2: Matrix<D>,  // (dim, hidden)
    embedding: Matrix<D>, // (v, dim)
    decoder: Vec<Block<D>>,
    decoder_norm: Vector<D>,
    /// None: the embedding is the head.
    head: Option<Matrix<D>>, // (v, dim)
    encoder_heads: Heads,
    decoder_heads: Heads,
    rotary: Arc<Rotary>,
    eps: f32,
    patches: usize,
}

struct Block<D: Device<f32>> {
    attention_norm: Vector<D>,
    q: Matrix<D>,
    k: Matrix<D>,
    v: Matrix<D>,
    o: Matrix<D>,
    mlp_norm: Vector<D>,
    gate: Matrix<D>,
    up: Matrix<D>,
    down: Matrix<D>,
}

/// A parameter of either rank.
enum Weight<'a, D: Device<f32>> {
    Vector(&'a Vector<D>),
    Matrix(&'a Matrix<D>),
}

/// Which parts learn; the others need no tape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Learning {
    pub(crate) vision: bool,
    pub(crate) projector: bool,
}

impl<D: Device<f32>> Model<D> {
    /// Copies a checkpoint to a device.
    pub(crate) fn new(device: &D, checkpoint: &Checkpoint) -> Result<Model<D>> {
        let decoder = &checkpoint.config.decoder;
        let rotary = Rotary::new(decoder.max_positions, decoder.dim / decoder.heads, decoder.rope_theta);
        Model::load(device, checkpoint, Arc::new(rotary))
    }

    /// The same model with the checkpoint's weights of now.
    pub(crate) fn renew(&self, checkpoint: &Checkpoint) -> Result<Model<D>> {
        Model::load(&self.device, checkpoint, self.rotary.clone())
    }

    fn load(device: &D, checkpoint: &Checkpoint, rotary: Arc<Rotary>) -> Result<Model<D>> {
        let config = &checkpoint.config;
        let mut arrays = checkpoint.list().into_iter().zip(&checkpoint.weights);
        let model = {
            let mut load = Loader { device, next: &mut || arrays.next().map(|(p, w)| (p.shape, w.as_slice())) };
            let (patch_embedding, position_embedding) = (load.matrix()?, load.matrix()?);
            let encoder = (0..config.vision.layers).map(|_| load.block()).collect::<Result<_>>()?;
            let encoder_norm = load.vector()?;
            let (linear_1, linear_2) = (load.matrix()?, load.matrix()?);
            let embedding = load.matrix()?;
            let decoder = (0..config.decoder.layers).map(|_| load.block()).collect::<Result<_>>()?;
            let decoder_norm = load.vector()?;
            let head = if config.decoder.tied_head { None } else { Some(load.matrix()?) };
            let (encoder_heads, decoder_heads) = heads(checkpoint);
            Model {
                device: device.clone(),
                patch_embedding,
                position_embedding,
                encoder,
                encoder_norm,
                linear_1,
                linear_2,
                embedding,
                decoder,
                decoder_norm,
                head,
                encoder_heads,
                decoder_heads,
                rotary,
                eps: config.decoder.norm_eps as f32,
                patches: config.image_tokens(),
            }
        };
        assert!(arrays.next().is_none(), "BUG: a parameter without a place in the model");
        Ok(model)
    }

    /// The device that the model is on.
    pub(crate) fn device(&self) -> &D {
        &self.device
    }

    /// Every parameter in the order of the checkpoint's weights.
    fn weights(&self) -> Vec<Weight<'_, D>> {
        let mut list = vec![Weight::Matrix(&self.patch_embedding), Weight::Matrix(&self.position_embedding)];
        list.extend(self.encoder.iter().flat_map(Block::weights));
        list.push(Weight::Vector(&self.encoder_norm));
        list.extend([&self.linear_1, &self.linear_2, &self.embedding].map(Weight::Matrix));
        list.extend(self.decoder.iter().flat_map(Block::weights));
        list.push(Weight::Vector(&self.decoder_norm));
        list.extend(self.head.as_ref().map(Weight::Matrix));
        list
    }

    /// The gradient of every parameter, in the order of the checkpoint's weights.
    pub(crate) fn gradients<O: Ops<D>>(&self, gradients: &mut Gradients<f32, D>) -> Result<Vec<Vec<f32>>> {
        let mut list = Vec::new();
        for weight in self.weights() {
            list.push(
                match weight {
                    Weight::Vector(tensor) => O::gradient(gradients, tensor),
                    Weight::Matrix(tensor) => O::gradient(gradients, tensor),
                }
                .map_err(device_error)?,
            );
        }
        Ok(list)
    }

    /// The decoder's normalised output at every position: (n, dim). A part that does not learn gets no tape.
    pub(crate) fn hidden<O: Ops<D>, T: Tape<f32, D>>(&self, batch: &Batch, learning: Learning) -> Result<Matrix<D, T>> {
        self.try_hidden::<O, T>(batch, learning).map_err(device_error)
    }

    /// The log-probability of every target of a batch, in order: (targets,). There must be one at least.
    pub(crate) fn log_probs<O: Ops<D>, T: Tape<f32, D>>(
        &self,
        batch: &Batch,
        learning: Learning,
    ) -> Result<Vector<D, T>> {
        let hidden = self.hidden::<O, T>(batch, learning)?;
        let selected = O::gather(hidden, &batch.selected).map_err(device_error)?;
        O::log_probs(selected, self.head(), &batch.targets).map_err(device_error)
    }

    /// The logits after every selected position: (selected, v).
    pub(crate) fn logits<O: Ops<D>>(&self, batch: &Batch) -> Result<Vec<f32>> {
        let hidden = self.hidden::<O, NoneTape>(batch, Learning { vision: false, projector: false })?;
        let logits = O::gather(hidden, &batch.selected).and_then(|selected| O::linear(selected, self.head()));
        Ok(logits.map_err(device_error)?.as_vec())
    }

    /// The matrix that turns hidden states into logits: (v, dim).
    pub(crate) fn head(&self) -> &Matrix<D> {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    fn try_hidden<O: Ops<D>, T: Tape<f32, D>>(&self, batch: &Batch, learning: Learning) -> Fallible<Matrix<D, T>, D> {
        let features = if batch.images == 0 {
            None
        } else if learning.vision {
            Some(self.project::<O, T>(self.encode::<O, T>(batch)?)?)
        } else if learning.projector {
            Some(self.project::<O, T>(self.encode::<O, NoneTape>(batch)?.put_tape(T::default()))?)
        } else {
            Some(self.project::<O, NoneTape>(self.encode::<O, NoneTape>(batch)?)?.put_tape(T::default()))
        };
        let x = O::splice(self.embedding.retaped::<T>(), features, &batch.sources)?; // (n, dim)
        let plan = O::plan(&self.device, self.decoder_heads, &batch.rows, Some(&self.rotary))?;
        let x = blocks::<D, O, T>(&self.decoder, x, &plan, self.eps)?;
        O::rms_norm(x, &self.decoder_norm, self.eps)
    }

    /// Patches to the encoder's output: (images x patches, vision).
    fn encode<O: Ops<D>, T: Tape<f32, D>>(&self, batch: &Batch) -> Fallible<Matrix<D, T>, D> {
        let count = batch.images * self.patches;
        let shape = (count, self.patch_embedding.shape().1);
        let patches: Matrix<D> = self.device.try_tensor_from_vec(batch.patches.clone(), shape)?;
        let x = O::linear(patches.put_tape(T::default()), &self.patch_embedding)?;
        let positions: Vec<usize> = (0..count).map(|i| i % self.patches).collect();
        let x = O::add(x, O::gather(self.position_embedding.retaped::<T>(), &positions)?)?;
        let rows: Vec<_> = (0..batch.images).map(|image| image * self.patches..(image + 1) * self.patches).collect();
        let plan = O::plan(&self.device, self.encoder_heads, &rows, None)?;
        let x = blocks::<D, O, T>(&self.encoder, x, &plan, self.eps)?;
        O::rms_norm(x, &self.encoder_norm, self.eps)
    }

    /// The encoder's output to the decoder's width: (images x patches, dim).
    fn project<O: Ops<D>, T: Tape<f32, D>>(&self, x: Matrix<D, T>) -> Fallible<Matrix<D, T>, D> {
        O::linear(O::gelu(O::linear(x, &self.linear_1)?)?, &self.linear_2)
    }
}

/// The heads of the encoder and of the decoder.
pub(crate) fn heads(checkpoint: &Checkpoint) -> (Heads, Heads) {
    let (vision, decoder) = (&checkpoint.config.vision, &checkpoint.config.decoder);
    let encoder =
        Heads { heads: vision.heads, kv_heads: vision.heads, width: vision.dim / vision.heads, causal: false };
    let decoder =
        Heads { heads: decoder.heads, kv_heads: decoder.kv_heads, width: decoder.dim / decoder.heads, causal: true };
    (encoder, decoder)
}

/// A device's complaint as an error of ours.
pub(crate) fn device_error<E: std::fmt::Display + std::fmt::Debug>(error: E) -> anyhow::Error {
    anyhow!("the device failed: {error} ({error:?})")
}

fn blocks<D: Device<f32>, O: Ops<D>, T: Tape<f32, D>>(
    blocks: &[Block<D>],
    mut x: Matrix<D, T>,
    plan: &O::Plan,
    eps: f32,
) -> Fallible<Matrix<D, T>, D> {
    for block in blocks {
        let (x_attention, x_skip) = fork(x);
        let h = O::rms_norm(x_attention, &block.attention_norm, eps)?;
        let (q, k) = (O::linear(h.retaped::<T>(), &block.q)?, O::linear(h.retaped::<T>(), &block.k)?);
        let v = O::linear(h, &block.v)?;
        let a = O::attention(q, k, v, plan)?;
        let (x_mlp, x_skip) = fork(O::add(x_skip, O::linear(a, &block.o)?)?);
        let h = O::rms_norm(x_mlp, &block.mlp_norm, eps)?;
        let gate = O::linear(h.retaped::<T>(), &block.gate)?;
        let up = O::linear(h, &block.up)?;
        x = O::add(x_skip, O::linear(O::swiglu(gate, up)?, &block.down)?)?;
    }
    Ok(x)
}

/// A tensor twice: once with its tape, once with an empty one. Tapes merge again in [`Ops::add`].
fn fork<D: Device<f32>, T: Tape<f32, D>>(x: Matrix<D, T>) -> (Matrix<D, T>, Matrix<D, T>) {
    let skip = x.retaped::<T>();
    (x, skip)
}

impl<D: Device<f32>> Block<D> {
    fn weights(&self) -> Vec<Weight<'_, D>> {
        let Block { attention_norm, q, k, v, o, mlp_norm, gate, up, down } = self;
        let mut list = vec![Weight::Vector(attention_norm)];
        list.extend([q, k, v, o].map(Weight::Matrix));
        list.push(Weight::Vector(mlp_norm));
        list.extend([gate, up, down].map(Weight::Matrix));
        list
    }
}

/// Hands out a checkpoint's arrays in order, each in the rank that its place wants.
struct Loader<'a, 'w, D> {
    device: &'a D,
    next: &'a mut dyn FnMut() -> Option<(Vec<usize>, &'w [f32])>,
}

impl<D: Device<f32>> Loader<'_, '_, D> {
    fn vector(&mut self) -> Result<Vector<D>> {
        match (self.next)() {
            Some((shape, values)) if shape.len() == 1 => {
                self.device.try_tensor_from_vec(values.to_vec(), (shape[0],)).map_err(device_error)
            }
            other => panic!("BUG: a vector was to come, not {:?}", other.map(|(shape, _)| shape)),
        }
    }

    fn matrix(&mut self) -> Result<Matrix<D>> {
        match (self.next)() {
            Some((shape, values)) if shape.len() == 2 => {
                self.device.try_tensor_from_vec(values.to_vec(), (shape[0], shape[1])).map_err(device_error)
            }
            other => panic!("BUG: a matrix was to come, not {:?}", other.map(|(shape, _)| shape)),
        }
    }

    fn block(&mut self) -> Result<Block<D>> {
        Ok(Block {
            attention_norm: self.vector()?,
            q: self.matrix()?,
            k: self.matrix()?,
            v: self.matrix()?,
            o: self.matrix()?,
            mlp_norm: self.vector()?,
            gate: self.matrix()?,
            up: self.matrix()?,
            down: self.matrix()?,
        })
    }
}
