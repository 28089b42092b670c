//! Every supported family on a GPU against transformers and the CPU; dfdx on the same GPU.

use std::sync::Arc;

use dfdx::prelude::Cuda;
use half::bf16;

use super::{Subject, TOLERANCE};
use crate::session::Session;
use crate::tests::gpu::{assert_clean, gpu};
use crate::tests::support::{RESOURCES, parity};
use crate::trainable_model::TrainableModel;
use crate::{Checkpoint, Precision, Resources};
use ablate_core::base::files;

/// Largest relative error of logits in bf16.
const BF16_TOLERANCE: f64 = 2e-2;

/// A checkpoint as it is published: with weights in bf16.
fn rounded(checkpoint: &Checkpoint) -> Checkpoint {
    let round = |weights: &Arc<Vec<f32>>| Arc::new(weights.iter().map(|&w| bf16::from_f32(w).to_f32()).collect());
    Checkpoint { weights: checkpoint.weights.iter().map(round).collect(), ..checkpoint.clone() }
}

impl Subject {
    /// The root mean square difference between the logits of a model in two ways, over that of the logits.
    fn logit_difference(&self, checkpoint: &Checkpoint, one: &Resources, other: &Resources) -> f64 {
        let logits = |resources| {
            let session = Session::new(&TrainableModel::frozen(checkpoint), resources).unwrap();
            let of = |name| session.logits(&self.case.batch(name, &*self.images).unwrap()).unwrap();
            self.case.expected.sequences.keys().flat_map(|name| of(name)).collect::<Vec<f32>>()
        };
        let (one, other) = (logits(one), logits(other));
        let square = |values: &mut dyn Iterator<Item = f32>| values.map(|x| f64::from(x).powi(2)).sum::<f64>();
        let difference = square(&mut one.iter().zip(&other).map(|(a, b)| a - b));
        (difference / square(&mut other.iter().copied())).sqrt()
    }
}

#[test]
#[ignore = "needs a GPU"]
fn gpu_logits_of_every_family() {
    let mut wrong = Vec::new();
    for (name, folder, _) in files::entries(&parity("hub")).unwrap() {
        if !folder.join("config.json").exists() {
            continue;
        }
        let subject = Subject::open(&folder).unwrap();
        let checkpoint = &subject.case.checkpoint;
        let session = Session::new(&TrainableModel::frozen(checkpoint), &gpu(Precision::F32)).unwrap();
        let exact = subject.case.logits(&session, &*subject.images).unwrap();
        let bf16 = subject.logit_difference(&rounded(checkpoint), &gpu(Precision::Bf16), &RESOURCES);
        let dfdx = subject.case.dfdx_logits(Cuda::try_build(0, 0).unwrap()).unwrap();
        println!("{name:22} f32 {exact:.1e}  bf16 {bf16:.1e}  dfdx {dfdx:.1e}");
        if exact.max(dfdx) > TOLERANCE || bf16 > BF16_TOLERANCE {
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
    assert_clean();
}
