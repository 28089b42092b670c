//! Puts a model's weights into their places, by name. Knows no layout of a model and no file.

use anyhow::Result;

use super::adapter::Adapter;
use super::layers::{Adapted, Linear, Norm};
use super::learner::Learner;
use super::ops::{Param, Place};

/// A parameter's weights in their place; a clone is the same weights.
#[derive(Clone)]
pub(crate) enum Held<P: Place> {
    Matrix(P::Matrix),
    Table(P::Table),
    Vector(P::Vector),
}

/// Hands out parameters by name and remembers what it placed.
pub(crate) struct Loader<'a, P: Place> {
    place: &'a P,
    learner: &'a Learner,
    /// What was placed before: what does not learn stays where it is.
    before: Option<&'a [Option<Held<P>>]>,
    held: Vec<Option<Held<P>>>,
}

impl<'a, P: Place> Loader<'a, P> {
    pub(crate) fn new(place: &'a P, learner: &'a Learner, before: Option<&'a [Option<Held<P>>]>) -> Loader<'a, P> {
        Loader { place, learner, before, held: vec![None; learner.count()] }
    }

    /// Everything that was placed, by number.
    pub(crate) fn finish(self) -> Vec<Option<Held<P>>> {
        self.held
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.learner.number(name).is_some()
    }

    pub(crate) fn matrix(&mut self, name: &str) -> Result<Param<P::Matrix>> {
        self.place_matrix(self.number(name))
    }

    pub(crate) fn table(&mut self, name: &str) -> Result<Param<P::Table>> {
        let index = self.number(name);
        let learns = self.learner.learns(index);
        let value = if let Some(Held::Table(table)) = self.kept(index) {
            table
        } else {
            let shape = self.learner.shape(index);
            let (rows, columns) = if shape.len() == 1 { (1, shape[0]) } else { (shape[0], shape[1]) };
            self.place.table(self.learner.shared(index), rows, columns)?
        };
        self.held[index] = Some(Held::Table(value.clone()));
        Ok(Param { value, number: index, learns })
    }

    pub(crate) fn vector(&mut self, name: &str) -> Result<Param<P::Vector>> {
        let index = self.number(name);
        let learns = self.learner.learns(index);
        let value = match self.kept(index) {
            Some(Held::Vector(vector)) => vector,
            _ => self.place.vector(self.learner.shared(index))?,
        };
        self.held[index] = Some(Held::Vector(value.clone()));
        Ok(Param { value, number: index, learns })
    }

    /// A linear layer with its bias and its adapter, where it has them.
    pub(crate) fn linear(&mut self, name: &str) -> Result<Linear<P>> {
        let weight = self.matrix(&format!("{name}.weight"))?;
        let bias = format!("{name}.bias");
        let bias = if self.has(&bias) { Some(self.vector(&bias)?) } else { None };
        let Some(adapter) = &self.learner.adapter else { return Ok(Linear { weight, bias, adapter: None }) };
        let first = self.learner.number(&format!("{name}.lora_A.weight"));
        let adapter = first.map(|first| self.low_rank(adapter, first)).transpose()?;
        Ok(Linear { weight, bias, adapter })
    }

    pub(crate) fn rms_norm(&mut self, name: &str, eps: f64) -> Result<Norm<P>> {
        Ok(Norm::Rms(self.vector(&format!("{name}.weight"))?, eps as f32))
    }

    pub(crate) fn layer_norm(&mut self, name: &str, eps: f64) -> Result<Norm<P>> {
        let (weight, bias) = (self.vector(&format!("{name}.weight"))?, self.vector(&format!("{name}.bias"))?);
        Ok(Norm::Layer(weight, bias, eps as f32))
    }

    /// An adapter whose two matrices are numbered from `first` on.
    fn low_rank(&mut self, adapter: &Adapter, first: usize) -> Result<Adapted<P>> {
        let inputs = self.learner.shape(first)[1];
        let (a, b) = (self.place_matrix(first)?, self.place_matrix(first + 1)?);
        Ok(Adapted { a, b, scale: adapter.scale() as f32, dropout: adapter.dropout, inputs })
    }

    fn place_matrix(&mut self, index: usize) -> Result<Param<P::Matrix>> {
        let learns = self.learner.learns(index);
        let value = if let Some(Held::Matrix(matrix)) = self.kept(index) {
            matrix
        } else {
            let (values, rows) = (self.learner.shared(index), self.learner.shape(index)[0]);
            let columns = values.len() / rows.max(1);
            self.place.matrix(values, rows, columns)?
        };
        self.held[index] = Some(Held::Matrix(value.clone()));
        Ok(Param { value, number: index, learns })
    }

    /// What was placed before and has not moved since.
    fn kept(&self, index: usize) -> Option<Held<P>> {
        let before = self.before?;
        if self.learner.learns(index) { None } else { before.get(index)?.clone() }
    }

    fn number(&self, name: &str) -> usize {
        self.learner.number(name).unwrap_or_else(|| panic!("BUG: the model has no parameter `{name}`"))
    }
}
