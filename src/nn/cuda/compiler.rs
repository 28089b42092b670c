//! Replaces NVRTC, CUDA's run-time compiler. dfdx compiles a few kernels at their first use, from sources that include files of
//! the build machine. The kernels that the model uses are compiled by `build.rs`, and the functions of NVRTC that are defined
//! here return them.

use std::ffi::{CStr, c_char, c_int};

use cudarc::nvrtc::sys::{nvrtcProgram, nvrtcResult};

/// A kernel that dfdx compiles.
struct Kernel {
    /// Strings that only the source of this kernel contains.
    marks: [&'static str; 2],
    ptx: &'static CStr,
}

/// `reshape.cu`, compiled by `build.rs`.
const RESHAPE: &CStr = {
    let Ok(text) =
        CStr::from_bytes_with_nul(concat!(include_str!(concat!(env!("OUT_DIR"), "/reshape.ptx")), "\0").as_bytes())
    else {
        panic!("a compiled kernel contains a zero")
    };
    text
};

static KERNELS: [Kernel; 2] = [
    Kernel { marks: ["void reshape_fwd(", "const float *inp"], ptx: RESHAPE },
    Kernel { marks: ["void reshape_bwd(", "float *grad_inp"], ptx: RESHAPE },
];

/// The handle of a program is a pointer to its kernel, found by its source.
#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcCreateProgram(
    program: *mut nvrtcProgram,
    text: *const c_char,
    _name: *const c_char,
    _headers: c_int,
    _header_texts: *const *const c_char,
    _header_names: *const *const c_char,
) -> nvrtcResult {
    // SAFETY: the caller passes a string that ends with a zero.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let Some(kernel) = KERNELS.iter().find(|kernel| kernel.marks.iter().all(|mark| text.contains(mark))) else {
        return nvrtcResult::NVRTC_ERROR_PROGRAM_CREATION_FAILURE;
    };
    // SAFETY: `program` is a valid pointer for the handle.
    unsafe { *program = std::ptr::from_ref(kernel).cast_mut().cast() };
    nvrtcResult::NVRTC_SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcCompileProgram(_: nvrtcProgram, _: c_int, _: *const *const c_char) -> nvrtcResult {
    nvrtcResult::NVRTC_SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcGetPTXSize(program: nvrtcProgram, size: *mut usize) -> nvrtcResult {
    // SAFETY: a program is one of the kernels above; `size` is a valid pointer for the number.
    unsafe { *size = (*program.cast::<Kernel>()).ptx.count_bytes() + 1 };
    nvrtcResult::NVRTC_SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcGetPTX(program: nvrtcProgram, text: *mut c_char) -> nvrtcResult {
    // SAFETY: a program is one of the kernels above; the caller has allocated the size that it was given.
    unsafe {
        let ptx = (*program.cast::<Kernel>()).ptx;
        std::ptr::copy_nonoverlapping(ptx.as_ptr(), text, ptx.count_bytes() + 1);
    }
    nvrtcResult::NVRTC_SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcGetProgramLogSize(_: nvrtcProgram, size: *mut usize) -> nvrtcResult {
    // SAFETY: `size` is a valid pointer for the number.
    unsafe { *size = 1 };
    nvrtcResult::NVRTC_SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcGetProgramLog(_: nvrtcProgram, text: *mut c_char) -> nvrtcResult {
    // SAFETY: the caller has allocated the size that it was given.
    unsafe { *text = 0 };
    nvrtcResult::NVRTC_SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcDestroyProgram(_: *mut nvrtcProgram) -> nvrtcResult {
    nvrtcResult::NVRTC_SUCCESS
}
