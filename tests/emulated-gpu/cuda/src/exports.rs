//! Functions of the emulator: counts for tests, and calls of the emulated cuBLAS.

use std::ffi::{CStr, c_char};
use std::fs::File;
use std::io::Write as _;

use crate::abi::{Handle, with};
use crate::counts::Products;
use crate::state::{State, state};
use crate::status::SUCCESS;
use crate::work::{Product, Range, Release, Run, Work};

/// Writes the counts as JSON, with a zero at the end, if they fit into `len` bytes. Returns the length that they need.
///
/// # Safety
/// `buffer` has `len` bytes, or `len` is 0.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn emulated_gpu_counts(buffer: *mut c_char, len: usize) -> usize {
    let json = state().json();
    let needed = json.len() + 1;
    if needed <= len && !buffer.is_null() {
        // SAFETY: the caller says that the buffer is large enough.
        unsafe {
            std::ptr::copy_nonoverlapping(json.as_ptr().cast(), buffer, json.len());
            buffer.add(json.len()).write(0);
        }
    }
    needed
}

/// Starts the section of a name and ends the one before. Null only ends it.
///
/// # Safety
/// `name` is null or a string that ends with a zero.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn emulated_gpu_section(name: *const c_char) {
    // SAFETY: the caller says so.
    let name = (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) }.to_string_lossy());
    state().start_section(name.as_deref());
}

/// Appends the counts to the file of `EMULATED_GPU_REPORT` when the process ends.
pub(crate) extern "C" fn write_report() {
    let Some(path) = std::env::var_os("EMULATED_GPU_REPORT") else { return };
    let json = state().json();
    if let Ok(mut file) = File::options().append(true).create(true).open(path) {
        let _ = writeln!(file, "{json}");
    }
}

/// A call of cuBLAS. The layout is that of the emulated cuBLAS.
#[repr(C)]
pub(crate) struct Call {
    name: *const c_char,
    stream: Handle,
    matrices: u64,
    flops: f64,
    data: usize,
    run: Run,
    release: Release,
}

/// Runs a call of cuBLAS, or records it in a graph.
///
/// # Safety
/// The call and its name are valid. The call is used once.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn emulated_gpu_submit(call: *const Call) -> u32 {
    // SAFETY: the caller says so.
    let (call, name) = unsafe { (&*call, CStr::from_ptr((*call).name)) };
    let product = Product {
        name: name.to_string_lossy().into_owned(),
        matrices: call.matrices,
        flops: call.flops,
        data: call.data,
        run: call.run,
        release: call.release,
    };
    with(|state| {
        let stream = state.stream(call.stream)?;
        state.submit(stream, Work::Product(product))
    })
}

/// What the checks of a product need.
struct Access<'a> {
    state: &'a mut State,
    stream: usize,
    name: &'a str,
}

impl State {
    pub(crate) fn product(&mut self, stream: usize, product: &Product) -> Result<(), u32> {
        self.trace(format_args!("{} stream {stream}", product.name));
        self.count(|counts| {
            let total = counts.products.entry(product.name.clone()).or_insert_with(Products::default);
            total.calls += 1;
            total.matrices += product.matrices;
            total.flops += product.flops;
        });
        let mut access = Access { state: self, stream, name: &product.name };
        // SAFETY: the data belongs to the function, and the context is used only during the call.
        let status = unsafe { (product.run)(product.data, check_access, (&raw mut access) as usize) };
        if status == SUCCESS { Ok(()) } else { Err(status) }
    }
}

unsafe extern "C" fn check_access(context: usize, ranges: *const Range, count: usize) -> u32 {
    // SAFETY: `product` gave the context, and cuBLAS has `count` ranges.
    let (access, ranges) = unsafe { (&mut *(context as *mut Access<'_>), std::slice::from_raw_parts(ranges, count)) };
    let ranges: Vec<_> = ranges.iter().map(|range| (range.start, range.len, range.writes != 0)).collect();
    access.state.access(access.name, access.stream, &ranges).err().unwrap_or(SUCCESS)
}
