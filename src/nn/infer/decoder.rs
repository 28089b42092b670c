//! What generation in batches needs of a device: sequences with a KV cache there, and sampling there.

use std::ops::Range;

use anyhow::Result;

use crate::Batch;

/// Where the keys and values of a sequence lie in the cache, in places. The samples of a prompt share the prompt's part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CachedSequence {
    /// The first place of the prompt.
    pub(crate) prompt: usize,
    pub(crate) prompt_length: usize,
    /// The first place of the sequence's own tokens.
    pub(crate) own: usize,
    pub(crate) own_length: usize,
}

/// A token that is to be sampled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Draw {
    /// The slot of the sequence, which keeps its last token and its used tokens.
    pub(crate) slot: usize,
    /// A uniform number in [0, 1); not used at temperature 0.
    pub(crate) uniform: f64,
}

/// A prompt that is read, and the first tokens of the sequences that continue it.
#[derive(Clone, Debug)]
pub(crate) struct NewPrompt<'a> {
    pub(crate) tokens: &'a [u32],
    /// One place per token.
    pub(crate) places: Range<usize>,
    /// One per sequence.
    pub(crate) draws: Vec<Draw>,
}

/// A sequence that is continued by the token that was sampled last.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Continuation {
    /// With that token as the last one of its own.
    pub(crate) cached: CachedSequence,
    /// By how much the position of a token of a response is below the number of tokens before it: an image has fewer positions than
    /// tokens in multimodal rotary embeddings.
    pub(crate) behind: usize,
    /// For the next token.
    pub(crate) draw: Draw,
}

impl Continuation {
    /// The place of the last token.
    pub(crate) fn place(&self) -> usize {
        self.cached.own + self.cached.own_length - 1
    }

    /// The position of the last token in rotary embeddings.
    pub(crate) fn position(&self) -> usize {
        self.cached.prompt_length + self.cached.own_length - 1 - self.behind
    }
}

/// Sequences on a device. The caller gives out slots and places.
pub(crate) trait SequenceDecoder {
    /// How many places of a cache fit into the free memory, with some left for computing.
    fn places_that_fit(&self) -> Result<usize>;

    /// Replaces the cache by one of `places`, for up to `slots` sequences. All sequences before are gone.
    fn reserve(&mut self, places: usize, slots: usize) -> Result<()>;

    /// Reads the prompts of a batch without padding, which needs the logits of each prompt's last position. Returns the first token of
    /// every sequence, in the order of the prompts and their draws.
    fn prefill(&mut self, batch: &Batch, prompts: &[NewPrompt]) -> Result<Vec<u32>>;

    /// Continues every sequence by one token. Returns these tokens.
    fn step(&mut self, sequences: &[Continuation]) -> Result<Vec<u32>>;
}
