//! The result of training does not depend on threads and interruptions, and errors name the step.

use std::sync::atomic::AtomicUsize;

use super::support::{Method, Notes, OverflowingAfter, Study, assert_same, model, rows, state_in};
use crate::tests::support::Ramps;
use crate::train::{Budget, Freeze, MicroBatch, TrainState, Trained, Tuning};
use crate::{ParamGroup, PixelSource};
use ablate_data::tokens::TokenRow;

fn fine_tuning() -> Study {
    Study { budget: Budget::Epochs(3), ..Study::new(Method::Sft, Tuning::default()) }
}

/// Preference optimization of the decoder alone.
fn preferences() -> Study {
    let mut study = Study::new(Method::Dpo, Tuning::default());
    study.optimizer.freeze = [ParamGroup::Vision, ParamGroup::Projector].map(Freeze::Group).to_vec();
    study
}

#[test]
fn threads_do_not_change_the_result() {
    for (study, others) in [(fine_tuning(), &[2, 4][..]), (preferences(), &[2][..])] {
        let one = study.trained(1);
        for &threads in others {
            assert_same(&one, &study.trained(threads));
        }
    }
}

#[test]
fn the_loss_falls() {
    let Trained { curve, steps, .. } = fine_tuning().trained(1);
    let (first, last) = (&curve[0], &curve[curve.len() - 1]);
    assert!(last.loss < 0.8 * first.loss, "{} -> {}", first.loss, last.loss);
    // 22 rows in batches of 5 give 5 steps per epoch. With 3 epochs, every loss token counts three times.
    assert_eq!((steps, last.step), (15, 15));
    let targets: usize = rows().iter().map(|row| row.loss.iter().filter(|loss| **loss).count()).sum();
    assert_eq!(last.tokens, 3 * targets as u64);
    let curve = preferences().trained(1).curve;
    let (first, last) = (&curve[0], &curve[curve.len() - 1]);
    // Policy and reference are equal before the first step: margin 0, loss ln 2 plus a tenth of the cross-entropy.
    assert_eq!(first.reward_margin, Some(0.0));
    assert!(last.reward_margin > Some(0.0) && last.reward_accuracy > Some(0.5), "{last:?}");
}

#[test]
fn a_frozen_group_keeps_its_bits() {
    let (start, trained) = (model(), preferences().trained(1));
    for (index, parameter) in start.list().iter().enumerate() {
        let moved = start.weights[index] != trained.checkpoint.weights[index];
        assert_eq!(moved, parameter.group == ParamGroup::Decoder, "`{}`", parameter.name);
    }
}

#[test]
fn an_interrupted_run_ends_with_the_same_result() {
    let steps = Study { budget: Budget::Steps(13), ..fine_tuning() };
    for (study, threads, stop) in [(fine_tuning(), 2, 16), (preferences(), 1, 20), (steps, 1, 14)] {
        assert_same(&study.trained(1), &study.interrupted(threads, &Ramps, [0, stop, stop]));
    }
}

#[test]
fn steps_and_tokens_stop_where_epochs_do() {
    for study in [fine_tuning(), preferences()] {
        let epochs = study.trained(1);
        let of = |budget| Study { budget, ..study.clone() }.trained(1);
        assert_same(&epochs, &of(Budget::Steps(epochs.steps as usize)));
        assert_same(&epochs, &of(Budget::Tokens(epochs.tokens as usize)));
        // The tokens of a batch do not depend on its micro-batches.
        let tuning = Tuning { micro_batch: Some(MicroBatch::Rows(2)), ..Tuning::default() };
        let micro = Study { tuning, budget: Budget::Tokens(epochs.tokens as usize), ..study.clone() }.trained(1);
        assert_eq!((micro.steps, micro.tokens), (epochs.steps, epochs.tokens));
        let three = of(Budget::Steps(3));
        assert_eq!((three.steps, three.curve.len()), (3, 3));
        assert!(three.curve[2].learning_rate > 0.0);
    }
}

#[test]
fn an_unreadable_state_starts_over_with_a_note() {
    let folder = tempfile::tempdir().unwrap();
    ablate_core::base::files::write_atomic(&folder.path().join("training.safetensors"), b"truncated").unwrap();
    let (study, progress) = (fine_tuning(), Notes::default());
    let trained = study.run(1, &state_in(folder.path(), 100), &Ramps, &progress).unwrap();
    assert_same(&trained, &study.trained(1));
    let notes = progress.0.into_inner().unwrap();
    assert!(notes.len() == 1 && notes[0].contains("not a complete safetensors file"), "{notes:?}");
}

#[test]
fn errors_name_the_step_and_the_rows() {
    let error = |rows: &[TokenRow], images: &dyn PixelSource| {
        Study { rows: rows.to_vec(), ..fine_tuning() }.error(&TrainState::none(), images)
    };
    assert_eq!(error(&[], &Ramps), "there are no rows to train on");
    let mut long = rows();
    long[3].tokens[1] = 99;
    assert_eq!(error(&long, &Ramps), "row 3 (counted from 0): token 99 lies outside the model's vocabulary of 24");
    let untrained = |row: TokenRow| TokenRow { loss: vec![false; row.loss.len()], ..row };
    let none = error(&rows().into_iter().take(2).map(untrained).collect::<Vec<_>>(), &Ramps);
    assert_eq!(none, "training step 1 of 6: no row of the batch has a target; counted from 0: 0");
    // With overflowing sums, the loss is NaN.
    let infinite = error(&rows()[1..2], &OverflowingAfter(AtomicUsize::new(0)));
    assert_eq!(infinite, "training step 1 of 3: the loss is NaN; the rows of the batch, counted from 0: 0");
}
