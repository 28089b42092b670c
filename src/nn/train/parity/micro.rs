//! Micro-batches are the large batch: their gradients weigh by their targets.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;

use super::{Case, cases, relative_error};
use crate::auto_batch::AutoBatch;
use crate::device_error::OutOfMemory;
use crate::gradients::GradientAccumulator;
use crate::session::Session;
use crate::train::run::Run;
use crate::train::sft::CrossEntropy;
use crate::train::tuning::exactly;
use crate::trainable_model::TrainableModel;
use crate::{ImageShape, ParamGroup, PixelSource, PixelValues};

impl Case {
    /// The gradient of some rows, all parameters behind one another but those whose true gradient is zero.
    fn gradient(&self, run: &Run, rows: &[usize]) -> Result<Vec<f32>> {
        let trainable_model = TrainableModel::new(self.start.clone(), None, |_| true);
        let session = Session::new(&trainable_model, run.resources).unwrap();
        let objective = CrossEntropy { rows: &self.rows };
        let sum = Arc::new(GradientAccumulator::new(&trainable_model));
        Ok(run.gradients(&objective, rows, &trainable_model, &session, 0, &sum)?.gradients.concat())
    }
}

#[test]
fn a_gradient_in_micro_batches_is_the_batchs() {
    for case in cases() {
        let expected = case.expected("sft");
        let rows = &expected.batches[0];
        let whole = case.gradient(&case.run(&expected, None), rows).unwrap();
        let parts = case.gradient(&case.run(&expected, Some(2)), rows).unwrap();
        // What it would be if every micro-batch counted alike, though their targets differ in number.
        let gradient = |rows| case.gradient(&case.run(&expected, None), rows).unwrap();
        let alone: Vec<Vec<f32>> = rows.chunks(2).map(gradient).collect();
        let mean: Vec<f32> = (0..whole.len()).map(|at| alone.iter().map(|part| part[at] / 4.0).sum()).collect();
        let (by_tokens, by_parts) = (relative_error(&parts, &whole), relative_error(&mean, &whole));
        println!("{:<6} micro-batches | off by {by_tokens:.1e}; weighed alike {by_parts:.1e}", case.name());
        assert!(by_tokens < 1e-5, "{by_tokens:e}");
        // One sum over the tokens in their order, whatever is computed at once. An image that several rows share is seen
        // once by those that are computed together.
        assert!(parts == whole || case.start.architecture.vision.is_some(), "{by_tokens:e}");
        // Torch's mean is off by as much, counted by the largest entries.
        let largest = |values: &mut dyn Iterator<Item = f32>| values.map(f32::abs).fold(0.0, f32::max);
        let off = largest(&mut mean.iter().zip(&whole).map(|(a, b)| a - b)) / largest(&mut whole.iter().copied());
        let theirs = expected.told["off_in_4_micro_batches"]["by_micro_batches"].as_f64().unwrap();
        assert!((f64::from(off) / theirs - 1.0).abs() < 1e-3, "{off}, not {theirs}");
    }
}

/// Has no room for one picture, counted from 0, and for all others.
struct Scarce<'a>(&'a dyn PixelSource, usize, AtomicUsize);

impl PixelSource for Scarce<'_> {
    fn shape(&self, key: &str) -> Result<ImageShape> {
        self.0.shape(key)
    }

    fn pixel_values(&self, key: &str) -> Result<PixelValues> {
        if self.2.fetch_add(1, Ordering::SeqCst) == self.1 {
            return Err(OutOfMemory("full".to_string()).into());
        }
        self.0.pixel_values(key)
    }
}

#[test]
fn a_batch_that_there_is_no_room_for_is_computed_in_halves_or_its_error_names_what_fits() {
    let case = cases().into_iter().find(|case| case.start.architecture.vision.is_some()).unwrap();
    let expected = case.expected("sft");
    let rows = &expected.batches[0];
    let scarce = || Scarce(&case.images, 2, AtomicUsize::new(0));
    let halves = case.gradient(&case.run(&expected, Some(rows.len().div_ceil(2))), rows).unwrap();
    let gradient = |auto_batch| {
        let images = &scarce();
        case.gradient(&Run { auto_batch, images, ..case.run(&expected, None) }, rows)
    };
    let found = gradient(AutoBatch::at_most("row", usize::MAX)).unwrap();
    assert!(found == halves, "what the first attempt had added is forgotten");
    let error = gradient(exactly(usize::MAX)).unwrap_err();
    let fits = format!("`micro_batch = {}`", rows.len().div_ceil(2));
    assert!(format!("{error:#}").contains(&fits), "{error:#}");
}

#[test]
fn a_training_in_micro_batches_ends_where_the_batchs_does() {
    for case in cases() {
        let mut expected = case.expected("sft");
        expected.batches.truncate(6);
        let end = |micro| {
            let trainable_model = TrainableModel::new(case.start.clone(), None, |_| true);
            let objective = CrossEntropy { rows: &case.rows };
            case.run(&expected, micro).train(trainable_model, &objective).unwrap().checkpoint
        };
        let (whole, parts) = (end(None), end(Some(2)));
        for (index, parameter) in case.start.list().into_iter().enumerate() {
            // Its gradient is rounding only: see `Case::compare`.
            if parameter.group == ParamGroup::Vision && parameter.name.ends_with("k_proj.bias") {
                continue;
            }
            let error = relative_error(&parts.weights[index], &whole.weights[index]);
            assert!(error < 1e-5, "`{}` is off by {error:e}", parameter.name);
        }
    }
}
