//! Generation on a GPU with continuous batching (Yu et al. 2022): a prompt starts as soon as there are enough slots and places of the
//! cache for all its samples, and a sequence that ends frees its own immediately. From the same logits, it samples the same tokens as the
//! CPU path.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

use anyhow::{Context, Result};

use super::decoder::{CachedSequence, Continuation, Draw, NewPrompt, SequenceDecoder};
use super::places::Places;
use super::request::{Done, Generated, Request, Response};
#[cfg(feature = "cuda")]
use crate::Resources;
use crate::auto_batch::AutoBatch;
#[cfg(feature = "cuda")]
use crate::cuda::ops::decoder::CudaDecoder;
use crate::device_error::advise;
use ablate_core::base::Progress;

/// The most tokens of the prompts that are read together, unless one prompt alone is longer.
const MAX_PREFILL: usize = 8192;

/// The advice to a user whose GPU has too little memory for a single prompt.
const ADVICE: &str = "fewer `samples` or `max_tokens` need less";

/// Samples the responses on GPU `ordinal`.
#[cfg(feature = "cuda")]
pub(super) fn generate(request: &Request, ordinal: usize, resources: &Resources, done: &mut Done) -> Result<()> {
    let positions =
        (0..request.prompts.len()).map(|prompt| request.prompts[prompt].tokens.len() + request.max_tokens(prompt));
    let longest = positions.max().unwrap_or(0);
    let decoder = CudaDecoder::open(request.model, request.config, ordinal, resources.precision, longest);
    let mut decoder = advise("the model does not fit into the memory of the GPU", decoder)?;
    generate_with(&mut decoder, request, resources.progress, done)
}

/// Samples the responses with a given decoder: up to `batch` sequences at a time, or those of one prompt if its samples are more. When
/// memory runs out, the prompts that are not complete start again with half as many at a time, which gives the same responses.
pub(crate) fn generate_with(
    decoder: &mut dyn SequenceDecoder,
    request: &Request,
    progress: &dyn Progress,
    done: &mut Done,
) -> Result<()> {
    if request.prompts.is_empty() {
        return Ok(());
    }
    let mut pending: BTreeSet<usize> = (0..request.prompts.len()).collect();
    let most = (request.config.batch / request.distinct()).clamp(1, pending.len());
    let places = most_places(request);
    let available = decoder.places_that_fit()?;
    let fit = places[1..most].iter().take_while(|&&places| places <= available).count() + 1;
    if fit < most {
        progress.note(format!(
            "the GPU has memory for {fit} of {most} prompts at a time, with `samples` of `max_tokens` each"
        ));
    }
    AutoBatch::at_most("prompt", fit).run(pending.len(), progress, |prompts| {
        let (places, slots) = (places[prompts - 1], prompts * request.distinct());
        let reserved = decoder.reserve(places, slots).with_context(|| named(request, pending.iter().take(prompts)));
        advise(ADVICE, reserved.and_then(|()| Batcher::new(decoder, request, places, slots).run(&mut pending, done)))
    })
}

/// Places of the sequences of a prompt. The last token of a response is not cached.
fn own_places(request: &Request, prompt: usize) -> usize {
    request.max_tokens(prompt) - 1
}

/// Element `i` is the largest number of places that `i + 1` prompts need, with all their samples.
fn most_places(request: &Request) -> Vec<usize> {
    let samples = request.distinct();
    let needed = |prompt: usize| request.prompts[prompt].tokens.len() + samples * own_places(request, prompt);
    let mut needed: Vec<usize> = (0..request.prompts.len()).map(needed).collect();
    needed.sort_unstable_by(|a, b| b.cmp(a));
    let sum = |sum: &mut usize, needed: usize| {
        *sum += needed;
        Some(*sum)
    };
    needed.into_iter().scan(0, sum).collect()
}

/// Prompts by number and key.
fn named<'a>(request: &Request, prompts: impl Iterator<Item = &'a usize>) -> String {
    let prompts: BTreeSet<usize> = prompts.copied().collect();
    let one = |prompt: usize| format!("{prompt} (`{}`)", request.prompts[prompt].key);
    match (prompts.first(), prompts.last()) {
        (Some(&first), Some(&last)) if first < last => format!("prompts {} to {}", one(first), one(last)),
        (Some(&first), _) => format!("prompt {}", one(first)),
        _ => "no prompt".to_string(),
    }
}

/// A sequence on the device.
struct Active {
    prompt: usize,
    sample: usize,
    slot: usize,
    /// The places of its own tokens.
    own: Range<usize>,
    response: Response,
}

/// A prompt whose samples are not complete.
struct Open {
    /// The places of its tokens.
    places: Range<usize>,
    /// By how much the positions of the responses are below the numbers of their tokens.
    behind: usize,
    /// The responses that have ended, by sample.
    responses: Vec<Option<Generated>>,
}

/// The sequences on the device, and what is free for new ones.
struct Batcher<'a> {
    decoder: &'a mut dyn SequenceDecoder,
    request: &'a Request<'a>,
    places: Places,
    /// Slots that no sequence has.
    slots: BTreeSet<usize>,
    /// In the order of the decoder's rows.
    active: Vec<Active>,
    open: BTreeMap<usize, Open>,
}

impl<'a> Batcher<'a> {
    fn new(decoder: &'a mut dyn SequenceDecoder, request: &'a Request<'a>, places: usize, slots: usize) -> Batcher<'a> {
        let (places, slots) = (Places::new(places), (0..slots).collect());
        Batcher { decoder, request, places, slots, active: Vec::new(), open: BTreeMap::new() }
    }

    /// Samples the responses to the prompts in `pending`, and removes each prompt that is complete.
    fn run(&mut self, pending: &mut BTreeSet<usize>, done: &mut Done) -> Result<()> {
        let mut queue: VecDeque<usize> = pending.iter().copied().collect();
        while !queue.is_empty() || !self.active.is_empty() {
            let first = self.active.len();
            let new = self.admit(&mut queue);
            let (first, tokens) = if new.is_empty() {
                assert!(first > 0, "BUG: the cache is too small for one prompt");
                (0, self.step().with_context(|| named(self.request, self.open.keys()))?)
            } else {
                (first, self.prefill(first, &new).with_context(|| named(self.request, new.iter()))?)
            };
            for (prompt, responses) in self.advance(first, &tokens) {
                pending.remove(&prompt);
                done(prompt, self.request.complete(responses))?;
            }
        }
        Ok(())
    }

    /// Gives slots and places to the next prompts that can start now. Returns these prompts.
    fn admit(&mut self, queue: &mut VecDeque<usize>) -> Vec<usize> {
        let (samples, mut new, mut tokens) = (self.request.distinct(), Vec::new(), 0);
        while let Some(&prompt) = queue.front() {
            let length = self.request.prompts[prompt].tokens.len();
            tokens += length;
            if self.slots.len() < samples || (tokens > MAX_PREFILL && !new.is_empty()) {
                break;
            }
            let own = own_places(self.request, prompt);
            let counts = std::iter::once(length).chain(std::iter::repeat_n(own, samples));
            let Some(ranges) = self.places.take_all(counts) else { break };
            queue.pop_front();
            new.push(prompt);
            let (prompt_places, own) = ranges.split_first().unwrap_or_else(|| panic!("BUG: no places"));
            self.open.insert(prompt, Open { places: prompt_places.clone(), behind: 0, responses: vec![None; samples] });
            for (sample, own) in own.iter().enumerate() {
                let slot = self.slots.pop_first().unwrap_or_else(|| panic!("BUG: no slot"));
                let response = self.request.begin(prompt, sample);
                self.active.push(Active { prompt, sample, slot, own: own.clone(), response });
            }
        }
        new
    }

    /// Reads prompts, whose sequences are those from `first` on. Returns the first token of each.
    fn prefill(&mut self, first: usize, prompts: &[usize]) -> Result<Vec<u32>> {
        let texts: Vec<(usize, &[u32])> = prompts.iter().map(|&prompt| (prompt, &[][..])).collect();
        let batch = self.request.batch(&texts)?;
        for (prompt, &behind) in prompts.iter().zip(&batch.behind) {
            self.open.entry(*prompt).and_modify(|open| open.behind = behind);
        }
        let mut sequences = self.active[first..].iter_mut();
        let mut new = Vec::new();
        for &prompt in prompts {
            let draw =
                |active: &mut Active| Draw { slot: active.slot, uniform: self.request.uniform(&mut active.response) };
            let draws = sequences.by_ref().take(self.request.distinct()).map(draw).collect();
            let places = self.open[&prompt].places.clone();
            new.push(NewPrompt { tokens: &self.request.prompts[prompt].tokens, places, draws });
        }
        self.decoder.prefill(&batch, &new)
    }

    /// Continues all sequences by one token.
    fn step(&mut self) -> Result<Vec<u32>> {
        let (request, open) = (self.request, &self.open);
        let continuation = |Active { prompt, slot, own, response, .. }: &mut Active| {
            let Open { places, behind, .. } = &open[prompt];
            let cached = CachedSequence {
                prompt: places.start,
                prompt_length: places.len(),
                own: own.start,
                own_length: response.tokens.len(),
            };
            Continuation { cached, behind: *behind, draw: Draw { slot: *slot, uniform: request.uniform(response) } }
        };
        let sequences: Vec<Continuation> = self.active.iter_mut().map(continuation).collect();
        self.decoder.step(&sequences)
    }

    /// Appends a token to every sequence from `first` on, and removes those that end. Returns the prompts that are complete.
    fn advance(&mut self, first: usize, tokens: &[u32]) -> Vec<(usize, Vec<Generated>)> {
        assert_eq!(tokens.len(), self.active.len() - first, "BUG: one token per sequence");
        let (mut ended, mut complete) = (Vec::new(), Vec::new());
        for (index, (active, &token)) in self.active[first..].iter_mut().zip(tokens).enumerate() {
            let Some(generated) = self.request.append(active.prompt, &mut active.response, token) else { continue };
            ended.push(first + index);
            let Some(open) = self.open.get_mut(&active.prompt) else { panic!("BUG: a sequence without its prompt") };
            open.responses[active.sample] = Some(generated);
            if open.responses.iter().all(Option::is_some)
                && let Some(Open { places, responses, .. }) = self.open.remove(&active.prompt)
            {
                self.places.give_back(places);
                complete.push((active.prompt, responses.into_iter().flatten().collect()));
            }
        }
        // From the back, so that the earlier indices stay valid. The samples of a prompt stay next to each other.
        for index in ended.into_iter().rev() {
            let Active { slot, own, .. } = self.active.remove(index);
            self.slots.insert(slot);
            self.places.give_back(own);
        }
        complete
    }
}
