//! `layer_types`: which layers of a decoder attend to a window only.

use super::fields::Fields;

/// Whether each layer has a window, if the file has a type for each layer.
pub(super) fn layer_types(fields: &Fields, layers: usize) -> Option<Vec<bool>> {
    let types = fields.value("layer_types")?;
    let known = ["full_attention", "sliding_attention"];
    let texts: Option<Vec<&str>> =
        types.as_array().and_then(|types| types.iter().map(|value| value.as_str()).collect());
    match texts {
        Some(texts) if texts.len() == layers && texts.iter().all(|text| known.contains(text)) => {
            Some(texts.iter().map(|text| *text == "sliding_attention").collect())
        }
        _ => {
            let message = format!("must be `full_attention` or `sliding_attention` for each of the {layers} layers");
            fields.wrong("layer_types", message);
            Some(vec![false; layers])
        }
    }
}
