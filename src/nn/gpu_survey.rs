//! The GPUs and libraries that `ablate doctor` reports.

use serde::Serialize;

/// The output of `ablate doctor` about GPUs.
#[derive(Debug, Serialize)]
pub struct Survey {
    /// Whether this build supports GPUs.
    pub cuda: bool,
    /// Whether the CPU has AVX2 and FMA, for which the fast kernels are compiled.
    pub avx2: bool,
    pub driver: Option<Driver>,
    /// The cuBLAS library, if there is a GPU.
    pub cublas: Option<String>,
    pub gpus: Vec<Gpu>,
    /// The reason why no GPU can be used.
    pub missing: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct Driver {
    pub library: String,
    /// The latest CUDA version that the driver supports.
    pub cuda: String,
}

#[derive(Debug, Serialize)]
pub struct Gpu {
    /// The number in `cuda:0`.
    pub ordinal: usize,
    pub name: String,
    /// Compute capability, as in `9.0`.
    pub capability: String,
    /// Bytes.
    pub memory: u64,
    /// Free bytes, if the driver reports them.
    pub free: Option<u64>,
}
