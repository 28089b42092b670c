//! Sampling on a GPU, by the kernel `sample`: one launch for all sequences.

use std::rc::Rc;

use anyhow::Result;

use super::gpu::{Arg, Gpu};
use super::memory::{Buffer, Part};
use crate::Architecture;
use crate::infer::GenerateConfig;

/// Threads of a block, as in `sample.cuh`.
const THREADS: usize = 1024;
/// Tokens per word of a mask.
const WORD: usize = 32;

/// The options of sampling, as the kernel takes them.
pub(crate) struct Sampler {
    vocab: usize,
    /// Not sampled; -1: none.
    image_token: i32,
    /// The repetition penalty, if there is one.
    penalty: Option<f32>,
    /// 1 / temperature; 0: the most likely token.
    factor: f32,
    /// 0: all tokens.
    top_k: usize,
    top_p: f64,
}

/// What a sequence keeps between its steps, by slot.
pub(crate) struct Slots {
    /// The token that was sampled last, an `int`.
    pub(super) tokens: Rc<Buffer>,
    /// With a repetition penalty: a bit per token of the vocabulary, set for those of the prompt and the response.
    used: Option<Rc<Buffer>>,
}

impl Sampler {
    /// For `vocab` logits.
    pub(crate) fn new(architecture: &Architecture, config: &GenerateConfig) -> Sampler {
        let GenerateConfig { temperature, top_k, top_p, repetition_penalty, .. } = *config;
        let vocab = architecture.vocab;
        Sampler {
            vocab,
            image_token: architecture.vision.as_ref().map_or(-1, |vision| vision.image_token.cast_signed()),
            penalty: config.penalizes().then_some(repetition_penalty as f32),
            factor: if temperature > 0.0 { (1.0 / temperature) as f32 } else { 0.0 },
            top_k: if top_k < vocab { top_k } else { 0 },
            top_p,
        }
    }

    /// Words of a mask.
    fn words(&self) -> usize {
        self.vocab.div_ceil(WORD)
    }

    pub(crate) fn slots(&self, gpu: &Gpu, count: usize) -> Result<Slots> {
        let used = self.penalty.map(|_| gpu.allocate(count * self.words() * size_of::<u32>())).transpose()?;
        Ok(Slots { tokens: gpu.allocate(count * size_of::<i32>())?, used })
    }

    /// Marks the tokens of prompts as used: sequence `i` in slot `slots[i]` continues prompt `rows[i]`. Does nothing without a penalty.
    pub(super) fn start(
        &self,
        gpu: &Gpu,
        slots: &Slots,
        prompts: &[&[u32]],
        rows: &[i32],
        row_slots: &Part,
    ) -> Result<()> {
        let Some(used) = &slots.used else { return Ok(()) };
        let words = self.words();
        let mut masks = vec![0u32; prompts.len() * words];
        for (mask, prompt) in masks.chunks_exact_mut(words).zip(prompts) {
            for &token in *prompt {
                mask[token as usize / WORD] |= 1 << (token as usize % WORD);
            }
        }
        let (masks, indices) = (gpu.upload(&masks)?, gpu.upload(rows)?);
        let arguments = [(&masks).into(), (&indices).into(), row_slots.into(), used.into(), words.into()];
        gpu.rows("start_masks", rows.len(), words, &arguments)
    }

    /// Samples a token for each of `count` rows of logits (count, vocab), which are overwritten. `uniforms` has an f64 and `rows` the
    /// slot of each row.
    pub(super) fn sample(
        &self,
        gpu: &Gpu,
        slots: &Slots,
        logits: &Rc<Buffer>,
        uniforms: &Part,
        row_slots: &Part,
        count: usize,
    ) -> Result<Vec<u32>> {
        let sampled = gpu.allocate(count * size_of::<u32>())?;
        let tables = [slots.used.as_ref().into(), (&slots.tokens).into(), (&sampled).into()];
        let options = [
            self.vocab.into(),
            Arg::Int(self.image_token),
            self.penalty.unwrap_or(1.0).into(),
            self.factor.into(),
            self.top_k.into(),
            Arg::Double(self.top_p),
        ];
        let inputs = [logits.into(), uniforms.into(), row_slots.into()];
        gpu.launch("sample", [count, 1], THREADS, 0, &[&inputs[..], &tables, &options].concat())?;
        gpu.read(&sampled, count)
    }
}

#[cfg(all(test, feature = "cuda"))]
mod tests {
    use std::collections::BTreeSet;

    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::infer::sample::{Sampling, penalize, sample};
    use crate::kernels::math::{exp_and_sum, maximum};
    use crate::tests::support::small_config;
    use crate::{Precision, cuda};
    use ablate_core::base::Seed;
    use ablate_data::rng::{approx_normal, uniform, uniform_below};

    /// Rounding decides between two tokens for at most this change of the uniform number or of `top_p` (see `sample.cuh`).
    const BORDER: f64 = 1e-6;

    /// Not sampled.
    const IMAGE_TOKEN: usize = 1;

    /// What logits are drawn from.
    #[derive(Clone, Copy, Debug)]
    enum Logits {
        /// Normal, with this deviation.
        Normal(f64),
        /// Few values, with many ties, and some zeros of both signs.
        Integers,
        Equal,
        /// Minus infinity but for a few.
        MostlyBanned,
    }

    impl Logits {
        fn row(self, vocab: usize, generator: &mut ChaCha8Rng) -> Vec<f32> {
            let mut number = || match self {
                Logits::Normal(deviation) => (deviation * approx_normal(generator)) as f32,
                Logits::Integers => [-3.0, -0.0, 0.0, 2.0, 2.0][uniform_below(generator, 5)],
                Logits::Equal => 0.7,
                Logits::MostlyBanned if uniform(generator) < 0.9 => f32::NEG_INFINITY,
                Logits::MostlyBanned => approx_normal(generator) as f32,
            };
            let mut row: Vec<f32> = (0..vocab).map(|_| number()).collect();
            row[0] = row[0].max(-1.0);
            row
        }
    }

    fn config(temperature: f64, top_k: usize, top_p: f64, repetition_penalty: f64) -> GenerateConfig {
        GenerateConfig {
            temperature,
            top_k,
            top_p,
            max_tokens: 1,
            samples: 1,
            stop: Vec::new(),
            repetition_penalty,
            batch: 1,
        }
    }

    /// The token that the CPU samples, apart from the rounding of its sum of all weights, which is f32: the numbers that are multiplied
    /// with it are corrected.
    fn on_cpu(config: &GenerateConfig, logits: &[f32], used: &BTreeSet<u32>, uniform: f64, top_p: f64) -> u32 {
        let GenerateConfig { temperature, top_k, .. } = *config;
        let mut logits = logits.to_vec();
        penalize(&mut logits, used, config.repetition_penalty);
        logits[IMAGE_TOKEN] = f32::NEG_INFINITY;
        let mut weights = logits.clone();
        let factor = (1.0 / temperature) as f32;
        let sum = f64::from(exp_and_sum(&mut weights, factor, maximum(&logits) * factor));
        let exact = weights.iter().map(|&weight| f64::from(weight)).sum::<f64>() / sum;
        let (uniform, top_p) = match (top_k > 0 && top_k < logits.len(), top_p < 1.0) {
            (true, _) => (uniform, top_p),
            (false, true) => (uniform, top_p * exact),
            (false, false) => (uniform * exact, top_p),
        };
        sample(Sampling { temperature, top_k, top_p }, &mut logits, uniform)
    }

    /// Samples twice from `rows` rows of logits. Returns the number of tokens for which rounding decided.
    fn compare(
        gpu: &Gpu,
        kind: Logits,
        vocab: usize,
        rows: usize,
        config: &GenerateConfig,
        generator: &mut ChaCha8Rng,
    ) -> usize {
        let sampler = Sampler::new(&Architecture::from_config(&small_config(), vocab, IMAGE_TOKEN as u32), config);
        let logits: Vec<Vec<f32>> = (0..rows).map(|_| kind.row(vocab, generator)).collect();
        let prompts: Vec<Vec<u32>> =
            (0..rows).map(|row| (0..row * 5).map(|_| uniform_below(generator, vocab) as u32).collect()).collect();
        let mut used: Vec<BTreeSet<u32>> = prompts.iter().map(|prompt| prompt.iter().copied().collect()).collect();
        // Slots in another order than the rows.
        let row_slots: Vec<i32> = (0..rows as i32).rev().map(|slot| slot + 2).collect();
        let slots = sampler.slots(gpu, rows + 2).unwrap();
        let slot_part = Part::from(gpu.upload(&row_slots).unwrap());
        let starts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
        let in_order: Vec<i32> = (0..rows as i32).collect();
        sampler.start(gpu, &slots, &starts, &in_order, &slot_part).unwrap();
        let mut at_border = 0;
        for _ in 0..2 {
            let uniforms: Vec<f64> = (0..rows).map(|_| uniform(generator)).collect();
            let uploaded = (gpu.upload(&logits.concat()).unwrap(), gpu.upload(&uniforms).unwrap().into());
            let sampled = sampler.sample(gpu, &slots, &uploaded.0, &uploaded.1, &slot_part, rows).unwrap();
            let by_slot: Vec<u32> = gpu.read(&slots.tokens, rows + 2).unwrap();
            for (row, &token) in sampled.iter().enumerate() {
                assert_eq!(by_slot[row_slots[row] as usize], token);
                let cpu = |shift: f64, change: f64| {
                    let uniform = (uniforms[row] + shift).clamp(0.0, 1.0 - f64::EPSILON);
                    let top_p = if config.top_p < 1.0 { config.top_p + change } else { config.top_p };
                    on_cpu(config, &logits[row], &used[row], uniform, top_p)
                };
                if token != cpu(0.0, 0.0) {
                    let near =
                        [-BORDER, 0.0, BORDER].map(|shift| [-BORDER, 0.0, BORDER].map(|change| cpu(shift, change)));
                    let text = format!("{kind:?} {vocab} {config:?} row {row}: {token}, on the CPU {near:?}");
                    assert!(near.as_flattened().contains(&token), "{text}");
                    at_border += 1;
                }
                used[row].insert(token);
            }
        }
        at_border
    }

    #[test]
    #[ignore = "needs a GPU"]
    fn gpu_sampling_matches_the_cpu() {
        let _alone = cuda::tests::alone();
        let gpu = Gpu::open(0, Precision::F32).unwrap();
        let mut generator = Seed(11).stream("logits");
        let kinds = [
            Logits::Normal(1.0),
            Logits::Normal(6.0),
            Logits::Normal(60.0),
            Logits::Integers,
            Logits::Equal,
            Logits::MostlyBanned,
        ];
        let limits =
            [(0, 1.0), (1, 1.0), (3, 1.0), (20, 0.7), (0, 1e-9), (0, 0.3), (0, 0.95), (0, 0.99999), (40, 0.999)];
        let (mut count, mut at_border) = (0, 0);
        for vocab in [2, 7, 100, 1025, 3000] {
            for kind in kinds {
                for (top_k, top_p) in limits {
                    for (temperature, penalty) in [(0.0, 1.0), (1.0, 1.0), (0.3, 1.7), (2.0, 0.8)] {
                        let config = config(temperature, top_k, top_p, penalty);
                        count += 6;
                        at_border += compare(&gpu, kind, vocab, 3, &config, &mut generator);
                    }
                }
            }
        }
        // The largest vocabularies.
        for kind in [Logits::Normal(3.0), Logits::Equal] {
            for (top_k, top_p) in [(0, 1.0), (50, 0.9), (0, 0.9)] {
                count += 2;
                at_border += compare(&gpu, kind, 152_000, 1, &config(1.0, top_k, top_p, 1.2), &mut generator);
            }
        }
        assert!(at_border * 500 < count, "rounding decides {at_border} of {count} tokens");
    }
}
