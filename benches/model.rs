//! A server of training and generation, which `model.py` and `cuda.py` compare with other libraries. A request and a response are
//! a line of JSON each.
//!
//! It uses the same public functions as a stage. It measures only the wall time of a call; the scripts measure processor time
//! and memory from outside, as for the other libraries.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use ablate_core::base::progress::NoProgress;
use ablate_core::base::{Progress, Seed, StageEvent, files};
use ablate_data::tokens::{TokenPrompt, TokenRow};
use ablate_nn::infer::{GenerateConfig, Generated, generate, log_probs};
use ablate_nn::profile::{self, OpCost};
use ablate_nn::train::{BatchConfig, Budget, LastBatch, OptimizerConfig, Schedule, SftConfig, TrainState, Tuning, sft};
use ablate_nn::{
    Checkpoint, Device, DeviceChoice, ImageShape, LoraConfig, Pattern, PixelSource, PixelValues, Precision, Resources,
};
use anyhow::{Context, Result, bail};
use clap::Parser;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Answers requests on stdin until its end. `just bench-model` starts it.
#[derive(Parser)]
struct Arguments {
    /// A checkpoint in Hugging Face's layout.
    #[arg(long)]
    model: PathBuf,
    /// The workload: rows, prompts and images in one JSON file.
    #[arg(long)]
    work: PathBuf,
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// `cpu` or `cuda:N`.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// `f32`, `tf32` or `bf16`.
    #[arg(long, default_value = "f32")]
    precision: String,
    /// Trains an adapter of this rank on all linear layers of the decoder.
    #[arg(long)]
    lora: Option<usize>,
    /// Keeps only the inputs of the blocks for the backward pass.
    #[arg(long)]
    gradient_checkpointing: bool,
}

/// The workload, which all libraries read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Work {
    /// One batch, on which every step trains.
    rows: Vec<Row>,
    learning_rate: f64,
    prompts: Vec<PromptEntry>,
    /// Responses per prompt.
    samples: usize,
    /// Tokens of each response.
    new_tokens: usize,
    /// Side of the images in pixels.
    image_size: u32,
    /// Pixel values by key, channel by channel, as from the image processor.
    images: BTreeMap<String, Vec<f32>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    tokens: Vec<u32>,
    /// The index of the first target; all later tokens are targets too.
    first_target: usize,
    image: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PromptEntry {
    tokens: Vec<u32>,
    image: Option<String>,
}

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "lowercase", deny_unknown_fields)]
enum Request {
    /// Trains from the checkpoint: one step that is not timed, because it touches all memory for the first time, and then
    /// `steps` timed ones.
    Train {
        steps: usize,
        /// Whether to return the cost of each operation.
        #[serde(default)]
        operations: bool,
    },
    /// Samples responses to every prompt; `greedy`: one greedy response to each, which is returned.
    Generate {
        greedy: bool,
        /// Whether to return the cost of each operation.
        #[serde(default)]
        operations: bool,
    },
    /// The log-probability of every target of the batch.
    Score,
    /// The peak of the processor: multiply-adds on registers only.
    Peak { threads: usize },
}

struct Server {
    /// The folder. Each request reads it again, so that a training owns its initial weights.
    model: PathBuf,
    work: Work,
    images: Images,
    threads: usize,
    device: Device,
    precision: Precision,
    tuning: Tuning,
}

fn main() -> Result<()> {
    let Arguments { model, work, threads, device, precision, lora, gradient_checkpointing } = Arguments::parse();
    let device = DeviceChoice::resolve(&device)?;
    let precision = serde_json::from_value(precision.as_str().into()).with_context(|| precision.clone())?;
    let targets = vec![Pattern("model.layers.*".to_string())];
    let lora = lora.map(|rank| LoraConfig { rank, alpha: rank as f64, dropout: 0.0, targets });
    let tuning = Tuning { lora, gradient_checkpointing, ..Tuning::default() };
    let mut work: Work = files::read_json(&work)?;
    let images = Images::new(work.image_size, std::mem::take(&mut work.images));
    let server = Server { model, work, images, threads, device, precision, tuning };
    for line in std::io::stdin().lock().lines() {
        let line = line.context("cannot read stdin")?;
        let request: Request = serde_json::from_str(&line).with_context(|| format!("request `{line}`"))?;
        let answer = match request {
            Request::Train { steps, operations } => server.train(steps, operations)?,
            Request::Generate { greedy, operations } => server.generate(greedy, operations)?,
            Request::Score => server.score()?,
            Request::Peak { threads } => json!({ "flops_per_second": peak::measure(threads)? }),
        };
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{answer}").and_then(|()| stdout.flush()).context("cannot write to stdout")?;
    }
    Ok(())
}

fn read(folder: &Path) -> Result<Checkpoint> {
    Checkpoint::read(folder).with_context(|| format!("`{}`", folder.display()))
}

impl Server {
    fn resources(&self) -> Resources<'_> {
        Resources { device: self.device, precision: self.precision, threads: self.threads, progress: &NoProgress }
    }

    fn rows(&self) -> Vec<TokenRow> {
        let row = |Row { tokens, first_target, image }: &Row| TokenRow {
            tokens: tokens.clone(),
            loss: (0..tokens.len()).map(|index| index >= *first_target).collect(),
            images: image.iter().cloned().collect(),
        };
        self.work.rows.iter().map(row).collect()
    }

    fn score(&self) -> Result<Value> {
        let model = read(&self.model)?;
        let start = Instant::now();
        let scores = log_probs(&model, &self.rows(), &self.images, &self.resources())?;
        Ok(json!({ "wall": start.elapsed().as_secs_f64(), "log_probs": scores }))
    }

    fn train(&self, steps: usize, operations: bool) -> Result<Value> {
        let rows = self.rows();
        let config = SftConfig {
            batches: BatchConfig {
                budget: Budget::Steps(1 + steps),
                batch: rows.len(),
                last_batch: LastBatch::Keep,
                length_window: 1,
            },
            optimizer: OptimizerConfig {
                lr: self.work.learning_rate,
                betas: [0.9, 0.95],
                weight_decay: 0.1,
                clip: 1.0,
                schedule: Schedule::Constant,
                warmup: 0.0,
                ..OptimizerConfig::default()
            },
            tuning: self.tuning.clone(),
        };
        let model = read(&self.model)?;
        let timed = TimedSteps { operations, times: Mutex::default() };
        let resources = Resources { progress: &timed, ..self.resources() };
        let trained = sft(model, &rows, &self.images, &config, Seed(0), &TrainState::none(), &resources)?;
        let wall = timed.seconds()?;
        let losses: Vec<f64> = trained.curve.iter().map(|point| point.loss).collect();
        if losses.len() != 1 + steps {
            bail!("{steps} steps have a curve of {} points: the losses of single steps are unknown", losses.len());
        }
        // All steps are on the same batch.
        let tokens = trained.tokens / trained.steps * steps as u64;
        let flops = trained.flops / trained.steps as f64 * steps as f64;
        let norms: Vec<f64> = trained.curve.iter().map(|point| point.gradient_norm).collect();
        Ok(json!({
            "wall": wall, "tokens": tokens, "flops": flops, "losses": losses, "gradient_norms": norms,
            "operations": costs(),
        }))
    }

    fn generate(&self, greedy: bool, operations: bool) -> Result<Value> {
        let prompt = |(index, PromptEntry { tokens, image }): (usize, &PromptEntry)| TokenPrompt {
            key: index.to_string(),
            tokens: tokens.clone(),
            images: image.iter().cloned().collect(),
        };
        let prompts: Vec<TokenPrompt> = self.work.prompts.iter().enumerate().map(prompt).collect();
        let config = GenerateConfig {
            temperature: if greedy { 0.0 } else { 1.0 },
            top_k: 0,
            top_p: 1.0,
            max_tokens: self.work.new_tokens,
            samples: if greedy { 1 } else { self.work.samples },
            stop: Vec::new(),
            repetition_penalty: 1.0,
            batch: if self.device == Device::Cpu { BATCH } else { GPU_BATCH },
        };
        let mut responses: Vec<Vec<Generated>> = vec![Vec::new(); prompts.len()];
        let model = read(&self.model)?;
        let mut wall = 0.0;
        // The first call is not timed: it fills the caches after the run of another library.
        for _ in 0..2 {
            if operations {
                profile::start();
            }
            let start = Instant::now();
            generate(
                &model,
                &prompts,
                &self.images,
                &config,
                Seed(0),
                &|_, _, _| false,
                &self.resources(),
                &mut |prompt, found| {
                    responses[prompt] = found;
                    Ok(())
                },
            )?;
            wall = start.elapsed().as_secs_f64();
        }
        let tokens: u32 = responses.iter().flatten().map(|response| response.count).sum();
        let greedy_tokens: Vec<&[u32]> =
            responses.iter().flatten().filter(|_| greedy).map(|response| response.tokens.as_slice()).collect();
        Ok(json!({ "wall": wall, "tokens": tokens, "responses": greedy_tokens, "operations": costs() }))
    }
}

/// The costs of operations since [`profile::start`], by name.
fn costs() -> Map<String, Value> {
    let cost = |(operation, cost): (&str, OpCost)| {
        let OpCost { calls, time, flops, bytes } = cost;
        let cost = json!({ "calls": calls, "seconds": time.as_secs_f64(), "flops": flops, "bytes": bytes });
        (operation.to_string(), cost)
    };
    profile::stop().into_iter().map(cost).collect()
}

/// Measures the time from the end of the first step to the end of the last one.
struct TimedSteps {
    /// Whether the cost of operations is counted.
    operations: bool,
    /// The end of the first step, and of the last one so far.
    times: Mutex<Option<(Instant, Instant)>>,
}

impl TimedSteps {
    fn seconds(&self) -> Result<f64> {
        let times = *self.times.lock().unwrap_or_else(PoisonError::into_inner);
        let (first, last) = times.context("the training reported no step")?;
        Ok((last - first).as_secs_f64())
    }
}

impl Progress for TimedSteps {
    fn emit(&self, event: StageEvent) {
        let StageEvent::Progress { .. } = event else { return };
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        if times.is_none() && self.operations {
            profile::start();
        }
        let now = Instant::now();
        *times = Some((times.map_or(now, |(first, _)| first), now));
    }
}

/// The default batch sizes of the stages.
const BATCH: usize = 64;
const GPU_BATCH: usize = 512;

/// Pixel values by key.
struct Images(BTreeMap<String, PixelValues>);

impl Images {
    fn new(size: u32, images: BTreeMap<String, Vec<f32>>) -> Images {
        let shape = ImageShape::single(size, size, size);
        Images(images.into_iter().map(|(key, values)| (key, PixelValues { shape, values: values.into() })).collect())
    }
}

impl PixelSource for Images {
    fn shape(&self, key: &str) -> Result<ImageShape> {
        Ok(self.pixel_values(key)?.shape)
    }

    fn pixel_values(&self, key: &str) -> Result<PixelValues> {
        self.0.get(key).cloned().with_context(|| format!("there is no image `{key}`"))
    }
}

/// The peak of the processor.
#[expect(unsafe_code, reason = "the instructions are checked before they are called")]
mod peak {
    use std::hint::black_box;
    use std::sync::Barrier;
    use std::thread::ScopedJoinHandle;
    use std::time::Instant;

    use anyhow::{Result, anyhow, bail};

    /// Rounds take about 10 ms, so that some are not interrupted.
    const ROUNDS: usize = 40;
    const ITERATIONS: usize = 4_000_000;
    /// Independent sums: two units with a latency of five cycles need ten, and they fit into sixteen registers.
    #[cfg(target_arch = "x86_64")]
    const SUMS: usize = 12;

    /// Floating-point operations per second of all threads, the best of all rounds.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn measure(threads: usize) -> Result<f64> {
        if !(std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")) {
            bail!("the peak is measured with AVX2 and FMA, which this processor does not have");
        }
        let mut best: f64 = 0.0;
        for _ in 0..ROUNDS {
            let barrier = Barrier::new(threads);
            // A round lasts from the first start to the last end, so that a waiting thread counts.
            let round = || {
                barrier.wait();
                let began = Instant::now();
                // The compiler must not know that the sums are equal and unused.
                let start = black_box([1.0; SUMS]);
                // SAFETY: AVX2 and FMA have been checked.
                black_box(unsafe { multiply_add(start, black_box(1e-6)) });
                (began, Instant::now())
            };
            let times: Vec<(Instant, Instant)> = std::thread::scope(|scope| {
                let workers: Vec<_> = (0..threads).map(|_| scope.spawn(round)).collect();
                let times = workers.into_iter().map(ScopedJoinHandle::join);
                times.map(|time| time.map_err(|_| anyhow!("a thread of the peak panicked"))).collect::<Result<_>>()
            })?;
            let began = times.iter().map(|(began, _)| *began).min();
            let ended = times.iter().map(|(_, ended)| *ended).max();
            let Some((began, ended)) = began.zip(ended) else { bail!("the peak needs at least one thread") };
            best = best.max((threads * ITERATIONS * SUMS * 8 * 2) as f64 / (ended - began).as_secs_f64());
        }
        Ok(best)
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub(super) fn measure(_: usize) -> Result<f64> {
        bail!("the peak is measured on x86-64 only")
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn multiply_add(start: [f32; SUMS], factor: f32) -> f32 {
        use std::arch::x86_64::{_mm256_cvtss_f32, _mm256_fmadd_ps, _mm256_set1_ps};
        let factor = _mm256_set1_ps(factor);
        let mut sums = start.map(|value| _mm256_set1_ps(value));
        for _ in 0..ITERATIONS {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, factor, factor);
            }
        }
        sums.into_iter().map(|sum| _mm256_cvtss_f32(sum)).sum()
    }
}
