//! A GPU for tests, real or emulated (`tests/emulated-gpu`), and the counts of an emulated one.
//!
//! The tests that need it are ignored unless they are asked for: `cargo test --features cuda -p ablate-nn -- --ignored gpu_`.

use std::collections::BTreeMap;
use std::ffi::{CString, c_char};

use serde::Deserialize;

use crate::cuda::{Library, symbol};
use crate::{Device, Precision, Resources};
use ablate_core::base::progress::NoProgress;

pub(crate) fn gpu(precision: Precision) -> Resources<'static> {
    Resources { device: Device::Cuda(0), precision, threads: 1, progress: &NoProgress }
}

/// What an emulated GPU did.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Counts {
    pub(crate) launches: u64,
    pub(crate) products: Products,
    pub(crate) host_to_device: Copies,
    pub(crate) device_to_host: Copies,
    pub(crate) device_to_device: Copies,
    pub(crate) memsets: Copies,
    pub(crate) allocations: Copies,
    pub(crate) kernels: BTreeMap<String, Kernel>,
    pub(crate) peak_bytes: u64,
    uneven_barriers: u64,
    shared_races: u64,
    races: BTreeMap<String, u64>,
    faults: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Products {
    pub(crate) calls: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Copies {
    pub(crate) count: u64,
    pub(crate) bytes: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Kernel {
    pub(crate) launches: u64,
}

#[derive(Deserialize)]
struct Report {
    all: Counts,
    sections: BTreeMap<String, Counts>,
}

/// Begins a section of the counts and ends the one before.
pub(crate) fn section(name: &str) {
    let Some(address) = symbol(Library::Driver, "emulated_gpu_section") else { return };
    let name = CString::new(name).unwrap();
    // SAFETY: the emulated driver's function has this signature.
    unsafe {
        let function: unsafe extern "C" fn(*const c_char) = std::mem::transmute(address.0);
        function(name.as_ptr());
    }
}

fn report() -> Option<Report> {
    let address = symbol(Library::Driver, "emulated_gpu_counts")?;
    // SAFETY: the emulated driver's function has this signature, and writes at most as many bytes as it is given.
    let text = unsafe {
        let function: unsafe extern "C" fn(*mut c_char, usize) -> usize = std::mem::transmute(address.0);
        let mut text = vec![0_u8; function(std::ptr::null_mut(), 0) + 4096];
        function(text.as_mut_ptr().cast(), text.len());
        text
    };
    let end = text.iter().position(|byte| *byte == 0).unwrap();
    Some(serde_json::from_slice(&text[..end]).unwrap())
}

/// The counts of a section; none on a real GPU.
pub(crate) fn counts(section: &str) -> Option<Counts> {
    report().map(|mut report| report.sections.remove(section).unwrap_or_default())
}

/// Fails if the emulated GPU has found a fault, a race or an uneven barrier.
pub(crate) fn assert_clean() {
    let Some(Report { all: Counts { uneven_barriers, shared_races, races, faults, .. }, .. }) = report() else {
        return;
    };
    let clean = uneven_barriers == 0 && shared_races == 0 && races.is_empty() && faults.is_empty();
    assert!(clean, "{uneven_barriers} uneven barriers, {shared_races} races in shared memory, {races:?}, {faults:?}");
}
