//! Fields of the towers for images of any size: those of Qwen2-VL, Qwen2.5-VL and Qwen3-VL.

use serde_json::json;

use super::fields::Fields;
use super::{ignored_fields, restricted_fields};
use crate::architecture::{Activation, DynamicFamily, DynamicVit, Rope, RopeScaling};

/// Our prefix of the tower and its mergers, which is that of files too.
pub(super) const TOWER: &str = "visual.";

/// Fields that the model does not read: ids of tokens, which the template and the tokenizer have.
pub(super) const TOKENS: [&str; 5] =
    ["image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id", "vision_token_id"];

/// The largest size of the tower's MLP.
pub(super) const MAX_FF: usize = 1 << 20;

/// What the class of a tower has where a field is missing.
pub(super) struct Defaults {
    pub(super) family: DynamicFamily,
    pub(super) patch_size: usize,
    pub(super) layers: usize,
}

/// The fields that all towers have, of a tower of this hidden size and intermediate size. `before`: the number of problems before the
/// object was read.
pub(super) fn sizes(
    object: &Fields,
    names: [&str; 2],
    (dim, ff): (usize, usize),
    defaults: &Defaults,
    before: usize,
) -> DynamicVit {
    object.choice("model_type", names[0], &names.map(|name| (name, ())));
    let heads = object.size("num_heads", 16);
    let (patch_size, merge) = (object.size("patch_size", defaults.patch_size), object.size("spatial_merge_size", 2));
    let frames = object.size("temporal_patch_size", 2);
    object.only("in_channels", &json!(3));
    // The names of the first release, which its class does not read.
    object.only("in_chans", &json!(3));
    object.only("spatial_patch_size", &json!(patch_size));
    if object.problems() == before && !(dim.is_multiple_of(heads) && (dim / heads).is_multiple_of(4)) {
        object.wrong("num_heads", format!("must divide the width ({dim}) into multiples of 4, which {heads} does not"));
    }
    for (name, size, most) in
        [("patch_size", patch_size, 256), ("spatial_merge_size", merge, 64), ("temporal_patch_size", frames, 64)]
    {
        if size > most {
            object.wrong(name, format!("must be at most {most}, not {size}"));
        }
    }
    DynamicVit {
        family: defaults.family,
        patch_size,
        frames,
        merge,
        dim,
        layers: object.size("depth", defaults.layers),
        heads,
        ff,
        activation: Activation::Swiglu,
        rms_norm: true,
        rope: rope(object),
        windows: None,
        position_side: None,
        deepstack: Vec::new(),
    }
}

/// The rotary embedding of rows and columns.
fn rope(object: &Fields) -> Rope {
    let theta = match object.inner("rope_parameters") {
        None => 10_000.0,
        Some(inner) => {
            inner.only("rope_type", &json!("axial"));
            let theta = inner.positive("rope_theta", 10_000.0);
            inner.finish_strict(&[], &[]);
            theta
        }
    };
    Rope { theta, scaling: RopeScaling::None, rounded: true, sections: Vec::new() }
}

/// Checks the fields that were not read.
pub(super) fn finish(object: &Fields) {
    restricted_fields::refuse_quantization(object);
    object.finish(
        &[ignored_fields::BASE, ignored_fields::GENERATION, ignored_fields::TRAINING],
        restricted_fields::QWEN2_TOWER,
    );
}
