//! What the driver of NVIDIA's GPUs says, and CUDA's functions for dfdx, none of which is linked: `libraries` opens the
//! driver and cuBLAS when they are first used. So one program starts on every machine, works with CUDA 11 (from 11.2), 12 and 13, and
//! can say what is missing.
//!
//! The only home of `unsafe` code around foreign functions. Knows no tensor and no model.

#![allow(unsafe_code)]

mod compiler;
mod libraries;
mod symbols;

use std::ffi::CStr;
use std::path::Path;

use anyhow::{Context, Result, bail};
use cudarc::driver::result::{self, device, primary_ctx};
use cudarc::driver::sys::{
    CUdevice, CUdevice_attribute_enum as Attribute, CUmemPool_attribute as PoolAttribute, CUresult,
    cuDeviceGetDefaultMemPool, cuDeviceGetName, cuDriverGetVersion, cuMemPoolSetAttribute,
};
use dfdx::prelude::Cuda;

use super::device::{Driver, Gpu, Survey};
use super::kernels::simd::has_fma;
use super::ops::device_error;
use libraries::Library;

/// What a process sees that was given a GPU, though its container may lack the driver's library.
const CONTROL: &str = "/dev/nvidiactl";
/// The compute capability that `build.rs` compiles for, as newer ones run it, too.
const OLDEST: (i32, i32) = (7, 5);
/// The version of CUDA since which there are pools of memory, as dfdx uses them.
const POOLS: i32 = 11_020;

/// How many GPUs the driver shows to this process: 0 where there is no driver or no device. What stands in the way of
/// GPUs that are there is an error.
pub(super) fn count() -> Result<usize> {
    if libraries::absent(Library::Driver) && !Path::new(CONTROL).exists() {
        return Ok(0);
    }
    driver()?;
    let count = match start() {
        Err(CUresult::CUDA_ERROR_NO_DEVICE) => 0,
        Err(status) => return broken(status),
        Ok(count) => count,
    };
    if count > 0 {
        blas()?;
    }
    Ok(count)
}

/// Why no GPU can be used, if none can.
pub(super) fn missing() -> Result<()> {
    driver()?;
    match start() {
        Ok(0) => bail!("the NVIDIA driver shows no GPU to this process{}", hidden()),
        Ok(_) => blas().map(drop),
        Err(status) => broken(status),
    }
}

/// Whether a GPU that is there can run this program's kernels.
pub(super) fn check(ordinal: usize) -> Result<()> {
    let device = device::get(i32::try_from(ordinal)?)?;
    let (major, minor) = capability(device)?;
    if (major, minor) < OLDEST {
        let (oldest, least) = OLDEST;
        bail!("compute capability {major}.{minor} is too old: this program is built for {oldest}.{least} and newer");
    }
    Ok(())
}

/// All that is there.
pub(super) fn survey() -> Survey {
    let driver = driver().ok();
    let count = if driver.is_some() { start().unwrap_or(0) } else { 0 };
    Survey {
        cuda: true,
        avx2: has_fma(),
        driver: driver.map(|(library, version)| Driver { library: library.to_string(), cuda: version }),
        cublas: if count > 0 { libraries::name(Library::Blas).ok().map(str::to_string) } else { None },
        gpus: (0..count).filter_map(|ordinal| gpu(ordinal).ok()).collect(),
        missing: missing().err().map(|error| format!("{error:#}")),
    }
}

/// Opens a device for dfdx, and lets it keep memory that was freed: by itself the driver takes it back at every wait.
pub(super) fn open(ordinal: usize) -> Result<Cuda> {
    let cuda = Cuda::try_build(ordinal, 0).map_err(device_error)?;
    let device = device::get(i32::try_from(ordinal)?)?;
    let mut pool = std::ptr::null_mut();
    let mut all = u64::MAX;
    // SAFETY: the device is one that the driver has given; the pool is the device's own and lives as long; the attribute
    // is a number of 64 bits.
    let status = unsafe {
        match cuDeviceGetDefaultMemPool(&raw mut pool, device) {
            CUresult::CUDA_SUCCESS => {
                cuMemPoolSetAttribute(pool, PoolAttribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, (&raw mut all).cast())
            }
            status => status,
        }
    };
    if status != CUresult::CUDA_SUCCESS {
        tracing::debug!("the pool of `cuda:{ordinal}` keeps no memory: {}", symbols::told(status));
    }
    Ok(cuda)
}

/// The driver's library, and the version of CUDA up to which it goes.
fn driver() -> Result<(&'static str, String)> {
    let name = libraries::name(Library::Driver).context("no driver of an NVIDIA GPU can be opened")?;
    let mut version = 0;
    // SAFETY: the function takes a place for one integer, and needs no initialization.
    let status = unsafe { cuDriverGetVersion(&raw mut version) };
    if status != CUresult::CUDA_SUCCESS {
        bail!("`{name}` does not tell its version: {}", symbols::told(status));
    }
    let told = format!("{}.{}", version / 1000, version % 1000 / 10);
    if version < POOLS {
        bail!("the NVIDIA driver (`{name}`) goes up to CUDA {told}, and 11.2 is needed: install a newer one");
    }
    Ok((name, told))
}

/// Starts the driver: the number of its devices.
fn start() -> Result<usize, CUresult> {
    let count = result::init().and_then(|()| device::get_count()).map_err(|error| error.0)?;
    Ok(usize::try_from(count).unwrap_or(0))
}

fn broken<T>(status: CUresult) -> Result<T> {
    let (name, version) = driver()?;
    bail!(
        "the NVIDIA driver is installed (`{name}`, up to CUDA {version}) but does not start: {}{}",
        symbols::told(status),
        hidden()
    )
}

/// A reason why GPUs may not be seen.
fn hidden() -> String {
    match std::env::var("CUDA_VISIBLE_DEVICES") {
        Ok(value) => format!(" (CUDA_VISIBLE_DEVICES is `{value}`)"),
        Err(_) => String::new(),
    }
}

fn blas() -> Result<&'static str> {
    libraries::name(Library::Blas).with_context(|| {
        format!(
            "there is a GPU, but not cuBLAS, which comes with CUDA and with PyTorch: install it, or name its folder in {}",
            libraries::PATH
        )
    })
}

fn gpu(ordinal: usize) -> Result<Gpu> {
    let device = device::get(i32::try_from(ordinal)?)?;
    let mut name = [0; 256];
    // SAFETY: the buffer is as long as is said, and the name that is written to it ends within.
    let name = unsafe {
        cuDeviceGetName(name.as_mut_ptr(), name.len() as i32, device).result()?;
        CStr::from_ptr(name.as_ptr())
    };
    let (major, minor) = capability(device)?;
    // SAFETY: the device is one that the driver has just given.
    let total = unsafe { device::total_mem(device) }?;
    Ok(Gpu {
        ordinal,
        name: name.to_string_lossy().into_owned(),
        capability: format!("{major}.{minor}"),
        memory: total as u64,
        free: free_memory(device).ok(),
    })
}

fn capability(device: CUdevice) -> Result<(i32, i32)> {
    // SAFETY: the device is one that the driver has given.
    let attribute = |attribute| unsafe { device::get_attribute(device, attribute) };
    Ok((
        attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
        attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
    ))
}

/// Bytes that nobody uses on a device.
fn free_memory(device: CUdevice) -> Result<u64> {
    // SAFETY: the device is one that the driver has given; its context is current while it is asked, and released once.
    unsafe {
        let context = primary_ctx::retain(device)?;
        let free = result::ctx::set_current(context).and_then(|()| result::mem_get_info());
        primary_ctx::release(device)?;
        Ok(free?.0 as u64)
    }
}
