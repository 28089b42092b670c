//! Modules, functions, launches, and occupancy.

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};

use ptx::Module;

use crate::abi::{Address, Handle, current_device, with};
use crate::launches::{Function, KernelLaunch};
use crate::settings::{MULTIPROCESSORS, SHARED_OPT_IN, capability};
use crate::status::{FILE_NOT_FOUND, INVALID_HANDLE, INVALID_PTX, INVALID_VALUE, NOT_FOUND, SUCCESS};
use crate::work::Work;

/// A module. Its handle points to it.
struct Loaded {
    module: Arc<Module>,
    functions: Mutex<HashMap<String, usize>>,
}

fn load(handle: &mut Handle, text: &str) -> u32 {
    with(|state| {
        let device = current_device()?;
        let module = Module::parse(text).map_err(|error| {
            state.report(&format!("a module: {error}"));
            INVALID_PTX
        })?;
        state.count(|counts| counts.modules += 1);
        for data in module.data.values() {
            state.add_data(device, data.address(), data.len() as u64);
        }
        *handle = Box::into_raw(Box::new(Loaded { module: Arc::new(module), functions: Mutex::default() })).cast();
        Ok(())
    })
}

/// Attributes of functions.
const MAX_THREADS: c_int = 0;
const STATIC_SHARED: c_int = 1;
const LOCAL: c_int = 3;
const REGISTERS: c_int = 4;
const PTX_VERSION: c_int = 5;
const BINARY_VERSION: c_int = 6;
const MAX_DYNAMIC_SHARED: c_int = 8;
const CARVEOUT: c_int = 9;

/// Blocks of a kernel that fit on a multiprocessor, if a thread has 32 registers.
fn blocks_per_multiprocessor(function: &Function, threads: c_int, dynamic_shared: usize) -> Result<c_int, u32> {
    let program = function.program().map_err(|_| INVALID_PTX)?;
    if !(1..=1024).contains(&threads) {
        return Err(INVALID_VALUE);
    }
    let by_threads = 2048 / (threads as usize).next_multiple_of(32);
    let by_shared = (228 << 10) / (program.shared + dynamic_shared + 1024);
    Ok(by_threads.min(by_shared).min(32) as c_int)
}

/// # Safety
/// The handle is null or that of a function.
unsafe fn function_of(handle: Handle) -> Result<&'static Function, u32> {
    // SAFETY: functions are never freed.
    unsafe { handle.cast::<Function>().as_ref() }.ok_or(INVALID_HANDLE)
}

driver! {
    fn cuModuleLoadData(module: *mut Handle, image: *const c_void) {
        load(&mut *module, &CStr::from_ptr(image.cast()).to_string_lossy())
    }
    fn cuModuleLoadDataEx(module: *mut Handle, image: *const c_void, _count: c_uint, _options: *mut c_int, _values: *mut *mut c_void) {
        load(&mut *module, &CStr::from_ptr(image.cast()).to_string_lossy())
    }
    fn cuModuleLoad(module: *mut Handle, path: *const c_char) {
        match std::fs::read_to_string(CStr::from_ptr(path).to_string_lossy().as_ref()) {
            Ok(text) => load(&mut *module, &text),
            Err(_) => FILE_NOT_FOUND,
        }
    }
    // Functions and data of a module stay: a handle of them may be in use.
    fn cuModuleUnload(_module: Handle) { SUCCESS }
    fn cuModuleGetFunction(function: *mut Handle, module: Handle, name: *const c_char) {
        let Some(loaded) = module.cast::<Loaded>().as_ref() else { return INVALID_HANDLE };
        let name = CStr::from_ptr(name).to_string_lossy().into_owned();
        if !loaded.module.kernels.contains_key(&name) { return NOT_FOUND; }
        let new = || Box::into_raw(Box::new(Function::new(loaded.module.clone(), name.clone()))) as usize;
        let mut functions = loaded.functions.lock().unwrap_or_else(PoisonError::into_inner);
        *function = *functions.entry(name.clone()).or_insert_with(new) as Handle;
        SUCCESS
    }
    fn cuModuleGetGlobal_v2(address: *mut Address, len: *mut usize, module: Handle, name: *const c_char) {
        let Some(loaded) = module.cast::<Loaded>().as_ref() else { return INVALID_HANDLE };
        let Some(data) = loaded.module.data.get(CStr::from_ptr(name).to_string_lossy().as_ref()) else { return NOT_FOUND };
        if !address.is_null() { *address = data.address(); }
        if !len.is_null() { *len = data.len(); }
        SUCCESS
    }

    fn cuLaunchKernel(
        function: Handle,
        grid_x: c_uint,
        grid_y: c_uint,
        grid_z: c_uint,
        block_x: c_uint,
        block_y: c_uint,
        block_z: c_uint,
        dynamic_shared: c_uint,
        handle: Handle,
        params: *mut *mut c_void,
        extra: *mut *mut c_void,
    ) {
        if !extra.is_null() { return INVALID_VALUE; }
        let function = match function_of(function) {
            Ok(function) => function,
            Err(status) => return status,
        };
        let mut bytes = vec![0; function.params_size()];
        for (index, param) in function.module.kernels[&function.name].params.iter().enumerate() {
            // The caller has a pointer for every parameter. An empty structure of Rust stands for one of C, of one byte.
            let from = *params.add(index);
            std::ptr::copy_nonoverlapping(from.cast::<u8>(), bytes[param.offset..].as_mut_ptr(), param.size);
        }
        with(|state| {
            let stream = state.stream(handle)?;
            let device = state.streams.device(stream).unwrap_or(0);
            let grid = [grid_x, grid_y, grid_z];
            let block = [block_x, block_y, block_z];
            let dynamic_shared = dynamic_shared as usize;
            state.submit(stream, Work::Launch(KernelLaunch { function, device, grid, block, dynamic_shared, params: bytes }))
        })
    }

    fn cuFuncSetAttribute(function: Handle, attribute: c_int, value: c_int) {
        with(|state| {
            let function = function_of(function)?;
            let Ok(program) = function.program() else { return Err(INVALID_PTX) };
            match attribute {
                MAX_DYNAMIC_SHARED if value < 0 || value as usize + program.shared > SHARED_OPT_IN => {
                    state.report(&format!("`{}`: {value} bytes of dynamic shared memory are too many", function.name));
                    Err(INVALID_VALUE)
                }
                MAX_DYNAMIC_SHARED => { function.max_dynamic_shared.store(value as usize, Relaxed); Ok(()) }
                CARVEOUT => Ok(()),
                _ => Err(INVALID_VALUE),
            }
        })
    }
    fn cuFuncGetAttribute(value: *mut c_int, attribute: c_int, function: Handle) {
        with(|_| {
            let function = function_of(function)?;
            let Ok(program) = function.program() else { return Err(INVALID_PTX) };
            let (major, minor) = capability();
            *value = match attribute {
                MAX_THREADS => 1024,
                STATIC_SHARED => program.shared as c_int,
                LOCAL => program.local as c_int,
                REGISTERS => program.registers().min(255) as c_int,
                PTX_VERSION | BINARY_VERSION => major * 10 + minor,
                MAX_DYNAMIC_SHARED => function.max_dynamic_shared.load(Relaxed) as c_int,
                _ => 0,
            };
            Ok(())
        })
    }
    fn cuFuncSetCacheConfig(_function: Handle, _config: c_int) { SUCCESS }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks: *mut c_int, function: Handle, threads: c_int, dynamic_shared: usize) {
        with(|_| { *blocks = blocks_per_multiprocessor(function_of(function)?, threads, dynamic_shared)?; Ok(()) })
    }
    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        blocks: *mut c_int, function: Handle, threads: c_int, dynamic_shared: usize, _flags: c_uint,
    ) {
        with(|_| { *blocks = blocks_per_multiprocessor(function_of(function)?, threads, dynamic_shared)?; Ok(()) })
    }
    fn cuOccupancyMaxPotentialBlockSize(
        grid: *mut c_int, block: *mut c_int, function: Handle, _shared_of_block: Handle, dynamic_shared: usize, limit: c_int,
    ) {
        with(|_| {
            let threads = if limit > 0 { limit.min(1024) } else { 1024 };
            *grid = MULTIPROCESSORS * blocks_per_multiprocessor(function_of(function)?, threads, dynamic_shared)?;
            *block = threads;
            Ok(())
        })
    }
}
