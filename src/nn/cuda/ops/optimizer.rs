//! Training on a GPU: the gradients, moments and f32 weights of all trainable parameters, and AdamW over them.

use std::rc::Rc;

use anyhow::Result;

use super::gpu::{Arg, Gpu};
use super::gradients::CudaGradients;
use super::memory::Buffer;
use super::weights::CudaWeights;
use crate::Precision;
use crate::ops::{Loaded, LoadedWeight};
use crate::optimizer::{Optimizer, OptimizerConfig};
use crate::trainable_model::TrainableModel;

/// Numbers per block, as in `optimizer.cuh`.
const PIECE: usize = 1 << 15;
const THREADS: usize = 256;

/// A `Parameter` of `optimizer.cuh`: five addresses, the count, two f32 and whether the weights are rounded.
type ParameterWords = [u32; 16];
/// A `Piece`: the parameter, a gap, and the start as two words.
type PieceWords = [u32; 4];

/// The trainable parameters and what belongs to each.
pub(crate) struct CudaOptimizer {
    gpu: Gpu,
    pub(crate) gradients: Rc<CudaGradients>,
    states: Vec<State>,
    parameters: Rc<Buffer>,
    pieces: Rc<Buffer>,
    partial: Rc<Buffer>,
    sum: Rc<Buffer>,
    /// The number of pieces.
    blocks: usize,
}

struct State {
    index: usize,
    count: usize,
    master: Rc<Buffer>,
    first: Rc<Buffer>,
    second: Rc<Buffer>,
}

impl CudaOptimizer {
    /// With the moments of `optimizer`.
    pub(crate) fn new(
        gpu: &Gpu,
        trainable_model: &TrainableModel,
        loaded: &[Loaded<CudaWeights>],
        optimizer: &Optimizer,
    ) -> Result<CudaOptimizer> {
        let gradients = Rc::new(CudaGradients::new(gpu, trainable_model)?);
        let (mut states, mut parameters, mut pieces) = (Vec::new(), Vec::new(), Vec::new());
        for (index, parameter) in trainable_model.trainable_parameters() {
            let count = parameter.len();
            let (weights, is_vector) = match &loaded[index] {
                Some(LoadedWeight::Matrix(matrix) | LoadedWeight::Table(matrix)) => (matrix.values.clone(), false),
                Some(LoadedWeight::Vector(vector)) => (vector.values.clone(), true),
                None => panic!("BUG: the trainable parameter {index} is not loaded"),
            };
            let rounded = !is_vector && gpu.precision() == Precision::Bf16;
            let master =
                if rounded { gpu.upload_parameter(trainable_model.weights(index), count)? } else { weights.clone() };
            let [first, second] = [&optimizer.first, &optimizer.second].map(|moments| &moments[index]);
            let (first, second) = (gpu.upload_parameter(first, count)?, gpu.upload_parameter(second, count)?);
            let state = State { index, count, master, first, second };
            let addresses = [&weights, &state.master, gradients.buffer(index), &state.first, &state.second];
            let mut words = ParameterWords::default();
            for (at, address) in addresses.into_iter().enumerate() {
                set_long(&mut words, 2 * at, address.address());
            }
            set_long(&mut words, 10, count as u64);
            let rate = optimizer.config.rate(parameter.group) as f32;
            let decay = if parameter.is_matrix() { optimizer.config.weight_decay as f32 } else { 0.0 };
            (words[12], words[13], words[14]) = (rate.to_bits(), decay.to_bits(), rounded.into());
            for start in (0..count).step_by(PIECE) {
                let mut piece = PieceWords::default();
                piece[0] = states.len() as u32;
                set_long(&mut piece, 2, start as u64);
                pieces.push(piece);
            }
            states.push(state);
            parameters.push(words);
        }
        Ok(CudaOptimizer {
            parameters: gpu.upload(&parameters)?,
            pieces: gpu.upload(&pieces)?,
            partial: gpu.allocate(pieces.len() * size_of::<f64>())?,
            sum: gpu.allocate(size_of::<f64>())?,
            blocks: pieces.len(),
            gpu: gpu.clone(),
            gradients,
            states,
        })
    }

    /// The global norm of the gradients.
    pub(crate) fn norm(&self) -> Result<f64> {
        self.gradients.finish()?;
        let (gpu, blocks) = (&self.gpu, self.blocks);
        let arguments = [(&self.parameters).into(), (&self.pieces).into(), (&self.partial).into()];
        gpu.launch("sum_of_squares", [blocks, 1], THREADS, 0, &arguments)?;
        gpu.launch("total", [1, 1], THREADS, 0, &[(&self.partial).into(), (&self.sum).into(), blocks.into()])?;
        Ok(gpu.read::<f64>(&self.sum, 1)?[0].sqrt())
    }

    /// Step `step` of `steps`, counted from 0, with gradients of global norm `norm`: changes all weights.
    pub(crate) fn step(&self, config: &OptimizerConfig, norm: f64, step: u64, steps: u64) -> Result<()> {
        let OptimizerConfig { betas: [beta1, beta2], eps, clip, .. } = *config;
        let factor = config.factor(step, steps);
        let power = i32::try_from(step + 1).unwrap_or(i32::MAX);
        let [first, second] = [beta1, beta2].map(|beta| 1.0 / (1.0 - beta.powi(power)));
        let clipped = if clip > 0.0 && norm > clip { clip / norm } else { 1.0 };
        let numbers = [clipped, beta1, beta2, factor * first, factor, second, eps].map(|x| Arg::Float(x as f32));
        let arguments = [&[(&self.parameters).into(), (&self.pieces).into()][..], &numbers].concat();
        self.gpu.launch("adamw", [self.blocks, 1], THREADS, 0, &arguments)
    }

    /// Copies the weights and moments to the host.
    pub(crate) fn fetch(&self, trainable_model: &mut TrainableModel, optimizer: &mut Optimizer) -> Result<()> {
        for ((index, weights), state) in trainable_model.trainable_weights_mut().zip(&self.states) {
            assert_eq!(index, state.index, "BUG: the order of the trainable parameters");
            *weights = self.gpu.read(&state.master, state.count)?;
            optimizer.first[index] = self.gpu.read(&state.first, state.count)?;
            optimizer.second[index] = self.gpu.read(&state.second, state.count)?;
        }
        Ok(())
    }
}

fn set_long(words: &mut [u32], at: usize, value: u64) {
    (words[at], words[at + 1]) = (value as u32, (value >> 32) as u32);
}
