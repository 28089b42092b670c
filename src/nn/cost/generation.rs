//! The work and the memory of generation.

use anyhow::Result;

use super::{BatchShape, Memory, Recording, Trainable, Work, Workload};
use crate::cuda::ops::decoder::CudaDecoder;
use crate::infer::GenerateConfig;
use crate::infer::decoder::{CachedSequence, Continuation, Draw, NewPrompt, SequenceDecoder};
use crate::{Architecture, Precision};

/// The sizes of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GenerationShape {
    pub prompts: usize,
    /// Responses to each prompt, which share its keys and values. All responses are continued together.
    pub samples: usize,
    /// Tokens of a prompt, image tokens included.
    pub prompt_tokens: usize,
    /// Tokens of a response.
    pub new_tokens: usize,
    /// Tiles of the images of a prompt.
    pub tiles: usize,
}

/// Generation: the work of its passes, and its memory.
#[derive(Clone, Debug)]
pub struct GenerationCost {
    /// Reads all prompts.
    pub prefill: Work,
    /// Adds a token to every response, at half of their length.
    pub step: Work,
    pub memory: Memory,
}

/// The cost of generation with a model.
///
/// # Errors
/// The prompts do not fit the model, or the model does not run on a GPU.
pub fn generation(architecture: &Architecture, precision: Precision, shape: &GenerationShape) -> Result<GenerationCost> {
    let GenerationShape { prompts, samples, prompt_tokens, new_tokens, tiles } = *shape;
    let trainable = Trainable::Model { frozen: Vec::new() };
    let workload = Workload { architecture, precision, trainable, gradient_checkpointing: false };
    let recording = Recording::new(&workload)?;
    let weights = recording.live_bytes();
    let Recording { recorder, gpu, model, .. } = recording;
    let take = || Work::new(recorder.take());
    let sampling = GenerateConfig {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        max_tokens: new_tokens,
        samples,
        stop: Vec::new(),
        repetition_penalty: 1.0,
        batch: prompts * samples,
    };
    let mut decoder = CudaDecoder::new(gpu, model, architecture, &sampling, prompt_tokens + new_tokens);
    let own_places = prompts * prompt_tokens;
    let before = recorder.used_bytes();
    decoder.reserve(own_places + prompts * samples * new_tokens, prompts * samples)?;
    let cache = recorder.used_bytes() - before;
    let batch = BatchShape { rows: prompts, positions: prompt_tokens, tiles, targets: 1 }.batch(architecture)?;
    let tokens = vec![0; prompt_tokens];
    let draw = |slot| Draw { slot, uniform: 0.0 };
    let new_prompt = |prompt: usize| NewPrompt {
        tokens: &tokens,
        places: prompt * prompt_tokens..(prompt + 1) * prompt_tokens,
        draws: (0..samples).map(|sample| draw(prompt * samples + sample)).collect(),
    };
    take();
    decoder.prefill(&batch, &(0..prompts).map(new_prompt).collect::<Vec<_>>())?;
    let prefill = take();
    let continued = |sequence: usize| {
        let (prompt, own) = (sequence / samples * prompt_tokens, own_places + sequence * new_tokens);
        let own_length = new_tokens.div_ceil(2);
        let cached = CachedSequence { prompt, prompt_length: prompt_tokens, own, own_length };
        Continuation { cached, draw: draw(sequence) }
    };
    let sequences: Vec<Continuation> = (0..prompts * samples).map(continued).collect();
    // The first step copies the table of rotations.
    decoder.step(&sequences)?;
    take();
    decoder.step(&sequences)?;
    let memory = Memory { weights, cache, ..Memory::default() }.up_to(recorder.peak_bytes());
    Ok(GenerationCost { prefill, step: take(), memory })
}
