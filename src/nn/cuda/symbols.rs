//! Defines CUDA's functions, as cudarc declares them. Each calls the function of the same name in its library.
//!
//! These are all functions that cudarc 0.9 calls, and those that this program calls itself. A function whose library or
//! symbol is missing returns "not initialized", which cudarc reports as an error.

use std::ffi::{CStr, c_char, c_int, c_longlong, c_uchar, c_uint, c_void};
use std::sync::OnceLock;

use cudarc::cublas::sys::{
    cublasComputeType_t, cublasGemmAlgo_t, cublasHandle_t, cublasOperation_t, cublasStatus_t, cudaDataType,
    cudaStream_t,
};
use cudarc::driver::sys::{
    CUDA_EXTERNAL_MEMORY_BUFFER_DESC, CUDA_EXTERNAL_MEMORY_HANDLE_DESC, CUcontext, CUdevice, CUdevice_attribute,
    CUdeviceptr, CUevent, CUexternalMemory, CUfunction, CUfunction_attribute, CUlaunchConfig, CUmemPool_attribute,
    CUmemoryPool, CUmodule, CUoccupancyB2DSize, CUresult, CUstream,
};

use super::libraries::{Address, Library, symbol};

/// The return type of the functions of a library.
trait Status {
    /// The library or the function is missing.
    const ABSENT: Self;

    /// The status of a code. Newer libraries have codes that cudarc does not know.
    fn of(code: c_uint) -> Self;
}

/// The status codes of cudarc 0.9.
const DRIVER_CODES: &[c_uint] = &[
    0, 1, 2, 3, 4, 5, 6, 7, 8, 34, 46, 100, 101, 102, 200, 201, 202, 205, 206, 207, 208, 209, 210, 211, 212, 213, 214,
    215, 216, 217, 218, 219, 220, 221, 222, 223, 224, 300, 301, 302, 303, 304, 400, 401, 500, 600, 700, 701, 702, 703,
    704, 705, 708, 709, 710, 711, 712, 713, 714, 715, 716, 717, 718, 719, 720, 800, 801, 802, 803, 804, 805, 806, 807,
    808, 809, 810, 900, 901, 902, 903, 904, 905, 906, 907, 908, 909, 910, 911, 912, 999,
];
const BLAS_CODES: &[c_uint] = &[0, 1, 3, 7, 8, 11, 13, 14, 15, 16];

impl Status for CUresult {
    const ABSENT: CUresult = CUresult::CUDA_ERROR_NOT_INITIALIZED;

    fn of(code: c_uint) -> CUresult {
        if DRIVER_CODES.binary_search(&code).is_err() {
            return CUresult::CUDA_ERROR_UNKNOWN;
        }
        // SAFETY: `CUresult` is a `repr(u32)` whose values are those of the list.
        unsafe { std::mem::transmute::<c_uint, CUresult>(code) }
    }
}

impl Status for cublasStatus_t {
    const ABSENT: cublasStatus_t = cublasStatus_t::CUBLAS_STATUS_NOT_INITIALIZED;

    fn of(code: c_uint) -> cublasStatus_t {
        if BLAS_CODES.binary_search(&code).is_err() {
            return cublasStatus_t::CUBLAS_STATUS_INTERNAL_ERROR;
        }
        // SAFETY: `cublasStatus_t` is a `repr(u32)` whose values are those of the list.
        unsafe { std::mem::transmute::<c_uint, cublasStatus_t>(code) }
    }
}

/// Defines functions that look up the library's function of the same name once, and call it.
macro_rules! forward {
    ($library:expr, $status:ident: $(fn $name:ident($($argument:ident: $type:ty),* $(,)?);)*) => { $(
        #[unsafe(no_mangle)]
        #[allow(clippy::too_many_arguments, reason = "the signatures are NVIDIA's")]
        unsafe extern "C" fn $name($($argument: $type),*) -> $status {
            static ADDRESS: OnceLock<Option<Address>> = OnceLock::new();
            let Some(Address(address)) = *ADDRESS.get_or_init(|| symbol($library, stringify!($name))) else {
                return $status::ABSENT;
            };
            // SAFETY: NVIDIA's function of this name has these parameters in all versions from 11 on, and returns an
            // enumeration, which C passes as this integer. The caller is responsible for the arguments.
            unsafe {
                let function: unsafe extern "C" fn($($type),*) -> c_uint = std::mem::transmute(address);
                $status::of(function($($argument),*))
            }
        }
    )* };
}

forward! { Library::Driver, CUresult:
    fn cuCtxGetCurrent(pctx: *mut CUcontext);
    fn cuCtxSetCurrent(ctx: CUcontext);
    fn cuDestroyExternalMemory(ext_mem: CUexternalMemory);
    fn cuDeviceGet(device: *mut CUdevice, ordinal: c_int);
    fn cuDeviceGetAttribute(pi: *mut c_int, attrib: CUdevice_attribute, dev: CUdevice);
    fn cuDeviceGetCount(count: *mut c_int);
    fn cuDeviceGetDefaultMemPool(pool: *mut CUmemoryPool, device: CUdevice);
    fn cuDeviceGetName(name: *mut c_char, len: c_int, dev: CUdevice);
    fn cuDevicePrimaryCtxRelease_v2(dev: CUdevice);
    fn cuDevicePrimaryCtxRetain(pctx: *mut CUcontext, dev: CUdevice);
    fn cuDeviceTotalMem_v2(bytes: *mut usize, dev: CUdevice);
    fn cuDriverGetVersion(driver_version: *mut c_int);
    fn cuEventCreate(ph_event: *mut CUevent, flags: c_uint);
    fn cuEventDestroy_v2(h_event: CUevent);
    fn cuEventElapsedTime(p_milliseconds: *mut f32, h_start: CUevent, h_end: CUevent);
    fn cuEventRecord(h_event: CUevent, h_stream: CUstream);
    fn cuExternalMemoryGetMappedBuffer(dev_ptr: *mut CUdeviceptr, ext_mem: CUexternalMemory, buffer_desc: *const CUDA_EXTERNAL_MEMORY_BUFFER_DESC);
    fn cuFuncSetAttribute(hfunc: CUfunction, attrib: CUfunction_attribute, value: c_int);
    fn cuImportExternalMemory(ext_mem_out: *mut CUexternalMemory, mem_handle_desc: *const CUDA_EXTERNAL_MEMORY_HANDLE_DESC);
    fn cuInit(flags: c_uint);
    fn cuLaunchKernel(f: CUfunction, grid_dim_x: c_uint, grid_dim_y: c_uint, grid_dim_z: c_uint, block_dim_x: c_uint, block_dim_y: c_uint, block_dim_z: c_uint, shared_mem_bytes: c_uint, h_stream: CUstream, kernel_params: *mut *mut c_void, extra: *mut *mut c_void);
    fn cuMemAllocAsync(dptr: *mut CUdeviceptr, bytesize: usize, h_stream: CUstream);
    fn cuMemAlloc_v2(dptr: *mut CUdeviceptr, bytesize: usize);
    fn cuMemFreeAsync(dptr: CUdeviceptr, h_stream: CUstream);
    fn cuMemFree_v2(dptr: CUdeviceptr);
    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize);
    fn cuMemPoolSetAttribute(pool: CUmemoryPool, attribute: CUmemPool_attribute, value: *mut c_void);
    fn cuMemPoolTrimTo(pool: CUmemoryPool, min_bytes_to_keep: usize);
    fn cuMemcpyDtoDAsync_v2(dst_device: CUdeviceptr, src_device: CUdeviceptr, byte_count: usize, h_stream: CUstream);
    fn cuMemcpyDtoD_v2(dst_device: CUdeviceptr, src_device: CUdeviceptr, byte_count: usize);
    fn cuMemcpyDtoHAsync_v2(dst_host: *mut c_void, src_device: CUdeviceptr, byte_count: usize, h_stream: CUstream);
    fn cuMemcpyDtoH_v2(dst_host: *mut c_void, src_device: CUdeviceptr, byte_count: usize);
    fn cuMemcpyHtoDAsync_v2(dst_device: CUdeviceptr, src_host: *const c_void, byte_count: usize, h_stream: CUstream);
    fn cuMemcpyHtoD_v2(dst_device: CUdeviceptr, src_host: *const c_void, byte_count: usize);
    fn cuMemsetD8Async(dst_device: CUdeviceptr, uc: c_uchar, n: usize, h_stream: CUstream);
    fn cuMemsetD8_v2(dst_device: CUdeviceptr, uc: c_uchar, n: usize);
    fn cuModuleGetFunction(hfunc: *mut CUfunction, hmod: CUmodule, name: *const c_char);
    fn cuModuleLoad(module: *mut CUmodule, fname: *const c_char);
    fn cuModuleLoadData(module: *mut CUmodule, image: *const c_void);
    fn cuModuleUnload(hmod: CUmodule);
    fn cuOccupancyAvailableDynamicSMemPerBlock(dynamic_smem_size: *mut usize, func: CUfunction, num_blocks: c_int, block_size: c_int);
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(num_blocks: *mut c_int, func: CUfunction, block_size: c_int, dynamic_smem_size: usize);
    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(num_blocks: *mut c_int, func: CUfunction, block_size: c_int, dynamic_smem_size: usize, flags: c_uint);
    fn cuOccupancyMaxActiveClusters(num_clusters: *mut c_int, func: CUfunction, config: *const CUlaunchConfig);
    fn cuOccupancyMaxPotentialBlockSize(min_grid_size: *mut c_int, block_size: *mut c_int, func: CUfunction, block_size_to_dynamic_smem_size: CUoccupancyB2DSize, dynamic_smem_size: usize, block_size_limit: c_int);
    fn cuOccupancyMaxPotentialBlockSizeWithFlags(min_grid_size: *mut c_int, block_size: *mut c_int, func: CUfunction, block_size_to_dynamic_smem_size: CUoccupancyB2DSize, dynamic_smem_size: usize, block_size_limit: c_int, flags: c_uint);
    fn cuOccupancyMaxPotentialClusterSize(cluster_size: *mut c_int, func: CUfunction, config: *const CUlaunchConfig);
    fn cuProfilerStart();
    fn cuProfilerStop();
    fn cuStreamCreate(ph_stream: *mut CUstream, flags: c_uint);
    fn cuStreamDestroy_v2(h_stream: CUstream);
    fn cuStreamSynchronize(h_stream: CUstream);
    fn cuStreamWaitEvent(h_stream: CUstream, h_event: CUevent, flags: c_uint);
}

forward! { Library::Blas, cublasStatus_t:
    fn cublasCreate_v2(handle: *mut cublasHandle_t);
    fn cublasDestroy_v2(handle: cublasHandle_t);
    fn cublasDgemmStridedBatched(handle: cublasHandle_t, transa: cublasOperation_t, transb: cublasOperation_t, m: c_int, n: c_int, k: c_int, alpha: *const f64, a: *const f64, lda: c_int, stride_a: c_longlong, b: *const f64, ldb: c_int, stride_b: c_longlong, beta: *const f64, c: *mut f64, ldc: c_int, stride_c: c_longlong, batch_count: c_int);
    fn cublasDgemm_v2(handle: cublasHandle_t, transa: cublasOperation_t, transb: cublasOperation_t, m: c_int, n: c_int, k: c_int, alpha: *const f64, a: *const f64, lda: c_int, b: *const f64, ldb: c_int, beta: *const f64, c: *mut f64, ldc: c_int);
    fn cublasDgemv_v2(handle: cublasHandle_t, trans: cublasOperation_t, m: c_int, n: c_int, alpha: *const f64, a: *const f64, lda: c_int, x: *const f64, incx: c_int, beta: *const f64, y: *mut f64, incy: c_int);
    fn cublasGemmEx(handle: cublasHandle_t, transa: cublasOperation_t, transb: cublasOperation_t, m: c_int, n: c_int, k: c_int, alpha: *const c_void, a: *const c_void, atype: cudaDataType, lda: c_int, b: *const c_void, btype: cudaDataType, ldb: c_int, beta: *const c_void, c: *mut c_void, ctype: cudaDataType, ldc: c_int, compute_type: cublasComputeType_t, algo: cublasGemmAlgo_t);
    fn cublasGemmStridedBatchedEx(handle: cublasHandle_t, transa: cublasOperation_t, transb: cublasOperation_t, m: c_int, n: c_int, k: c_int, alpha: *const c_void, a: *const c_void, atype: cudaDataType, lda: c_int, stride_a: c_longlong, b: *const c_void, btype: cudaDataType, ldb: c_int, stride_b: c_longlong, beta: *const c_void, c: *mut c_void, ctype: cudaDataType, ldc: c_int, stride_c: c_longlong, batch_count: c_int, compute_type: cublasComputeType_t, algo: cublasGemmAlgo_t);
    fn cublasSetStream_v2(handle: cublasHandle_t, stream_id: cudaStream_t);
    fn cublasSgemmStridedBatched(handle: cublasHandle_t, transa: cublasOperation_t, transb: cublasOperation_t, m: c_int, n: c_int, k: c_int, alpha: *const f32, a: *const f32, lda: c_int, stride_a: c_longlong, b: *const f32, ldb: c_int, stride_b: c_longlong, beta: *const f32, c: *mut f32, ldc: c_int, stride_c: c_longlong, batch_count: c_int);
    fn cublasSgemm_v2(handle: cublasHandle_t, transa: cublasOperation_t, transb: cublasOperation_t, m: c_int, n: c_int, k: c_int, alpha: *const f32, a: *const f32, lda: c_int, b: *const f32, ldb: c_int, beta: *const f32, c: *mut f32, ldc: c_int);
    fn cublasSgemv_v2(handle: cublasHandle_t, trans: cublasOperation_t, m: c_int, n: c_int, alpha: *const f32, a: *const f32, lda: c_int, x: *const f32, incx: c_int, beta: *const f32, y: *mut f32, incy: c_int);
}

/// Defines the two functions that describe a status. cudarc unwraps their results, so they always succeed.
macro_rules! describe {
    ($($name:ident),*) => { $(
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name(error: CUresult, text: *mut *const c_char) -> CUresult {
            const NONE: &CStr = c"the CUDA driver is missing";
            static ADDRESS: OnceLock<Option<Address>> = OnceLock::new();
            let address = *ADDRESS.get_or_init(|| symbol(Library::Driver, stringify!($name)));
            // SAFETY: as for the other functions; `text` is a valid pointer for a static string.
            unsafe {
                *text = NONE.as_ptr();
                if let Some(Address(address)) = address {
                    let function: unsafe extern "C" fn(c_uint, *mut *const c_char) -> c_uint =
                        std::mem::transmute(address);
                    if function(error as c_uint, text) != 0 || (*text).is_null() {
                        *text = c"an error that the CUDA driver has no name for".as_ptr();
                    }
                }
            }
            CUresult::CUDA_SUCCESS
        }
    )* };
}

describe! { cuGetErrorName, cuGetErrorString }

/// The driver's description of a status.
pub(super) fn describe(status: CUresult) -> String {
    let mut text: *const c_char = std::ptr::null();
    // SAFETY: for every status, the function writes a pointer to a static string that ends with a zero.
    let text = unsafe {
        cuGetErrorString(status, &raw mut text);
        CStr::from_ptr(text)
    };
    format!("{} ({status:?})", text.to_string_lossy())
}
