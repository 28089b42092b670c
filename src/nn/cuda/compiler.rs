//! CUDA's run-time compiler, which this program does without. dfdx compiles a few kernels when they are first used, from
//! texts that include files of the machine it was built on; those that the model uses are compiled ahead, and here they
//! are handed out under the compiler's name.

use std::ffi::{CStr, c_char, c_int};

use cudarc::nvrtc::sys::{nvrtcProgram, nvrtcResult};

/// A kernel that dfdx asks to be compiled.
struct Kernel {
    /// What the text of this kernel, and of no other, has in it.
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

/// A program is the kernel that its text is found to be.
#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcCreateProgram(
    program: *mut nvrtcProgram,
    text: *const c_char,
    _name: *const c_char,
    _headers: c_int,
    _header_texts: *const *const c_char,
    _header_names: *const *const c_char,
) -> nvrtcResult {
    // SAFETY: the caller hands over a text that ends.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let Some(kernel) = KERNELS.iter().find(|kernel| kernel.marks.iter().all(|mark| text.contains(mark))) else {
        return nvrtcResult::NVRTC_ERROR_PROGRAM_CREATION_FAILURE;
    };
    // SAFETY: `program` is where the caller wants the handle.
    unsafe { *program = std::ptr::from_ref(kernel).cast_mut().cast() };
    nvrtcResult::NVRTC_SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcCompileProgram(_: nvrtcProgram, _: c_int, _: *const *const c_char) -> nvrtcResult {
    nvrtcResult::NVRTC_SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcGetPTXSize(program: nvrtcProgram, size: *mut usize) -> nvrtcResult {
    // SAFETY: a program is one of the kernels above; `size` is where the caller wants the number.
    unsafe { *size = (*program.cast::<Kernel>()).ptx.count_bytes() + 1 };
    nvrtcResult::NVRTC_SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcGetPTX(program: nvrtcProgram, text: *mut c_char) -> nvrtcResult {
    // SAFETY: a program is one of the kernels above; the caller has made room for as much as it was told.
    unsafe {
        let ptx = (*program.cast::<Kernel>()).ptx;
        std::ptr::copy_nonoverlapping(ptx.as_ptr(), text, ptx.count_bytes() + 1);
    }
    nvrtcResult::NVRTC_SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcGetProgramLogSize(_: nvrtcProgram, size: *mut usize) -> nvrtcResult {
    // SAFETY: `size` is where the caller wants the number.
    unsafe { *size = 1 };
    nvrtcResult::NVRTC_SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcGetProgramLog(_: nvrtcProgram, text: *mut c_char) -> nvrtcResult {
    // SAFETY: the caller has made room for as much as it was told.
    unsafe { *text = 0 };
    nvrtcResult::NVRTC_SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcDestroyProgram(_: *mut nvrtcProgram) -> nvrtcResult {
    nvrtcResult::NVRTC_SUCCESS
}
