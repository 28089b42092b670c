//! Which device executes a model, and which there are. Knows no model.

use std::fmt;

use anyhow::{Context, Result, bail};
use serde::Serialize;

#[cfg(feature = "cuda")]
use super::cuda;

/// A device that was asked for and is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    Cpu,
    /// An NVIDIA GPU by its ordinal among those that this process sees.
    Cuda(usize),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

/// What the user may ask for: `auto`, `cpu` or `cuda:N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU if this build and this machine have one, else the CPU. A GPU that is there and cannot be used is an
    /// error: who has one does not want to wait for the CPU.
    Auto,
    Exactly(Device),
}

impl DeviceChoice {
    /// Reads a choice. A plain `cuda` is the first GPU.
    pub fn parse(text: &str) -> Result<DeviceChoice> {
        match text {
            "auto" => Ok(DeviceChoice::Auto),
            "cpu" => Ok(DeviceChoice::Exactly(Device::Cpu)),
            "cuda" => Ok(DeviceChoice::Exactly(Device::Cuda(0))),
            _ => match text.strip_prefix("cuda:").and_then(|ordinal| ordinal.parse().ok()) {
                Some(ordinal) => Ok(DeviceChoice::Exactly(Device::Cuda(ordinal))),
                None => bail!("unknown device `{text}`: write `auto`, `cpu`, `cuda:N` or several: `cuda:0,cuda:1`"),
            },
        }
    }

    /// All devices of a choice, those of a list such as `cuda:0,cuda:1`; for `auto` every GPU, or the CPU. A GPU of a list
    /// need not be there: [`Device::check`] tells.
    pub fn devices(text: &str) -> Result<Vec<Device>> {
        if text == "auto" {
            let count = cuda::count().context("device `auto`: choose `cpu` to go without the GPU")?;
            return Ok(if count > 0 { (0..count).map(Device::Cuda).collect() } else { vec![Device::Cpu] });
        }
        let mut devices: Vec<Device> = Vec::new();
        for name in text.split(',').map(str::trim) {
            let DeviceChoice::Exactly(device) = DeviceChoice::parse(name)? else {
                bail!("device `{text}`: `auto` stands alone");
            };
            if devices.contains(&device) {
                bail!("device `{device}` is named twice");
            }
            if devices.first().is_some_and(|first| *first == Device::Cpu || device == Device::Cpu) {
                bail!("device `{text}`: stages run on the CPU or on GPUs, not on both");
            }
            devices.push(device);
        }
        Ok(devices)
    }

    /// The device of a choice, once it is known to be there: the first one for `auto`.
    pub fn resolve(text: &str) -> Result<Device> {
        let device = match DeviceChoice::devices(text)?[..] {
            [device] => device,
            [device, ..] if text == "auto" => device,
            _ => bail!("device `{text}`: one is needed here, not several"),
        };
        device.check()?;
        Ok(device)
    }
}

impl Device {
    /// Whether it is there and can be used.
    pub fn check(self) -> Result<()> {
        let Device::Cuda(ordinal) = self else { return Ok(()) };
        let usable = || {
            cuda::missing()?;
            let count = cuda::count()?;
            if ordinal >= count {
                bail!("this process sees {count} GPU(s), numbered from 0");
            }
            cuda::check(ordinal)
        };
        usable().with_context(|| format!("device `{self}`"))
    }
}

/// Devices as they are asked for: `cuda:0,cuda:1`.
pub fn listed(devices: &[Device]) -> String {
    devices.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// What `ablate doctor` tells of the GPUs.
#[derive(Debug, Serialize)]
pub struct Survey {
    /// Whether this program was built for GPUs.
    pub cuda: bool,
    /// Whether the CPU has what the fast kernels are compiled for.
    pub avx2: bool,
    pub driver: Option<Driver>,
    /// The library of matrix products, where there is a GPU.
    pub cublas: Option<String>,
    pub gpus: Vec<Gpu>,
    /// Why no GPU can be used, if none can.
    pub missing: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct Driver {
    pub library: String,
    /// Version of CUDA up to which it goes.
    pub cuda: String,
}

#[derive(Debug, Serialize)]
pub struct Gpu {
    /// As in `cuda:0`.
    pub ordinal: usize,
    pub name: String,
    /// Compute capability, as in `9.0`.
    pub capability: String,
    /// Bytes.
    pub memory: u64,
    /// Bytes that nobody uses, if the driver tells.
    pub free: Option<u64>,
}

/// Which GPUs there are, and what is missing.
pub fn survey() -> Survey {
    cuda::survey()
}

/// What a program says that was built for the CPU.
#[cfg(not(feature = "cuda"))]
mod cuda {
    use super::super::kernels::simd::has_fma;
    use super::{Result, Survey, bail};

    #[expect(clippy::unnecessary_wraps, reason = "a build for GPUs can fail here")]
    pub(super) fn count() -> Result<usize> {
        Ok(0)
    }

    pub(super) fn missing() -> Result<()> {
        bail!("this program was built for the CPU only; docs/cuda.md says how to build it for GPUs")
    }

    pub(super) fn check(_: usize) -> Result<()> {
        missing()
    }

    pub(super) fn survey() -> Survey {
        let missing = missing().err().map(|error| error.to_string());
        Survey { cuda: false, avx2: has_fma(), driver: None, cublas: None, gpus: Vec::new(), missing }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_read_and_print_alike() {
        assert_eq!(DeviceChoice::parse("auto").unwrap(), DeviceChoice::Auto);
        for text in ["cpu", "cuda:3"] {
            let DeviceChoice::Exactly(device) = DeviceChoice::parse(text).unwrap() else { panic!("{text}") };
            assert_eq!(device.to_string(), text);
        }
        let error = DeviceChoice::parse("gpu1").unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown device `gpu1`: write `auto`, `cpu`, `cuda:N` or several: `cuda:0,cuda:1`"
        );
    }

    #[test]
    fn a_run_may_have_several_devices_each_once() {
        assert_eq!(DeviceChoice::devices("cpu").unwrap(), [Device::Cpu]);
        let error = |text: &str| DeviceChoice::devices(text).unwrap_err().to_string();
        assert_eq!(error("cpu,cpu"), "device `cpu` is named twice");
        assert_eq!(error("cuda:0,cuda:0"), "device `cuda:0` is named twice");
        assert_eq!(error("cpu,cuda:0"), "device `cpu,cuda:0`: stages run on the CPU or on GPUs, not on both");
        assert_eq!(error("cpu,auto"), "device `cpu,auto`: `auto` stands alone");
        assert_eq!(
            error("cpu,gpu1"),
            "unknown device `gpu1`: write `auto`, `cpu`, `cuda:N` or several: `cuda:0,cuda:1`"
        );
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_gpu_without_the_feature_is_an_error_that_says_how_to_build_it() {
        let error = format!("{:#}", DeviceChoice::resolve("cuda:0").unwrap_err());
        assert!(error.starts_with("device `cuda:0`: ") && error.contains("docs/cuda.md"), "{error}");
        assert_eq!(DeviceChoice::resolve("auto").unwrap(), Device::Cpu);
    }
}
