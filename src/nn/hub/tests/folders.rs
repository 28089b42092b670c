//! Reading and writing weights: naming schemes, number types, shards.

use super::super::{Config, Dtype, WeightFiles, families, model, writer, writer::Output};
use super::{config, parameter, write_arrays};
use crate::architecture::Family;
use crate::checkpoint::Rounding;
use crate::parameters::Parameter;
use ablate_core::base::files;

const SIZES: &str = r#""hidden_size": 4, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 6"#;

fn small(tied: bool) -> Config {
    let text = format!(
        r#"{{"model_type": "llava", "image_token_index": 1, "tie_word_embeddings": {tied},
        "text_config": {{"vocab_size": 5, {SIZES}}}, "vision_config": {{"image_size": 2, "patch_size": 1, {SIZES}}}}}"#
    );
    config(&text).unwrap()
}

fn shared(weights: &[Vec<f32>]) -> Vec<std::sync::Arc<Vec<f32>>> {
    weights.iter().cloned().map(std::sync::Arc::new).collect()
}

/// Some of LLaVA's parameters, at least one of each part.
fn some_parameters() -> Vec<Parameter> {
    let list: [(&str, &[usize]); 6] = [
        ("vision_tower.vision_model.embeddings.patch_embedding.weight", &[4, 3, 1, 1]),
        ("multi_modal_projector.linear_1.bias", &[4]),
        ("image_newline", &[4]),
        ("model.embed_tokens.weight", &[5, 4]),
        ("model.layers.0.self_attn.q_proj.weight", &[4, 4]),
        ("lm_head.weight", &[5, 4]),
    ];
    list.into_iter().map(|(name, shape)| parameter(name, shape)).collect()
}

#[test]
fn every_naming_scheme_is_recognized_and_kept() {
    let parameters = some_parameters();
    let weights: Vec<Vec<f32>> =
        parameters.iter().map(|parameter| (0..parameter.len()).map(|at| at as f32).collect()).collect();
    let starts = [
        ("language_model.lm_head.weight", "vision_tower.vision_model.embeddings"),
        ("language_model.model.embed_tokens.weight", "vision_tower.embeddings"),
        ("model.language_model.layers.0", "model.vision_tower.vision_model.embeddings"),
        ("model.image_newline", "model.vision_tower.embeddings"),
    ];
    for (&scheme, (one, other)) in families::schemes(Family::Llava).all.iter().zip(starts) {
        let folder = tempfile::tempdir().unwrap();
        let form = model::StorageFormat { scheme, dtypes: vec![Dtype::F32; parameters.len()] };
        model::write(folder.path(), &form, &parameters, &shared(&weights), Rounding::Exact).unwrap();
        let file = WeightFiles::open(folder.path()).unwrap();
        for start in [one, other] {
            assert!(file.names().any(|name| name.starts_with(start)), "{scheme:?}: {start}");
        }
        for Parameter { name, .. } in &parameters {
            assert_eq!(scheme.to_parameter(&scheme.to_file(name)).as_ref(), Some(name));
        }
        let read = model::read(folder.path(), &small(false).architecture, &parameters).unwrap();
        assert_eq!(read, (weights.clone(), form));
    }
}

#[test]
fn buffers_of_old_versions_are_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let arrays: [(&str, &[usize]); 3] = [
        ("language_model.model.embed_tokens.weight", &[5, 4]),
        ("language_model.model.layers.0.self_attn.rotary_emb.inv_freq", &[1]),
        ("vision_tower.vision_model.embeddings.position_ids", &[1, 5]),
    ];
    write_arrays(folder.path(), &arrays);
    let embedding = vec![parameter("model.embed_tokens.weight", &[5, 4])];
    let (weights, _) = model::read(folder.path(), &small(true).architecture, &embedding).unwrap();
    assert_eq!(weights, [(0..20).map(|at| at as f32).collect::<Vec<f32>>()]);
}

#[test]
fn number_types_are_kept_if_they_fit() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    let values = [1.0, -0.0, 0.333_251_95, 1e-7];
    let halves: Vec<f32> = values.iter().map(|value| Dtype::F16.round(*value)).collect();
    let brain_floats: Vec<f32> = values.iter().map(|value| Dtype::BF16.round(*value)).collect();
    let array = |name: &str, dtype, values| Output { name: name.to_string(), shape: vec![4], dtype, values };
    let arrays = [
        array("lm_head.weight", Dtype::F16, halves.as_slice()),
        array("model.embed_tokens.weight", Dtype::BF16, brain_floats.as_slice()),
        array("model.norm.weight", Dtype::F32, values.as_slice()),
    ];
    writer::write(&one, &arrays).unwrap();
    let parameters: Vec<Parameter> = arrays.iter().map(|array| parameter(&array.name, &array.shape)).collect();
    let decoder = config(&format!(r#"{{"model_type": "llama", {SIZES}}}"#)).unwrap().architecture;
    let (mut weights, form) = model::read(&one, &decoder, &parameters).unwrap();
    assert_eq!(form.dtypes, [Dtype::F16, Dtype::BF16, Dtype::F32]);
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<u32>>();
    for (read, written) in weights.iter().zip([&halves[..], &brain_floats, &values]) {
        assert_eq!(bits(read), bits(written));
    }
    model::write(&two, &form, &parameters, &shared(&weights), Rounding::Exact).unwrap();
    let bytes = |folder: &std::path::Path| files::read_bytes(&folder.join("model.safetensors")).unwrap();
    assert!(bytes(&one) == bytes(&two));
    // The `safetensors` crate writes the same bytes.
    let views = arrays.iter().map(|array| {
        let mut bytes = Vec::new();
        array.dtype.encode(array.values, &mut bytes);
        (array.name.clone(), array.shape.clone(), array.dtype, bytes)
    });
    let views: Vec<_> = views.collect();
    let views = views.iter().map(|(name, shape, dtype, bytes)| {
        let dtype = match dtype {
            Dtype::F32 => safetensors::Dtype::F32,
            Dtype::F16 => safetensors::Dtype::F16,
            Dtype::BF16 => safetensors::Dtype::BF16,
        };
        (name.clone(), safetensors::tensor::TensorView::new(dtype, shape.clone(), bytes).unwrap())
    });
    let metadata = std::collections::HashMap::from([("format".to_string(), "pt".to_string())]);
    assert!(safetensors::serialize(views, Some(metadata)).unwrap() == bytes(&one));
    // A changed value is stored exactly as F32, or rounded.
    weights[1][0] += 1e-3;
    for (rounding, dtype, value) in [(Rounding::Exact, Dtype::F32, 1.001), (Rounding::AsImported, Dtype::BF16, 1.0)] {
        let three = folder.path().join(format!("{dtype}"));
        model::write(&three, &form, &parameters, &shared(&weights), rounding).unwrap();
        let (again, remembered) = model::read(&three, &decoder, &parameters).unwrap();
        let stored = WeightFiles::open(&three).unwrap().dtype("model.embed_tokens.weight").unwrap();
        assert_eq!((stored, again[1][0]), (dtype, value));
        // The imported types are still known.
        assert_eq!(remembered, form);
    }
}

#[test]
fn a_large_model_is_written_in_shards() {
    let folder = tempfile::tempdir().unwrap();
    let values: Vec<f32> = (0..8).map(|at| at as f32).collect();
    let array = |name: &str| Output { name: name.to_string(), shape: vec![8], dtype: Dtype::F32, values: &values };
    writer::write_sharded(folder.path(), &[array("b"), array("c"), array("a")], 70).unwrap();
    let names = files::list_names(folder.path()).unwrap();
    let shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    assert_eq!(names, [shards[0], shards[1], "model.safetensors.index.json"]);
    let index = files::read_text(&folder.path().join(&names[2])).unwrap();
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&index).unwrap(),
        serde_json::json!({
            "metadata": {"total_parameters": 24, "total_size": 96},
            "weight_map": {"a": shards[1], "b": shards[0], "c": shards[0]},
        })
    );
    let file = WeightFiles::open(folder.path()).unwrap();
    assert_eq!(file.names().collect::<Vec<_>>(), ["a", "b", "c"]);
    for name in ["a", "b", "c"] {
        assert_eq!(file.array(name, &[8]).unwrap(), values);
    }
}
