//! `doctor`: shows what this machine offers for a run, and what is missing.

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::shell::Shell;
use ablate_nn::device::{DeviceChoice, Gpu, Survey, listed, survey};

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Required devices: `auto`, `cpu`, `cuda:0,cuda:1`. If one is not available, the exit code is 2.
    #[arg(value_name = "DEVICE", default_value = "auto")]
    device: String,
}

pub(super) fn doctor(shell: Shell, arguments: &DoctorArgs) -> Result<()> {
    let (version, threads) = (env!("CARGO_PKG_VERSION"), std::thread::available_parallelism()?.get());
    let found = survey();
    let requested = &arguments.device;
    let device = DeviceChoice::devices(requested).and_then(|devices| {
        devices.iter().try_for_each(|device| device.check())?;
        Ok(listed(&devices))
    });
    if shell.json {
        shell.json(&json!({
            "version": version, "threads": threads, "gpu": found, "asked": requested, "device": device.as_ref().ok(),
        }))?;
    } else {
        shell.result(&render(version, threads, &found));
        if let Ok(device) = &device {
            shell.result(&line(requested, &format!("runs on {device}")));
        }
    }
    device.map(drop)
}

fn render(version: &str, threads: usize, found: &Survey) -> String {
    let Survey { cuda, avx2, driver, cublas, gpus, missing } = found;
    let instructions = if *avx2 { "AVX2 and FMA" } else { "no AVX2 and FMA: many times slower" };
    let mut lines = vec![
        line("ablate", &format!("{version}, built for {}", if *cuda { "the CPU and CUDA" } else { "the CPU" })),
        line("cpu", &format!("{threads} threads, {instructions}")),
    ];
    if let Some(driver) = driver {
        lines.push(line("driver", &format!("{}, up to CUDA {}", driver.library, driver.cuda)));
    }
    if let Some(cublas) = cublas {
        lines.push(line("cuBLAS", cublas));
    }
    lines.extend(gpus.iter().map(|gpu| line(&format!("cuda:{}", gpu.ordinal), &describe_gpu(gpu))));
    if let Some(missing) = missing {
        lines.push(line("no GPU", missing));
    }
    lines.join("\n")
}

fn describe_gpu(gpu: &Gpu) -> String {
    let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
    let memory = match gpu.free {
        Some(free) => format!("{:.1} of {:.1} GiB free", gib(free), gib(gpu.memory)),
        None => format!("{:.1} GiB", gib(gpu.memory)),
    };
    format!("{}, compute capability {}, {memory}", gpu.name, gpu.capability)
}

fn line(name: &str, text: &str) -> String {
    format!("{name:<8}{text}")
}
