//! What training promises: one result whatever the threads and the interruptions, and clear ends when it cannot go on.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, bail};

use super::{DpoConfig, Freeze, OptimizerConfig, PreferenceLoss, SftConfig, TrainState, Trained, Tuning, dpo, sft};
use crate::pixel_values::fixture::Ramps;
use crate::{
    Checkpoint, DecoderConfig, Device, ImageShape, ModelConfig, ParamGroup, PixelSource, PixelValues, ProjectorConfig,
    Resources, VisionConfig,
};
use ablate_core::base::progress::NoProgress;
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
    Checkpoint::fresh(&config, 24, 1, Seed(11)).unwrap()
}

/// Rows of different lengths, two in three with an image; the response repeats the prompt's token.
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

fn optimizer(freeze: Vec<Freeze>) -> OptimizerConfig {
    OptimizerConfig { lr: 1e-2, weight_decay: 0.01, warmup: 0.1, freeze, ..OptimizerConfig::default() }
}

fn run_sft(
    rows: &[TokenRow],
    threads: usize,
    state: &TrainState,
    pixels: &dyn PixelSource,
    progress: &dyn Progress,
) -> Result<Trained> {
    let config =
        SftConfig { epochs: 3, batch: 5, length_window: 4, optimizer: optimizer(vec![]), tuning: Tuning::default() };
    let resources = Resources { device: Device::Cpu, threads, progress };
    sft(model(), rows, pixels, &config, Seed(5), state, &resources)
}

fn run_dpo(threads: usize, state: &TrainState, pixels: &dyn PixelSource, progress: &dyn Progress) -> Result<Trained> {
    let freeze = [ParamGroup::Vision, ParamGroup::Projector].map(Freeze::Group).to_vec();
    let config = DpoConfig {
        epochs: 2,
        batch: 4,
        length_window: 4,
        loss: PreferenceLoss::Sigmoid { label_smoothing: 0.0 },
        beta: 0.2,
        token_weights: None,
        sft_weight: 0.1,
        optimizer: optimizer(freeze),
        tuning: Tuning::default(),
    };
    let resources = Resources { device: Device::Cpu, threads, progress };
    dpo(model(), model(), &pairs(), pixels, &config, Seed(6), state, &resources)
}

pub(super) fn same(a: &Trained, b: &Trained) {
    assert!(a.checkpoint == b.checkpoint && a.adapter == b.adapter, "other weights");
    assert_eq!(a.curve, b.curve);
    assert_eq!((a.steps, a.tokens, a.flops.to_bits()), (b.steps, b.tokens, b.flops.to_bits()));
}

#[test]
fn threads_change_no_bit_of_a_training() {
    let one = run_sft(&rows(), 1, &TrainState::none(), &Ramps, &NoProgress).unwrap();
    for threads in [2, 4] {
        same(&one, &run_sft(&rows(), threads, &TrainState::none(), &Ramps, &NoProgress).unwrap());
    }
    let one = run_dpo(1, &TrainState::none(), &Ramps, &NoProgress).unwrap();
    same(&one, &run_dpo(2, &TrainState::none(), &Ramps, &NoProgress).unwrap());
}

#[test]
fn the_loss_falls_and_the_curve_says_so() {
    let trained = run_sft(&rows(), 1, &TrainState::none(), &Ramps, &NoProgress).unwrap();
    let (first, last) = (&trained.curve[0], &trained.curve[trained.curve.len() - 1]);
    assert!(last.loss < 0.8 * first.loss, "{} -> {}", first.loss, last.loss);
    // 22 rows in batches of 5 make 5 steps per epoch; 3 epochs; every loss token counts three times.
    assert_eq!((trained.steps, last.step), (15, 15));
    let targets: usize = rows().iter().map(|row| row.loss.iter().filter(|loss| **loss).count()).sum();
    assert_eq!(last.tokens, 3 * targets as u64);
    let trained = run_dpo(1, &TrainState::none(), &Ramps, &NoProgress).unwrap();
    let (first, last) = (&trained.curve[0], &trained.curve[trained.curve.len() - 1]);
    // Policy and reference are one before the first step: margin 0, loss ln 2 plus a tenth of the cross-entropy.
    assert_eq!(first.reward_margin, Some(0.0));
    assert!(last.reward_margin > Some(0.0) && last.reward_accuracy > Some(0.5), "{last:?}");
}

#[test]
fn a_frozen_part_keeps_its_bits() {
    let (start, trained) = (model(), run_dpo(1, &TrainState::none(), &Ramps, &NoProgress).unwrap());
    for (index, parameter) in start.list().iter().enumerate() {
        let moved = start.weights[index] != trained.checkpoint.weights[index];
        assert_eq!(moved, parameter.group == ParamGroup::Decoder, "`{}`", parameter.name);
    }
}

/// Images until so many have been asked for; then the disk is gone.
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

/// Runs, is stopped three times at different places, goes on each time and ends.
pub(super) fn interrupted(
    images: &dyn PixelSource,
    stops: [usize; 3],
    run: impl Fn(&TrainState, &dyn PixelSource, &dyn Progress) -> Result<Trained>,
) -> Trained {
    let folder = tempfile::tempdir().unwrap();
    let state = TrainState { folder: Some(folder.path().to_path_buf()), every_steps: 2, every_seconds: 1e9 };
    let mut notes = Vec::new();
    for stop in stops {
        let heard = Heard::default();
        let error = run(&state, &Failing(AtomicUsize::new(stop), images), &heard).unwrap_err();
        assert!(format!("{error:#}").contains("the disk is gone"), "{error:#}");
        notes.extend(heard.0.into_inner().unwrap());
    }
    let heard = Heard::default();
    let trained = run(&state, images, &heard).unwrap();
    notes.extend(heard.0.into_inner().unwrap());
    assert!(!notes.is_empty() && notes.iter().all(|note| note.starts_with("resumed after step ")), "{notes:?}");
    trained
}

/// Keeps the notes of a run.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Progress for Heard {
    fn emit(&self, event: StageEvent) {
        if let StageEvent::Note { text } = event {
            self.0.lock().unwrap().push(text);
        }
    }
}

#[test]
fn an_interrupted_training_ends_as_if_it_had_not_been() {
    let whole = run_sft(&rows(), 1, &TrainState::none(), &Ramps, &NoProgress).unwrap();
    same(
        &whole,
        &interrupted(&Ramps, [0, 16, 16], |state, pixels, progress| run_sft(&rows(), 2, state, pixels, progress)),
    );
    let whole = run_dpo(1, &TrainState::none(), &Ramps, &NoProgress).unwrap();
    same(&whole, &interrupted(&Ramps, [0, 20, 20], |state, pixels, progress| run_dpo(1, state, pixels, progress)));
}

#[test]
fn a_state_that_cannot_be_read_is_started_over_with_a_note() {
    let folder = tempfile::tempdir().unwrap();
    ablate_core::base::files::write_atomic(&folder.path().join("training.safetensors"), b"half a fi").unwrap();
    let state = TrainState { folder: Some(folder.path().to_path_buf()), every_steps: 100, every_seconds: 1e9 };
    let heard = Heard::default();
    let trained = run_sft(&rows(), 1, &state, &Ramps, &heard).unwrap();
    same(&trained, &run_sft(&rows(), 1, &TrainState::none(), &Ramps, &NoProgress).unwrap());
    let notes = heard.0.into_inner().unwrap();
    assert!(notes.len() == 1 && notes[0].contains("not a complete safetensors file"), "{notes:?}");
}

/// Pictures so bright that sums over them overflow.
struct Blinding;

impl PixelSource for Blinding {
    fn shape(&self, key: &str) -> Result<ImageShape> {
        Ramps.shape(key)
    }

    fn pixel_values(&self, key: &str) -> Result<PixelValues> {
        let PixelValues { shape, values } = Ramps.pixel_values(key)?;
        Ok(PixelValues { shape, values: values.iter().map(|value| value * f32::MAX).collect() })
    }
}

#[test]
fn what_cannot_go_on_says_where_and_why() {
    let told = |result: Result<Trained>| format!("{:#}", result.unwrap_err());
    let run = |rows: &[TokenRow], pixels: &dyn PixelSource| run_sft(rows, 1, &TrainState::none(), pixels, &NoProgress);
    assert_eq!(told(run(&[], &Ramps)), "there are no rows to train on");
    let mut long = rows();
    long[3].tokens[1] = 99;
    assert_eq!(told(run(&long, &Ramps)), "row 3 (counted from 0): token 99 lies outside the model's vocabulary of 24");
    let mute: Vec<TokenRow> =
        rows().into_iter().take(2).map(|row| TokenRow { loss: vec![false; row.loss.len()], ..row }).collect();
    assert_eq!(told(run(&mute, &Ramps)), "training step 1 of 6: no row of the batch has a target; counted from 0: 0");
    // Where sums overflow, the loss is not a number.
    let infinite = told(run(&rows()[1..2], &Blinding));
    assert_eq!(infinite, "training step 1 of 3: the loss is NaN; the rows of the batch, counted from 0: 0");
}
