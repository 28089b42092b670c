//! Generation on a GPU: prompts are prefilled in groups, and the samples of a group are continued together until the last one
//! ends. From the same logits, it samples the same tokens as the CPU path.

use std::ops::Range;

use anyhow::{Context, Result};

use super::request::{Done, Generated, Request, Response};
use crate::auto_batch::AutoBatch;
use crate::device_error::catch_out_of_memory;
use crate::dfdx::decoder::{BatchDecoder, batch_decoder};
use crate::{Architecture, Resources};
use ablate_core::base::Progress;

/// Prompt, sample and response of a sequence on the device. The slot is empty after the end of the response, until the batch is
/// compacted.
type Slot = Option<(usize, usize, Response)>;

/// Samples groups of prompts of at most `batch` sequences, or one prompt if its samples are more.
pub(super) fn generate(request: &Request, resources: &Resources, done: &mut Done) -> Result<()> {
    generate_with(&mut *batch_decoder(request.model, resources)?, request, resources.progress, done)
}

/// As [`generate`], with a given decoder. A group that does not fit into memory is retried in halves, which gives the same
/// responses.
pub(super) fn generate_with(
    decoder: &mut dyn BatchDecoder,
    request: &Request,
    progress: &dyn Progress,
    done: &mut Done,
) -> Result<()> {
    let auto_batch = AutoBatch::at_most("prompt", group_size(request));
    let mut first = 0;
    while first < request.prompts.len() {
        let ended = auto_batch.run(request.prompts.len() - first, progress, |count| {
            let prompts = first..first + count;
            let advice = "fewer `samples` or `max_tokens` need less";
            catch_out_of_memory(advice, || generate_group(request, decoder, prompts.clone())).with_context(|| {
                let key = |index: usize| &request.prompts[index].key;
                format!("prompts `{}` to `{}`", key(prompts.start), key(prompts.end - 1))
            })
        })?;
        for responses in ended {
            done(first, request.complete(responses))?;
            first += 1;
        }
    }
    Ok(())
}

/// Bytes of the KV cache of a group.
const MAX_CACHE: usize = 8 << 30;
/// Numbers in the largest tensor of the prefill of a group.
const MAX_TENSOR: usize = 1 << 30;

/// The number of prompts per group, from the largest batch and the memory, such that all groups have about equal sizes.
fn group_size(request: &Request) -> usize {
    let Architecture { decoder, .. } = &request.model.architecture;
    let (samples, count) = (request.distinct(), request.prompts.len());
    let longest = request.prompts.iter().map(|prompt| prompt.tokens.len()).max().unwrap_or(0).max(1);
    // Every sequence has a copy of the cache of its prompt.
    let positions = longest + request.config.max_tokens.min(decoder.max_positions);
    let bytes = 2 * size_of::<f32>() * decoder.layers * decoder.kv_width() * positions;
    let numbers = longest * (decoder.heads * longest).max(decoder.ff);
    let most = (request.config.batch.min(MAX_CACHE / bytes.max(1)) / samples).min(MAX_TENSOR / numbers.max(1)).max(1);
    count.div_ceil(count.div_ceil(most).max(1))
}

/// The distinct responses to each prompt of a group.
fn generate_group(
    request: &Request,
    decoder: &mut dyn BatchDecoder,
    prompts: Range<usize>,
) -> Result<Vec<Vec<Generated>>> {
    let (samples, vocab) = (request.distinct(), request.model.architecture.vocab);
    let first = prompts.start;
    let texts: Vec<(usize, &[u32])> = prompts.clone().map(|prompt| (prompt, &[][..])).collect();
    let first_logits = decoder.prefill(&request.batch(&texts, true)?, samples)?;
    let mut logits: Vec<f32> = first_logits.chunks_exact(vocab).flat_map(|logits| logits.repeat(samples)).collect();
    let begin = |prompt| (0..samples).map(move |sample| Some((prompt, sample, request.begin(prompt, sample))));
    let mut slots: Vec<Slot> = prompts.clone().flat_map(begin).collect();
    let mut ended = vec![vec![None; samples]; prompts.len()];
    loop {
        for (slot, logits) in slots.iter_mut().zip(logits.chunks_exact_mut(vocab)) {
            let Some((prompt, sample, response)) = slot else { continue };
            if let Some(generated) = request.extend(*prompt, response, logits) {
                ended[*prompt - first][*sample] = Some(generated);
                *slot = None;
            }
        }
        let open: Vec<usize> = (0..slots.len()).filter(|&slot| slots[slot].is_some()).collect();
        if open.is_empty() {
            return Ok(ended.into_iter().map(|responses| responses.into_iter().flatten().collect()).collect());
        }
        // Compacting the cache costs about as much as a step, so it waits until a quarter of the slots are empty.
        if open.len() * 4 <= slots.len() * 3 {
            decoder.retain(&open)?;
            slots.retain(Option::is_some);
        }
        let last = |slot: &Slot| slot.as_ref().and_then(|(_, _, response)| response.tokens.last().copied());
        let tokens: Vec<u32> = slots.iter().map(|slot| last(slot).unwrap_or(0)).collect();
        logits = decoder.step(&tokens)?;
    }
}
