//! The work and the memory of generation.

use std::rc::Rc;

use anyhow::Result;

use super::{BatchShape, Memory, Recording, Trainable, Work, Workload};
use crate::cuda::ops::CudaOps;
use crate::cuda::ops::attention::AttentionPlan;
use crate::cuda::ops::kv_cache::{CacheWriter, KvCache};
use crate::batch::EmbeddingSource;
use crate::layers::ForwardPass;
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

/// Generation: the work of its passes without sampling, and its memory.
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
    let (gpu, model, decoder) = (&recording.gpu, &recording.model, &architecture.decoder);
    let sequences = prompts * samples;
    let places = prompts * prompt_tokens + sequences * new_tokens;
    let cache = Rc::new(KvCache::new(gpu, decoder.layers, places, decoder.kv_width())?);
    let cached = recording.live_bytes() - weights;
    let batch = BatchShape { rows: prompts, positions: prompt_tokens, tiles, targets: 1 }.batch(architecture)?;
    let pass = |places: &[i32]| -> Result<CudaOps> {
        Ok(CudaOps::with(gpu, None, Some(CacheWriter::new(gpu, &cache, places)?)))
    };
    recording.work();
    let mut ops = pass(&(0..(prompts * prompt_tokens) as i32).collect::<Vec<_>>())?;
    let last = model.hidden(&mut ops, &batch, false)?;
    model.logits(&mut ops, &last)?;
    drop((last, ops));
    let prefill = recording.work();
    // Twice, because the first step of a size asks for memory.
    for _ in 0..2 {
        recording.work();
        let own = new_tokens / 2;
        let first_place = |sequence: usize| prompts * prompt_tokens + sequence * new_tokens;
        let of_sequence = |sequence: usize| {
            [sequence / samples * prompt_tokens, prompt_tokens, first_place(sequence), own].map(|number| number as i32)
        };
        let mut ops = pass(&(0..sequences).map(|sequence| (first_place(sequence) + own) as i32).collect::<Vec<_>>())?;
        let rope = model.rotary.table(prompt_tokens + new_tokens);
        let positions = vec![(prompt_tokens + own) as i32; sequences];
        let of_sequences: Vec<[i32; 4]> = (0..sequences).map(of_sequence).collect();
        let plan = AttentionPlan::step(gpu, model.heads, &rope, &positions, &of_sequences)?;
        let mut pass = ForwardPass { ops: &mut ops, dropout: None };
        let x = model.embed(&mut pass, None, &vec![EmbeddingSource::Token(0); sequences])?;
        let hidden = model.decode(&mut pass, x, &plan, None)?;
        model.logits(&mut ops, &hidden)?;
    }
    let memory = Memory { weights, cache: cached, ..Memory::default() }.up_to(recording.recorder.peak_bytes());
    Ok(GenerationCost { prefill, step: recording.work(), memory })
}
