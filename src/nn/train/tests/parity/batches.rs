//! The incomplete batch of an epoch, kept and dropped, with a cosine schedule that ends at 0.

use super::cases;
use crate::train::sft::CrossEntropy;
use crate::train::{BatchConfig, Budget, LastBatch, SftConfig};
use ablate_core::base::Seed;

#[test]
fn incomplete_batches_match_torch() {
    for case in cases() {
        for run in ["sft-keep", "sft-drop"] {
            case.follow(run, &case.expected(run), None, &CrossEntropy { rows: &case.rows });
        }
    }
}

/// The random order differs from torch's, the sizes of the batches do not.
#[test]
fn epochs_have_the_batches_of_torch_loader() {
    let mut case = cases().remove(1);
    // Torch's loader does not group by modality.
    case.rows.iter_mut().for_each(|row| row.images.clear());
    for run in ["sft-keep", "sft-drop"] {
        let expected = case.expected(run);
        let number = |key: &str| expected.fields[key].as_u64().unwrap() as usize;
        let last_batch: LastBatch = serde_json::from_value(expected.fields["last_batch"].clone()).unwrap();
        let config = SftConfig {
            batches: BatchConfig {
                budget: Budget::Epochs(number("epochs")),
                batch: number("batch"),
                last_batch,
                length_window: 1,
            },
            optimizer: expected.optimizer.clone(),
            tuning: crate::train::Tuning::default(),
        };
        let sampler = config.sampler(&case.rows, Seed(1)).unwrap();
        let ours: Vec<Vec<usize>> = sampler.batches_from(0).collect();
        let per_epoch = ours.len() / number("epochs");
        for (ours, theirs) in ours.chunks(per_epoch).zip(expected.batches.chunks(per_epoch)) {
            let sizes = |batches: &[Vec<usize>]| {
                let mut sizes: Vec<usize> = batches.iter().map(Vec::len).collect();
                sizes.sort_unstable();
                sizes
            };
            assert_eq!(sizes(ours), sizes(theirs), "{run}");
        }
        assert_eq!(ours.len(), expected.batches.len());
    }
}
