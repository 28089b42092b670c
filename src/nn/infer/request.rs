//! The prompts to sample, the configuration of sampling, and responses.

use std::collections::BTreeSet;

use anyhow::Result;
use rand_chacha::ChaCha8Rng;

use super::sample::{Sampling, penalize, sample};
#[cfg(any(feature = "cuda", test))]
use crate::{Batch, Sequence};
use crate::{Checkpoint, PixelSource};
use ablate_core::base::Seed;
use ablate_data::records::FinishReason;
use ablate_data::rng;
use ablate_data::tokens::TokenPrompt;

/// The configuration of sampling.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateConfig {
    /// 0: always the most likely token.
    pub temperature: f64,
    /// Sample from the `top_k` most likely tokens; 0: all.
    pub top_k: usize,
    /// Sample from the fewest most likely tokens whose total probability reaches this value; 1: all.
    pub top_p: f64,
    /// Longest response in tokens, with the stop token.
    pub max_tokens: usize,
    /// Responses per prompt.
    pub samples: usize,
    /// Tokens that end a response.
    pub stop: Vec<u32>,
    /// Divides the positive logits of tokens that occur in the prompt or the response, and multiplies the negative ones (Keskar
    /// et al. 2019); 1 changes nothing.
    pub repetition_penalty: f64,
    /// Largest number of sequences per thread, or on a GPU, that are computed together. It does not change the results.
    pub batch: usize,
}

impl GenerateConfig {
    /// Whether there is a repetition penalty.
    pub(crate) fn penalizes(&self) -> bool {
        (self.repetition_penalty - 1.0).abs() > 0.0
    }
}

/// One response.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// Without the stop token, but with the tokens for which `watch` ended the response.
    pub tokens: Vec<u32>,
    pub finish: FinishReason,
    /// Number of generated tokens, with the stop token.
    pub count: u32,
}

/// Called with prompt, sample and the tokens so far after each token; true ends the response.
pub type Watch<'a> = dyn Fn(usize, usize, &[u32]) -> bool + Sync + 'a;

/// Called with a prompt and its responses.
pub type Done<'a> = dyn FnMut(usize, Vec<Generated>) -> Result<()> + 'a;

/// The arguments of [`generate`](super::generate()).
pub(crate) struct Request<'a> {
    pub(crate) model: &'a Checkpoint,
    pub(crate) prompts: &'a [TokenPrompt],
    pub(crate) images: &'a dyn PixelSource,
    pub(crate) config: &'a GenerateConfig,
    pub(crate) seed: Seed,
    pub(crate) watch: &'a Watch<'a>,
}

impl Request<'_> {
    /// The number of distinct responses to a prompt: greedy ones are all equal.
    pub(super) fn distinct(&self) -> usize {
        if self.config.temperature > 0.0 { self.config.samples } else { 1 }
    }

    /// Prompts, each with the tokens of a response, as a batch in which the last position of each is selected.
    #[cfg(any(feature = "cuda", test))]
    pub(super) fn batch(&self, texts: &[(usize, &[u32])]) -> Result<Batch> {
        // The last token of a sequence is only a target, so a dummy one is appended.
        let joined =
            |&(prompt, response): &(usize, &[u32])| [&self.prompts[prompt].tokens[..], response, &[0]].concat();
        let tokens: Vec<Vec<u32>> = texts.iter().map(joined).collect();
        let marks: Vec<Vec<bool>> =
            tokens.iter().map(|text| (1..=text.len()).map(|i| i == text.len()).collect()).collect();
        let images = texts.iter().map(|(prompt, _)| self.prompts[*prompt].images.as_slice());
        let parts = tokens.iter().zip(&marks).zip(images);
        let sequences: Vec<Sequence> =
            parts.map(|((tokens, loss), images)| Sequence { tokens, loss, images }).collect();
        Batch::new(&self.model.architecture, &sequences, false, self.images)
    }

    /// An empty response.
    pub(super) fn begin(&self, prompt: usize, sample: usize) -> Response {
        let TokenPrompt { key, tokens, .. } = &self.prompts[prompt];
        let used = if self.config.penalizes() { tokens.iter().copied().collect() } else { BTreeSet::new() };
        Response { sample, tokens: Vec::new(), used, generator: self.seed.stream(&format!("{key}#{sample}")) }
    }

    /// Samples the next token of a response. Returns the response if it ends.
    pub(super) fn extend(&self, prompt: usize, response: &mut Response, logits: &mut [f32]) -> Option<Generated> {
        let GenerateConfig { temperature, top_k, top_p, repetition_penalty, .. } = *self.config;
        penalize(logits, &response.used, repetition_penalty);
        if let Some(vision) = &self.model.architecture.vision {
            logits[vision.image_token as usize] = f32::NEG_INFINITY;
        }
        let token = sample(Sampling { temperature, top_k, top_p }, logits, self.uniform(response));
        self.append(prompt, response, token)
    }

    /// The uniform number with which the next token of a response is sampled; 0 at temperature 0, which needs none.
    pub(super) fn uniform(&self, response: &mut Response) -> f64 {
        if self.config.temperature > 0.0 { rng::uniform(&mut response.generator) } else { 0.0 }
    }

    /// Appends a token to a response. Returns the response if it ends.
    pub(super) fn append(&self, prompt: usize, response: &mut Response, token: u32) -> Option<Generated> {
        let count = response.tokens.len() as u32 + 1;
        let stopped = self.config.stop.contains(&token);
        if !stopped {
            response.tokens.push(token);
            if self.config.penalizes() {
                response.used.insert(token);
            }
        }
        let finish = if stopped || (self.watch)(prompt, response.sample, &response.tokens) {
            FinishReason::Stop
        } else if response.tokens.len() >= self.max_tokens(prompt) {
            FinishReason::Length
        } else {
            return None;
        };
        Some(Generated { tokens: std::mem::take(&mut response.tokens), finish, count })
    }

    /// The most tokens of a response to a prompt: also limited by the model's positions.
    pub(super) fn max_tokens(&self, prompt: usize) -> usize {
        let positions = self.model.architecture.decoder.max_positions - self.prompts[prompt].tokens.len();
        self.config.max_tokens.min(positions)
    }

    /// All responses to a prompt, from the distinct ones.
    pub(super) fn complete(&self, mut responses: Vec<Generated>) -> Vec<Generated> {
        while responses.len() < self.config.samples {
            responses.push(responses[0].clone());
        }
        responses
    }
}

/// An unfinished response.
pub(super) struct Response {
    sample: usize,
    pub(super) tokens: Vec<u32>,
    /// The tokens of the prompt and the response, if there is a repetition penalty.
    used: BTreeSet<u32>,
    generator: ChaCha8Rng,
}
