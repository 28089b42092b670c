//! The result of training does not depend on threads and interruptions, and errors name the step.

use anyhow::Result;

use super::support::{Notes, assert_same, interrupted, model, pairs, rows};
use crate::tests::support::Ramps;
use crate::train::{
    DpoConfig, Freeze, OptimizerConfig, PreferenceLoss, SftConfig, TrainState, Trained, Tuning, dpo, sft,
};
use crate::{Device, ImageShape, ParamGroup, PixelSource, PixelValues, Resources};
use ablate_core::base::progress::NoProgress;
use ablate_core::base::{Progress, Seed};
use ablate_data::tokens::TokenRow;

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

#[test]
fn threads_do_not_change_the_result() {
    let one = run_sft(&rows(), 1, &TrainState::none(), &Ramps, &NoProgress).unwrap();
    for threads in [2, 4] {
        assert_same(&one, &run_sft(&rows(), threads, &TrainState::none(), &Ramps, &NoProgress).unwrap());
    }
    let one = run_dpo(1, &TrainState::none(), &Ramps, &NoProgress).unwrap();
    assert_same(&one, &run_dpo(2, &TrainState::none(), &Ramps, &NoProgress).unwrap());
}

#[test]
fn the_loss_falls() {
    let trained = run_sft(&rows(), 1, &TrainState::none(), &Ramps, &NoProgress).unwrap();
    let (first, last) = (&trained.curve[0], &trained.curve[trained.curve.len() - 1]);
    assert!(last.loss < 0.8 * first.loss, "{} -> {}", first.loss, last.loss);
    // 22 rows in batches of 5 give 5 steps per epoch. With 3 epochs, every loss token counts three times.
    assert_eq!((trained.steps, last.step), (15, 15));
    let targets: usize = rows().iter().map(|row| row.loss.iter().filter(|loss| **loss).count()).sum();
    assert_eq!(last.tokens, 3 * targets as u64);
    let trained = run_dpo(1, &TrainState::none(), &Ramps, &NoProgress).unwrap();
    let (first, last) = (&trained.curve[0], &trained.curve[trained.curve.len() - 1]);
    // Policy and reference are equal before the first step: margin 0, loss ln 2 plus a tenth of the cross-entropy.
    assert_eq!(first.reward_margin, Some(0.0));
    assert!(last.reward_margin > Some(0.0) && last.reward_accuracy > Some(0.5), "{last:?}");
}

#[test]
fn a_frozen_group_keeps_its_bits() {
    let (start, trained) = (model(), run_dpo(1, &TrainState::none(), &Ramps, &NoProgress).unwrap());
    for (index, parameter) in start.list().iter().enumerate() {
        let moved = start.weights[index] != trained.checkpoint.weights[index];
        assert_eq!(moved, parameter.group == ParamGroup::Decoder, "`{}`", parameter.name);
    }
}

#[test]
fn an_interrupted_run_ends_with_the_same_result() {
    let whole = run_sft(&rows(), 1, &TrainState::none(), &Ramps, &NoProgress).unwrap();
    assert_same(
        &whole,
        &interrupted(&Ramps, [0, 16, 16], |state, pixels, progress| run_sft(&rows(), 2, state, pixels, progress)),
    );
    let whole = run_dpo(1, &TrainState::none(), &Ramps, &NoProgress).unwrap();
    assert_same(
        &whole,
        &interrupted(&Ramps, [0, 20, 20], |state, pixels, progress| run_dpo(1, state, pixels, progress)),
    );
}

#[test]
fn an_unreadable_state_starts_over_with_a_note() {
    let folder = tempfile::tempdir().unwrap();
    ablate_core::base::files::write_atomic(&folder.path().join("training.safetensors"), b"truncated").unwrap();
    let state = TrainState { folder: Some(folder.path().to_path_buf()), every_steps: 100, every_seconds: 1e9 };
    let progress = Notes::default();
    let trained = run_sft(&rows(), 1, &state, &Ramps, &progress).unwrap();
    assert_same(&trained, &run_sft(&rows(), 1, &TrainState::none(), &Ramps, &NoProgress).unwrap());
    let notes = progress.0.into_inner().unwrap();
    assert!(notes.len() == 1 && notes[0].contains("not a complete safetensors file"), "{notes:?}");
}

/// Images with values so large that sums overflow.
struct Overflowing;

impl PixelSource for Overflowing {
    fn shape(&self, key: &str) -> Result<ImageShape> {
        Ramps.shape(key)
    }

    fn pixel_values(&self, key: &str) -> Result<PixelValues> {
        let PixelValues { shape, values } = Ramps.pixel_values(key)?;
        Ok(PixelValues { shape, values: values.iter().map(|value| value * f32::MAX).collect() })
    }
}

#[test]
fn errors_name_the_step_and_the_rows() {
    let message = |result: Result<Trained>| format!("{:#}", result.unwrap_err());
    let run = |rows: &[TokenRow], pixels: &dyn PixelSource| run_sft(rows, 1, &TrainState::none(), pixels, &NoProgress);
    assert_eq!(message(run(&[], &Ramps)), "there are no rows to train on");
    let mut long = rows();
    long[3].tokens[1] = 99;
    assert_eq!(
        message(run(&long, &Ramps)),
        "row 3 (counted from 0): token 99 lies outside the model's vocabulary of 24"
    );
    let without_targets: Vec<TokenRow> =
        rows().into_iter().take(2).map(|row| TokenRow { loss: vec![false; row.loss.len()], ..row }).collect();
    assert_eq!(
        message(run(&without_targets, &Ramps)),
        "training step 1 of 6: no row of the batch has a target; counted from 0: 0"
    );
    // With overflowing sums, the loss is NaN.
    let infinite = message(run(&rows()[1..2], &Overflowing));
    assert_eq!(infinite, "training step 1 of 3: the loss is NaN; the rows of the batch, counted from 0: 0");
}
