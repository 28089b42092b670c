//! Memory of devices and pinned memory of the host, copies, and fills.

use std::ffi::{c_int, c_uint, c_void};

use crate::abi::{Address, Handle, current_device, with};
use crate::settings::{has_pools, memory};
use crate::status::{INVALID_VALUE, NOT_SUPPORTED, SUCCESS};
use crate::work::{Source, Work};

/// Attributes of memory pools: how many bytes are reserved and used.
const RESERVED_CURRENT: c_uint = 5;
const RESERVED_HIGH: c_uint = 6;
const USED_CURRENT: c_uint = 7;
const USED_HIGH: c_uint = 8;
const FIRST_POOL: usize = 0x2000;

fn submit(handle: Handle, work: Work) -> u32 {
    with(|state| {
        let stream = state.stream(handle)?;
        state.submit(stream, work)
    })
}

/// A copy that is complete when the call returns.
fn download_now(to: Address, from: Address, len: usize) -> u32 {
    with(|state| {
        let stream = current_device()?;
        state.submit(stream, Work::Download { to, from, len: len as u64 })?;
        state.streams.synchronize(stream);
        state.complete_copies();
        Ok(())
    })
}

fn fill(to: Address, pattern: &[u8], count: usize, handle: Handle) -> u32 {
    submit(handle, Work::Fill { to, pattern: pattern.to_vec(), count: count as u64 })
}

const DEFAULT_STREAM: Handle = std::ptr::null_mut();

driver! {
    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) {
        with(|state| {
            *total = memory() as usize;
            *free = *total - state.used(current_device()?) as usize;
            Ok(())
        })
    }
    fn cuDeviceGetDefaultMemPool(pool: *mut Handle, device: c_int) {
        if !has_pools() { return NOT_SUPPORTED; }
        *pool = (FIRST_POOL + device as usize) as Handle;
        SUCCESS
    }
    fn cuDeviceGetMemPool(pool: *mut Handle, device: c_int) {
        if !has_pools() { return NOT_SUPPORTED; }
        *pool = (FIRST_POOL + device as usize) as Handle;
        SUCCESS
    }
    fn cuMemPoolSetAttribute(_pool: Handle, _attribute: c_uint, _value: *mut c_void) { SUCCESS }
    fn cuMemPoolGetAttribute(pool: Handle, attribute: c_uint, value: *mut c_void) {
        with(|state| {
            let device = (pool as usize).checked_sub(FIRST_POOL).ok_or(INVALID_VALUE)?;
            // Freed memory leaves the pool at once.
            let bytes = match attribute {
                RESERVED_CURRENT | USED_CURRENT => state.used(device),
                RESERVED_HIGH | USED_HIGH => state.peak(device),
                _ => return Err(NOT_SUPPORTED),
            };
            value.cast::<u64>().write(bytes);
            Ok(())
        })
    }
    fn cuMemPoolTrimTo(_pool: Handle, _keep: usize) { SUCCESS }

    fn cuMemAlloc_v2(address: *mut Address, len: usize) {
        with(|state| {
            if len == 0 { return Err(INVALID_VALUE); }
            *address = state.allocate(current_device()?, len as u64)?;
            Ok(())
        })
    }
    fn cuMemAllocAsync(address: *mut Address, len: usize, handle: Handle) {
        with(|state| {
            if !has_pools() { return Err(NOT_SUPPORTED); }
            let stream = state.stream(handle)?;
            state.not_capturing(stream)?;
            let device = state.streams.device(stream).unwrap_or(0);
            *address = state.allocate(device, len as u64)?;
            Ok(())
        })
    }
    fn cuMemFree_v2(address: Address) {
        with(|state| {
            // The driver waits for all work of the device before.
            let device = current_device()?;
            state.streams.synchronize_device(device);
            state.free(address, device)
        })
    }
    fn cuMemFreeAsync(address: Address, handle: Handle) {
        with(|state| {
            if !has_pools() { return Err(NOT_SUPPORTED); }
            let stream = state.stream(handle)?;
            state.not_capturing(stream)?;
            state.free(address, stream)
        })
    }
    fn cuMemGetAddressRange_v2(start: *mut Address, len: *mut usize, address: Address) {
        with(|state| {
            let (first, size) = state.find(address).ok_or(INVALID_VALUE)?;
            if !start.is_null() { *start = first; }
            if !len.is_null() { *len = size as usize; }
            Ok(())
        })
    }

    fn cuMemHostAlloc(address: *mut *mut c_void, len: usize, _flags: c_uint) {
        with(|state| { *address = state.host.allocate(len) as *mut c_void; Ok(()) })
    }
    fn cuMemAllocHost_v2(address: *mut *mut c_void, len: usize) {
        with(|state| { *address = state.host.allocate(len) as *mut c_void; Ok(()) })
    }
    fn cuMemFreeHost(address: *mut c_void) { with(|state| state.host.release(address as usize)) }
    fn cuMemHostRegister_v2(address: *mut c_void, len: usize, _flags: c_uint) {
        with(|state| { state.host.register(address as usize, len); Ok(()) })
    }
    fn cuMemHostUnregister(address: *mut c_void) { with(|state| state.host.release(address as usize)) }

    fn cuMemcpyHtoD_v2(to: Address, from: *const c_void, len: usize) {
        with(|state| {
            let stream = current_device()?;
            state.submit(stream, Work::Upload { to, data: Source(from as usize), len: len as u64 })?;
            // From memory that is not pinned, the driver returns as soon as it has a copy of its own.
            if state.host.is_pinned(from as usize, len) {
                state.streams.synchronize(stream);
                state.complete_copies();
            }
            Ok(())
        })
    }
    fn cuMemcpyHtoDAsync_v2(to: Address, from: *const c_void, len: usize, handle: Handle) {
        submit(handle, Work::Upload { to, data: Source(from as usize), len: len as u64 })
    }
    fn cuMemcpyDtoH_v2(to: *mut c_void, from: Address, len: usize) { download_now(to as u64, from, len) }
    fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: Address, len: usize, handle: Handle) {
        submit(handle, Work::Download { to: to as u64, from, len: len as u64 })
    }
    fn cuMemcpyDtoD_v2(to: Address, from: Address, len: usize) {
        submit(DEFAULT_STREAM, Work::Copy { to, from, len: len as u64 })
    }
    fn cuMemcpyDtoDAsync_v2(to: Address, from: Address, len: usize, handle: Handle) {
        submit(handle, Work::Copy { to, from, len: len as u64 })
    }
    fn cuMemcpyPeerAsync(to: Address, _to_context: Handle, from: Address, _from_context: Handle, len: usize, handle: Handle) {
        submit(handle, Work::Copy { to, from, len: len as u64 })
    }
    fn cuMemsetD8_v2(to: Address, value: u8, count: usize) { fill(to, &[value], count, DEFAULT_STREAM) }
    fn cuMemsetD8Async(to: Address, value: u8, count: usize, handle: Handle) { fill(to, &[value], count, handle) }
    fn cuMemsetD16_v2(to: Address, value: u16, count: usize) { fill(to, &value.to_le_bytes(), count, DEFAULT_STREAM) }
    fn cuMemsetD16Async(to: Address, value: u16, count: usize, handle: Handle) { fill(to, &value.to_le_bytes(), count, handle) }
    fn cuMemsetD32_v2(to: Address, value: c_uint, count: usize) { fill(to, &value.to_le_bytes(), count, DEFAULT_STREAM) }
    fn cuMemsetD32Async(to: Address, value: c_uint, count: usize, handle: Handle) { fill(to, &value.to_le_bytes(), count, handle) }
}
