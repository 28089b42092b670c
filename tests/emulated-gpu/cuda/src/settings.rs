//! The settings, and what the devices are.

use std::path::Path;
use std::sync::OnceLock;

use ptx::Order;

/// An environment variable; without it, a line `NAME=value` of the file `settings` in the folder of `ABLATE_CUDA_PATH`. A program
/// that clears the environment of its children still passes the folder on.
pub(crate) fn setting(name: &str) -> Option<String> {
    static FILE: OnceLock<String> = OnceLock::new();
    let read = || {
        let folder = std::env::var_os("ABLATE_CUDA_PATH")?;
        std::fs::read_to_string(Path::new(&folder).join("settings")).ok()
    };
    std::env::var(name).ok().or_else(|| {
        let mut lines = FILE.get_or_init(|| read().unwrap_or_default()).lines();
        lines.find_map(|line| Some(line.strip_prefix(name)?.strip_prefix('=')?.to_string()))
    })
}

fn number(name: &str, default: u64) -> u64 {
    setting(name).and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// The number of devices that the program sees.
pub(crate) fn devices() -> i32 {
    let count = number("EMULATED_GPU_COUNT", 1) as i32;
    let is_device = |name: &&str| name.trim().parse::<i32>().is_ok_and(|index| (0..count).contains(&index));
    match std::env::var("CUDA_VISIBLE_DEVICES") {
        // Devices after the first one that does not exist are not visible.
        Ok(list) => list.split(',').take_while(is_device).count() as i32,
        Err(_) => count,
    }
}

/// Bytes of memory of each device.
pub(crate) fn memory() -> u64 {
    number("EMULATED_GPU_MEMORY", 8192) << 20
}

/// Whether devices have memory pools. Some virtual ones have none.
pub(crate) fn has_pools() -> bool {
    number("EMULATED_GPU_POOLS", 1) != 0
}

/// The compute capability.
pub(crate) fn capability() -> (i32, i32) {
    let text = setting("EMULATED_GPU_CAPABILITY").unwrap_or_default();
    let parsed = text.split_once('.').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    parsed.unwrap_or((8, 0))
}

pub(crate) fn workers() -> usize {
    static WORKERS: OnceLock<usize> = OnceLock::new();
    let available = || std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    *WORKERS.get_or_init(|| number("EMULATED_GPU_THREADS", available()) as usize)
}

pub(crate) fn order() -> Order {
    static ORDER: OnceLock<Order> = OnceLock::new();
    *ORDER.get_or_init(|| match setting("EMULATED_GPU_WARPS").as_deref() {
        Some("first") => Order::Warps { last_first: false },
        Some("last") => Order::Warps { last_first: true },
        _ => Order::Lockstep,
    })
}

pub(crate) fn find_shared_races() -> bool {
    static FIND: OnceLock<bool> = OnceLock::new();
    *FIND.get_or_init(|| number("EMULATED_GPU_SHARED_RACES", 1) != 0)
}

pub(crate) fn find_block_races() -> bool {
    static FIND: OnceLock<bool> = OnceLock::new();
    *FIND.get_or_init(|| number("EMULATED_GPU_BLOCK_RACES", 0) != 0)
}

/// Shared memory of a block without an attribute of the function.
pub(crate) const SHARED: usize = 48 << 10;
/// Shared memory of a block with the attribute.
pub(crate) const SHARED_OPT_IN: usize = 227 << 10;
pub(crate) const MULTIPROCESSORS: i32 = 132;

/// A `CUdevice_attribute`.
#[allow(clippy::match_same_arms, reason = "a line per attribute")]
pub(crate) fn attribute(attribute: i32) -> i32 {
    match attribute {
        1..=4 => 1024,                 // threads of a block, also by axis
        5 => i32::MAX,                 // blocks by axis
        6 | 7 => 65_535,               // the same
        8 => SHARED as i32,            // shared memory of a block
        9 => 64 << 10,                 // constant memory
        10 => 32,                      // threads of a warp
        12 => 65_536,                  // registers of a block
        13 => 1_755_000,               // clock rate in kHz
        16 => MULTIPROCESSORS,         // multiprocessors
        31 | 41 => 1,                  // concurrent kernels, unified addressing
        36 => 2_619_000,               // memory clock rate in kHz
        37 => 5120,                    // width of the memory bus
        38 => 50 << 20,                // bytes of the L2 cache
        39 => 2048,                    // threads of a multiprocessor
        75 => capability().0,          // compute capability
        76 => capability().1,          // the same
        81 => 228 << 10,               // shared memory of a multiprocessor
        82 => 65_536,                  // registers of a multiprocessor
        97 => SHARED_OPT_IN as i32,    // shared memory of a block with the attribute
        106 => 32,                     // blocks of a multiprocessor
        111 => 1024,                   // shared memory that the driver reserves
        115 => i32::from(has_pools()), // memory pools
        _ => 0,
    }
}
