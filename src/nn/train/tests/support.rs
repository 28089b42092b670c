//! A small model, its data, runs, interruptions and comparisons for the tests of training.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, bail};

use crate::tests::support::{Ramps, small_config};
use crate::train::{
    BatchConfig, Budget, DpoConfig, LastBatch, OptimizerConfig, PreferenceLoss, SftConfig, TrainState, Trained, Tuning,
    dpo, sft,
};
use crate::{Checkpoint, Device, ImageShape, PixelSource, PixelValues, Precision, Resources};
use ablate_core::base::progress::NoProgress;
use ablate_core::base::{Progress, Seed, StageEvent};
use ablate_data::tokens::{TokenPair, TokenRow};

pub(super) fn model() -> Checkpoint {
    Checkpoint::initialize(&small_config(), 24, 1, Seed(11)).unwrap()
}

/// Rows of different lengths, two of three with an image. The response repeats the token of the prompt.
pub(super) fn rows() -> Vec<TokenRow> {
    (0..22)
        .map(|i| {
            let image = (i % 3 != 0).then(|| (i % 5).to_string());
            let token = 5 + (i * 7 % 19) as u32;
            let mut tokens = vec![2];
            tokens.extend(image.iter().flat_map(|_| [1; 4]));
            tokens.extend([token, 3]);
            let prompt = tokens.len();
            tokens.extend(vec![token; 1 + i % 4]);
            tokens.push(4);
            let loss = (0..tokens.len()).map(|at| at >= prompt).collect();
            TokenRow { tokens, loss, images: image.into_iter().collect() }
        })
        .collect()
}

pub(super) fn pairs() -> Vec<TokenPair> {
    let rows = rows();
    let wrong = |row: &TokenRow| {
        let tokens = row.tokens.iter().zip(&row.loss).map(|(&t, &l)| if l && t > 4 { 5 + (t - 4) % 19 } else { t });
        TokenRow { tokens: tokens.collect(), ..row.clone() }
    };
    rows.iter().map(|row| TokenPair { chosen: row.clone(), rejected: wrong(row) }).collect()
}

pub(super) fn assert_same(a: &Trained, b: &Trained) {
    assert!(a.checkpoint == b.checkpoint && a.adapter == b.adapter, "the weights differ");
    assert_eq!(a.curve, b.curve);
    assert_eq!((a.steps, a.tokens, a.flops.to_bits()), (b.steps, b.tokens, b.flops.to_bits()));
}

/// Provides as many images as the counter says, then fails.
pub(super) struct Failing<'a>(pub(super) AtomicUsize, pub(super) &'a dyn PixelSource);

impl PixelSource for Failing<'_> {
    fn shape(&self, key: &str) -> Result<ImageShape> {
        self.1.shape(key)
    }

    fn pixel_values(&self, key: &str) -> Result<PixelValues> {
        let left = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if left.is_err() {
            bail!("the disk is gone");
        }
        self.1.pixel_values(key)
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Method {
    Sft,
    Dpo,
}

/// A model, its data and its training configuration.
#[derive(Clone)]
pub(super) struct Study {
    pub(super) method: Method,
    pub(super) start: Checkpoint,
    pub(super) rows: Vec<TokenRow>,
    pub(super) pairs: Vec<TokenPair>,
    pub(super) optimizer: OptimizerConfig,
    pub(super) tuning: Tuning,
    pub(super) budget: Budget,
}

impl Study {
    pub(super) fn new(method: Method, tuning: Tuning) -> Study {
        let optimizer = OptimizerConfig { lr: 1e-2, weight_decay: 0.01, warmup: 0.1, ..OptimizerConfig::default() };
        Study { method, start: model(), rows: rows(), pairs: pairs(), optimizer, tuning, budget: Budget::Epochs(2) }
    }

    pub(super) fn run(
        &self,
        threads: usize,
        state: &TrainState,
        images: &dyn PixelSource,
        progress: &dyn Progress,
    ) -> Result<Trained> {
        let resources = Resources { device: Device::Cpu, precision: Precision::F32, threads, progress };
        self.run_on(&resources, state, images)
    }

    /// As [`Study::run`], on a given device.
    pub(super) fn run_on(
        &self,
        resources: &Resources,
        state: &TrainState,
        images: &dyn PixelSource,
    ) -> Result<Trained> {
        let start = self.start.clone();
        let batches = |batch| BatchConfig { budget: self.budget, batch, last_batch: LastBatch::Keep, length_window: 4 };
        let (optimizer, tuning) = (self.optimizer.clone(), self.tuning.clone());
        match self.method {
            Method::Sft => {
                let config = SftConfig { batches: batches(5), optimizer, tuning };
                sft(start, &self.rows, images, &config, Seed(5), state, resources)
            }
            Method::Dpo => {
                let config = DpoConfig {
                    batches: batches(4),
                    loss: PreferenceLoss::Sigmoid { label_smoothing: 0.0 },
                    beta: 0.2,
                    token_weights: None,
                    sft_weight: 0.1,
                    optimizer,
                    tuning,
                };
                dpo(start.clone(), start, &self.pairs, images, &config, Seed(6), state, resources)
            }
        }
    }

    /// The result without a saved state.
    pub(super) fn trained(&self, threads: usize) -> Trained {
        self.run(threads, &TrainState::none(), &Ramps, &NoProgress).unwrap()
    }

    /// The error of a run on one thread.
    pub(super) fn error(&self, state: &TrainState, images: &dyn PixelSource) -> String {
        format!("{:#}", self.run(1, state, images, &NoProgress).unwrap_err())
    }

    /// The result after three interruptions, each after this number of images. The run resumes each time.
    pub(super) fn interrupted(&self, threads: usize, images: &dyn PixelSource, stops: [usize; 3]) -> Trained {
        let folder = tempfile::tempdir().unwrap();
        let (state, progress) = (state_in(folder.path(), 2), Notes::default());
        for stop in stops {
            let error = self.run(threads, &state, &Failing(AtomicUsize::new(stop), images), &progress).unwrap_err();
            assert!(format!("{error:#}").contains("the disk is gone"), "{error:#}");
        }
        let trained = self.run(threads, &state, images, &progress).unwrap();
        let notes = progress.0.into_inner().unwrap();
        assert!(!notes.is_empty() && notes.iter().all(|note| note.starts_with("resumes after step ")), "{notes:?}");
        trained
    }
}

/// The trained model with its adapter, if it has one.
pub(super) fn merged(trained: &Trained) -> Checkpoint {
    let mut checkpoint = trained.checkpoint.clone();
    trained.adapter.iter().for_each(|adapter| adapter.merge(&mut checkpoint).unwrap());
    checkpoint
}

/// A state that is saved in this folder.
pub(super) fn state_in(folder: &Path, every_steps: u64) -> TrainState {
    TrainState { folder: Some(folder.to_path_buf()), every_steps, every_seconds: 1e9 }
}

/// Images with overflowing values after the counted number of reads.
pub(super) struct OverflowingAfter(pub(super) AtomicUsize);

impl PixelSource for OverflowingAfter {
    fn shape(&self, key: &str) -> Result<ImageShape> {
        Ramps.shape(key)
    }

    fn pixel_values(&self, key: &str) -> Result<PixelValues> {
        let PixelValues { shape, values } = Ramps.pixel_values(key)?;
        let left = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        let factor = if left.is_ok() { 1.0 } else { f32::MAX };
        Ok(PixelValues { shape, values: values.iter().map(|value| value * factor).collect() })
    }
}

/// The norm of the difference over the norm of the expected values.
pub(super) fn relative_error(ours: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(ours.len(), expected.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let difference = norm(&mut ours.iter().zip(expected).map(|(&a, &b)| f64::from(a) - f64::from(b)));
    difference / norm(&mut expected.iter().map(|&b| f64::from(b))).max(1e-15)
}

/// Collects the notes of a run.
#[derive(Default)]
pub(super) struct Notes(pub(super) Mutex<Vec<String>>);

impl Progress for Notes {
    fn emit(&self, event: StageEvent) {
        if let StageEvent::Note { text } | StageEvent::Choice { text } = event {
            self.0.lock().unwrap().push(text);
        }
    }
}
