//! A GPU as the operations use it: its kernels, matrix products, memory and copies, all on one stream, so that everything happens
//! in the order of the calls.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::{CString, c_void};
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use cudarc::cublas::CudaBlas;
use cudarc::driver::CudaDevice;
use cudarc::driver::result::{self, module};
use cudarc::driver::sys::{CUfunction, CUfunction_attribute_enum, CUmodule, CUresult, cuFuncSetAttribute};

use super::memory::{Buffer, Part, Pool};
use crate::Precision;
use crate::device_error::device_error;
use crate::kernels::rope::RopeTable;

/// `kernels.cu`, compiled by `build.rs`, with the zero at the end that the driver needs.
const F32: &str = concat!(include_str!(concat!(env!("OUT_DIR"), "/f32.ptx")), "\0");
const BF16: &str = concat!(include_str!(concat!(env!("OUT_DIR"), "/bf16.ptx")), "\0");

/// The oldest compute capability with bf16.
const BF16_CAPABILITY: (i32, i32) = (8, 0);

/// Dynamic shared memory that every kernel may use. Up to 48 KiB need not be asked for, with that of fixed size.
const SHARED: usize = 40 << 10;

/// A clone is the same GPU.
#[derive(Clone)]
pub(crate) struct Gpu(Rc<Inner>);

struct Inner {
    device: Arc<CudaDevice>,
    blas: CudaBlas,
    module: CUmodule,
    functions: RefCell<BTreeMap<&'static str, Function>>,
    precision: Precision,
    pool: Rc<Pool>,
    /// In a step of generation: the number of sequences, and the number for which memory is asked.
    sequences: Cell<Option<(usize, usize)>>,
    /// The rotations of the last models.
    ropes: RefCell<Vec<Rotations>>,
}

#[derive(Clone, Copy)]
struct Function {
    function: CUfunction,
    /// The dynamic shared memory that it may use.
    shared: usize,
}

/// A table of rotations, with its cosines and sines on the GPU.
struct Rotations {
    table: Arc<RopeTable>,
    cos: Rc<Buffer>,
    sin: Rc<Buffer>,
}

/// An argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Arg {
    /// An address on the device; 0: none.
    Address(u64),
    Int(i32),
    Long(i64),
    Float(f32),
    Double(f64),
}

impl Gpu {
    pub(crate) fn open(ordinal: usize, precision: Precision) -> Result<Gpu> {
        let device = crate::cuda::open(ordinal)?;
        if precision == Precision::Bf16 {
            crate::cuda::check_capability(ordinal, BF16_CAPABILITY).context("precision `bf16`")?;
        }
        let blas = CudaBlas::new(device.clone()).map_err(device_error)?;
        let text = if precision == Precision::Bf16 { BF16 } else { F32 };
        // SAFETY: the text ends with a zero. The module is never unloaded.
        let module = unsafe { module::load_data(text.as_ptr().cast()) }
            .map_err(device_error)
            .context("the GPU's driver refuses this program's kernels")?;
        let functions = RefCell::default();
        let pool = Rc::new(Pool::new(device.clone()));
        let (sequences, ropes) = (Cell::default(), RefCell::default());
        Ok(Gpu(Rc::new(Inner { device, blas, module, functions, precision, pool, sequences, ropes })))
    }

    pub(crate) fn precision(&self) -> Precision {
        self.0.precision
    }

    pub(super) fn blas(&self) -> &CudaBlas {
        &self.0.blas
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
        crate::cuda::available_memory(self.0.device.ordinal())
    }

    pub(crate) fn zeros(&self, bytes: usize) -> Result<Rc<Buffer>> {
        let buffer = self.allocate(bytes)?;
        self.clear(&buffer, bytes)?;
        Ok(buffer)
    }

    /// Fills the first `bytes` of a buffer with zeros.
    pub(crate) fn clear(&self, buffer: &Buffer, bytes: usize) -> Result<()> {
        assert!(bytes <= buffer.bytes(), "BUG: {bytes} bytes of {}", buffer.bytes());
        // SAFETY: the range lies within the buffer.
        unsafe { result::memset_d8_async(buffer.address(), 0, bytes, *self.0.device.cu_stream()) }.map_err(device_error)
    }

    /// Copies values to new memory.
    pub(crate) fn upload<N: Plain>(&self, values: &[N]) -> Result<Rc<Buffer>> {
        let buffer = self.allocate(size_of_val(values))?;
        self.write(&buffer, values)?;
        Ok(buffer)
    }

    /// Copies values to the start of a buffer.
    pub(crate) fn write<N: Plain>(&self, buffer: &Buffer, values: &[N]) -> Result<()> {
        assert!(size_of_val(values) <= buffer.bytes(), "BUG: {} bytes of {}", size_of_val(values), buffer.bytes());
        if values.is_empty() {
            return Ok(());
        }
        // SAFETY: the range lies within the buffer. The driver has read pageable memory when the call returns.
        unsafe { result::memcpy_htod_async(buffer.address(), values, *self.0.device.cu_stream()) }.map_err(device_error)
    }

    /// Copies the first `count` values of a buffer to the host, when all work before has been done.
    pub(crate) fn read<N: Plain>(&self, buffer: &Buffer, count: usize) -> Result<Vec<N>> {
        assert!(count * size_of::<N>() <= buffer.bytes(), "BUG: {count} values of {} bytes", buffer.bytes());
        let mut values = vec![N::default(); count];
        if count > 0 {
            let stream = *self.0.device.cu_stream();
            // SAFETY: the range lies within the buffer, and `values` is not touched before the stream has copied them.
            unsafe {
                result::memcpy_dtoh_async(&mut values, buffer.address(), stream).map_err(device_error)?;
                result::stream::synchronize(stream).map_err(device_error)?;
            }
        }
        Ok(values)
    }

    /// Copies the first `bytes` of a buffer to another.
    pub(crate) fn copy(&self, from: &Buffer, to: &Buffer, bytes: usize) -> Result<()> {
        assert!(bytes <= from.bytes().min(to.bytes()), "BUG: {bytes} bytes of {} to {}", from.bytes(), to.bytes());
        // SAFETY: both ranges lie within their buffers.
        unsafe { result::memcpy_dtod_async(to.address(), from.address(), bytes, *self.0.device.cu_stream()) }
            .map_err(device_error)
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
        let function = self.function(name, shared)?;
        // The driver reads as many bytes of each value as the parameter has.
        let values: Vec<u64> = arguments
            .iter()
            .map(|argument| match *argument {
                Arg::Address(address) => address,
                Arg::Int(value) => u64::from(value.cast_unsigned()),
                Arg::Long(value) => value.cast_unsigned(),
                Arg::Float(value) => u64::from(value.to_bits()),
                Arg::Double(value) => value.to_bits(),
            })
            .collect();
        let mut pointers: Vec<*mut c_void> =
            values.iter().map(|value| std::ptr::from_ref(value).cast_mut().cast()).collect();
        let grid = (grid[0] as u32, grid[1] as u32, 1);
        // SAFETY: the arguments are those of the kernel in `kernels.cu`, and their buffers have the sizes that it accesses.
        unsafe {
            result::launch_kernel(
                function,
                grid,
                (threads as u32, 1, 1),
                shared as u32,
                *self.0.device.cu_stream(),
                &mut pointers,
            )
        }
        .map_err(device_error)
        .with_context(|| format!("kernel `{name}`"))
    }

    /// A kernel that may use `shared` bytes of dynamic shared memory.
    fn function(&self, name: &'static str, shared: usize) -> Result<CUfunction> {
        let known = self.0.functions.borrow().get(name).copied();
        if let Some(Function { function, .. }) = known.filter(|known| shared <= known.shared) {
            return Ok(function);
        }
        let function = match known {
            Some(known) => known.function,
            None => {
                let text = CString::new(name).context("BUG: a kernel's name")?;
                // SAFETY: the module is loaded.
                unsafe { module::get_function(self.0.module, text) }
                    .map_err(device_error)
                    .with_context(|| format!("BUG: no kernel `{name}`"))?
            }
        };
        if shared > SHARED {
            let attribute = CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function comes from the driver.
            let status = unsafe { cuFuncSetAttribute(function, attribute, shared as i32) };
            if status != CUresult::CUDA_SUCCESS {
                bail!("the GPU has less than the {shared} bytes of shared memory per block that kernel `{name}` needs");
            }
        }
        self.0.functions.borrow_mut().insert(name, Function { function, shared: shared.max(SHARED) });
        Ok(function)
    }
}

/// The number of threads for a row of `width` elements, four per thread.
fn row_threads(width: usize) -> usize {
    width.div_ceil(4).next_multiple_of(32).clamp(32, 512)
}

/// Numbers, and structures of numbers without gaps, that may be copied to and from a device as bytes.
///
/// # Safety
/// Every pattern of bits is a value, and there is no padding.
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
