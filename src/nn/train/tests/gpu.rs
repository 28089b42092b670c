//! Training on a GPU against PyTorch, TRL and the CPU.

use super::parity::{cases, full::follow_on};
use super::support::{Method, Study};
use crate::tests::gpu::{assert_clean, gpu};
use crate::tests::support::Ramps;
use crate::train::sft::CrossEntropy;
use crate::train::{Budget, TrainState, Trained, Tuning};
use crate::{LoraConfig, Pattern, Precision};

#[test]
#[ignore = "needs a GPU"]
fn gpu_fine_tuning_matches_torch() {
    for case in cases() {
        let objective = CrossEntropy { rows: &case.rows };
        case.follow_on(&gpu(Precision::F32), "sft", &case.expected("sft"), None, &objective);
    }
    assert_clean();
}

#[test]
#[ignore = "needs a GPU"]
fn gpu_preference_optimization_matches_trl() {
    for case in cases() {
        for run in ["dpo-sigmoid", "dpo-hinge", "dpo-ipo", "dpo-sft", "dpo-linear-ipo", "dpo-cosine"] {
            follow_on(&gpu(Precision::F32), &case, run, &case.pairs);
        }
    }
    assert_clean();
}

/// The largest relative differences of the losses and the weights.
fn difference(ours: &Trained, expected: &Trained) -> (f64, f64) {
    assert_eq!(ours.curve.len(), expected.curve.len());
    let losses = ours.curve.iter().zip(&expected.curve).map(|(a, b)| (a.loss / b.loss - 1.0).abs());
    let weights = ours.checkpoint.weights.iter().zip(&expected.checkpoint.weights);
    let weights = weights.map(|(a, b)| super::support::relative_error(a, b));
    (losses.fold(0.0, f64::max), weights.fold(0.0, f64::max))
}

fn study(method: Method, dropout: Option<f64>) -> Study {
    let targets = ["q_proj", "mlp.*", "multi_modal_projector.linear_1", "vision_tower.*"];
    let targets = targets.map(|target| Pattern(target.to_string())).to_vec();
    let lora = dropout.map(|dropout| LoraConfig { rank: 2, alpha: 4.0, dropout, targets });
    let mut study = Study::new(method, Tuning { micro_batch: None, lora });
    study.budget = Budget::Steps(50);
    study.optimizer.lr = 1e-3;
    study
}

#[test]
#[ignore = "needs a GPU"]
fn gpu_training_equals_the_cpus() {
    for method in [Method::Sft, Method::Dpo] {
        for dropout in [None, Some(0.0), Some(0.3)] {
            let study = study(method, dropout);
            let expected = study.trained(2);
            let found = |precision| study.run_on(&gpu(precision), &TrainState::none(), &Ramps).unwrap();
            let (losses, weights) = difference(&found(Precision::F32), &expected);
            let (rounded, _) = difference(&found(Precision::Bf16), &expected);
            println!("dropout {dropout:?}: f32 losses {losses:.1e}, weights {weights:.1e}; bf16 losses {rounded:.1e}");
            assert!(losses < 1e-5 && rounded < 1e-2, "{losses:e} {rounded:e}");
        }
    }
    assert_clean();
}
