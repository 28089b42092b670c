//! The path without a cache, for comparisons with transformers on a CPU. Test code only.

use std::collections::BTreeMap;

use anyhow::Result;

use super::generate::Request;
use super::{GenerateConfig, Generated, plain};
use crate::{Checkpoint, PixelSource, Resources};
use ablate_core::base::Seed;
use ablate_data::tokens::Prompt;

/// The responses to each prompt by a whole forward pass per token.
pub(crate) fn by_whole_passes(
    model: &Checkpoint,
    prompts: &[Prompt],
    images: &dyn PixelSource,
    config: &GenerateConfig,
    resources: &Resources,
) -> Result<Vec<Vec<Generated>>> {
    let mut found = BTreeMap::new();
    let request = Request { model, prompts, images, config, seed: Seed(0), watch: &|_, _, _| false };
    plain::generate(&request, resources, &mut |index, responses| {
        found.insert(index, responses);
        Ok(())
    })?;
    Ok(found.into_values().collect())
}
