//! Training on a GPU against PyTorch, TRL and the CPU.

#![expect(clippy::print_stdout, reason = "the figures are for people")]

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;

use super::parity::{brief_cases, cases, full::follow_on};
use super::support::{Method, Study, assert_same, merged};
use crate::tests::gpu::{Counts, assert_clean, counts, gpu, section};
use crate::tests::support::{Ramps, small_config};
use crate::train::dpo::Preference;
use crate::train::preference::{PreferenceLoss, Reduction};
use crate::train::run::Run;
use crate::train::sft::CrossEntropy;
use crate::train::tuning::exactly;
use crate::train::{Budget, OptimizerConfig, TrainState, Trained, Tuning};
use crate::trainable_model::TrainableModel;
use crate::{Checkpoint, ImageShape, LoraConfig, Pattern, PixelSource, PixelValues, Precision};
use ablate_core::base::Seed;
use ablate_data::tokens::{TokenPair, TokenRow};

#[test]
#[ignore = "needs a GPU"]
fn gpu_fine_tuning_matches_torch() {
    for case in cases().into_iter().chain(brief_cases()) {
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
    for case in brief_cases() {
        follow_on(&gpu(Precision::F32), &case, "dpo-sigmoid", &case.pairs);
    }
    assert_clean();
}

/// The largest relative differences of the losses and the weights.
fn difference(ours: &Trained, expected: &Trained) -> (f64, f64) {
    assert_eq!(ours.curve.len(), expected.curve.len());
    // Before the first step the policy is the reference: no response is preferred.
    assert_eq!(ours.curve[0].reward_accuracy, expected.curve[0].reward_accuracy);
    let losses = ours.curve.iter().zip(&expected.curve).map(|(a, b)| (a.loss / b.loss - 1.0).abs());
    let (ours, expected) = (merged(ours), merged(expected));
    let weights = ours.weights.iter().zip(&expected.weights);
    let weights = weights.map(|(a, b)| super::support::relative_error(a, b));
    (losses.fold(0.0, f64::max), weights.fold(0.0, f64::max))
}

fn study(method: Method, dropout: Option<f64>) -> Study {
    let targets = ["q_proj", "mlp.*", "multi_modal_projector.linear_1", "vision_tower.*"];
    let targets = targets.map(|target| Pattern(target.to_string())).to_vec();
    let lora = dropout.map(|dropout| LoraConfig { rank: 2, alpha: 4.0, dropout, targets });
    let mut study = Study::new(method, Tuning { lora, ..Tuning::default() });
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
            let mut recomputed = study.clone();
            recomputed.tuning.gradient_checkpointing = true;
            let again = recomputed.run_on(&gpu(Precision::Bf16), &TrainState::none(), &Ramps).unwrap();
            assert_same(&again, &found(Precision::Bf16));
        }
    }
    assert_clean();
}

/// Images of [`Ramps`]. A step begins when its only image is read: it gets its own section of the counts.
struct StepSections(AtomicUsize, String);

impl PixelSource for StepSections {
    fn shape(&self, key: &str) -> Result<ImageShape> {
        Ramps.shape(key)
    }

    fn pixel_values(&self, key: &str) -> Result<PixelValues> {
        section(Some(&format!("{} step {}", self.1, self.0.fetch_add(1, Ordering::SeqCst))));
        Ramps.pixel_values(key)
    }
}

/// The positions of a row of the counted runs.
const POSITIONS: usize = 16;
/// Steps of a counted run. From the third step on nothing is allocated.
const STEPS: usize = 4;

/// What the last step of training on `rows` rows, of which the first has an image, did. None on a real GPU.
fn counted_step(method: Method, layers: usize, rows: usize, precision: Precision) -> Option<Counts> {
    let mut config = small_config();
    config.decoder.layers = layers;
    let start = Checkpoint::initialize(&config, 24, 1, Seed(11)).unwrap();
    let row = |index: usize| {
        let mut tokens = vec![2];
        tokens.extend(vec![if index == 0 { 1 } else { 5 }; 4]);
        tokens.extend((tokens.len()..=POSITIONS).map(|at| 5 + (at * 7 + index) as u32 % 19));
        let loss = (0..tokens.len()).map(|at| at > POSITIONS / 2).collect();
        TokenRow { tokens, loss, images: (index == 0).then(|| "1".to_string()).into_iter().collect() }
    };
    let data: Vec<TokenRow> = (0..rows).map(row).collect();
    let name = format!("{method:?} {layers} {rows} {precision}");
    let images = StepSections(AtomicUsize::new(0), name.clone());
    let batches = vec![(0..rows).collect::<Vec<usize>>(); STEPS];
    let (optimizer, state, resources) = (OptimizerConfig::default(), TrainState::none(), gpu(precision));
    let run = Run {
        batches: &batches,
        optimizer: &optimizer,
        auto_batch: exactly(usize::MAX),
        recompute: false.into(),
        seed: Seed(0),
        images: &images,
        state: &state,
        resources: &resources,
    };
    let trainable_model = TrainableModel::new(start, None, |_| true);
    match method {
        Method::Sft => run.train(trainable_model, &CrossEntropy { rows: &data }).unwrap(),
        Method::Dpo => {
            let pair = |row: &TokenRow| TokenPair { chosen: row.clone(), rejected: row.clone() };
            let pairs: Vec<TokenPair> = data.iter().map(pair).collect();
            let reduction = Reduction { weights: None, mean: false };
            let loss = PreferenceLoss::Sigmoid { label_smoothing: 0.0 };
            let reference = vec![0.0; rows];
            let objective = Preference { pairs: &pairs, reference, reduction, loss, beta: 0.1, sft_weight: 0.0 };
            run.train(trainable_model, &objective).unwrap()
        }
    };
    // The results are copied in the section of the last step, so the one before is counted.
    counts(&format!("{name} step {}", STEPS - 2))
}

#[test]
#[ignore = "needs a GPU"]
fn gpu_training_steps_stay_on_the_card() {
    for precision in [Precision::F32, Precision::Bf16] {
        let mut per_layer = Vec::new();
        for rows in [1, 8, 64] {
            let (Some(one), Some(eight)) =
                (counted_step(Method::Sft, 1, rows, precision), counted_step(Method::Sft, 8, rows, precision))
            else {
                return;
            };
            let operations = |counts: &Counts| counts.launches + counts.products.calls;
            per_layer.push((operations(&eight) - operations(&one)) as f64 / 7.0);
            let pixels = 8 * 8 * 3 * size_of::<f32>();
            let (tokens, patches) = (rows * POSITIONS, 4);
            let most = 64 * (tokens + patches) + pixels + 1024;
            println!("{precision} {rows} rows, 8 layers: {eight:?}");
            assert!(eight.host_to_device.bytes <= most as u64, "{} bytes, not {most}", eight.host_to_device.bytes);
            assert!(eight.device_to_host.bytes < 1024, "{eight:?}");
            assert_eq!(eight.allocations.count, 0);
        }
        println!("{precision}: launches and products per layer for 1, 8 and 64 rows: {per_layer:?}");
        assert!(per_layer.iter().all(|count| *count <= 40.0 && (count - per_layer[0]).abs() < 0.01), "{per_layer:?}");
        let dpo = counted_step(Method::Dpo, 2, 16, precision).unwrap();
        assert!(dpo.device_to_host.bytes < 1024 && dpo.allocations.count == 0, "{dpo:?}");
    }
    assert_clean();
}
