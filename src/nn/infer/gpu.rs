//! Generation on a GPU: prompts are read in groups, and the samples of a group are continued together until the last one
//! ends. Draws the same tokens from the same logits as the CPU's path.

use std::ops::Range;

use anyhow::{Context, Result};

use super::generate::{Generated, Request, Response};
use crate::auto_batch::AutoBatch;
use crate::device_error::catch_out_of_memory;
use crate::dfdx::decoder::{BatchDecoder, batch_decoder};
use crate::{Architecture, Batch, Resources, Sequence};
use ablate_core::base::Progress;

/// A sequence on the device. Its place stays taken for a while after its response has ended.
type Place = Option<(usize, usize, Response)>; // prompt, sample

/// Samples group by group, of at most `batch` sequences each, if there is one prompt that has so few.
pub(super) fn generate(
    request: &Request,
    resources: &Resources,
    done: &mut dyn FnMut(usize, Vec<Generated>) -> Result<()>,
) -> Result<()> {
    on(&mut *batch_decoder(request.model, resources)?, request, resources.progress, done)
}

/// The same on what can read and continue. A group for which there is no memory is tried again in halves: what is drawn
/// depends on no neighbour.
pub(super) fn on(
    decoder: &mut dyn BatchDecoder,
    request: &Request,
    progress: &dyn Progress,
    done: &mut dyn FnMut(usize, Vec<Generated>) -> Result<()>,
) -> Result<()> {
    let auto_batch = AutoBatch::at_most("prompt", group(request));
    let mut first = 0;
    while first < request.prompts.len() {
        let ended = auto_batch.run(request.prompts.len() - first, progress, |count| {
            let prompts = first..first + count;
            let advice = "fewer `samples` or `max_tokens` need less";
            catch_out_of_memory(advice, || together(request, decoder, prompts.clone())).with_context(|| {
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

/// Bytes of keys and values of a group.
const CACHES: usize = 8 << 30;
/// Numbers in the largest tensor that reading a group needs.
const LARGEST: usize = 1 << 30;

/// Prompts of a group: so many that their sequences are as many as are asked for, if there is room, and that no group is
/// much smaller than the others.
fn group(request: &Request) -> usize {
    let Architecture { decoder, .. } = &request.model.architecture;
    let (samples, count) = (request.distinct(), request.prompts.len());
    let longest = request.prompts.iter().map(|prompt| prompt.tokens.len()).max().unwrap_or(0).max(1);
    // Every sequence has a copy of its prompt's part.
    let positions = longest + request.config.max_tokens.min(decoder.max_positions);
    let bytes = 2 * size_of::<f32>() * decoder.layers * decoder.kv_width() * positions;
    let numbers = longest * (decoder.heads * longest).max(decoder.ff);
    let most = (request.config.batch.min(CACHES / bytes.max(1)) / samples).min(LARGEST / numbers.max(1)).max(1);
    count.div_ceil(count.div_ceil(most).max(1))
}

/// The distinct responses to each prompt of a group.
fn together(request: &Request, decoder: &mut dyn BatchDecoder, prompts: Range<usize>) -> Result<Vec<Vec<Generated>>> {
    let (samples, vocab) = (request.distinct(), request.model.architecture.vocab);
    let first = prompts.start;
    let texts = decoder.prefill(&read(request, prompts.clone())?, samples)?;
    let mut logits: Vec<f32> = texts.chunks_exact(vocab).flat_map(|logits| logits.repeat(samples)).collect();
    let begin = |prompt| (0..samples).map(move |sample| Some((prompt, sample, request.begin(prompt, sample))));
    let mut places: Vec<Place> = prompts.clone().flat_map(begin).collect();
    let mut ended = vec![vec![None; samples]; prompts.len()];
    loop {
        for (place, logits) in places.iter_mut().zip(logits.chunks_exact_mut(vocab)) {
            let Some((prompt, sample, response)) = place else { continue };
            if let Some(generated) = request.extend(*prompt, response, logits) {
                ended[*prompt - first][*sample] = Some(generated);
                *place = None;
            }
        }
        let open: Vec<usize> = (0..places.len()).filter(|&place| places[place].is_some()).collect();
        if open.is_empty() {
            return Ok(ended.into_iter().map(|responses| responses.into_iter().flatten().collect()).collect());
        }
        // To move what was read costs about a step: not for a few places.
        if open.len() * 4 <= places.len() * 3 {
            decoder.retain(&open)?;
            places.retain(Option::is_some);
        }
        let last = |place: &Place| place.as_ref().and_then(|(_, _, response)| response.tokens.last().copied());
        let tokens: Vec<u32> = places.iter().map(|place| last(place).unwrap_or(0)).collect();
        logits = decoder.step(&tokens)?;
    }
}

/// The prompts of a group, padded to one length, with the last position of each selected.
fn read(request: &Request, prompts: Range<usize>) -> Result<Batch> {
    let prompts = &request.prompts[prompts];
    // A last token that only marks the place: a batch takes no input from it.
    let texts: Vec<Vec<u32>> = prompts.iter().map(|prompt| [&prompt.tokens[..], &[0]].concat()).collect();
    let marks: Vec<Vec<bool>> = texts.iter().map(|text| (1..=text.len()).map(|i| i == text.len()).collect()).collect();
    let texts = prompts.iter().zip(texts.iter().zip(&marks));
    let sequences: Vec<Sequence> =
        texts.map(|(prompt, (tokens, loss))| Sequence { tokens, loss, image: prompt.image.as_deref() }).collect();
    Batch::new(&request.model.architecture, &sequences, true, request.images)
}
