//! `doctor`: shows what this machine offers for a run, what is missing, and the memory that a model needs.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use super::args::Global;
use super::doctor_cluster;
use super::resources::ExecutorChoice;
use super::shell::Shell;
use super::value_parsers::{at_least_one, precision};
use crate::stages::checkpoint_folders::CheckpointFolders;
use ablate_core::base::wrong_input;
use ablate_experiment::ExecutorName;
use ablate_nn::cost::{self, BatchShape, GenerationShape, Memory, Trainable, Workload};
use ablate_nn::device::{DeviceChoice, Gpu, Survey, listed, survey};
use ablate_nn::{Architecture, Checkpoint, Pattern, Precision};

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Required devices: `auto`, `cpu`, `cuda:0,cuda:1`. If one is not available, the exit code is 2.
    #[arg(value_name = "DEVICE", default_value = "auto")]
    device: String,
    /// What to look at: this machine, or the cluster [default: the configuration's `executor.default`, else `local`].
    #[arg(long, value_enum, value_name = "EXECUTOR")]
    executor: Option<ExecutorChoice>,
    /// Run a job on the cluster that looks at the store: whether the node sees it, has the same program, and respects its
    /// locks. Waits in the queue.
    #[arg(long)]
    probe: bool,
    /// Folder of a checkpoint, of which only config.json is read: shows the GPU memory that its training and generation need.
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    #[command(flatten)]
    batch: BatchArgs,
}

/// The batch whose memory is estimated.
#[derive(Debug, Args)]
struct BatchArgs {
    /// Rows of a training batch, or sequences that are generated together.
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = at_least_one, requires = "model")]
    batch: usize,
    /// Tokens of a row, image tokens included [default: 2048, or the model's limit].
    #[arg(long, value_name = "N", value_parser = at_least_one, requires = "model")]
    positions: Option<usize>,
    /// Images of a row, each of one tile [default: 1 for a model with a vision tower].
    #[arg(long, value_name = "N", requires = "model")]
    images: Option<usize>,
    /// Number types of matrix products: `f32`, `tf32` or `bf16`.
    #[arg(long, default_value = "f32", value_name = "TYPE", value_parser = precision, requires = "model")]
    precision: Precision,
    /// Train a LoRA adapter of this rank instead of all parameters.
    #[arg(long, value_name = "RANK", value_parser = at_least_one, requires = "model")]
    lora: Option<usize>,
    /// The linear layers with an adapter.
    #[arg(long, value_name = "LAYER,...", value_delimiter = ',', default_value = "q_proj,v_proj", requires = "lora")]
    lora_targets: Vec<String>,
}

/// The memory that a model needs.
struct Needs {
    parameters: usize,
    shape: BatchShape,
    uses: Vec<(&'static str, Memory)>,
}

impl Needs {
    fn new(architecture: &Architecture, arguments: &BatchArgs) -> Result<Needs> {
        let BatchArgs { batch, positions, images, precision, lora, lora_targets } = arguments;
        let tiles = images.unwrap_or(usize::from(architecture.vision.is_some()));
        let positions = positions.unwrap_or(architecture.decoder.max_positions.min(2048));
        let shape = BatchShape { rows: *batch, positions, tiles, targets: positions };
        let trainable = match lora {
            None => Trainable::Model { frozen: Vec::new() },
            Some(rank) => Trainable::Lora { rank: *rank, targets: lora_targets.iter().cloned().map(Pattern).collect() },
        };
        let training = |gradient_checkpointing| -> Result<Memory> {
            let trainable = trainable.clone();
            let workload = Workload { architecture, precision: *precision, trainable, gradient_checkpointing };
            Ok(cost::training(&workload, &shape)?.memory)
        };
        let trained = [training(false)?, training(true)?];
        // Half of a sequence is its prompt, or more if its images need more.
        let image_tokens =
            architecture.vision.as_ref().map_or(0, |vision| tiles * vision.tile_tokens(vision.own_tile()));
        let prompt_tokens = positions.div_ceil(2).max(image_tokens + 1).min(positions);
        let sequences = GenerationShape {
            prompts: *batch,
            samples: 1,
            prompt_tokens,
            new_tokens: positions - prompt_tokens,
            tiles,
        };
        let generation = cost::generation(architecture, *precision, &sequences)?.memory;
        let [plain, checkpointing] = trained;
        let uses = vec![("training", plain), ("gradient_checkpointing", checkpointing), ("generation", generation)];
        Ok(Needs { parameters: cost::parameter_count(architecture), shape, uses })
    }

    fn json(&self, gpus: &[Gpu]) -> Value {
        let fits = |memory: &Memory| -> Vec<bool> { gpus.iter().map(|gpu| fits(memory, gpu)).collect() };
        let uses = self.uses.iter().map(|(name, memory)| {
            let (parts, bytes) = (memory, memory.total());
            ((*name).to_string(), json!({ "bytes": bytes, "parts": parts, "fits": fits(memory) }))
        });
        let BatchShape { rows, positions, tiles, .. } = self.shape;
        json!({
            "parameters": self.parameters, "batch": rows, "positions": positions, "images": tiles,
            "memory": uses.collect::<serde_json::Map<String, Value>>(),
        })
    }

    fn render(&self, gpus: &[Gpu]) -> String {
        let BatchShape { rows, positions, tiles, .. } = self.shape;
        let images = if tiles > 0 { format!(" with {tiles} image(s)") } else { String::new() };
        let billions = self.parameters as f64 / 1e9;
        let mut lines =
            vec![line("model", &format!("{billions:.2} billion parameters; {rows} x {positions} tokens{images}"))];
        for (name, memory) in &self.uses {
            let name = if *name == "gradient_checkpointing" { "training with gradient_checkpointing" } else { *name };
            let names = |fit: bool| -> Vec<String> {
                let found = gpus.iter().filter(|gpu| fits(memory, gpu) == fit);
                found.map(|gpu| format!("cuda:{}", gpu.ordinal)).collect()
            };
            let mut text = format!("{name}: {memory}");
            for (what, names) in [("fits", names(true)), ("too much for", names(false))] {
                if !names.is_empty() {
                    text.push_str(&format!("; {what} {}", names.join(", ")));
                }
            }
            lines.push(line("", &text));
        }
        lines.join("\n")
    }
}

/// Whether a GPU has so much free memory.
fn fits(memory: &Memory, gpu: &Gpu) -> bool {
    memory.total() as u64 <= gpu.free.unwrap_or(gpu.memory)
}

pub(super) fn doctor(shell: Shell, global: &Global, arguments: &DoctorArgs) -> Result<()> {
    let asks_about_machine = arguments.device != "auto" || arguments.model.is_some();
    let is_slurm = match arguments.executor {
        Some(executor) => executor == ExecutorChoice::Slurm,
        None => !asks_about_machine && global.configuration()?.executor.default == ExecutorName::Slurm,
    };
    if arguments.probe && !is_slurm {
        bail!("`--probe` runs a job of a cluster, and the executor is local: add `--executor slurm`");
    }
    if is_slurm {
        return doctor_cluster::doctor(shell, global, arguments.probe);
    }
    let (version, threads) = (env!("CARGO_PKG_VERSION"), std::thread::available_parallelism()?.get());
    let found = survey();
    let requested = &arguments.device;
    let device = DeviceChoice::devices(requested).and_then(|devices| {
        devices.iter().try_for_each(|device| device.check())?;
        Ok(listed(&devices))
    });
    let needs = arguments.model.as_ref().map(|folder| {
        let architecture = Checkpoint::read_architecture(&CheckpointFolders::of_path(folder)?.weights)?;
        Needs::new(&architecture, &arguments.batch).with_context(|| format!("`{}`", folder.display()))
    });
    let needs = needs.transpose().map_err(wrong_input)?;
    if shell.json {
        shell.json(&json!({
            "version": version, "threads": threads, "gpu": found, "asked": requested, "device": device.as_ref().ok(),
            "model": needs.map(|needs| needs.json(&found.gpus)),
        }))?;
    } else {
        shell.result(&render(version, threads, &found));
        if let Some(needs) = needs {
            shell.result(&needs.render(&found.gpus));
        }
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
