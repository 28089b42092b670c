//! Queries the NVIDIA driver: its version, the GPUs, and what is missing. Opens a GPU.

use std::ffi::CStr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use cudarc::driver::CudaDevice;
use cudarc::driver::result::{self, device, primary_ctx};
use cudarc::driver::sys::{
    CUdevice, CUdevice_attribute_enum as Attribute, CUmemPool_attribute as PoolAttribute, CUresult,
    cuDeviceGetDefaultMemPool, cuDeviceGetName, cuDriverGetVersion, cuMemPoolSetAttribute, cuMemPoolTrimTo,
};

use super::libraries::{self, Library};
use super::symbols;
use crate::device_error::device_error;
use crate::gpu_survey::{Driver, Gpu, Survey};
use crate::kernels::simd::has_fma;

/// The device file of a process with access to a GPU. Its container may still lack the driver's library.
const CONTROL_DEVICE: &str = "/dev/nvidiactl";
/// The compute capability that `build.rs` compiles for. Newer GPUs run it too.
const MIN_CAPABILITY: (i32, i32) = (7, 5);
/// The first CUDA version with memory pools.
const MIN_VERSION: i32 = 11_020;

/// The number of GPUs visible to this process: 0 without a driver or a device. An error if there are GPUs that cannot be used.
pub(crate) fn count() -> Result<usize> {
    if libraries::absent(Library::Driver) && !Path::new(CONTROL_DEVICE).exists() {
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

/// An error with the reason if no GPU can be used.
pub(crate) fn missing() -> Result<()> {
    driver()?;
    match start() {
        Ok(0) => bail!("the NVIDIA driver shows no GPU to this process{}", hidden()),
        Ok(_) => blas().map(drop),
        Err(status) => broken(status),
    }
}

/// An error if a GPU cannot run this program's kernels.
pub(crate) fn check(ordinal: usize) -> Result<()> {
    check_capability(ordinal, MIN_CAPABILITY)
}

/// An error if a GPU has a lower compute capability.
pub(crate) fn check_capability(ordinal: usize, least: (i32, i32)) -> Result<()> {
    let device = device::get(i32::try_from(ordinal)?)?;
    let (major, minor) = capability(device)?;
    if (major, minor) < least {
        let (oldest, least) = least;
        bail!("compute capability {major}.{minor} is too old: this program is built for {oldest}.{least} and newer");
    }
    Ok(())
}

/// The driver, the libraries and the GPUs.
pub(crate) fn survey() -> Survey {
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

/// Opens a device for this thread, and lets its driver keep freed memory. By default it takes memory back at every
/// synchronization. Work goes to the default stream, as dfdx's does.
pub(crate) fn open(ordinal: usize) -> Result<Arc<CudaDevice>> {
    let opened = CudaDevice::new(ordinal).map_err(device_error)?;
    let device = device::get(i32::try_from(ordinal)?)?;
    let mut pool = std::ptr::null_mut();
    let mut all = u64::MAX;
    // SAFETY: the device comes from the driver; the pool belongs to the device and lives as long; the attribute is a number of
    // 64 bits.
    let status = unsafe {
        match cuDeviceGetDefaultMemPool(&raw mut pool, device) {
            CUresult::CUDA_SUCCESS => {
                cuMemPoolSetAttribute(pool, PoolAttribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, (&raw mut all).cast())
            }
            status => status,
        }
    };
    if status != CUresult::CUDA_SUCCESS {
        tracing::debug!(
            "the memory pool of `cuda:{ordinal}` does not keep freed memory: {}",
            symbols::describe(status)
        );
    }
    Ok(opened)
}

/// Free bytes of a device that is open, after its driver has given back what it keeps: that does not count as free.
pub(crate) fn available_memory(ordinal: usize) -> Result<usize> {
    let device = device::get(i32::try_from(ordinal)?)?;
    let mut pool = std::ptr::null_mut();
    // SAFETY: the device comes from the driver; the pool belongs to the device and lives as long. Only unused memory is given back.
    let status = unsafe {
        match cuDeviceGetDefaultMemPool(&raw mut pool, device) {
            CUresult::CUDA_SUCCESS => cuMemPoolTrimTo(pool, 0),
            status => status,
        }
    };
    if status != CUresult::CUDA_SUCCESS {
        tracing::debug!("`cuda:{ordinal}` keeps freed memory: {}", symbols::describe(status));
    }
    Ok(usize::try_from(free_memory(device)?)?)
}

/// The driver's library, and the latest CUDA version that it supports.
fn driver() -> Result<(&'static str, String)> {
    let name = libraries::name(Library::Driver).context("no driver of an NVIDIA GPU can be opened")?;
    let mut version = 0;
    // SAFETY: the function takes a pointer to one integer and needs no initialization.
    let status = unsafe { cuDriverGetVersion(&raw mut version) };
    if status != CUresult::CUDA_SUCCESS {
        bail!("`{name}` does not report its version: {}", symbols::describe(status));
    }
    let cuda_version = format!("{}.{}", version / 1000, version % 1000 / 10);
    if version < MIN_VERSION {
        bail!(
            "the NVIDIA driver (`{name}`) supports CUDA up to {cuda_version}, but 11.2 is needed: install a newer one"
        );
    }
    Ok((name, cuda_version))
}

/// Initializes the driver. Returns the number of its devices.
fn start() -> Result<usize, CUresult> {
    let count = result::init().and_then(|()| device::get_count()).map_err(|error| error.0)?;
    Ok(usize::try_from(count).unwrap_or(0))
}

fn broken<T>(status: CUresult) -> Result<T> {
    let (name, version) = driver()?;
    bail!(
        "the NVIDIA driver is installed (`{name}`, up to CUDA {version}) but does not start: {}{}",
        symbols::describe(status),
        hidden()
    )
}

/// A possible reason why GPUs are not visible.
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
    // SAFETY: the length of the buffer is given, and the name in it ends with a zero.
    let name = unsafe {
        cuDeviceGetName(name.as_mut_ptr(), name.len() as i32, device).result()?;
        CStr::from_ptr(name.as_ptr())
    };
    let (major, minor) = capability(device)?;
    // SAFETY: the device comes from the driver.
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
    // SAFETY: the device comes from the driver.
    let attribute = |attribute| unsafe { device::get_attribute(device, attribute) };
    Ok((
        attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
        attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
    ))
}

/// Free bytes of a device.
fn free_memory(device: CUdevice) -> Result<u64> {
    // SAFETY: the device comes from the driver; its context is current during the query and is released once.
    unsafe {
        let context = primary_ctx::retain(device)?;
        let free = result::ctx::set_current(context).and_then(|()| result::mem_get_info());
        primary_ctx::release(device)?;
        Ok(free?.0 as u64)
    }
}
