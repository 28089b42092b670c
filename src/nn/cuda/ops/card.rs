//! A card: its kernels, cuBLAS, memory and copies.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::{CString, c_void};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use cudarc::cublas::CudaBlas;
use cudarc::cublas::result::gemm_ex;
use cudarc::cublas::sys::{cublasComputeType_t, cublasGemmAlgo_t, cublasOperation_t, cudaDataType};
use cudarc::driver::CudaDevice;
use cudarc::driver::result::{self, module};
use cudarc::driver::sys::{
    CUdevice_attribute_enum, CUfunction, CUfunction_attribute_enum, CUmodule, CUresult, CUstream, cuFuncSetAttribute,
};

use super::driver::{Arg, Driver, Gemm, Launch};
use crate::Precision;
use crate::device_error::device_error;

/// `kernels.cu`, compiled by `build.rs`, with the zero at the end that the driver needs.
const F32: &str = concat!(include_str!(concat!(env!("OUT_DIR"), "/f32.ptx")), "\0");
const BF16: &str = concat!(include_str!(concat!(env!("OUT_DIR"), "/bf16.ptx")), "\0");

/// The oldest compute capability with bf16.
const BF16_CAPABILITY: (i32, i32) = (8, 0);

/// Dynamic shared memory that every kernel may use. Up to 48 KiB need not be asked for, with that of fixed size.
const SHARED: usize = 40 << 10;

#[derive(Clone, Copy)]
struct Function {
    function: CUfunction,
    /// The dynamic shared memory that it may use.
    shared: usize,
}

pub(super) struct Card {
    device: Arc<CudaDevice>,
    blas: CudaBlas,
    module: CUmodule,
    functions: RefCell<BTreeMap<&'static str, Function>>,
    /// Whether the driver has pools of its own, with functions that wait for nothing.
    pools: bool,
}

impl Card {
    pub(super) fn open(ordinal: usize, precision: Precision) -> Result<Card> {
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
        let attribute = CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED;
        let pools = device.attribute(attribute).is_ok_and(|value| value > 0);
        Ok(Card { device, blas, module, functions: RefCell::default(), pools })
    }

    fn stream(&self) -> CUstream {
        *self.device.cu_stream()
    }

    /// A kernel that may use `shared` bytes of dynamic shared memory.
    fn function(&self, name: &'static str, shared: usize) -> Result<CUfunction> {
        let known = self.functions.borrow().get(name).copied();
        if let Some(Function { function, .. }) = known.filter(|known| shared <= known.shared) {
            return Ok(function);
        }
        let function = if let Some(known) = known {
            known.function
        } else {
            let text = CString::new(name).context("BUG: a kernel's name")?;
            // SAFETY: the module is loaded.
            unsafe { module::get_function(self.module, text) }
                .map_err(device_error)
                .with_context(|| format!("BUG: no kernel `{name}`"))?
        };
        if shared > SHARED {
            let attribute = CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function comes from the driver.
            let status = unsafe { cuFuncSetAttribute(function, attribute, shared as i32) };
            if status != CUresult::CUDA_SUCCESS {
                bail!("the GPU has less than the {shared} bytes of shared memory per block that kernel `{name}` needs");
            }
        }
        self.functions.borrow_mut().insert(name, Function { function, shared: shared.max(SHARED) });
        Ok(function)
    }
}

impl Driver for Card {
    fn allocate(&self, bytes: usize) -> Result<u64> {
        // SAFETY: the size is not 0, and the stream is the device's.
        let address =
            unsafe { if self.pools { result::malloc_async(self.stream(), bytes) } else { result::malloc_sync(bytes) } };
        address.map_err(device_error)
    }

    fn free(&self, address: u64) -> Result<()> {
        // SAFETY: the memory came from `allocate`, and nothing on the host refers to it.
        unsafe { if self.pools { result::free_async(address, self.stream()) } else { result::free_sync(address) } }
            .map_err(device_error)
    }

    fn free_memory(&self) -> Result<usize> {
        crate::cuda::available_memory(self.device.ordinal())
    }

    fn synchronize(&self) -> Result<()> {
        // SAFETY: the stream is the device's.
        unsafe { result::stream::synchronize(self.stream()) }.map_err(device_error)
    }

    fn clear(&self, address: u64, bytes: usize) -> Result<()> {
        // SAFETY: the caller's range lies within its buffer.
        unsafe { result::memset_d8_async(address, 0, bytes, self.stream()) }.map_err(device_error)
    }

    fn write(&self, address: u64, values: &[u8]) -> Result<()> {
        // SAFETY: the caller's range lies within its buffer. The driver has read pageable memory when the call returns.
        unsafe { result::memcpy_htod_async(address, values, self.stream()) }.map_err(device_error)
    }

    fn read(&self, address: u64, values: &mut [u8]) -> Result<()> {
        // SAFETY: the caller's range lies within its buffer, and `values` is not touched before the stream has copied them.
        unsafe { result::memcpy_dtoh_async(values, address, self.stream()) }.map_err(device_error)?;
        self.synchronize()
    }

    fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<()> {
        // SAFETY: the caller's ranges lie within their buffers.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream()) }.map_err(device_error)
    }

    fn launch(&self, launch: &Launch) -> Result<()> {
        let Launch { name, grid, threads, shared, arguments } = *launch;
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
        let threads = (threads as u32, 1, 1);
        // SAFETY: the arguments are those of the kernel in `kernels.cu`, and their buffers have the sizes that it accesses.
        unsafe { result::launch_kernel(function, grid, threads, shared as u32, self.stream(), &mut pointers) }
            .map_err(device_error)
            .with_context(|| format!("kernel `{name}`"))
    }

    fn gemm(&self, gemm: &Gemm) -> Result<()> {
        let Gemm { transposed, m, n, k, a, b, c, alpha, beta, precision, factor_size, result_size } = *gemm;
        let operation =
            |transposed| if transposed { cublasOperation_t::CUBLAS_OP_T } else { cublasOperation_t::CUBLAS_OP_N };
        let number = |size: usize| if size == 2 { cudaDataType::CUDA_R_16BF } else { cudaDataType::CUDA_R_32F };
        let compute = match precision {
            Precision::Tf32 => cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
            Precision::F32 | Precision::Bf16 => cublasComputeType_t::CUBLAS_COMPUTE_32F,
        };
        // SAFETY: the caller's matrices lie within their buffers, and the factors of the product are read during the call.
        unsafe {
            gemm_ex(
                *self.blas.handle(),
                operation(transposed[0]),
                operation(transposed[1]),
                m as i32,
                n as i32,
                k as i32,
                (&raw const alpha).cast(),
                a.0 as *const _,
                number(factor_size),
                a.1 as i32,
                b.0 as *const _,
                number(factor_size),
                b.1 as i32,
                (&raw const beta).cast(),
                c as *mut _,
                number(result_size),
                m as i32,
                compute,
                cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        }
        .map_err(device_error)
    }
}
