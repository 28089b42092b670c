//! The device that executes a model, and the devices of this machine.

use std::fmt;

use anyhow::{Context, Result, bail};

#[cfg(feature = "cuda")]
use super::cuda;
pub use super::gpu_survey::{Driver, Gpu, Survey};

/// A device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    Cpu,
    /// An NVIDIA GPU by its ordinal among those visible to this process.
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

/// The user's choice: `auto`, `cpu` or `cuda:N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU if this build supports GPUs and this machine has one, otherwise the CPU. A GPU that cannot be used is an
    /// error: the user of a GPU does not expect a run on the CPU.
    Auto,
    Exactly(Device),
}

impl DeviceChoice {
    /// Parses a choice. `cuda` is the first GPU.
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

    /// All devices of a choice or of a list such as `cuda:0,cuda:1`; for `auto` every GPU, or the CPU. Whether a listed GPU
    /// exists is checked by [`Device::check`].
    pub fn devices(text: &str) -> Result<Vec<Device>> {
        if text == "auto" {
            let count = cuda::count().context("device `auto`: choose `cpu` to run without the GPU")?;
            return Ok(if count > 0 { (0..count).map(Device::Cuda).collect() } else { vec![Device::Cpu] });
        }
        let mut devices: Vec<Device> = Vec::new();
        for name in text.split(',').map(str::trim) {
            let DeviceChoice::Exactly(device) = DeviceChoice::parse(name)? else {
                bail!("device `{text}`: `auto` cannot be combined with other devices");
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

    /// The device of a choice, checked; for `auto` the first one.
    pub fn resolve(text: &str) -> Result<Device> {
        let device = match DeviceChoice::devices(text)?[..] {
            [device] => device,
            [device, ..] if text == "auto" => device,
            _ => bail!("device `{text}`: only one device is possible here"),
        };
        device.check()?;
        Ok(device)
    }
}

impl Device {
    /// An error if the device does not exist or cannot be used.
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

/// Formats a list of devices: `cuda:0,cuda:1`.
pub fn listed(devices: &[Device]) -> String {
    devices.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// The Cargo features of this build that concern devices.
pub fn features() -> &'static [&'static str] {
    if cfg!(feature = "cuda") { &["cuda"] } else { &[] }
}

/// The GPUs, or the reason why there is none.
pub fn survey() -> Survey {
    cuda::survey()
}

/// Free bytes of a GPU.
pub(crate) fn available_memory(ordinal: usize) -> Result<usize> {
    cuda::available_memory(ordinal)
}

/// The answers of a build without GPU support.
#[cfg(not(feature = "cuda"))]
mod cuda {
    use super::super::kernels::simd::has_fma;
    use super::{Result, Survey, bail};

    #[expect(clippy::unnecessary_wraps, reason = "fails in a build with GPU support")]
    pub(super) fn count() -> Result<usize> {
        Ok(0)
    }

    pub(super) fn missing() -> Result<()> {
        bail!("this program was built for the CPU only; docs/cuda.md describes the build for GPUs")
    }

    pub(super) fn check(_: usize) -> Result<()> {
        missing()
    }

    pub(super) fn available_memory(_: usize) -> Result<usize> {
        missing().map(|()| 0)
    }

    pub(super) fn survey() -> Survey {
        let missing = missing().err().map(|error| error.to_string());
        Survey { cuda: false, avx2: has_fma(), driver: None, cublas: None, gpus: Vec::new(), missing }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNKNOWN: &str = "unknown device `gpu1`: write `auto`, `cpu`, `cuda:N` or several: `cuda:0,cuda:1`";

    #[test]
    fn choices_parse_and_print_alike() {
        assert_eq!(DeviceChoice::parse("auto").unwrap(), DeviceChoice::Auto);
        for text in ["cpu", "cuda:3"] {
            let DeviceChoice::Exactly(device) = DeviceChoice::parse(text).unwrap() else { panic!("{text}") };
            assert_eq!(device.to_string(), text);
        }
        assert_eq!(DeviceChoice::parse("gpu1").unwrap_err().to_string(), UNKNOWN);
    }

    #[test]
    fn a_device_list_has_no_duplicates_and_no_mix() {
        assert_eq!(DeviceChoice::devices("cpu").unwrap(), [Device::Cpu]);
        let error = |text: &str| DeviceChoice::devices(text).unwrap_err().to_string();
        assert_eq!(error("cpu,cpu"), "device `cpu` is named twice");
        assert_eq!(error("cuda:0,cuda:0"), "device `cuda:0` is named twice");
        assert_eq!(error("cpu,cuda:0"), "device `cpu,cuda:0`: stages run on the CPU or on GPUs, not on both");
        assert_eq!(error("cpu,auto"), "device `cpu,auto`: `auto` cannot be combined with other devices");
        assert_eq!(error("cpu,gpu1"), UNKNOWN);
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_gpu_without_the_feature_is_an_error() {
        let error = format!("{:#}", DeviceChoice::resolve("cuda:0").unwrap_err());
        assert!(error.starts_with("device `cuda:0`: ") && error.contains("docs/cuda.md"), "{error}");
        assert_eq!(DeviceChoice::resolve("auto").unwrap(), Device::Cpu);
    }
}
