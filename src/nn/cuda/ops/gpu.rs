//! A GPU as the operations use it: its kernels, matrix products, memory and copies, all on one stream, so that everything happens
//! in the order of the calls.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Result, bail};

#[cfg(feature = "cuda")]
use super::card::Card;
pub(super) use super::driver::Arg;
use super::driver::{Driver, Launch};
use super::memory::{Buffer, Part, Pool};
use super::recorder::Recorder;
use crate::Precision;
use crate::kernels::rope::RopeTable;

/// A clone is the same GPU.
#[derive(Clone)]
pub(crate) struct Gpu(Rc<Inner>);

struct Inner {
    driver: Rc<dyn Driver>,
    precision: Precision,
    pool: Rc<Pool>,
    /// In a step of generation: the number of sequences, and the number for which memory is asked.
    sequences: Cell<Option<(usize, usize)>>,
    /// The rotations of the last models.
    ropes: RefCell<Vec<Rotations>>,
}

/// A table of rotations, with its cosines and sines on the GPU.
struct Rotations {
    table: Arc<RopeTable>,
    cos: Rc<Buffer>,
    sin: Rc<Buffer>,
}

impl Gpu {
    #[cfg(feature = "cuda")]
    pub(crate) fn open(ordinal: usize, precision: Precision) -> Result<Gpu> {
        Ok(Gpu::with(Rc::new(Card::open(ordinal, precision)?), precision))
    }

    /// A GPU that only counts.
    pub(crate) fn recording(recorder: &Rc<Recorder>, precision: Precision) -> Gpu {
        Gpu::with(recorder.clone(), precision)
    }

    fn with(driver: Rc<dyn Driver>, precision: Precision) -> Gpu {
        let pool = Rc::new(Pool::new(driver.clone()));
        Gpu(Rc::new(Inner { driver, precision, pool, sequences: Cell::default(), ropes: RefCell::default() }))
    }

    pub(crate) fn precision(&self) -> Precision {
        self.0.precision
    }

    pub(super) fn driver(&self) -> &dyn Driver {
        &*self.0.driver
    }

    /// Bytes of memory that is kept for later use.
    pub(crate) fn idle_bytes(&self) -> usize {
        self.0.pool.idle_bytes()
    }

    /// Bytes of a number that products read.
    pub(crate) fn inner_size(&self) -> usize {
        if self.0.precision == Precision::Bf16 { 2 } else { 4 }
    }

    /// Memory with arbitrary content.
    pub(crate) fn allocate(&self, bytes: usize) -> Result<Rc<Buffer>> {
        let bytes = self.0.sequences.get().map_or(bytes, |(count, capacity)| (bytes * capacity).div_ceil(count));
        Pool::allocate(&self.0.pool, bytes).map(Rc::new)
    }

    /// Runs a step of generation with `count` sequences. Its buffers have the sizes of a step with `capacity` sequences, so that the
    /// next step with another number of sequences finds them in the pool.
    pub(super) fn with_capacity<R>(
        &self,
        count: usize,
        capacity: usize,
        step: impl FnOnce() -> Result<R>,
    ) -> Result<R> {
        assert!((1..=capacity).contains(&count), "BUG: {count} sequences of {capacity}");
        let before = self.0.sequences.replace(Some((count, capacity)));
        let result = step();
        self.0.sequences.set(before);
        result
    }

    /// Bytes of memory that the driver has left.
    pub(super) fn free_memory(&self) -> Result<usize> {
        self.driver().free_memory()
    }

    pub(crate) fn zeros(&self, bytes: usize) -> Result<Rc<Buffer>> {
        let buffer = self.allocate(bytes)?;
        self.clear(&buffer, bytes)?;
        Ok(buffer)
    }

    /// Fills the first `bytes` of a buffer with zeros.
    pub(crate) fn clear(&self, buffer: &Buffer, bytes: usize) -> Result<()> {
        assert!(bytes <= buffer.bytes(), "BUG: {bytes} bytes of {}", buffer.bytes());
        self.driver().clear(buffer.address(), bytes)
    }

    /// Copies values to new memory.
    pub(crate) fn upload<N: Plain>(&self, values: &[N]) -> Result<Rc<Buffer>> {
        let buffer = self.allocate(size_of_val(values))?;
        self.write(&buffer, values)?;
        Ok(buffer)
    }

    /// Memory for `count` numbers of a parameter, with its values. A model that is only a description has none.
    pub(super) fn upload_parameter<N: Plain>(&self, values: &[N], count: usize) -> Result<Rc<Buffer>> {
        assert!(values.is_empty() || values.len() == count, "BUG: {} values of {count}", values.len());
        let buffer = self.allocate(count * size_of::<N>())?;
        self.write(&buffer, values)?;
        Ok(buffer)
    }

    /// Copies values to the start of a buffer.
    pub(crate) fn write<N: Plain>(&self, buffer: &Buffer, values: &[N]) -> Result<()> {
        assert!(size_of_val(values) <= buffer.bytes(), "BUG: {} bytes of {}", size_of_val(values), buffer.bytes());
        if values.is_empty() {
            return Ok(());
        }
        let (start, bytes) = (values.as_ptr().cast::<u8>(), size_of_val(values));
        // SAFETY: the values have no padding, so they are as many initialized bytes.
        self.driver().write(buffer.address(), unsafe { std::slice::from_raw_parts(start, bytes) })
    }

    /// Copies the first `count` values of a buffer to the host, when all work before has been done.
    pub(crate) fn read<N: Plain>(&self, buffer: &Buffer, count: usize) -> Result<Vec<N>> {
        assert!(count * size_of::<N>() <= buffer.bytes(), "BUG: {count} values of {} bytes", buffer.bytes());
        let mut values = vec![N::default(); count];
        if count > 0 {
            let (start, bytes) = (values.as_mut_ptr().cast::<u8>(), count * size_of::<N>());
            // SAFETY: the values have no padding, and every pattern of bits is a value.
            self.driver().read(buffer.address(), unsafe { std::slice::from_raw_parts_mut(start, bytes) })?;
        }
        Ok(values)
    }

    /// Copies the first `bytes` of a buffer to another.
    pub(crate) fn copy(&self, from: &Buffer, to: &Buffer, bytes: usize) -> Result<()> {
        assert!(bytes <= from.bytes().min(to.bytes()), "BUG: {bytes} bytes of {} to {}", from.bytes(), to.bytes());
        self.driver().copy(from.address(), to.address(), bytes)
    }

    /// The cosines and sines of a table, which are copied once.
    pub(super) fn rope(&self, table: &Arc<RopeTable>) -> Result<(Rc<Buffer>, Rc<Buffer>)> {
        let mut ropes = self.0.ropes.borrow_mut();
        let known = ropes.iter().find(|known| Arc::ptr_eq(&known.table, table));
        if let Some(Rotations { cos, sin, .. }) = known {
            return Ok((cos.clone(), sin.clone()));
        }
        let (cos, sin) = (self.upload(&table.cos)?, self.upload(&table.sin)?);
        // A longer table of the model replaces the one before.
        ropes.retain(|known| Arc::strong_count(&known.table) > 1);
        ropes.push(Rotations { table: table.clone(), cos: cos.clone(), sin: sin.clone() });
        Ok((cos, sin))
    }

    /// Launches a kernel with one thread per element, or a few elements per thread.
    pub(crate) fn each(&self, name: &'static str, elements: usize, arguments: &[Arg]) -> Result<()> {
        const BLOCK: usize = 256;
        /// Fills every GPU of today several times over.
        const MOST_BLOCKS: usize = 1 << 14;
        self.launch(name, [elements.div_ceil(BLOCK).min(MOST_BLOCKS), 1], BLOCK, 0, arguments)
    }

    /// Launches a kernel with a block per row of `width` elements.
    pub(crate) fn rows(&self, name: &'static str, rows: usize, width: usize, arguments: &[Arg]) -> Result<()> {
        self.launch(name, [rows, 1], row_threads(width), 0, arguments)
    }

    /// Launches `grid` blocks of `threads` threads with `shared` bytes of dynamic shared memory. Does nothing for no blocks.
    pub(crate) fn launch(
        &self,
        name: &'static str,
        grid: [usize; 2],
        threads: usize,
        shared: usize,
        arguments: &[Arg],
    ) -> Result<()> {
        if grid.contains(&0) {
            return Ok(());
        }
        if grid[0] > i32::MAX as usize || grid[1] > 65_535 {
            bail!("the batch is too large for the GPU: kernel `{name}` would need {} x {} blocks", grid[0], grid[1]);
        }
        self.driver().launch(&Launch { name, grid, threads, shared, arguments })
    }
}

/// The number of threads for a row of `width` elements, four per thread.
fn row_threads(width: usize) -> usize {
    width.div_ceil(4).next_multiple_of(32).clamp(32, 512)
}

/// Numbers, and structures of numbers without gaps, that may be copied to and from a device as bytes.
///
/// # Safety
/// Every pattern of bits is a value, and there are no bytes of padding.
pub(crate) unsafe trait Plain: Copy + Default {}

// SAFETY: numbers.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for u16 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for i32 {}
// SAFETY: as above.
unsafe impl Plain for f32 {}
// SAFETY: as above.
unsafe impl Plain for f64 {}
// SAFETY: an array has no padding.
unsafe impl<N: Plain, const COUNT: usize> Plain for [N; COUNT] where [N; COUNT]: Default {}

impl From<&Buffer> for Arg {
    fn from(buffer: &Buffer) -> Arg {
        Arg::Address(buffer.address())
    }
}

impl From<&Rc<Buffer>> for Arg {
    fn from(buffer: &Rc<Buffer>) -> Arg {
        Arg::Address(buffer.address())
    }
}

impl From<&Part> for Arg {
    fn from(part: &Part) -> Arg {
        Arg::Address(part.address())
    }
}

impl From<Option<&Rc<Buffer>>> for Arg {
    fn from(buffer: Option<&Rc<Buffer>>) -> Arg {
        Arg::Address(buffer.map_or(0, |buffer| buffer.address()))
    }
}

impl From<f32> for Arg {
    fn from(value: f32) -> Arg {
        Arg::Float(value)
    }
}

impl From<bool> for Arg {
    fn from(value: bool) -> Arg {
        Arg::Int(value.into())
    }
}

/// A size that a kernel takes as an `int`.
impl From<usize> for Arg {
    fn from(value: usize) -> Arg {
        Arg::Int(i32::try_from(value).unwrap_or_else(|_| panic!("BUG: a size of {value} in a kernel")))
    }
}

/// A count that a kernel takes as a `long long`.
pub(crate) fn long(count: usize) -> Arg {
    Arg::Long(count as i64)
}
