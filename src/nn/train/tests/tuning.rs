//! Adapters, frozen names, learning rates of groups, and interrupted or failing runs.

use std::sync::atomic::AtomicUsize;

use super::parity::case;
use super::support::{Failing, Method, OverflowingAfter, Study, assert_same, merged, model, rows, state_in};
use crate::session::Session;
use crate::tests::support::{RESOURCES, Ramps};
use crate::train::{Budget, Freeze, LearningRates, MicroBatch, OptimizerConfig, Schedule, TrainState, Tuning};
use crate::trainable_model::TrainableModel;
use crate::{Adapter, Batch, Checkpoint, LoraConfig, ParamGroup, Pattern, Sequence};
use ablate_core::base::Seed;
use ablate_core::base::progress::NoProgress;

fn lora(dropout: f64, targets: &[&str]) -> LoraConfig {
    let targets = targets.iter().map(|target| Pattern((*target).to_string())).collect();
    LoraConfig { rank: 2, alpha: 4.0, dropout, targets }
}

fn adapted() -> Tuning {
    Tuning { micro_batch: Some(MicroBatch::Rows(2)), lora: Some(lora(0.1, &["q_proj", "mlp.*"])), ..Tuning::default() }
}

/// Fine-tuning of all parameters.
fn full() -> Study {
    Study::new(Method::Sft, Tuning::default())
}

#[test]
fn adapter_with_dropout_resumes_bit_for_bit() {
    let study = Study::new(Method::Sft, adapted());
    let whole = study.trained(1);
    assert!(whole.adapter.is_some());
    assert_same(&whole, &study.trained(3));
    assert_same(&whole, &study.interrupted(2, &Ramps, [0, 8, 8]));
    let study = Study::new(Method::Dpo, adapted());
    assert_same(&study.trained(1), &study.interrupted(2, &Ramps, [0, 20, 20]));
}

#[test]
fn gradient_checkpointing_gives_the_same_bits() {
    for tuning in [Tuning::default(), adapted()] {
        for method in [Method::Sft, Method::Dpo] {
            let study = Study::new(method, tuning.clone());
            let mut recomputed = study.clone();
            recomputed.tuning.gradient_checkpointing = true;
            assert_same(&study.trained(2), &recomputed.trained(3));
        }
    }
}

#[test]
fn gradient_checkpointing_gives_the_same_bits_where_features_enter_at_several_layers() {
    let case = case("qwen3-vl");
    let frozen = |groups: &[ParamGroup]| groups.iter().copied().map(Freeze::Group).collect::<Vec<Freeze>>();
    let all = Tuning { lora: Some(lora(0.1, &["*"])), ..adapted() };
    for (tuning, freeze) in [
        (Tuning::default(), frozen(&[])),
        (Tuning::default(), frozen(&[ParamGroup::Vision])),
        (Tuning::default(), frozen(&[ParamGroup::Vision, ParamGroup::Projector])),
        (Tuning::default(), frozen(&[ParamGroup::Decoder])),
        (all, frozen(&[])),
    ] {
        for method in [Method::Sft, Method::Dpo] {
            let mut study = Study::new(method, tuning.clone());
            (study.start, study.rows, study.pairs) = (case.start.clone(), case.rows.clone(), case.pairs.clone());
            study.optimizer.freeze.clone_from(&freeze);
            let mut recomputed = study.clone();
            recomputed.tuning.gradient_checkpointing = true;
            let run = |study: &Study, threads| study.run(threads, &TrainState::none(), &case.images, &NoProgress);
            assert_same(&run(&study, 2).unwrap(), &run(&recomputed, 3).unwrap());
        }
    }
}

#[test]
fn hugging_face_checkpoint_resumes_bit_for_bit() {
    for tuning in [Tuning::default(), adapted()] {
        for method in [Method::Sft, Method::Dpo] {
            let case = case("llava");
            let mut study = Study::new(method, tuning.clone());
            (study.start, study.rows, study.pairs) = (case.start, case.rows, case.pairs);
            let counting = Failing(AtomicUsize::new(usize::MAX), &case.images);
            let whole = study.run(1, &TrainState::none(), &counting, &NoProgress).unwrap();
            let reads = usize::MAX - counting.0.into_inner();
            assert_same(&whole, &study.interrupted(2, &case.images, [0, 2 * reads / 3, reads / 4]));
        }
    }
}

/// The log-probabilities of a row for a model with an adapter that is not merged.
fn log_probs(checkpoint: &Checkpoint, adapter: Option<Adapter>) -> Vec<f32> {
    log_probs_of(checkpoint, adapter, None)
}

/// As in training: `dropout` is the seed of the adapter's dropout.
fn log_probs_of(checkpoint: &Checkpoint, adapter: Option<Adapter>, dropout: Option<Seed>) -> Vec<f32> {
    let trainable_model = TrainableModel::new(checkpoint.clone(), adapter, |_| false);
    let session = Session::new(&trainable_model, &RESOURCES).unwrap();
    let row = &rows()[1];
    let sequence = Sequence { tokens: &row.tokens, loss: &row.loss, images: &row.images };
    let build = |_: usize| {
        let mut batch = Batch::new(&checkpoint.architecture, &[sequence], false, &Ramps)?;
        batch.dropout = dropout.into_iter().collect();
        Ok(batch)
    };
    session.log_probs(1, &build, &|_, _, values: &[f32]| values.to_vec()).unwrap().concat()
}

#[test]
fn a_merged_adapter_computes_the_same() {
    let start = model();
    let initial = Adapter::initialize(&start, &lora(0.0, &["*"]), Seed(1)).unwrap();
    assert_eq!(log_probs(&start, Some(initial)), log_probs(&start, None));
    let trained = Study::new(Method::Sft, adapted()).trained(1);
    assert_eq!(trained.checkpoint, start, "the model itself does not change");
    let (unmerged, merged) = (log_probs(&start, trained.adapter.clone()), log_probs(&merged(&trained), None));
    assert_ne!(unmerged, log_probs(&start, None));
    assert!(unmerged.iter().zip(&merged).all(|(a, b)| (a - b).abs() < 1e-5), "{unmerged:?} {merged:?}");
}

#[test]
fn dropout_applies_to_the_adapter_only() {
    let start = model();
    let initial = Adapter::initialize(&start, &lora(0.5, &["*"]), Seed(1)).unwrap();
    assert_eq!(log_probs_of(&start, Some(initial), Some(Seed(1))), log_probs(&start, None));
    let adapter = Study::new(Method::Sft, adapted()).trained(1).adapter;
    let drawn = |seed| log_probs_of(&start, adapter.clone(), Some(Seed(seed)));
    assert_eq!(drawn(1), drawn(1));
    assert_ne!(drawn(1), drawn(2));
}

#[test]
fn targets_select_the_adapted_layers() {
    let start = model();
    let modules = |targets: &[&str]| -> Vec<String> {
        Adapter::initialize(&start, &lora(0.0, targets), Seed(1)).unwrap().modules.into_keys().collect()
    };
    assert_eq!(
        modules(&["model.layers.1.self_attn.*", "linear_2"]),
        [
            "model.layers.1.self_attn.k_proj",
            "model.layers.1.self_attn.o_proj",
            "model.layers.1.self_attn.q_proj",
            "model.layers.1.self_attn.v_proj",
            "multi_modal_projector.linear_2",
        ]
    );
    // One block of the vision tower, two of the decoder, and the projector.
    assert_eq!(modules(&["*"]).len(), 7 + 2 * 7 + 2);
    let error = Adapter::initialize(&start, &lora(0.0, &["q_porj"]), Seed(1)).unwrap_err().to_string();
    assert_eq!(error, "`lora.targets`: `q_porj` matches no linear layer of the model; a similar name is `q_proj`");
}

#[test]
fn parameters_frozen_by_name_keep_their_bits() {
    let named = |pattern: &str| Freeze::Named(Pattern(pattern.to_string()));
    let mut study = full();
    study.optimizer.freeze = vec![Freeze::Group(ParamGroup::Vision), named("model.layers.0.*"), named("*.v_proj")];
    let trained = study.trained(1);
    for (index, parameter) in study.start.list().iter().enumerate() {
        let moved = study.start.weights[index] != trained.checkpoint.weights[index];
        let still = parameter.group == ParamGroup::Vision
            || parameter.name.starts_with("model.layers.0.")
            || parameter.name.contains("v_proj");
        assert_eq!(moved, !still, "`{}`", parameter.name);
    }
    // An adapter is frozen by the name of its layer.
    let mut study =
        Study::new(Method::Sft, Tuning { lora: Some(lora(0.0, &["q_proj", "v_proj"])), ..Tuning::default() });
    study.optimizer.freeze = vec![named("*.v_proj")];
    for (name, module) in study.trained(1).adapter.unwrap().modules {
        assert_eq!(module.up.iter().all(|value| *value == 0.0), name.ends_with("v_proj"), "`{name}`");
    }
    study.optimizer.freeze = vec![named("*.v_porj")];
    let error = study.error(&TrainState::none(), &Ramps);
    assert_eq!(error, "`freeze`: `*.v_porj` matches no parameter of the model");
}

#[test]
fn a_group_has_its_own_learning_rate() {
    let mut study = full();
    // One batch, so one step.
    study.rows.retain(|row| !row.images.is_empty());
    study.rows.truncate(5);
    let lr_parts = LearningRates { vision: Some(1e-4), ..LearningRates::default() };
    let schedule = Schedule::Constant;
    study.optimizer = OptimizerConfig { lr: 1e-2, lr_parts, schedule, warmup: 0.0, ..OptimizerConfig::default() };
    study.budget = Budget::Epochs(1);
    let trained = study.trained(1);
    assert_eq!(trained.steps, 1);
    // The first step of AdamW moves every weight that has a gradient by its rate.
    for (index, parameter) in study.start.list().iter().enumerate() {
        let pairs = study.start.weights[index].iter().zip(trained.checkpoint.weights[index].iter());
        let largest = pairs.map(|(before, after)| (before - after).abs()).fold(0.0, f32::max);
        let rate = if parameter.group == ParamGroup::Vision { 1e-4 } else { 1e-2 };
        assert!((largest / rate - 1.0).abs() < 0.02, "`{}` moved by {largest}", parameter.name);
    }
}

#[test]
fn a_failing_run_saves_its_last_good_state() {
    let mut study = full();
    // The learning rate is so large that sums overflow after the first steps.
    study.optimizer = OptimizerConfig { lr: 1e25, warmup: 1.0, clip: 0.0, ..OptimizerConfig::default() };
    let folder = tempfile::tempdir().unwrap();
    let state = state_in(folder.path(), 100);
    let first = study.error(&state, &Ramps);
    let path = folder.path().join("training.safetensors");
    let kept = format!("(the state after step 1 is saved in `{}`): the loss is", path.display());
    assert!(first.starts_with("training step 2 of ") && first.contains(&kept), "{first}");
    assert!(first.contains("the rows of the batch, counted from 0: "), "{first}");
    // The run resumes from this state and fails at the same step.
    assert_eq!(study.error(&state, &Ramps), first);
}

#[test]
fn a_run_resumes_after_a_bad_image() {
    for tuning in [Tuning::default(), adapted()] {
        let study = Study::new(Method::Sft, tuning);
        let folder = tempfile::tempdir().unwrap();
        let state = state_in(folder.path(), 100);
        let error = study.error(&state, &OverflowingAfter(AtomicUsize::new(16)));
        assert!(error.contains("(the state after step ") && error.contains("): the loss is NaN; the rows"), "{error}");
        assert_same(&study.trained(1), &study.run(1, &state, &Ramps, &NoProgress).unwrap());
    }
}

#[test]
fn infinite_weights_are_never_saved() {
    let mut study = full();
    // The rate exceeds f32, so the first step leaves no finite trainable weight.
    let schedule = Schedule::Constant;
    study.optimizer = OptimizerConfig { lr: 1e39, schedule, warmup: 0.0, ..OptimizerConfig::default() };
    let folder = tempfile::tempdir().unwrap();
    let error = |study: &Study, every_steps| {
        let error = study.error(&state_in(folder.path(), every_steps), &Ramps);
        assert!(!folder.path().join("training.safetensors").exists());
        error
    };
    let next = error(&study, 100);
    assert!(next.starts_with("training step 2 of 10 (the state after step 1 could not be saved: `"), "{next}");
    let kept = error(&study, 1);
    assert!(kept.starts_with("training step 1 of 10: `") && kept.contains("` has become "), "{kept}");
    // They are not returned either. The rows with images make one batch, so one step.
    study.rows.retain(|row| !row.images.is_empty());
    study.rows.truncate(5);
    study.budget = Budget::Epochs(1);
    let last = error(&study, 100);
    assert!(last.starts_with("training step 1 of 1: `") && last.contains("` has become "), "{last}");
}
