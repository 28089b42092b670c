//! Devices, contexts, and the texts of errors.

use std::ffi::{c_char, c_int, c_uint};
use std::sync::Once;

use crate::abi::{Handle, context_of, current_context, current_device, set_context, with};
use crate::exports::write_report;
use crate::settings::{attribute, devices, memory};
use crate::status::{INVALID_DEVICE, INVALID_VALUE, NO_DEVICE, SUCCESS, describe};

driver! {
    fn cuInit(_flags: c_uint) {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| { libc::atexit(write_report); });
        if devices() == 0 { NO_DEVICE } else { SUCCESS }
    }
    fn cuDriverGetVersion(version: *mut c_int) { *version = 12_040; SUCCESS }
    fn cuDeviceGetCount(count: *mut c_int) { *count = devices(); SUCCESS }
    fn cuDeviceGet(device: *mut c_int, ordinal: c_int) {
        if !(0..devices()).contains(&ordinal) { return INVALID_DEVICE; }
        *device = ordinal;
        SUCCESS
    }
    fn cuDeviceGetName(name: *mut c_char, len: c_int, _device: c_int) {
        let text = c"Emulated GPU".to_bytes_with_nul();
        if (len as usize) < text.len() { return INVALID_VALUE; }
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), name, text.len());
        SUCCESS
    }
    fn cuDeviceTotalMem_v2(bytes: *mut usize, _device: c_int) { *bytes = memory() as usize; SUCCESS }
    fn cuDeviceGetAttribute(value: *mut c_int, code: c_int, _device: c_int) { *value = attribute(code); SUCCESS }
    fn cuDeviceGetUuid(uuid: *mut [u8; 16], device: c_int) {
        *uuid = [device as u8; 16];
        SUCCESS
    }
    fn cuDeviceCanAccessPeer(can: *mut c_int, _device: c_int, _peer: c_int) { *can = 0; SUCCESS }
    fn cuDevicePrimaryCtxRetain(context: *mut Handle, device: c_int) {
        if !(0..devices()).contains(&device) { return INVALID_DEVICE; }
        *context = context_of(device);
        SUCCESS
    }
    fn cuDevicePrimaryCtxRelease_v2(_device: c_int) { SUCCESS }
    fn cuCtxSetCurrent(context: Handle) { set_context(context); SUCCESS }
    fn cuCtxGetCurrent(context: *mut Handle) { *context = current_context(); SUCCESS }
    fn cuCtxGetDevice(device: *mut c_int) {
        match current_device() {
            Ok(current) => { *device = current as c_int; SUCCESS }
            Err(status) => status,
        }
    }
    fn cuCtxSynchronize() {
        with(|state| {
            let device = current_device()?;
            state.count(|counts| counts.synchronizations += 1);
            state.streams.synchronize_device(device);
            state.complete_copies();
            Ok(())
        })
    }
    fn cuProfilerStart() { SUCCESS }
    fn cuProfilerStop() { SUCCESS }
    fn cuGetErrorName(error: c_uint, text: *mut *const c_char) { *text = describe(error).0.as_ptr(); SUCCESS }
    fn cuGetErrorString(error: c_uint, text: *mut *const c_char) { *text = describe(error).1.as_ptr(); SUCCESS }
}
