//! The functions under NVIDIA's names. Their arguments are those of NVIDIA's documentation.

use std::ffi::{CStr, c_int, c_longlong, c_uint, c_void};

use crate::driver::{Handle, is_available};
use crate::format::Format;
use crate::product::{Matrix, Place, Product};
use crate::status::{INVALID_VALUE, NOT_INITIALIZED, NOT_SUPPORTED, SUCCESS};

/// What a handle points to.
struct Blas {
    stream: Handle,
    /// Whether products of `f32` are rounded to TF32.
    tf32: bool,
}

/// Alpha and beta are in memory of the host.
const HOST_POINTERS: c_uint = 0;
const TF32_MATH: c_uint = 3;
const COMPUTE_32F: c_uint = 68;
const COMPUTE_32F_PEDANTIC: c_uint = 69;
const COMPUTE_32F_FAST_TF32: c_uint = 77;
const VERSION: c_int = 120_400;

/// Defines functions that return a status.
macro_rules! blas {
    ($(fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block)*) => { $(
        /// As NVIDIA documents it.
        ///
        /// # Safety
        /// Pointers must be as NVIDIA's function needs them.
        #[unsafe(no_mangle)]
        #[allow(clippy::too_many_arguments, reason = "the signatures are NVIDIA's")]
        unsafe extern "C" fn $name($($argument: $type),*) -> c_uint {
            // SAFETY: the caller is responsible for the arguments.
            #[allow(unused_unsafe, reason = "some functions only return a number")]
            unsafe { $body }
        }
    )* };
}

/// A product and the types of its matrices, as codes.
struct Arguments {
    product: Product,
    types: [c_uint; 3],
    compute: c_uint,
}

/// # Safety
/// The handle is null or one of `cublasCreate_v2`.
unsafe fn submit(name: &CStr, handle: Handle, arguments: &Arguments) -> c_uint {
    // SAFETY: the caller says so.
    let Some(blas) = (unsafe { handle.cast::<Blas>().as_ref() }) else { return NOT_INITIALIZED };
    let Arguments { mut product, types, compute } = *arguments;
    let [Some(a), Some(b), Some(c)] = types.map(Format::of) else {
        eprintln!("emulated cuBLAS: {name:?}: the types {types:?} are not supported");
        return NOT_SUPPORTED;
    };
    (product.a.format, product.b.format, product.c.format) = (a, b, c);
    product.rounds = match compute {
        COMPUTE_32F => blas.tf32 && a == Format::F32,
        COMPUTE_32F_PEDANTIC => false,
        COMPUTE_32F_FAST_TF32 if a == Format::F32 => true,
        _ => {
            eprintln!("emulated cuBLAS: {name:?}: the compute type {compute} is not supported for these types");
            return NOT_SUPPORTED;
        }
    };
    product.submit(name, blas.stream)
}

fn matrix(place: Place, leading: c_int) -> Matrix {
    Matrix { place, format: Format::F32, leading }
}

fn strided<T>(start: *const T, stride: c_longlong) -> Place {
    Place::Strided { start: start as u64, stride }
}

blas! {
    fn cublasCreate_v2(handle: *mut Handle) {
        if !is_available() {
            eprintln!("emulated cuBLAS: the emulated driver libcuda.so.1 is not in the same folder");
            return NOT_INITIALIZED;
        }
        *handle = Box::into_raw(Box::new(Blas { stream: std::ptr::null_mut(), tf32: false })).cast();
        SUCCESS
    }
    fn cublasDestroy_v2(handle: Handle) {
        if handle.is_null() { return NOT_INITIALIZED; }
        drop(Box::from_raw(handle.cast::<Blas>()));
        SUCCESS
    }
    fn cublasGetVersion_v2(_handle: Handle, version: *mut c_int) { *version = VERSION; SUCCESS }
    fn cublasSetStream_v2(handle: Handle, stream: Handle) {
        let Some(blas) = handle.cast::<Blas>().as_mut() else { return NOT_INITIALIZED };
        blas.stream = stream;
        SUCCESS
    }
    fn cublasGetStream_v2(handle: Handle, stream: *mut Handle) {
        let Some(blas) = handle.cast::<Blas>().as_ref() else { return NOT_INITIALIZED };
        *stream = blas.stream;
        SUCCESS
    }
    fn cublasSetMathMode(handle: Handle, mode: c_uint) {
        let Some(blas) = handle.cast::<Blas>().as_mut() else { return NOT_INITIALIZED };
        // The upper bits are flags.
        if mode & 0xf > TF32_MATH { return INVALID_VALUE; }
        blas.tf32 = mode & 0xf == TF32_MATH;
        SUCCESS
    }
    fn cublasSetPointerMode_v2(handle: Handle, mode: c_uint) {
        if handle.is_null() { return NOT_INITIALIZED; }
        if mode == HOST_POINTERS { SUCCESS } else { NOT_SUPPORTED }
    }
    fn cublasSetWorkspace_v2(handle: Handle, workspace: *mut c_void, len: usize) {
        if handle.is_null() { return NOT_INITIALIZED; }
        if len > 0 && !(workspace as usize).is_multiple_of(256) { return INVALID_VALUE; }
        SUCCESS
    }

    fn cublasSgemm_v2(
        handle: Handle, ta: c_uint, tb: c_uint, m: c_int, n: c_int, k: c_int, alpha: *const f32, a: *const f32, lda: c_int,
        b: *const f32, ldb: c_int, beta: *const f32, c: *mut f32, ldc: c_int,
    ) {
        let (a, b, c) = (matrix(strided(a, 0), lda), matrix(strided(b, 0), ldb), matrix(strided(c, 0), ldc));
        let product = Product { transposed: [ta, tb], m, n, k, alpha: *alpha, beta: *beta, a, b, c, count: 1, rounds: false };
        submit(c"cublasSgemm", handle, &Arguments { product, types: [0; 3], compute: COMPUTE_32F })
    }
    fn cublasSgemmStridedBatched(
        handle: Handle, ta: c_uint, tb: c_uint, m: c_int, n: c_int, k: c_int, alpha: *const f32, a: *const f32, lda: c_int,
        stride_a: c_longlong, b: *const f32, ldb: c_int, stride_b: c_longlong, beta: *const f32, c: *mut f32, ldc: c_int,
        stride_c: c_longlong, count: c_int,
    ) {
        let (a, b) = (matrix(strided(a, stride_a), lda), matrix(strided(b, stride_b), ldb));
        let c = matrix(strided(c, stride_c), ldc);
        let product = Product { transposed: [ta, tb], m, n, k, alpha: *alpha, beta: *beta, a, b, c, count, rounds: false };
        submit(c"cublasSgemmStridedBatched", handle, &Arguments { product, types: [0; 3], compute: COMPUTE_32F })
    }
    fn cublasGemmEx(
        handle: Handle, ta: c_uint, tb: c_uint, m: c_int, n: c_int, k: c_int, alpha: *const f32, a: *const c_void,
        type_a: c_uint, lda: c_int, b: *const c_void, type_b: c_uint, ldb: c_int, beta: *const f32, c: *mut c_void,
        type_c: c_uint, ldc: c_int, compute: c_uint, _algorithm: c_int,
    ) {
        let (a, b, c) = (matrix(strided(a, 0), lda), matrix(strided(b, 0), ldb), matrix(strided(c, 0), ldc));
        let product = Product { transposed: [ta, tb], m, n, k, alpha: *alpha, beta: *beta, a, b, c, count: 1, rounds: false };
        submit(c"cublasGemmEx", handle, &Arguments { product, types: [type_a, type_b, type_c], compute })
    }
    fn cublasGemmStridedBatchedEx(
        handle: Handle, ta: c_uint, tb: c_uint, m: c_int, n: c_int, k: c_int, alpha: *const f32, a: *const c_void,
        type_a: c_uint, lda: c_int, stride_a: c_longlong, b: *const c_void, type_b: c_uint, ldb: c_int,
        stride_b: c_longlong, beta: *const f32, c: *mut c_void, type_c: c_uint, ldc: c_int, stride_c: c_longlong,
        count: c_int, compute: c_uint, _algorithm: c_int,
    ) {
        let (a, b) = (matrix(strided(a, stride_a), lda), matrix(strided(b, stride_b), ldb));
        let c = matrix(strided(c, stride_c), ldc);
        let product = Product { transposed: [ta, tb], m, n, k, alpha: *alpha, beta: *beta, a, b, c, count, rounds: false };
        submit(c"cublasGemmStridedBatchedEx", handle, &Arguments { product, types: [type_a, type_b, type_c], compute })
    }
    fn cublasGemmBatchedEx(
        handle: Handle, ta: c_uint, tb: c_uint, m: c_int, n: c_int, k: c_int, alpha: *const f32, a: *const c_void,
        type_a: c_uint, lda: c_int, b: *const c_void, type_b: c_uint, ldb: c_int, beta: *const f32, c: *const c_void,
        type_c: c_uint, ldc: c_int, count: c_int, compute: c_uint, _algorithm: c_int,
    ) {
        let [a, b, c] = [(a, lda), (b, ldb), (c, ldc)].map(|(array, ld)| matrix(Place::Pointers(array as u64), ld));
        let product = Product { transposed: [ta, tb], m, n, k, alpha: *alpha, beta: *beta, a, b, c, count, rounds: false };
        submit(c"cublasGemmBatchedEx", handle, &Arguments { product, types: [type_a, type_b, type_c], compute })
    }
}
