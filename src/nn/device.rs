//! Which device executes a model. The only home of driver calls; knows no model.

use std::fmt;

use anyhow::{Result, bail};

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
    /// The first GPU if this build and this machine have one, else the CPU.
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
                None => bail!("unknown device `{text}`: write `auto`, `cpu` or `cuda:N`"),
            },
        }
    }

    /// The device of a choice, once it is known to be there.
    pub fn resolve(text: &str) -> Result<Device> {
        match DeviceChoice::parse(text)? {
            DeviceChoice::Auto => Ok(if gpus().unwrap_or(0) > 0 { Device::Cuda(0) } else { Device::Cpu }),
            DeviceChoice::Exactly(Device::Cpu) => Ok(Device::Cpu),
            DeviceChoice::Exactly(device @ Device::Cuda(ordinal)) => match gpus() {
                Err(missing) => bail!("device `{device}`: {missing}"),
                Ok(count) if ordinal >= count => {
                    bail!("device `{device}`: this process sees {count} GPU(s), numbered from 0")
                }
                Ok(_) => Ok(device),
            },
        }
    }
}

/// How many GPUs the driver shows to this process, or why it cannot say.
#[cfg(feature = "cuda")]
pub fn gpus() -> Result<usize> {
    use anyhow::anyhow;
    use cudarc::driver::{CudaDevice, result};
    result::init().map_err(|error| anyhow!("the CUDA driver does not start: {error:?}"))?;
    let count = CudaDevice::count().map_err(|error| anyhow!("the CUDA driver lists no device: {error:?}"))?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// How many GPUs the driver shows to this process, or why it cannot say.
#[cfg(not(feature = "cuda"))]
pub fn gpus() -> Result<usize> {
    bail!("this program was built for the CPU only; build it with `cargo build --release --features cuda`")
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
        assert_eq!(error.to_string(), "unknown device `gpu1`: write `auto`, `cpu` or `cuda:N`");
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_gpu_without_the_feature_is_an_error_that_says_how_to_build_it() {
        let error = DeviceChoice::resolve("cuda:0").unwrap_err().to_string();
        assert!(error.contains("--features cuda"), "{error}");
        assert_eq!(DeviceChoice::resolve("auto").unwrap(), Device::Cpu);
    }
}
