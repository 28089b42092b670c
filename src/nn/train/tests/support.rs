//! A small model, its data, interruptions and comparisons for the tests of training.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, bail};

use crate::train::{TrainState, Trained};
use crate::{
    Checkpoint, DecoderConfig, ImageShape, ModelConfig, PixelSource, PixelValues, ProjectorConfig, VisionConfig,
};
use ablate_core::base::{Progress, Seed, StageEvent};
use ablate_data::tokens::{TokenPair, TokenRow};

pub(super) fn model() -> Checkpoint {
    let config = ModelConfig {
        image_size: 8,
        patch_size: 4,
        vision: VisionConfig { dim: 16, layers: 1, heads: 2, ff: 24 },
        projector: ProjectorConfig { hidden: 16 },
        decoder: DecoderConfig {
            dim: 32,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            ff: 48,
            max_positions: 64,
            ..Default::default()
        },
    };
    Checkpoint::initialize(&config, 24, 1, Seed(11)).unwrap()
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
            TokenRow { tokens, loss, image }
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

/// Runs a training that is interrupted three times and resumed each time.
pub(super) fn interrupted(
    images: &dyn PixelSource,
    stops: [usize; 3],
    run: impl Fn(&TrainState, &dyn PixelSource, &dyn Progress) -> Result<Trained>,
) -> Trained {
    let folder = tempfile::tempdir().unwrap();
    let state = TrainState { folder: Some(folder.path().to_path_buf()), every_steps: 2, every_seconds: 1e9 };
    let mut notes = Vec::new();
    for stop in stops {
        let progress = Notes::default();
        let error = run(&state, &Failing(AtomicUsize::new(stop), images), &progress).unwrap_err();
        assert!(format!("{error:#}").contains("the disk is gone"), "{error:#}");
        notes.extend(progress.0.into_inner().unwrap());
    }
    let progress = Notes::default();
    let trained = run(&state, images, &progress).unwrap();
    notes.extend(progress.0.into_inner().unwrap());
    assert!(!notes.is_empty() && notes.iter().all(|note| note.starts_with("resumed after step ")), "{notes:?}");
    trained
}

/// Collects the notes of a run.
#[derive(Default)]
pub(super) struct Notes(pub(super) Mutex<Vec<String>>);

impl Progress for Notes {
    fn emit(&self, event: StageEvent) {
        if let StageEvent::Note { text } = event {
            self.0.lock().unwrap().push(text);
        }
    }
}
