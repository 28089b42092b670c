//! Micro-batches give the gradient of the whole batch.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;

use super::{Case, cases, relative_error};
use crate::auto_batch::AutoBatch;
use crate::device_error::OutOfMemory;
use crate::optimizer::Optimizer;
use crate::session::Session;
use crate::train::run::Run;
use crate::train::sft::CrossEntropy;
use crate::train::tuning::exactly;
use crate::trainable_model::TrainableModel;
use crate::{ImageShape, ParamGroup, PixelSource, PixelValues};

impl Case {
    /// The gradient of some rows, all parameters concatenated.
    fn gradient(&self, run: &Run, rows: &[usize]) -> Result<Vec<f32>> {
        let trainable_model = TrainableModel::new(self.start.clone(), None, |_| true);
        let mut session = Session::new(&trainable_model, run.resources).unwrap();
        session.start_training(&trainable_model, &Optimizer::new(run.optimizer, &trainable_model))?;
        run.gradients(&CrossEntropy { rows: &self.rows }, rows, &trainable_model, &mut session, 0)?;
        Ok(session.host_gradients()?.concat())
    }
}

#[test]
fn micro_batches_give_the_gradient_of_the_batch() {
    for case in cases() {
        let expected = case.expected("sft");
        let rows = &expected.batches[0];
        let whole = case.gradient(&case.run(&expected, None), rows).unwrap();
        let parts = case.gradient(&case.run(&expected, Some(2)), rows).unwrap();
        // The result if every micro-batch had the same weight, though their numbers of targets differ.
        let gradient = |rows| case.gradient(&case.run(&expected, None), rows).unwrap();
        let alone: Vec<Vec<f32>> = rows.chunks(2).map(gradient).collect();
        let mean: Vec<f32> = (0..whole.len()).map(|at| alone.iter().map(|part| part[at] / 4.0).sum()).collect();
        let (by_tokens, by_parts) = (relative_error(&parts, &whole), relative_error(&mean, &whole));
        println!("{:<6} micro-batches | off by {by_tokens:.1e}; equal weights {by_parts:.1e}", case.name());
        assert!(by_tokens < 1e-5, "{by_tokens:e}");
        // The sum is over the tokens in their order, whatever the micro-batches. But an image that several rows of a
        // micro-batch share is encoded once.
        assert!(parts == whole || case.start.architecture.vision.is_some(), "{by_tokens:e}");
        // Torch's mean has the same error, measured by the largest entries.
        let largest = |values: &mut dyn Iterator<Item = f32>| values.map(f32::abs).fold(0.0, f32::max);
        let off = largest(&mut mean.iter().zip(&whole).map(|(a, b)| a - b)) / largest(&mut whole.iter().copied());
        let theirs = expected.fields["off_in_4_micro_batches"]["by_micro_batches"].as_f64().unwrap();
        assert!((f64::from(off) / theirs - 1.0).abs() < 1e-3, "{off}, not {theirs}");
    }
}

/// Runs out of memory at one image, counted from 0.
struct OutOfMemoryAt<'a>(&'a dyn PixelSource, usize, AtomicUsize);

impl PixelSource for OutOfMemoryAt<'_> {
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
fn out_of_memory_halves_the_batch_or_names_a_size() {
    let case = cases().into_iter().find(|case| case.start.architecture.vision.is_some()).unwrap();
    let expected = case.expected("sft");
    let rows = &expected.batches[0];
    let images = || OutOfMemoryAt(&case.images, 2, AtomicUsize::new(0));
    let whole = case.gradient(&case.run(&expected, None), rows).unwrap();
    let gradient = |auto_batch| {
        let images = &images();
        case.gradient(&Run { auto_batch, images, ..case.run(&expected, None) }, rows)
    };
    let found = gradient(AutoBatch::at_most("row", usize::MAX)).unwrap();
    assert!(found == whole, "the gradients of the failed attempt are discarded, and the shards are the same");
    let error = gradient(exactly(usize::MAX)).unwrap_err();
    let fits = format!("`micro_batch = {}`", rows.len().div_ceil(2));
    assert!(format!("{error:#}").contains(&fits), "{error:#}");
}

#[test]
fn micro_batches_end_with_the_same_weights() {
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
            // Its gradient is only rounding: see `Case::compare`.
            if parameter.group == ParamGroup::Vision && parameter.name.ends_with("k_proj.bias") {
                continue;
            }
            let error = relative_error(&parts.weights[index], &whole.weights[index]);
            assert!(error < 1e-5, "`{}` is off by {error:e}", parameter.name);
        }
    }
}
