//! The connection to the emulated driver, which runs or records every product.

use std::ffi::{CStr, CString, OsStr, c_char, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::OnceLock;

use crate::status::{EXECUTION_FAILED, NOT_INITIALIZED, SUCCESS};

pub(crate) type Handle = *mut c_void;

/// A range of device memory, and 1 if it is written.
#[repr(C)]
pub(crate) struct Range {
    pub(crate) start: u64,
    pub(crate) len: u64,
    pub(crate) writes: u64,
}

type CheckRanges = unsafe extern "C" fn(context: usize, ranges: *const Range, count: usize) -> u32;

/// Checks the ranges that a product uses.
pub(crate) struct Access {
    check: CheckRanges,
    context: usize,
}

impl Access {
    pub(crate) fn check(&self, ranges: &[Range]) -> Result<(), u32> {
        // SAFETY: the driver gave the function with its context.
        match unsafe { (self.check)(self.context, ranges.as_ptr(), ranges.len()) } {
            SUCCESS => Ok(()),
            status => Err(status),
        }
    }
}

/// Work that the driver runs now, or at each launch of a graph.
pub(crate) trait Work: Send {
    fn run(&self, access: &Access) -> Result<(), u32>;
}

type Run = unsafe extern "C" fn(data: usize, check: CheckRanges, context: usize) -> u32;
type Release = unsafe extern "C" fn(data: usize);

/// A call, with the layout of the driver's `Call`.
#[repr(C)]
struct Call {
    name: *const c_char,
    stream: Handle,
    matrices: u64,
    flops: f64,
    data: usize,
    run: Run,
    release: Release,
}

unsafe extern "C" fn run(data: usize, check: CheckRanges, context: usize) -> u32 {
    // SAFETY: `data` is that of the call.
    let work = unsafe { &*(data as *const Box<dyn Work>) };
    work.run(&Access { check, context }).err().unwrap_or(SUCCESS)
}

unsafe extern "C" fn release(data: usize) {
    // SAFETY: as above; the driver calls this once.
    drop(unsafe { Box::from_raw(data as *mut Box<dyn Work>) });
}

type Submit = unsafe extern "C" fn(*const Call) -> u32;

/// The driver's function, from the library in the same folder.
fn submit_function() -> Option<Submit> {
    static FOUND: OnceLock<Option<Submit>> = OnceLock::new();
    *FOUND.get_or_init(|| {
        // SAFETY: these are calls of the dynamic linker, and the function has this type.
        unsafe {
            let mut info: libc::Dl_info = std::mem::zeroed();
            if libc::dladdr(submit_function as *const c_void, &raw mut info) == 0 {
                return None;
            }
            let own = Path::new(OsStr::from_bytes(CStr::from_ptr(info.dli_fname).to_bytes()));
            let driver = CString::new(own.with_file_name("libcuda.so.1").as_os_str().as_bytes()).ok()?;
            let library = libc::dlopen(driver.as_ptr(), libc::RTLD_NOW);
            if library.is_null() {
                return None;
            }
            let address = libc::dlsym(library, c"emulated_gpu_submit".as_ptr());
            (!address.is_null()).then(|| std::mem::transmute::<*mut c_void, Submit>(address))
        }
    })
}

pub(crate) fn is_available() -> bool {
    submit_function().is_some()
}

/// Gives work to the driver, and returns a status of cuBLAS.
pub(crate) fn submit(name: &CStr, stream: Handle, matrices: u64, flops: f64, work: Box<dyn Work>) -> u32 {
    let Some(submit) = submit_function() else { return NOT_INITIALIZED };
    let data = Box::into_raw(Box::new(work)) as usize;
    let call = Call { name: name.as_ptr(), stream, matrices, flops, data, run, release };
    // SAFETY: the call is valid, and the driver releases its data.
    if unsafe { submit(&raw const call) } == SUCCESS { SUCCESS } else { EXECUTION_FAILED }
}
