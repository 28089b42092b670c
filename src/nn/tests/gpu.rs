//! A GPU for tests, real or emulated (`tests/emulated-gpu`), and the counts of an emulated one.
//!
//! The tests that need it are ignored unless they are asked for: `cargo test --features cuda -p ablate-nn -- --ignored gpu_`.

use std::collections::BTreeMap;
use std::ffi::{CString, c_char};

use serde::Deserialize;

use crate::cuda::{Address, Library, symbol};
use crate::{Device, Precision, Resources};
use ablate_core::base::progress::NoProgress;

pub(crate) fn gpu(precision: Precision) -> Resources<'static> {
    Resources { device: Device::Cuda(0), precision, threads: 1, progress: &NoProgress }
}

/// What an emulated GPU did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
pub(crate) struct Counts {
    pub(crate) launches: u64,
    pub(crate) products: Products,
    pub(crate) host_to_device: Transfers,
    pub(crate) device_to_host: Transfers,
    pub(crate) device_to_device: Transfers,
    pub(crate) memsets: Transfers,
    pub(crate) allocations: Transfers,
    pub(crate) peak_bytes: u64,
    pub(crate) uneven_barriers: u64,
    pub(crate) shared_races: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
pub(crate) struct Products {
    pub(crate) calls: u64,
    pub(crate) flops: f64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
pub(crate) struct Transfers {
    pub(crate) count: u64,
    pub(crate) bytes: u64,
}

#[derive(Deserialize)]
struct Report {
    all: Findings,
    sections: BTreeMap<String, Counts>,
}

#[derive(Deserialize)]
struct Findings {
    uneven_barriers: u64,
    shared_races: u64,
    races: BTreeMap<String, u64>,
    faults: Vec<String>,
}

/// Begins a section of the counts and ends the one before; without a name only ends it.
pub(crate) fn section(name: Option<&str>) {
    let Some(Address(address)) = symbol(Library::Driver, "emulated_gpu_section") else { return };
    let name = name.map(|name| CString::new(name).unwrap());
    // SAFETY: the emulated driver's function has this signature. A name ends with a zero.
    unsafe {
        let function: unsafe extern "C" fn(*const c_char) = std::mem::transmute(address);
        function(name.as_ref().map_or(std::ptr::null(), |name| name.as_ptr()));
    }
}

fn report() -> Option<Report> {
    let Address(address) = symbol(Library::Driver, "emulated_gpu_counts")?;
    // SAFETY: the emulated driver's function has this signature, and writes at most as many bytes as it is given.
    let text = unsafe {
        let function: unsafe extern "C" fn(*mut c_char, usize) -> usize = std::mem::transmute(address);
        let mut text = vec![0_u8; function(std::ptr::null_mut(), 0)];
        function(text.as_mut_ptr().cast(), text.len());
        text.pop();
        text
    };
    Some(serde_json::from_slice(&text).unwrap())
}

/// The counts of a section; none on a real GPU.
pub(crate) fn counts(section: &str) -> Option<Counts> {
    report().map(|mut report| report.sections.remove(section).unwrap_or_default())
}

/// Runs `work` as a section of a unique name. Returns its counts, if this GPU counts.
pub(crate) fn counted<R>(name: &str, work: impl FnOnce() -> R) -> (R, Option<Counts>) {
    section(Some(name));
    let result = work();
    section(None);
    (result, counts(name))
}

/// Fails if the emulated GPU has found a fault, a race or an uneven barrier.
pub(crate) fn assert_clean() {
    let Some(Report { all: Findings { uneven_barriers, shared_races, races, faults }, .. }) = report() else { return };
    let clean = uneven_barriers == 0 && shared_races == 0 && races.is_empty() && faults.is_empty();
    assert!(clean, "{uneven_barriers} uneven barriers, {shared_races} races in shared memory, {races:?}, {faults:?}");
}
