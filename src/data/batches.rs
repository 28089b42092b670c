//! Training batches: shuffled, grouped by modality and length, for a number of epochs, steps or tokens.

use anyhow::{Result, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rng::shuffle;
use ablate_core::base::Seed;

/// The properties of an example (a row or a pair) that decide which batch it goes into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExampleSize {
    /// Positions that a forward pass computes: all tokens of a sequence except the last one, image tokens included. For
    /// a pair the sum over both responses.
    pub tokens: usize,
    /// Whether the example has an image. A batch contains only examples with images or only examples without, as in the
    /// paper's recipe (section 6): in a mixed batch the many tokens of plain text dominate the gradient of the images.
    pub has_image: bool,
}

/// The length of training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// Passes over the examples.
    Epochs(usize),
    /// Batches.
    Steps(usize),
    /// Training ends with the first batch that reaches this number of tokens, counted as [`ExampleSize::tokens`].
    Tokens(usize),
}

/// What happens to the examples of an epoch that do not fill a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LastBatch {
    /// They are a smaller batch.
    #[default]
    Keep,
    /// They are left out of the epoch. Each epoch leaves out others.
    Drop,
}

/// How examples become batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchConfig {
    pub budget: Budget,
    /// Examples per batch.
    pub batch: usize,
    pub last_batch: LastBatch,
    /// Number of batches whose examples are sorted by length together.
    pub length_window: usize,
}

/// Largest number of batches. A larger one comes from a typing error.
pub const MAX_STEPS: usize = 1_000_000_000;

/// The batches of a training run, in order. A batch is a list of indices into the examples. One epoch is in memory at a
/// time.
///
/// Every epoch is shuffled and split by modality. Each part is split into windows of `length_window` batches; the
/// examples of a window are sorted by length and split into batches. Finally all batches of the epoch are shuffled. So
/// the examples of a batch have similar lengths, and long ones occur throughout the epoch. A larger window needs less
/// padding and mixes less: if kinds of rows differ in length, a batch contains one kind, which hurts small models. With
/// a window of 1, a batch contains any examples of one modality.
///
/// The batches of an epoch do not depend on the [`Budget`], which only decides where the sequence of epochs ends.
#[derive(Clone, Debug)]
pub struct BatchSampler {
    examples: Vec<ExampleSize>,
    config: BatchConfig,
    seed: Seed,
    /// Batches of an epoch: the same number in every epoch.
    per_epoch: usize,
    steps: usize,
}

impl BatchSampler {
    /// `unit` names an example in errors: "row".
    ///
    /// # Errors
    /// No examples; more than [`MAX_STEPS`] batches; or with [`LastBatch::Drop`] a modality with less than a batch, whose
    /// examples would never be drawn.
    pub fn new(examples: Vec<ExampleSize>, unit: &str, config: BatchConfig, seed: Seed) -> Result<BatchSampler> {
        if examples.is_empty() {
            bail!("there are no {unit}s to train on");
        }
        let batch = config.batch.max(1);
        let with_image = examples.iter().filter(|example| example.has_image).count();
        let mut per_epoch = 0;
        for (what, count) in [("with an image", with_image), ("without an image", examples.len() - with_image)] {
            per_epoch += match config.last_batch {
                LastBatch::Keep => count.div_ceil(batch),
                LastBatch::Drop if (1..batch).contains(&count) => bail!(
                    "`last_batch`: \"drop\" leaves out all {count} {unit}s {what} in every epoch, because they do not fill a \
                     batch of {batch} (a batch has only {unit}s with an image, or only {unit}s without): set `batch` to at \
                     most {count}, or `last_batch = \"keep\"`"
                ),
                LastBatch::Drop => count / batch,
            };
        }
        let mut sampler = BatchSampler { examples, config, seed, per_epoch, steps: 0 };
        let (key, steps) = match config.budget {
            Budget::Epochs(epochs) => ("epochs", epochs.saturating_mul(per_epoch)),
            Budget::Steps(steps) => ("steps", steps),
            Budget::Tokens(tokens) => ("tokens", sampler.steps_of_tokens(tokens)),
        };
        if steps > MAX_STEPS {
            bail!("`{key}`: training has at most {MAX_STEPS} steps");
        }
        sampler.steps = steps;
        Ok(sampler)
    }

    /// The number of batches.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// The batches from `step` on, counted from 0.
    pub fn batches_from(&self, step: usize) -> impl Iterator<Item = Vec<usize>> + '_ {
        let batches = (step / self.per_epoch..).flat_map(|epoch| self.epoch(epoch)).skip(step % self.per_epoch);
        batches.take(self.steps.saturating_sub(step))
    }

    /// How often each example is drawn.
    pub fn draws(&self) -> Vec<u32> {
        let mut draws = vec![0; self.examples.len()];
        for example in self.batches_from(0).flatten() {
            draws[example] += 1;
        }
        draws
    }

    fn epoch(&self, epoch: usize) -> Vec<Vec<usize>> {
        let BatchConfig { batch, last_batch, length_window, .. } = self.config;
        let (batch, window) = (batch.max(1), length_window.max(1));
        let mut rng = self.seed.stream(&format!("batches/{epoch}"));
        let mut order: Vec<usize> = (0..self.examples.len()).collect();
        shuffle(&mut order, &mut rng);
        let (mut with_image, mut text_only): (Vec<usize>, Vec<usize>) =
            order.into_iter().partition(|&example| self.examples[example].has_image);
        let mut batches: Vec<Vec<usize>> = Vec::with_capacity(self.per_epoch);
        for part in [&mut with_image, &mut text_only] {
            if last_batch == LastBatch::Drop {
                // Examples are dropped before sorting; after it, the longest ones would always be dropped.
                part.truncate(part.len() / batch * batch);
            }
            for window in part.chunks_mut(batch.saturating_mul(window)) {
                window.sort_by_key(|&example| self.examples[example].tokens);
                batches.extend(window.chunks(batch).map(<[usize]>::to_vec));
            }
        }
        shuffle(&mut batches, &mut rng);
        batches
    }

    fn tokens(&self, batch: &[usize]) -> usize {
        batch.iter().map(|&example| self.examples[example].tokens).sum()
    }

    /// The number of batches that first reaches `tokens`, or a number above [`MAX_STEPS`].
    fn steps_of_tokens(&self, tokens: usize) -> usize {
        let all: usize = self.examples.iter().map(|example| example.tokens).sum();
        // An epoch has at most all tokens.
        let Some(least) = tokens.saturating_sub(1).checked_div(all) else { return usize::MAX };
        if least.saturating_mul(self.per_epoch) > MAX_STEPS {
            return usize::MAX;
        }
        let (mut epoch, mut left) = (0, tokens);
        if self.config.last_batch == LastBatch::Keep {
            // Every epoch has all tokens, so whole epochs are skipped.
            (epoch, left) = (least, tokens - least * all);
        }
        while epoch.saturating_mul(self.per_epoch) <= MAX_STEPS {
            for (index, batch) in self.epoch(epoch).iter().enumerate() {
                left = left.saturating_sub(self.tokens(batch));
                if left == 0 {
                    return epoch * self.per_epoch + index + 1;
                }
            }
            epoch += 1;
        }
        usize::MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::uniform_below;

    fn lengths(count: usize) -> Vec<ExampleSize> {
        let mut rng = Seed(7).stream("lengths");
        (0..count).map(|_| ExampleSize { tokens: 5 + uniform_below(&mut rng, 195), has_image: true }).collect()
    }

    /// One of three examples is without an image.
    fn mixed(count: usize) -> Vec<ExampleSize> {
        let example = |(index, size)| ExampleSize { has_image: index % 3 > 0, ..size };
        lengths(count).into_iter().enumerate().map(example).collect()
    }

    const CONFIG: BatchConfig =
        BatchConfig { budget: Budget::Epochs(1), batch: 8, last_batch: LastBatch::Keep, length_window: 4 };

    fn sampler(examples: &[ExampleSize], config: BatchConfig) -> BatchSampler {
        BatchSampler::new(examples.to_vec(), "row", config, Seed(1)).unwrap()
    }

    fn batches(examples: &[ExampleSize], config: BatchConfig) -> Vec<Vec<usize>> {
        sampler(examples, config).batches_from(0).collect()
    }

    fn error(examples: &[ExampleSize], config: BatchConfig) -> String {
        BatchSampler::new(examples.to_vec(), "row", config, Seed(1)).unwrap_err().to_string()
    }

    #[test]
    fn a_batch_has_one_modality() {
        let examples = mixed(100);
        let batches = batches(&examples, CONFIG);
        let image = |example: usize| examples[example].has_image;
        assert!(batches.iter().all(|batch| batch.iter().all(|&example| image(example) == image(batch[0]))));
        assert_eq!(batches.iter().map(Vec::len).sum::<usize>(), 100);
        // 66 examples with an image, 34 without.
        assert_eq!(batches.len(), 9 + 5);
    }

    #[test]
    fn every_epoch_has_every_example_in_a_new_order() {
        let batches = batches(&lengths(1000), BatchConfig { budget: Budget::Epochs(2), batch: 16, ..CONFIG });
        assert_eq!(batches.len(), 2 * 63);
        let (first, second) = batches.split_at(63);
        for epoch in [first, second] {
            let mut rows: Vec<usize> = epoch.concat();
            rows.sort_unstable();
            assert_eq!(rows, (0..1000).collect::<Vec<_>>());
        }
        assert_ne!(first.concat(), second.concat());
    }

    #[test]
    fn equal_seeds_give_equal_batches() {
        let of = |seed| {
            let sampler = BatchSampler::new(lengths(300), "row", CONFIG, Seed(seed)).unwrap();
            sampler.batches_from(0).collect::<Vec<_>>()
        };
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
    }

    #[test]
    fn a_batch_has_examples_of_similar_length() {
        let lengths = lengths(4000);
        let padding = |batches: &[Vec<usize>]| -> f64 {
            let padded: usize =
                batches.iter().map(|b| b.len() * b.iter().map(|&row| lengths[row].tokens).max().unwrap()).sum();
            let real: usize = batches.iter().flatten().map(|&row| lengths[row].tokens).sum();
            padded as f64 / real as f64 - 1.0
        };
        let grouped = padding(&batches(&lengths, BatchConfig { batch: 32, length_window: 32, ..CONFIG }));
        let mut order: Vec<usize> = (0..4000).collect();
        shuffle(&mut order, &mut Seed(3).stream("plain"));
        let plain = padding(&order.chunks(32).map(<[usize]>::to_vec).collect::<Vec<_>>());
        assert!(grouped < 0.08, "{grouped}");
        assert!(plain > 0.8, "{plain}");
    }

    #[test]
    fn epochs_steps_and_tokens_have_the_same_batches() {
        let examples = mixed(100);
        for last_batch in [LastBatch::Keep, LastBatch::Drop] {
            let of = |budget| batches(&examples, BatchConfig { budget, last_batch, ..CONFIG });
            let epochs = of(Budget::Epochs(4));
            let tokens = |batches: &[Vec<usize>]| {
                batches.iter().flatten().map(|&example| examples[example].tokens).sum::<usize>()
            };
            for steps in [1, 3, epochs.len() / 4, epochs.len() / 4 + 1, epochs.len()] {
                let expected = &epochs[..steps];
                assert_eq!(of(Budget::Steps(steps)), expected);
                assert_eq!(of(Budget::Tokens(tokens(expected))), expected);
                // The first batch that reaches the number is the last.
                assert_eq!(of(Budget::Tokens(tokens(&epochs[..steps - 1]) + 1)), expected);
            }
        }
    }

    #[test]
    fn sequence_of_batches_continues_from_any_step() {
        let sampler = sampler(&mixed(50), BatchConfig { budget: Budget::Steps(20), ..CONFIG });
        let all: Vec<Vec<usize>> = sampler.batches_from(0).collect();
        assert_eq!(all.len(), sampler.steps());
        for step in 0..=20 {
            assert_eq!(sampler.batches_from(step).collect::<Vec<_>>(), all[step..]);
        }
        let draws = sampler.draws();
        assert_eq!(draws.iter().sum::<u32>() as usize, all.concat().len());
        assert!(draws.iter().all(|count| (2..=3).contains(count)), "{draws:?}");
    }

    #[test]
    fn incomplete_batches_are_kept_or_dropped() {
        let three = |batch, last_batch| BatchConfig { budget: Budget::Epochs(3), batch, last_batch, ..CONFIG };
        let kept: Vec<usize> = batches(&lengths(103), three(10, LastBatch::Keep)).iter().map(Vec::len).collect();
        assert_eq!((kept.len(), kept.iter().filter(|&&length| length == 3).count()), (33, 3));
        let sampler = sampler(&lengths(103), three(10, LastBatch::Drop));
        assert!(sampler.batches_from(0).all(|batch| batch.len() == 10));
        assert_eq!(sampler.steps(), 30);
        // Each epoch leaves out three other examples.
        assert_eq!(sampler.draws().iter().filter(|&&draws| draws == 2).count(), 9);
        assert_eq!(batches(&lengths(9), three(10, LastBatch::Keep)).len(), 3);
    }

    #[test]
    fn examples_that_are_never_drawn_are_an_error() {
        let drop = BatchConfig { last_batch: LastBatch::Drop, batch: 40, ..CONFIG };
        expect_test::expect![[r#"
            `last_batch`: "drop" leaves out all 34 rows without an image in every epoch, because they do not fill a batch of 40 (a batch has only rows with an image, or only rows without): set `batch` to at most 34, or `last_batch = "keep"`"#]]
        .assert_eq(&error(&mixed(100), drop));
        assert_eq!(batches(&mixed(100), BatchConfig { batch: 34, ..drop }).len(), 2);
        assert_eq!(error(&[], drop), "there are no rows to train on");
    }

    #[test]
    fn huge_budgets_are_an_error() {
        let most = usize::MAX;
        for last_batch in [LastBatch::Keep, LastBatch::Drop] {
            let budgets =
                [("epochs", Budget::Epochs(most)), ("steps", Budget::Steps(most)), ("tokens", Budget::Tokens(most))];
            for (key, budget) in budgets {
                let error = error(&mixed(100), BatchConfig { budget, last_batch, ..CONFIG });
                assert_eq!(error, format!("`{key}`: training has at most 1000000000 steps"));
            }
        }
        // Many steps need no memory before they are drawn.
        let sampler = sampler(&mixed(100), BatchConfig { budget: Budget::Steps(MAX_STEPS), ..CONFIG });
        assert_eq!((sampler.steps(), sampler.batches_from(MAX_STEPS - 3).count()), (MAX_STEPS, 3));
        // Examples without tokens never reach a number of tokens.
        let empty = [ExampleSize { tokens: 0, has_image: true }];
        let one = BatchConfig { budget: Budget::Tokens(1), ..CONFIG };
        assert_eq!(error(&empty, one), "`tokens`: training has at most 1000000000 steps");
    }
}
