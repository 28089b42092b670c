//! Sampling responses: the configuration, and the distribution of prompts over threads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

use anyhow::{Context, Result, bail};
use rand_chacha::ChaCha8Rng;

use super::cpu::{CpuDecoder, Weights};
use super::gpu;
use super::sample::{Sampling, penalize, sample};
use crate::cpu::kv_cache::KvSegment;
use crate::model::heads;
use crate::{Architecture, Checkpoint, Device, PixelSource, Resources, Sequence, batch};
use ablate_core::base::Seed;
use ablate_data::records::FinishReason;
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
    /// Largest number of sequences per thread that are computed together. It does not change the results.
    pub batch: usize,
}

impl GenerateConfig {
    /// Whether there is a repetition penalty.
    fn penalizes(&self) -> bool {
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

/// Samples `config.samples` responses to each prompt and passes them to `done` with the prompt's index, in any order. A
/// response depends on the model, the config, `seed`, the prompt (its `key` names its random stream), the number of the
/// sample and `watch`, but not on other prompts or the number of threads. The image token is never sampled.
#[expect(clippy::too_many_arguments, reason = "model, prompts, config, callbacks and resources")]
pub fn generate(
    model: &Checkpoint,
    prompts: &[TokenPrompt],
    images: &dyn PixelSource,
    config: &GenerateConfig,
    seed: Seed,
    watch: &Watch,
    resources: &Resources,
    done: &mut dyn FnMut(usize, Vec<Generated>) -> Result<()>,
) -> Result<()> {
    if config.samples == 0 || config.max_tokens == 0 {
        bail!("nothing to generate: {} samples of at most {} tokens", config.samples, config.max_tokens);
    }
    for (index, prompt) in prompts.iter().enumerate() {
        let loss = vec![false; prompt.tokens.len()];
        let sequence = Sequence { tokens: &prompt.tokens, loss: &loss, image: prompt.image.as_deref() };
        let place = || format!("prompt {index} (`{}`)", prompt.key);
        batch::check_sequence(&model.architecture, &sequence, images).with_context(place)?;
        let most = model.architecture.decoder.max_positions;
        if prompt.tokens.is_empty() || prompt.tokens.len() >= most {
            bail!("{}: {} tokens leave no position for a response, the model has {most}", place(), prompt.tokens.len());
        }
    }
    let request = Request { model, prompts, images, config, seed, watch };
    match resources.device {
        Device::Cpu => on_threads(&request, resources.threads.max(1), done),
        Device::Cuda(_) => gpu::generate(&request, resources, done),
    }
}

/// Bytes of the KV caches of all threads, unless those of one prompt are larger.
const MAX_CACHES: usize = 4 << 30;

/// A core's share of the last-level cache in bytes. The whole KV cache is read in every step.
const LAST_LEVEL_CACHE: usize = 4 << 20;

/// The fewest sequences for which the KV cache is kept within [`LAST_LEVEL_CACHE`]. With fewer sequences per step, it is
/// faster to exceed it, because each step also reads all weights.
const MIN_SEQUENCES: usize = 16;

/// The arguments of [`generate`].
pub(super) struct Request<'a> {
    pub(super) model: &'a Checkpoint,
    pub(super) prompts: &'a [TokenPrompt],
    pub(super) images: &'a dyn PixelSource,
    pub(super) config: &'a GenerateConfig,
    pub(super) seed: Seed,
    pub(super) watch: &'a Watch<'a>,
}

impl Request<'_> {
    /// The number of distinct responses to a prompt: greedy ones are all equal.
    pub(super) fn distinct(&self) -> usize {
        if self.config.temperature > 0.0 { self.config.samples } else { 1 }
    }

    /// The largest number of sequences that a thread computes together, by the size of their KV caches.
    fn sequences_per_thread(&self, threads: usize) -> usize {
        let Architecture { decoder, .. } = &self.model.architecture;
        let longest = self.prompts.iter().map(|prompt| prompt.tokens.len()).max().unwrap_or(0);
        let bytes = |positions: usize| KvSegment::bytes(decoder.layers, heads(decoder), positions);
        // The samples of a prompt share the cache of the prompt.
        let bytes = bytes(longest) / self.distinct() + bytes(self.config.max_tokens.min(decoder.max_positions));
        let (fit, fast) = (MAX_CACHES / threads / bytes.max(1), LAST_LEVEL_CACHE / bytes.max(1));
        self.config.batch.min(if fast >= MIN_SEQUENCES { fast } else { fit.max(1) })
    }

    /// An empty response.
    pub(super) fn begin(&self, prompt: usize, sample: usize) -> Response {
        let TokenPrompt { key, tokens, .. } = &self.prompts[prompt];
        let used = if self.config.penalizes() { tokens.iter().copied().collect() } else { BTreeSet::new() };
        Response { sample, tokens: Vec::new(), used, generator: self.seed.stream(&format!("{key}#{sample}")) }
    }

    /// Samples the next token of a response. Returns the response if it ends.
    pub(super) fn extend(&self, prompt: usize, response: &mut Response, logits: &mut [f32]) -> Option<Generated> {
        let GenerateConfig { temperature, top_k, top_p, max_tokens, ref stop, repetition_penalty, .. } = *self.config;
        penalize(logits, &response.used, repetition_penalty);
        if let Some(vision) = &self.model.architecture.vision {
            logits[vision.image_token as usize] = f32::NEG_INFINITY;
        }
        let token = sample(Sampling { temperature, top_k, top_p }, logits, &mut response.generator);
        let count = response.tokens.len() as u32 + 1;
        if stop.contains(&token) {
            return Some(Generated { tokens: std::mem::take(&mut response.tokens), finish: FinishReason::Stop, count });
        }
        response.tokens.push(token);
        if self.config.penalizes() {
            response.used.insert(token);
        }
        if (self.watch)(prompt, response.sample, &response.tokens) {
            return Some(Generated { tokens: std::mem::take(&mut response.tokens), finish: FinishReason::Stop, count });
        }
        let positions = self.model.architecture.decoder.max_positions - self.prompts[prompt].tokens.len();
        if response.tokens.len() >= max_tokens.min(positions) {
            return Some(Generated {
                tokens: std::mem::take(&mut response.tokens),
                finish: FinishReason::Length,
                count,
            });
        }
        None
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

/// Distributes the prompts over threads, one at a time.
fn on_threads(
    request: &Request,
    threads: usize,
    done: &mut dyn FnMut(usize, Vec<Generated>) -> Result<()>,
) -> Result<()> {
    let weights = Weights::new(request.model)?;
    let most = request.sequences_per_thread(threads);
    let (next, stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
    let take = || {
        let index = next.fetch_add(1, Ordering::Relaxed);
        (index < request.prompts.len() && !stopped.load(Ordering::Relaxed)).then_some(index)
    };
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..threads.min(request.prompts.len()) {
            let (sender, take, weights) = (sender.clone(), &take, &weights);
            scope.spawn(move || {
                let result = Worker::new(request, weights, most).work(take, &sender);
                if let Err(error) = result {
                    // The receiver is closed after an error of `done`, which is reported instead.
                    sender.send(Err(error)).ok();
                }
            });
        }
        drop(sender);
        for message in receiver {
            let result = message.and_then(|(index, responses)| done(index, responses));
            if result.is_err() {
                stopped.store(true, Ordering::Relaxed);
                return result;
            }
        }
        Ok(())
    })
}

type Message = Result<(usize, Vec<Generated>)>;

/// A thread with its sequences, which may belong to several prompts and have different lengths.
struct Worker<'a> {
    request: &'a Request<'a>,
    /// Largest number of sequences.
    most: usize,
    decoder: CpuDecoder<'a>,
    /// One per sequence of the decoder, in its order.
    active: Vec<Active>,
    /// The finished responses of each open prompt.
    open: BTreeMap<usize, Vec<Option<Generated>>>,
}

struct Active {
    prompt: usize,
    sample: usize,
    response: Response,
}

impl<'a> Worker<'a> {
    fn new(request: &'a Request<'a>, weights: &'a Weights, most: usize) -> Worker<'a> {
        Worker {
            request,
            most,
            decoder: CpuDecoder::new(&request.model.architecture, weights),
            active: Vec::new(),
            open: BTreeMap::new(),
        }
    }

    fn work(&mut self, take: &dyn Fn() -> Option<usize>, sender: &mpsc::Sender<Message>) -> Result<()> {
        let mut more = true;
        loop {
            while more && (self.active.is_empty() || self.active.len() + self.request.distinct() <= self.most) {
                match take() {
                    Some(prompt) => self.start(prompt, sender)?,
                    None => more = false,
                }
            }
            if self.active.is_empty() {
                return Ok(());
            }
            let tokens: Vec<u32> =
                self.active.iter().map(|active| active.response.tokens[active.response.tokens.len() - 1]).collect();
            let mut logits = self.decoder.step(&tokens)?;
            self.advance(&mut logits, 0, sender);
        }
    }

    /// Prefills a prompt once for all its samples, and samples their first tokens.
    fn start(&mut self, prompt: usize, sender: &mpsc::Sender<Message>) -> Result<()> {
        let Request { prompts, images, config, .. } = self.request;
        let place = || format!("prompt {prompt} (`{}`)", prompts[prompt].key);
        let first = self.active.len();
        let TokenPrompt { tokens, image, .. } = &prompts[prompt];
        let pixels = image.as_ref().map(|key| images.pixel_values(key)).transpose().with_context(place)?;
        let image = image.as_deref().zip(pixels.as_ref());
        let samples = self.request.distinct();
        let first_logits = self.decoder.start(tokens, image, samples, config.max_tokens).with_context(place)?;
        let mut logits = first_logits.repeat(samples);
        for sample in 0..samples {
            self.active.push(Active { prompt, sample, response: self.request.begin(prompt, sample) });
        }
        self.open.insert(prompt, vec![None; samples]);
        self.advance(&mut logits, first, sender);
        Ok(())
    }

    /// Samples a token for every sequence from `first` on, and removes those that end.
    fn advance(&mut self, logits: &mut [f32], first: usize, sender: &mpsc::Sender<Message>) {
        let mut ended = Vec::new();
        let rows = logits.chunks_exact_mut(self.request.model.architecture.vocab);
        for (index, (active, logits)) in
            self.active.iter_mut().enumerate().skip(first).zip(rows).map(|((i, a), l)| (i, (a, l)))
        {
            let Some(generated) = self.request.extend(active.prompt, &mut active.response, logits) else { continue };
            ended.push(index);
            let responses = self.open.entry(active.prompt).or_default();
            responses[active.sample] = Some(generated);
            if responses.iter().all(Option::is_some) {
                let responses = self.open.remove(&active.prompt).unwrap_or_default().into_iter().flatten().collect();
                // The receiver is closed only after an error that is reported.
                sender.send(Ok((active.prompt, self.request.complete(responses)))).ok();
            }
        }
        // From the back, so that the earlier indices stay valid.
        for index in ended.into_iter().rev() {
            self.active.remove(index);
            self.decoder.remove(index);
        }
    }
}
