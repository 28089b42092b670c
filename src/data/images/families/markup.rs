//! What a processor writes around images, from the files next to that of the image processor.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};

use crate::images::shape::ImageShape;
use ablate_core::base::files;

/// The file of the processor, with the number of image tokens of a tile.
const PROCESSOR: &str = "processor_config.json";
const TOKENIZER: &str = "tokenizer_config.json";

/// A number of tokens in the processor's file.
pub(super) fn token_count(folder: &Path, key: &str, default: usize) -> Result<usize> {
    match object(folder, PROCESSOR)?.get(key) {
        None | Some(Value::Null) => Ok(default),
        Some(value) => value.as_u64().and_then(|count| usize::try_from(count).ok()).with_context(|| {
            format!("`{key}` of `{}` is {value}, not a number of tokens", folder.join(PROCESSOR).display())
        }),
    }
}

/// Refuses a number of tokens of a tile, in the field `key`, that is not the model's number of features.
pub(super) fn check_tokens(key: &str, tokens: usize, shape: ImageShape, features: usize) -> Result<()> {
    let tiles = shape.tiles as usize;
    if features != tiles * tokens {
        bail!(
            "`{key}` of `{PROCESSOR}` is {tokens} tokens for each tile, but the model has {features} features for {tiles} tiles"
        );
    }
    Ok(())
}

/// The special tokens that the tokenizer's file names by these roles, or their defaults.
pub(super) fn special_tokens<const N: usize>(folder: &Path, roles: [(&str, &str); N]) -> Result<[String; N]> {
    let tokenizer = object(folder, TOKENIZER)?;
    let of_model = tokenizer.get("extra_special_tokens").and_then(Value::as_object);
    Ok(roles.map(|(role, default)| {
        let value = tokenizer.get(role).or_else(|| of_model?.get(role));
        let text = value.and_then(|value| value.as_str().or_else(|| value.get("content")?.as_str()));
        text.unwrap_or(default).to_string()
    }))
}

fn object(folder: &Path, name: &str) -> Result<Map<String, Value>> {
    let path = folder.join(name);
    if path.is_file() { files::read_json(&path) } else { Ok(Map::new()) }
}
