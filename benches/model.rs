//! Training and rollouts on request, for `model.py` and `cuda.py` to time beside their peers: a line of JSON in, a line of JSON out.
//!
//! Everything goes through the library's public calls, as a stage makes them. Knows no peer, no size by name, and no
//! clock but that of a call's beginning and end: processor time and memory are read from outside, as for the peers.

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
use ablate_nn::train::{OptimizerConfig, Schedule, SftConfig, TrainState, Tuning, sft};
use ablate_nn::{Checkpoint, Device, DeviceChoice, ImageShape, PixelSource, PixelValues, Resources};
use anyhow::{Context, Result, bail};
use clap::Parser;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Answers requests on stdin until it ends. `just bench-model` is the way to start it.
#[derive(Parser)]
struct Arguments {
    /// A checkpoint in Hugging Face's layout.
    #[arg(long)]
    model: PathBuf,
    /// What is trained on and asked: rows, prompts and images in one JSON file.
    #[arg(long)]
    work: PathBuf,
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// `cpu` or `cuda:N`.
    #[arg(long, default_value = "cpu")]
    device: String,
}

/// The file that both sides read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Work {
    /// One batch; every step trains on it again.
    rows: Vec<Row>,
    learning_rate: f64,
    prompts: Vec<Question>,
    /// Responses per prompt.
    samples: usize,
    /// Tokens of each response.
    new_tokens: usize,
    /// Side of the images in pixels.
    image_size: u32,
    /// By key: a plane per channel, as the model's processor would hand it over.
    images: BTreeMap<String, Vec<f32>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    tokens: Vec<u32>,
    /// The tokens from here on are targets.
    first_target: usize,
    image: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    tokens: Vec<u32>,
    image: Option<String>,
}

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "lowercase", deny_unknown_fields)]
enum Request {
    /// Trains from the checkpoint, every time anew: a step that is not timed, since it touches all memory for the first
    /// time, then so many that are.
    Train {
        steps: usize,
        /// Whether to tell what each operation cost.
        #[serde(default)]
        operations: bool,
    },
    /// Samples responses to every prompt; `greedy`: one to each, the likeliest tokens, which are told.
    Generate { greedy: bool },
    /// The log-probability of every target of the batch.
    Score,
    /// What the processor can do: multiply-adds on registers alone.
    Peak { threads: usize },
}

struct Server {
    /// Its folder: what is read is given to a training, so that nobody holds the weights that it began with.
    model: PathBuf,
    work: Work,
    images: Images,
    threads: usize,
    device: Device,
}

fn main() -> Result<()> {
    let Arguments { model, work, threads, device } = Arguments::parse();
    let device = DeviceChoice::resolve(&device)?;
    let mut work: Work = files::read_json(&work)?;
    let images = Images::new(work.image_size, std::mem::take(&mut work.images));
    let server = Server { model, work, images, threads, device };
    for line in std::io::stdin().lock().lines() {
        let line = line.context("cannot read stdin")?;
        let request: Request = serde_json::from_str(&line).with_context(|| format!("request `{line}`"))?;
        let answer = match request {
            Request::Train { steps, operations } => server.train(steps, operations)?,
            Request::Generate { greedy } => server.generate(greedy)?,
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
        Resources { device: self.device, threads: self.threads, progress: &NoProgress }
    }

    fn rows(&self) -> Vec<TokenRow> {
        let row = |Row { tokens, first_target, image }: &Row| TokenRow {
            tokens: tokens.clone(),
            loss: (0..tokens.len()).map(|index| index >= *first_target).collect(),
            image: image.clone(),
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
            epochs: 1 + steps,
            batch: rows.len(),
            length_window: 1,
            optimizer: OptimizerConfig {
                lr: self.work.learning_rate,
                betas: [0.9, 0.95],
                weight_decay: 0.1,
                clip: 1.0,
                schedule: Schedule::Constant,
                warmup: 0.0,
                ..OptimizerConfig::default()
            },
            tuning: Tuning::default(),
        };
        let model = read(&self.model)?;
        let timed = TimedSteps { operations, times: Mutex::default() };
        let resources = Resources { progress: &timed, ..self.resources() };
        let trained = sft(model, &rows, &self.images, &config, Seed(0), &TrainState::none(), &resources)?;
        let wall = timed.seconds()?;
        let losses: Vec<f64> = trained.curve.iter().map(|point| point.loss).collect();
        if losses.len() != 1 + steps {
            bail!("{steps} steps have a curve of {} points: the losses of single steps are not told", losses.len());
        }
        // All steps are on the same batch.
        let tokens = trained.tokens / trained.steps * steps as u64;
        let flops = trained.flops / trained.steps as f64 * steps as f64;
        let norms: Vec<f64> = trained.curve.iter().map(|point| point.gradient_norm).collect();
        let cost = |(operation, cost): (&str, OpCost)| {
            let OpCost { calls, time, flops, bytes } = cost;
            let cost = json!({ "calls": calls, "seconds": time.as_secs_f64(), "flops": flops, "bytes": bytes });
            (operation.to_string(), cost)
        };
        let costs: Map<String, Value> = profile::stop().into_iter().map(cost).collect();
        Ok(json!({
            "wall": wall, "tokens": tokens, "flops": flops, "losses": losses, "gradient_norms": norms,
            "operations": costs,
        }))
    }

    fn generate(&self, greedy: bool) -> Result<Value> {
        let question = |(index, Question { tokens, image }): (usize, &Question)| TokenPrompt {
            key: index.to_string(),
            tokens: tokens.clone(),
            image: image.clone(),
        };
        let prompts: Vec<TokenPrompt> = self.work.prompts.iter().enumerate().map(question).collect();
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
        // The first time is not told: it fills the caches that somebody else's turn has emptied.
        for _ in 0..2 {
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
        let told: Vec<&[u32]> =
            responses.iter().flatten().filter(|_| greedy).map(|response| response.tokens.as_slice()).collect();
        Ok(json!({ "wall": wall, "tokens": tokens, "responses": told }))
    }
}

/// Takes the time from the end of a training's first step to that of its last.
struct TimedSteps {
    /// Whether what operations cost is counted meanwhile.
    operations: bool,
    /// When the first step ended, and the last one so far.
    times: Mutex<Option<(Instant, Instant)>>,
}

impl TimedSteps {
    fn seconds(&self) -> Result<f64> {
        let times = *self.times.lock().unwrap_or_else(PoisonError::into_inner);
        let (first, last) = times.context("the training told of no step")?;
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

/// As many sequences at once as the stages take unless they are told otherwise.
const BATCH: usize = 64;
const GPU_BATCH: usize = 512;

/// Pixels by key.
struct Images(BTreeMap<String, PixelValues>);

impl Images {
    fn new(size: u32, images: BTreeMap<String, Vec<f32>>) -> Images {
        let shape = ImageShape { width: size, height: size, grid: None };
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

/// The processor's own limit, for others to be compared with.
#[expect(unsafe_code, reason = "wider instructions are called behind a check that they are there")]
mod peak {
    use std::hint::black_box;
    use std::sync::Barrier;
    use std::thread::ScopedJoinHandle;
    use std::time::Instant;

    use anyhow::{Result, anyhow, bail};

    /// Short ones, about 10 ms: one of them falls between two interruptions.
    const ROUNDS: usize = 40;
    const TURNS: usize = 4_000_000;
    /// Sums that do not wait for each other: two units times five cycles need ten, and sixteen registers hold them.
    #[cfg(target_arch = "x86_64")]
    const SUMS: usize = 12;

    /// Multiplications and additions per second of all threads together, the best of some rounds.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn measure(threads: usize) -> Result<f64> {
        if !(std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")) {
            bail!("the peak is measured with AVX2 and FMA, which this processor lacks");
        }
        let mut best: f64 = 0.0;
        for _ in 0..ROUNDS {
            let together = Barrier::new(threads);
            // A round lasts from the first beginning to the last end: no thread may wait for its turn unseen.
            let round = || {
                together.wait();
                let began = Instant::now();
                // The compiler must not see that equal sums stay equal, nor that nobody reads them.
                let start = black_box([1.0; SUMS]);
                // SAFETY: AVX2 and FMA have just been seen to be there.
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
            let Some((began, ended)) = began.zip(ended) else { bail!("no threads have no peak") };
            best = best.max((threads * TURNS * SUMS * 8 * 2) as f64 / (ended - began).as_secs_f64());
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
        for _ in 0..TURNS {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, factor, factor);
            }
        }
        sums.into_iter().map(|sum| _mm256_cvtss_f32(sum)).sum()
    }
}
