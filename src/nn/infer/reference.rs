//! Generation by a whole forward pass per token, without a key/value cache: the reference for tests of the other paths.

use anyhow::Result;

use super::request::{Done, GenerateConfig, Generated, Request};
use crate::session::Session;
use crate::trainable_model::TrainableModel;
use crate::{Checkpoint, PixelSource, Resources};
use ablate_core::base::Seed;
use ablate_data::tokens::TokenPrompt;

/// The responses to each prompt.
pub(crate) fn responses(
    model: &Checkpoint,
    prompts: &[TokenPrompt],
    images: &dyn PixelSource,
    config: &GenerateConfig,
    resources: &Resources,
) -> Result<Vec<Vec<Generated>>> {
    let mut found = Vec::new();
    let request = Request { model, prompts, images, config, seed: Seed(0), watch: &|_, _, _| false };
    generate(&request, resources, &mut |_, responses| {
        found.push(responses);
        Ok(())
    })?;
    Ok(found)
}

/// Samples groups of prompts of at most `batch` sequences, in order.
pub(super) fn generate(request: &Request, resources: &Resources, done: &mut Done) -> Result<()> {
    let session = Session::new(&TrainableModel::frozen(request.model), resources)?;
    let samples = request.distinct();
    let group = (request.config.batch / samples).max(1);
    for first in (0..request.prompts.len()).step_by(group) {
        let prompts = first..(first + group).min(request.prompts.len());
        let mut open: Vec<(usize, usize)> =
            prompts.clone().flat_map(|prompt| (0..samples).map(move |sample| (prompt, sample))).collect();
        let mut responses: Vec<_> = open.iter().map(|&(prompt, sample)| request.begin(prompt, sample)).collect();
        let mut ended = vec![vec![None; samples]; prompts.len()];
        while !open.is_empty() {
            let texts = open.iter().zip(&responses).map(|(&(prompt, _), response)| (prompt, &response.tokens[..]));
            let batch = request.batch(&texts.collect::<Vec<_>>())?;
            let mut logits = session.logits(&batch)?;
            let mut still = Vec::new();
            for (row, logits) in logits.chunks_exact_mut(request.model.architecture.vocab).enumerate() {
                let (prompt, sample) = open[row];
                match request.extend(prompt, &mut responses[row], logits) {
                    Some(generated) => ended[prompt - first][sample] = Some(generated),
                    None => still.push(row),
                }
            }
            let mut row = 0;
            responses.retain(|_| {
                row += 1;
                still.contains(&(row - 1))
            });
            open = still.iter().map(|&row| open[row]).collect();
        }
        for (prompt, responses) in prompts.zip(ended) {
            done(prompt, request.complete(responses.into_iter().flatten().collect()))?;
        }
    }
    Ok(())
}
