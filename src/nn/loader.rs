//! Loads a model's weights into a store, by the names of its layers.

use anyhow::Result;

use super::adapter::Adapter;
use super::architecture::Activation;
use super::layers::{Block, Linear, Lora, Mlp, Norm, NormStyle, OutputLayer, Qkv};
use super::ops::{Loaded, LoadedWeight, Param, WeightStore};
use super::parameters::{self, BlockNames, MlpNames, OutputNames, QkvNames};
use super::trainable_model::TrainableModel;

pub(crate) struct Loader<'a, P: WeightStore> {
    store: &'a P,
    trainable_model: &'a TrainableModel,
    /// Weights that were loaded before. The frozen ones are used again.
    before: Option<&'a [Loaded<P>]>,
    loaded: Vec<Loaded<P>>,
}

impl<'a, P: WeightStore> Loader<'a, P> {
    pub(crate) fn new(
        store: &'a P,
        trainable_model: &'a TrainableModel,
        before: Option<&'a [Loaded<P>]>,
    ) -> Loader<'a, P> {
        Loader { store, trainable_model, before, loaded: vec![None; trainable_model.count()] }
    }

    /// The loaded weights by index.
    pub(crate) fn finish(self) -> Vec<Loaded<P>> {
        self.loaded
    }

    fn has(&self, name: &str) -> bool {
        self.trainable_model.index(name).is_some()
    }

    pub(crate) fn matrix(&mut self, name: &str) -> Result<Param<P::Matrix>> {
        self.matrix_at(self.index(name))
    }

    /// A vector is a table of one row.
    pub(crate) fn table(&mut self, name: &str) -> Result<Param<P::Table>> {
        let index = self.index(name);
        let trainable = self.trainable_model.is_trainable(index);
        let value = if let Some(LoadedWeight::Table(table)) = self.frozen(index) {
            table
        } else {
            let shape = self.trainable_model.shape(index);
            let (columns, rows) = (shape[shape.len() - 1], shape[..shape.len() - 1].iter().product());
            self.store.table(self.trainable_model.shared_weights(index), rows, columns)?
        };
        self.loaded[index] = Some(LoadedWeight::Table(value.clone()));
        Ok(Param { value, index, trainable })
    }

    pub(crate) fn vector(&mut self, name: &str) -> Result<Param<P::Vector>> {
        self.vector_plus(name, 0.0)
    }

    /// A vector with `offset` added to each value. Its gradient is that of the parameter.
    fn vector_plus(&mut self, name: &str, offset: f32) -> Result<Param<P::Vector>> {
        let index = self.index(name);
        let trainable = self.trainable_model.is_trainable(index);
        let value = if let Some(LoadedWeight::Vector(vector)) = self.frozen(index) {
            vector
        } else {
            let len = self.trainable_model.shape(index).iter().product();
            self.store.vector(self.trainable_model.shared_weights(index), len, offset)?
        };
        self.loaded[index] = Some(LoadedWeight::Vector(value.clone()));
        Ok(Param { value, index, trainable })
    }

    /// A linear layer with the bias and the LoRA adapter that it has.
    pub(crate) fn linear(&mut self, layer: &str) -> Result<Linear<P>> {
        let weight = self.matrix(&parameters::weight(layer))?;
        let bias = self.bias(layer)?;
        let Some(adapter) = &self.trainable_model.adapter else { return Ok(Linear { weight, bias, lora: None }) };
        let first = self.trainable_model.index(&format!("{layer}.lora_A.weight"));
        let lora = first.map(|first| self.lora(adapter, first)).transpose()?;
        Ok(Linear { weight, bias, lora })
    }

    /// A `LayerNorm` if the layer has a bias, else an `RMSNorm`.
    pub(crate) fn norm(&mut self, layer: &str, style: NormStyle) -> Result<Norm<P>> {
        let weight = self.vector_plus(&parameters::weight(layer), if style.offset { 1.0 } else { 0.0 })?;
        Ok(match self.bias(layer)? {
            Some(bias) => Norm::Layer(weight, bias, style.eps as f32),
            None => Norm::Rms(weight, style.eps as f32),
        })
    }

    /// A transformer block. `activation` is that of its MLP.
    pub(crate) fn block(&mut self, names: &BlockNames, norms: NormStyle, activation: Activation) -> Result<Block<P>> {
        let attention_norm = self.norm(&names.attention_norm, norms)?;
        let qkv = match &names.qkv {
            QkvNames::Separate([q, k, v]) => Qkv::Separate([self.linear(q)?, self.linear(k)?, self.linear(v)?]),
            QkvNames::Fused(layer) => Qkv::Fused(self.linear(layer)?),
        };
        let o = self.linear(&names.o)?;
        let qk_norms = match &names.qk_norms {
            Some([q, k]) if self.has(&parameters::weight(q)) => Some((self.norm(q, norms)?, self.norm(k, norms)?)),
            _ => None,
        };
        let mlp_norm = self.norm(&names.mlp_norm, norms)?;
        let mlp = match &names.mlp {
            MlpNames::Gated { gate, up, down } => {
                Mlp::Gated { gate: self.linear(gate)?, up: self.linear(up)?, down: self.linear(down)?, activation }
            }
            MlpNames::Plain { fc1, fc2 } => Mlp::Plain { fc1: self.linear(fc1)?, fc2: self.linear(fc2)?, activation },
        };
        let mut output = |name: &OutputNames| {
            Ok::<_, anyhow::Error>(match name {
                OutputNames::Scale(name) => OutputLayer::Scale(self.vector(name)?),
                OutputNames::Norm(layer) => OutputLayer::Norm(self.norm(layer, norms)?),
            })
        };
        let output_layers = match &names.outputs {
            Some([attention, mlp]) => Some([output(attention)?, output(mlp)?]),
            None => None,
        };
        Ok(Block { attention_norm, qkv, o, qk_norms, mlp_norm, mlp, output_layers })
    }

    fn bias(&mut self, layer: &str) -> Result<Option<Param<P::Vector>>> {
        let name = parameters::bias(layer);
        if self.has(&name) { self.vector(&name).map(Some) } else { Ok(None) }
    }

    /// The matrices A and B of an adapter, which have the indices `first` and `first + 1`.
    fn lora(&mut self, adapter: &Adapter, first: usize) -> Result<Lora<P>> {
        let (a, b) = (self.matrix_at(first)?, self.matrix_at(first + 1)?);
        Ok(Lora { a, b, scale: adapter.scale() as f32, dropout: adapter.dropout })
    }

    fn matrix_at(&mut self, index: usize) -> Result<Param<P::Matrix>> {
        let trainable = self.trainable_model.is_trainable(index);
        let value = if let Some(LoadedWeight::Matrix(matrix)) = self.frozen(index) {
            matrix
        } else {
            let shape = self.trainable_model.shape(index);
            let columns = shape[1..].iter().product();
            self.store.matrix(self.trainable_model.shared_weights(index), shape[0], columns)?
        };
        self.loaded[index] = Some(LoadedWeight::Matrix(value.clone()));
        Ok(Param { value, index, trainable })
    }

    /// A frozen weight that was loaded before.
    fn frozen(&self, index: usize) -> Loaded<P> {
        let before = self.before?;
        if self.trainable_model.is_trainable(index) { None } else { before.get(index)?.clone() }
    }

    fn index(&self, name: &str) -> usize {
        self.trainable_model.index(name).unwrap_or_else(|| panic!("BUG: the model has no parameter `{name}`"))
    }
}
