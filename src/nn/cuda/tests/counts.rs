//! The counts of the emulated GPU (`tests/emulated-gpu/README.md`). A real GPU has none.

use std::collections::BTreeMap;
use std::ffi::{CString, c_char};

use serde::Deserialize;

use crate::cuda::libraries::{Address, Library, symbol};

/// What happened while a section was current.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
pub(super) struct Counts {
    pub(super) launches: u64,
    pub(super) products: Products,
    pub(super) host_to_device: Transfers,
    pub(super) device_to_host: Transfers,
    pub(super) allocations: Transfers,
    pub(super) shared_races: u64,
    pub(super) uneven_barriers: u64,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
pub(super) struct Products {
    pub(super) calls: u64,
    pub(super) flops: f64,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
pub(super) struct Transfers {
    pub(super) count: u64,
    pub(super) bytes: u64,
}

#[derive(Deserialize)]
struct Report {
    sections: BTreeMap<String, Counts>,
}

/// Runs `work` as a section of a unique name. Returns its counts, if this GPU counts.
pub(super) fn counted<R>(name: &str, work: impl FnOnce() -> R) -> (R, Option<Counts>) {
    let functions = (symbol(Library::Driver, "emulated_gpu_section"), symbol(Library::Driver, "emulated_gpu_counts"));
    let (Some(Address(section)), Some(Address(counts))) = functions else { return (work(), None) };
    let text = CString::new(name).unwrap();
    // SAFETY: the emulated GPU exports these functions with these signatures.
    let (section, counts) = unsafe {
        (
            std::mem::transmute::<*const (), unsafe extern "C" fn(*const c_char)>(section),
            std::mem::transmute::<*const (), unsafe extern "C" fn(*mut c_char, usize) -> usize>(counts),
        )
    };
    // SAFETY: the text ends with a zero.
    unsafe { section(text.as_ptr()) };
    let result = work();
    // SAFETY: null ends the section. The buffer has the length that is passed.
    let json = unsafe {
        section(std::ptr::null());
        let mut buffer = vec![0u8; counts(std::ptr::null_mut(), 0)];
        counts(buffer.as_mut_ptr().cast(), buffer.len());
        buffer.pop();
        buffer
    };
    let report: Report = serde_json::from_slice(&json).unwrap();
    (result, Some(report.sections[name]))
}
