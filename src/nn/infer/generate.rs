//! Sampling responses: the distribution of prompts over threads.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

use anyhow::{Context, Result, bail};

use super::cpu::{CpuDecoder, Weights};
#[cfg(feature = "cuda")]
use super::gpu;
use super::request::{Done, GenerateConfig, Generated, Request, Response, Watch};
use crate::cpu::kv_cache::KvSegment;
use crate::decoder_attention::heads;
use crate::{Architecture, Checkpoint, Device, PixelSource, Resources, Sequence, batch};
use ablate_core::base::Seed;
use ablate_data::tokens::TokenPrompt;

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
    done: &mut Done,
) -> Result<()> {
    if config.samples == 0 || config.max_tokens == 0 {
        bail!("nothing to generate: {} samples of at most {} tokens", config.samples, config.max_tokens);
    }
    for (index, prompt) in prompts.iter().enumerate() {
        let loss = vec![false; prompt.tokens.len()];
        let sequence = Sequence { tokens: &prompt.tokens, loss: &loss, images: &prompt.images };
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
        #[cfg(feature = "cuda")]
        Device::Cuda(ordinal) => gpu::generate(&request, ordinal, resources, done),
        #[cfg(not(feature = "cuda"))]
        Device::Cuda(_) => bail!("this program was built for the CPU only"),
    }
}

/// Bytes of the KV caches of all threads, unless those of one prompt are larger.
const MAX_CACHES: usize = 4 << 30;

/// A core's share of the last-level cache in bytes. The whole KV cache is read in every step.
const LAST_LEVEL_CACHE: usize = 4 << 20;

/// The fewest sequences for which the KV cache is kept within [`LAST_LEVEL_CACHE`]. With fewer sequences per step, it is
/// faster to exceed it, because each step also reads all weights.
const MIN_SEQUENCES: usize = 16;

/// The largest number of sequences that a thread computes together, by the size of their KV caches.
fn sequences_per_thread(request: &Request, threads: usize) -> usize {
    let Architecture { decoder, .. } = &request.model.architecture;
    let longest = request.prompts.iter().map(|prompt| prompt.tokens.len()).max().unwrap_or(0);
    let bytes = |positions: usize| KvSegment::bytes(decoder.layers, heads(decoder), positions);
    // The samples of a prompt share the cache of the prompt.
    let bytes = bytes(longest) / request.distinct() + bytes(request.config.max_tokens.min(decoder.max_positions));
    let (fit, fast) = (MAX_CACHES / threads / bytes.max(1), LAST_LEVEL_CACHE / bytes.max(1));
    request.config.batch.min(if fast >= MIN_SEQUENCES { fast } else { fit.max(1) })
}

/// Distributes the prompts over threads, one at a time.
fn on_threads(request: &Request, threads: usize, done: &mut Done) -> Result<()> {
    let weights = Weights::new(request.model, threads)?;
    let most = sequences_per_thread(request, threads);
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
            let last = |Active { response, .. }: &Active| response.tokens[response.tokens.len() - 1];
            let tokens: Vec<u32> = self.active.iter().map(last).collect();
            let mut logits = self.decoder.step(&tokens)?;
            self.advance(&mut logits, 0, sender);
        }
    }

    /// Prefills a prompt once for all its samples, and samples their first tokens.
    fn start(&mut self, prompt: usize, sender: &mpsc::Sender<Message>) -> Result<()> {
        let Request { prompts, images, config, .. } = self.request;
        let place = || format!("prompt {prompt} (`{}`)", prompts[prompt].key);
        let first = self.active.len();
        let TokenPrompt { tokens, images: keys, .. } = &prompts[prompt];
        let samples = self.request.distinct();
        let first_logits = self.decoder.start(tokens, keys, *images, samples, config.max_tokens).with_context(place)?;
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
        for ((index, active), logits) in self.active.iter_mut().enumerate().skip(first).zip(rows) {
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
