//! Sampling responses: what is asked, and how prompts are shared out. Knows no tokenizer and no prompt text.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

use anyhow::{Context, Result, bail};
use rand_chacha::ChaCha8Rng;

use super::cpu::{Decoder, Weights};
use super::gpu;
use super::sample::{Choice, choose, penalize};
use crate::cpu::kv_cache::KvSegment;
use crate::model::heads;
use crate::{Architecture, Checkpoint, Device, PixelSource, Resources, Sequence, batch};
use ablate_core::base::Seed;
use ablate_data::records::FinishReason;
use ablate_data::tokens::TokenPrompt;

/// How to sample.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateConfig {
    /// 0: the likeliest token each time.
    pub temperature: f64,
    /// Only the `top_k` likeliest tokens; 0: all.
    pub top_k: usize,
    /// Only the likeliest tokens that just reach this probability together; 1: all.
    pub top_p: f64,
    /// Longest response in tokens, the stop token included.
    pub max_tokens: usize,
    /// Responses per prompt.
    pub samples: usize,
    /// Tokens that end a response.
    pub stop: Vec<u32>,
    /// Divides the positive logits of tokens that the sequence has already, the prompt's included, and multiplies the negative
    /// ones (Keskar et al. 2019); 1 changes nothing.
    pub repetition_penalty: f64,
    /// Sequences computed at once, per thread, at most. Changes no result.
    pub batch: usize,
}

impl GenerateConfig {
    /// Whether tokens of the sequence count.
    fn penalizes(&self) -> bool {
        (self.repetition_penalty - 1.0).abs() > 0.0
    }
}

/// One response.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// Without the stop token; with what `watch` ended it for.
    pub tokens: Vec<u32>,
    pub finish: FinishReason,
    /// Generated tokens, the stop token included.
    pub count: u32,
}

/// Sees the tokens of a response so far, by prompt and sample, as each one is added; true ends the response there.
pub type Watch<'a> = dyn Fn(usize, usize, &[u32]) -> bool + Sync + 'a;

/// Samples `config.samples` responses to each prompt and hands them to `done` with the prompt's index, in whatever
/// order they come. A response depends on the model, the config, `seed`, the prompt (its `key` names its random
/// stream), the sample's number and `watch`; on no other prompt, and on no number of threads. The image token is never
/// sampled.
#[expect(clippy::too_many_arguments, reason = "a model, what it is asked, how, and circumstances")]
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
            bail!("{}: {} tokens leave no room in {most} positions", place(), prompt.tokens.len());
        }
    }
    let request = Request { model, prompts, images, config, seed, watch };
    match resources.device {
        Device::Cpu => on_threads(&request, resources.threads.max(1), done),
        Device::Cuda(_) => gpu::generate(&request, resources, done),
    }
}

/// Bytes of keys and values that all threads hold together, unless those of one prompt take more.
const CACHES: usize = 4 << 30;

/// Bytes of keys and values that a core's share of the last cache holds. All of them are read in every step.
const NEAR: usize = 4 << 20;

/// Sequences that are enough for a step, which also reads all weights. Where fewer would fit into [`NEAR`], it is better to
/// read the weights less often.
const ENOUGH: usize = 16;

/// What all workers share.
pub(super) struct Request<'a> {
    pub(super) model: &'a Checkpoint,
    pub(super) prompts: &'a [TokenPrompt],
    pub(super) images: &'a dyn PixelSource,
    pub(super) config: &'a GenerateConfig,
    pub(super) seed: Seed,
    pub(super) watch: &'a Watch<'a>,
}

impl Request<'_> {
    /// Sequences that differ: greedy responses to one prompt are all the same one.
    pub(super) fn distinct(&self) -> usize {
        if self.config.temperature > 0.0 { self.config.samples } else { 1 }
    }

    /// Sequences that a thread computes at once: as many as are asked for, if their keys and values have room.
    fn at_once(&self, threads: usize) -> usize {
        let Architecture { decoder, .. } = &self.model.architecture;
        let longest = self.prompts.iter().map(|prompt| prompt.tokens.len()).max().unwrap_or(0);
        let bytes = |positions: usize| KvSegment::bytes(decoder.layers, heads(decoder), positions);
        // The samples of a prompt share its part.
        let bytes = bytes(longest) / self.distinct() + bytes(self.config.max_tokens.min(decoder.max_positions));
        let (fit, near) = (CACHES / threads / bytes.max(1), NEAR / bytes.max(1));
        self.config.batch.min(if near >= ENOUGH { near } else { fit.max(1) })
    }

    /// A response that has not begun.
    pub(super) fn begin(&self, prompt: usize, sample: usize) -> Response {
        let TokenPrompt { key, tokens, .. } = &self.prompts[prompt];
        let seen = if self.config.penalizes() { tokens.iter().copied().collect() } else { BTreeSet::new() };
        Response { sample, tokens: Vec::new(), seen, generator: self.seed.stream(&format!("{key}#{sample}")) }
    }

    /// Adds the next token of a response; the response itself if this ends it.
    pub(super) fn extend(&self, prompt: usize, response: &mut Response, logits: &mut [f32]) -> Option<Generated> {
        let GenerateConfig { temperature, top_k, top_p, max_tokens, ref stop, repetition_penalty, .. } = *self.config;
        penalize(logits, &response.seen, repetition_penalty);
        if let Some(vision) = &self.model.architecture.vision {
            logits[vision.image_token as usize] = f32::NEG_INFINITY;
        }
        let token = choose(Choice { temperature, top_k, top_p }, logits, &mut response.generator);
        let count = response.tokens.len() as u32 + 1;
        if stop.contains(&token) {
            return Some(Generated { tokens: std::mem::take(&mut response.tokens), finish: FinishReason::Stop, count });
        }
        response.tokens.push(token);
        if self.config.penalizes() {
            response.seen.insert(token);
        }
        if (self.watch)(prompt, response.sample, &response.tokens) {
            return Some(Generated { tokens: std::mem::take(&mut response.tokens), finish: FinishReason::Stop, count });
        }
        let room = self.model.architecture.decoder.max_positions - self.prompts[prompt].tokens.len();
        if response.tokens.len() >= max_tokens.min(room) {
            return Some(Generated {
                tokens: std::mem::take(&mut response.tokens),
                finish: FinishReason::Length,
                count,
            });
        }
        None
    }

    /// All samples of a prompt, once the distinct ones are there.
    pub(super) fn complete(&self, mut responses: Vec<Generated>) -> Vec<Generated> {
        while responses.len() < self.config.samples {
            responses.push(responses[0].clone());
        }
        responses
    }
}

/// A response in the making.
pub(super) struct Response {
    sample: usize,
    pub(super) tokens: Vec<u32>,
    /// The tokens of the prompt and the response, where they have a say.
    seen: BTreeSet<u32>,
    generator: ChaCha8Rng,
}

/// Prompts are handed to threads one by one; what a thread computes together has no say in the results.
fn on_threads(
    request: &Request,
    threads: usize,
    done: &mut dyn FnMut(usize, Vec<Generated>) -> Result<()>,
) -> Result<()> {
    let weights = Weights::new(request.model)?;
    let most = request.at_once(threads);
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
                    // The receiver may have gone with an error of its own, which then is the one to tell.
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

/// One thread's share: sequences of several prompts, each at its own length.
struct Worker<'a> {
    request: &'a Request<'a>,
    /// Sequences that it computes at once.
    most: usize,
    decoder: Decoder<'a>,
    /// One per sequence of the decoder, in its order.
    active: Vec<Active>,
    /// By prompt: its responses, filled as they end.
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
            decoder: Decoder::new(&request.model.architecture, weights),
            active: Vec::new(),
            open: BTreeMap::new(),
        }
    }

    fn work(&mut self, take: &dyn Fn() -> Option<usize>, sender: &mpsc::Sender<Message>) -> Result<()> {
        let mut more = true;
        loop {
            while more && (self.active.is_empty() || self.active.len() + self.request.distinct() <= self.most) {
                match take() {
                    Some(prompt) => self.admit(prompt, sender)?,
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

    /// Encodes a prompt once, for all its samples, and draws their first tokens.
    fn admit(&mut self, prompt: usize, sender: &mpsc::Sender<Message>) -> Result<()> {
        let Request { prompts, images, config, .. } = self.request;
        let place = || format!("prompt {prompt} (`{}`)", prompts[prompt].key);
        let first = self.active.len();
        let TokenPrompt { tokens, image, .. } = &prompts[prompt];
        let pixels = image.as_ref().map(|key| images.pixel_values(key)).transpose().with_context(place)?;
        let image = image.as_deref().zip(pixels.as_ref());
        let samples = self.request.distinct();
        let one = self.decoder.start(tokens, image, samples, config.max_tokens).with_context(place)?;
        let mut logits = one.repeat(samples);
        for sample in 0..samples {
            self.active.push(Active { prompt, sample, response: self.request.begin(prompt, sample) });
        }
        self.open.insert(prompt, vec![None; samples]);
        self.advance(&mut logits, first, sender);
        Ok(())
    }

    /// Draws a token for every sequence from `first` on; those that end leave.
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
                // The receiver is gone only after an error that has been told.
                sender.send(Ok((active.prompt, self.request.complete(responses)))).ok();
            }
        }
        // From the back, so that those before keep their places.
        for index in ended.into_iter().rev() {
            self.active.remove(index);
            self.decoder.leave(index);
        }
    }
}
