//! The tensors of the CUDA operations: values on a GPU, and a gradient that a backward pass fills.

use std::cell::RefCell;
use std::rc::Rc;

use anyhow::Result;

use super::gpu::{Gpu, long};
use super::memory::Buffer;
use crate::kernels::matmul::Accumulate;

/// The number type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// f32: the residual stream.
    Stream,
    /// The type of the factors of products: f32, or bf16.
    Inner,
}

impl Kind {
    /// Of two kernels, the one for this number type. With f32 throughout both kinds are the same.
    pub(super) fn of(self, stream: &'static str, inner: &'static str) -> &'static str {
        match self {
            Kind::Stream => stream,
            Kind::Inner => inner,
        }
    }
}

/// (rows, width), a token per row. A clone is the same tensor.
#[derive(Clone)]
pub(crate) struct CudaTensor(Rc<Inner>);

struct Inner {
    kind: Kind,
    rows: usize,
    width: usize,
    values: RefCell<Values>,
    gradient: Gradient,
}

enum Values {
    Ready(Rc<Buffer>),
    /// The sum of a tensor of the stream and another one, which is not computed yet: the norm that follows computes it as well.
    Sum(CudaTensor, CudaTensor),
    /// Inner values that are not computed yet: the rotation of queries and keys that follows computes them as well.
    Biased(Biased),
}

/// A product and its bias, both f32, whose sum is rounded once.
#[derive(Clone)]
pub(super) struct Biased {
    pub(super) product: Rc<Buffer>,
    pub(super) bias: Rc<Buffer>,
}

impl Biased {
    /// A buffer for the sum: that of the product where both have the same type.
    fn result(&self, gpu: &Gpu, count: usize) -> Result<Rc<Buffer>> {
        if gpu.inner_size() == size_of::<f32>() {
            return Ok(self.product.clone());
        }
        gpu.allocate(count * gpu.inner_size())
    }
}

impl CudaTensor {
    /// A `tracked` tensor has a gradient.
    pub(super) fn new(kind: Kind, values: Rc<Buffer>, rows: usize, width: usize, tracked: bool) -> CudaTensor {
        let values = RefCell::new(Values::Ready(values));
        CudaTensor(Rc::new(Inner { kind, rows, width, values, gradient: Gradient::new(tracked) }))
    }

    /// An f32 product and its bias (width), which is added when the tensor is first read.
    pub(super) fn biased(
        product: Rc<Buffer>,
        bias: &Rc<Buffer>,
        rows: usize,
        width: usize,
        tracked: bool,
    ) -> CudaTensor {
        let values = RefCell::new(Values::Biased(Biased { product, bias: bias.clone() }));
        CudaTensor(Rc::new(Inner { kind: Kind::Inner, rows, width, values, gradient: Gradient::new(tracked) }))
    }

    /// The sum of two tensors, which is computed when it is first read.
    pub(super) fn sum(a: &CudaTensor, b: &CudaTensor, tracked: bool) -> CudaTensor {
        let values = RefCell::new(Values::Sum(a.clone(), b.clone()));
        let gradient = Gradient::new(tracked);
        CudaTensor(Rc::new(Inner { kind: Kind::Stream, rows: a.rows(), width: a.width(), values, gradient }))
    }

    pub(super) fn kind(&self) -> Kind {
        self.0.kind
    }

    pub(crate) fn rows(&self) -> usize {
        self.0.rows
    }

    pub(crate) fn width(&self) -> usize {
        self.0.width
    }

    pub(super) fn len(&self) -> usize {
        self.0.rows * self.0.width
    }

    pub(super) fn bytes(&self, gpu: &Gpu) -> usize {
        self.len() * bytes_of(gpu, self.0.kind)
    }

    pub(super) fn gradient(&self) -> Gradient {
        self.0.gradient.clone()
    }

    /// The terms of a sum that is not computed yet, if a norm can compute it: a tensor of the stream and an inner one.
    pub(super) fn open_sum(&self) -> Option<(CudaTensor, CudaTensor)> {
        match &*self.0.values.borrow() {
            Values::Sum(a, b) if a.kind() == Kind::Stream && b.kind() == Kind::Inner => Some((a.clone(), b.clone())),
            _ => None,
        }
    }

    /// A product and its bias, if that is not added yet.
    fn open_bias(&self) -> Option<Biased> {
        match &*self.0.values.borrow() {
            Values::Biased(biased) => Some(biased.clone()),
            _ => None,
        }
    }

    /// The values for writing, or memory for them and the terms whose sum the caller must write into it.
    pub(super) fn into_product(self, gpu: &Gpu) -> Result<(Rc<Buffer>, Option<Biased>)> {
        match self.open_bias() {
            Some(biased) => Ok((biased.result(gpu, self.len())?, Some(biased))),
            None => Ok((self.into_values(gpu)?, None)),
        }
    }

    /// Stores the values of a sum.
    pub(super) fn set(&self, values: Rc<Buffer>) {
        *self.0.values.borrow_mut() = Values::Ready(values);
    }

    /// The values. A sum is computed.
    pub(super) fn values(&self, gpu: &Gpu) -> Result<Rc<Buffer>> {
        if let Some(biased) = self.open_bias() {
            let sum = biased.result(gpu, self.len())?;
            let terms = [(&biased.product).into(), (&biased.bias).into()];
            let arguments = [&terms[..], &[(&sum).into(), long(self.len()), self.width().into()]].concat();
            gpu.each("add_bias", self.len(), &arguments)?;
            self.set(sum);
        }
        let (a, b) = match &*self.0.values.borrow() {
            Values::Ready(values) => return Ok(values.clone()),
            Values::Sum(a, b) => (a.clone(), b.clone()),
            Values::Biased(_) => panic!("BUG: a bias that was not added"),
        };
        let (a, b) = if a.kind() == Kind::Inner { (b, a) } else { (a, b) };
        let kernel = match (a.kind(), b.kind()) {
            (Kind::Stream, Kind::Stream) => "add",
            (Kind::Stream, Kind::Inner) => "add_inner",
            (Kind::Inner, _) => "add_inner_both",
        };
        let sum = gpu.allocate(self.bytes(gpu))?;
        let (left, right) = (a.values(gpu)?, b.values(gpu)?);
        gpu.each(kernel, self.len(), &[(&left).into(), (&right).into(), (&sum).into(), long(self.len())])?;
        self.set(sum.clone());
        Ok(sum)
    }

    /// The values for writing: without a copy if no other clone of the tensor exists.
    pub(super) fn into_values(self, gpu: &Gpu) -> Result<Rc<Buffer>> {
        let values = self.values(gpu)?;
        let bytes = self.bytes(gpu);
        drop(self);
        unique(gpu, values, bytes)
    }
}

/// The gradient of a tensor; empty until the first operation that reads the tensor adds to it. A clone is the same gradient and
/// does not keep the tensor's values alive. None: the tensor is a constant, and what is added is dropped.
#[derive(Clone)]
pub(super) struct Gradient(Option<Rc<RefCell<Option<Rc<Buffer>>>>>);

impl Gradient {
    fn new(tracked: bool) -> Gradient {
        Gradient(tracked.then(Rc::default))
    }

    pub(super) fn is_tracked(&self) -> bool {
        self.0.is_some()
    }

    /// The gradient, for the operation that computed the tensor. None: no operation has added to it.
    pub(super) fn take(&self) -> Option<Rc<Buffer>> {
        self.0.as_ref().and_then(|cell| cell.take())
    }

    /// Calls `add`, which adds to the gradient or, if it is empty, stores into memory with arbitrary content.
    pub(super) fn accumulate(
        &self,
        gpu: &Gpu,
        bytes: usize,
        add: impl FnOnce(&Rc<Buffer>, Accumulate) -> Result<()>,
    ) -> Result<()> {
        let Some(cell) = &self.0 else { return Ok(()) };
        let before = cell.take();
        let into = if before.is_some() { Accumulate::Yes } else { Accumulate::No };
        let values = match before {
            Some(values) => unique(gpu, values, bytes)?,
            None => gpu.allocate(bytes)?,
        };
        add(&values, into)?;
        cell.replace(Some(values));
        Ok(())
    }

    /// Adds `count` values of the tensor's kind, which other gradients may share.
    pub(super) fn add(&self, gpu: &Gpu, kind: Kind, values: Rc<Buffer>, count: usize) -> Result<()> {
        let Some(cell) = &self.0 else { return Ok(()) };
        if cell.borrow().is_none() {
            cell.replace(Some(values));
            return Ok(());
        }
        self.accumulate(gpu, count * bytes_of(gpu, kind), |sum, _| {
            let kernel = kind.of("accumulate", "accumulate_inner");
            gpu.each(kernel, count, &[sum.into(), (&values).into(), long(count)])
        })
    }
}

/// Bytes of a number.
pub(super) fn bytes_of(gpu: &Gpu, kind: Kind) -> usize {
    match kind {
        Kind::Stream => size_of::<f32>(),
        Kind::Inner => gpu.inner_size(),
    }
}

/// A buffer without other owners: the same one, or a copy of its first `bytes`.
fn unique(gpu: &Gpu, values: Rc<Buffer>, bytes: usize) -> Result<Rc<Buffer>> {
    if Rc::strong_count(&values) == 1 {
        return Ok(values);
    }
    let copy = gpu.allocate(bytes)?;
    gpu.copy(&values, &copy, bytes)?;
    Ok(copy)
}

/// Values of one kind as another: shared where both are f32.
pub(super) fn convert(gpu: &Gpu, values: &Rc<Buffer>, from: Kind, to: Kind, count: usize) -> Result<Rc<Buffer>> {
    if from == to || gpu.inner_size() == size_of::<f32>() {
        return Ok(values.clone());
    }
    let converted = gpu.allocate(count * bytes_of(gpu, to))?;
    let kernel = to.of("to_stream", "to_inner");
    gpu.each(kernel, count, &[values.into(), (&converted).into(), long(count)])?;
    Ok(converted)
}
