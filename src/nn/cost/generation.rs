//! The work and the memory of generation.

use anyhow::{Result, anyhow, bail};

use super::{BatchShape, Memory, Recording, Trainable, Work, Workload, check_size};
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
pub fn generation(
    architecture: &Architecture,
    precision: Precision,
    shape: &GenerationShape,
) -> Result<GenerationCost> {
    let GenerationShape { prompts, samples, prompt_tokens, new_tokens, .. } = *shape;
    if new_tokens == 0 {
        bail!("a sequence of {prompt_tokens} positions has no room for a response");
    }
    check_size(architecture, prompts.saturating_mul(samples), prompt_tokens.saturating_add(new_tokens))?;
    let trainable = Trainable::Model { frozen: Vec::new() };
    let workload = Workload { architecture, precision, trainable, gradient_checkpointing: false };
    let recording = Recording::new(&workload)?;
    let weights = recording.live_bytes();
    let Recording { recorder, gpu, model, .. } = recording;
    let mut decoder = CudaDecoder::new(gpu, model, architecture, &sampling(shape), prompt_tokens + new_tokens);
    let mut works = Vec::new();
    let mut cache = 0;
    run(&mut decoder, architecture, shape, &mut || {
        if works.is_empty() {
            cache = recorder.used_bytes() - weights;
        }
        works.push(Work::new(recorder.take()));
    })?;
    let [_, prefill, _, step] = <[Work; 4]>::try_from(works).map_err(|_| anyhow!("BUG: the passes of a generation"))?;
    let memory = Memory { weights, cache, ..Memory::default() }.up_to(recorder.peak_bytes());
    Ok(GenerationCost { prefill, step, memory })
}

/// Plain sampling.
pub(super) fn sampling(shape: &GenerationShape) -> GenerateConfig {
    GenerateConfig {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        max_tokens: shape.new_tokens,
        samples: shape.samples,
        stop: Vec::new(),
        repetition_penalty: 1.0,
        batch: shape.prompts * shape.samples,
    }
}

/// Reserves memory, reads the prompts, and runs two equal steps, of which the first may copy a table of rotations. Calls `done` after
/// each.
pub(super) fn run(
    decoder: &mut dyn SequenceDecoder,
    architecture: &Architecture,
    shape: &GenerationShape,
    done: &mut dyn FnMut(),
) -> Result<()> {
    let GenerationShape { prompts, samples, prompt_tokens, new_tokens, tiles } = *shape;
    let own_places = prompts * prompt_tokens;
    decoder.reserve(own_places + prompts * samples * new_tokens, prompts * samples)?;
    done();
    let batch = BatchShape { rows: prompts, positions: prompt_tokens, tiles, targets: 1 }.batch(architecture)?;
    let tokens = vec![0; prompt_tokens];
    let draw = |slot| Draw { slot, uniform: 0.0 };
    let new_prompt = |prompt: usize| NewPrompt {
        tokens: &tokens,
        places: prompt * prompt_tokens..(prompt + 1) * prompt_tokens,
        draws: (0..samples).map(|sample| draw(prompt * samples + sample)).collect(),
    };
    decoder.prefill(&batch, &(0..prompts).map(new_prompt).collect::<Vec<_>>())?;
    done();
    let continued = |sequence: usize| {
        let (prompt, own) = (sequence / samples * prompt_tokens, own_places + sequence * new_tokens);
        let own_length = new_tokens.div_ceil(2);
        let cached = CachedSequence { prompt, prompt_length: prompt_tokens, own, own_length };
        Continuation { cached, behind: 0, draw: draw(sequence) }
    };
    let sequences: Vec<Continuation> = (0..prompts * samples).map(continued).collect();
    for _ in 0..2 {
        decoder.step(&sequences)?;
        done();
    }
    Ok(())
}
