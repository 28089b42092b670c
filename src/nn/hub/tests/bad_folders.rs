//! Weights that are missing, truncated, inconsistent or of another model.

use std::path::Path;

use super::super::{Dtype, WeightFiles, model, writer, writer::Output};
use super::{config, message, parameter, put, write_arrays};
use ablate_core::base::files;

/// Two shards and their index.
fn sharded(folder: &Path) {
    for (at, name) in ["a", "b"].into_iter().enumerate() {
        let array = Output { name: name.to_string(), shape: vec![2], dtype: Dtype::F32, values: &[1.0, 2.0] };
        writer::write_file(&folder.join(format!("model-{}.safetensors", at + 1)), &[&array], writer::FORMAT).unwrap();
    }
    put_index(folder, r#""a": "model-1.safetensors", "b": "model-2.safetensors""#);
}

fn put_index(folder: &Path, weight_map: &str) {
    put(folder, "model.safetensors.index.json", &format!(r#"{{"metadata": {{}}, "weight_map": {{{weight_map}}}}}"#));
}

/// The error of opening shards after `damage` to their folder.
fn of_shards(damage: impl Fn(&Path)) -> String {
    let folder = tempfile::tempdir().unwrap();
    sharded(folder.path());
    WeightFiles::open(folder.path()).unwrap();
    damage(folder.path());
    message(WeightFiles::open(folder.path()), folder.path())
}

#[test]
fn a_folder_without_weights_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(
        message(WeightFiles::open(folder.path()), folder.path()),
        "`DIR` has neither `model.safetensors` nor `model.safetensors.index.json`"
    );
    put(folder.path(), "pytorch_model-00001-of-00002.bin", "");
    assert_eq!(
        message(WeightFiles::open(folder.path()), folder.path()),
        "`DIR` has `pytorch_model-00001-of-00002.bin` but no `model.safetensors`: convert it to safetensors \
         (`save_pretrained` of transformers does)"
    );
}

#[test]
fn shards_must_match_their_index() {
    let missing = of_shards(|folder| files::remove_file(&folder.join("model-2.safetensors")).unwrap());
    assert_eq!(missing, "`DIR/model.safetensors.index.json`: the shard `model-2.safetensors` is missing");
    for name in ["../model-1.safetensors", "/model-1.safetensors", "deep/model-1.safetensors", "..", ""] {
        let outside = of_shards(|folder| put_index(folder, &format!(r#""a": "{name}""#)));
        assert_eq!(outside, format!("`DIR/model.safetensors.index.json`: the file `{name}` is outside the folder"));
    }
    let lacking = r#""a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-2.safetensors""#;
    assert_eq!(
        of_shards(|folder| put_index(folder, lacking)),
        "`DIR/model.safetensors.index.json`: array `c` is not in `model-2.safetensors`"
    );
    let swapped = r#""a": "model-2.safetensors", "b": "model-1.safetensors""#;
    assert_eq!(
        of_shards(|folder| put_index(folder, swapped)),
        "`DIR/model.safetensors.index.json`: array `a` is not in `model-2.safetensors`"
    );
    let twice = of_shards(|folder| {
        files::copy(&folder.join("model-1.safetensors"), &folder.join("model-2.safetensors")).unwrap();
    });
    assert_eq!(twice, "`DIR/model-2.safetensors`: array `a` is also in `model-1.safetensors`");
    let unlisted = of_shards(|folder| {
        let array = |name: &str| Output { name: name.to_string(), shape: vec![0], dtype: Dtype::F32, values: &[] };
        writer::write_file(&folder.join("model-2.safetensors"), &[&array("b"), &array("c")], writer::FORMAT).unwrap();
    });
    assert_eq!(unlisted, "`DIR/model.safetensors.index.json`: array `c` is in a shard but not in the index");
}

/// The error of opening a file of these bytes.
fn of_bytes(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    files::write_atomic(&folder.path().join("model.safetensors"), bytes).unwrap();
    message(WeightFiles::open(folder.path()), folder.path()).replace("`DIR/model.safetensors`", "FILE")
}

/// The error of opening a file with this header and `data` bytes of arrays.
fn of_header(header: &str, data: usize) -> String {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    of_bytes(&bytes)
}

#[test]
fn truncated_files_and_bad_headers_are_refused() {
    assert_eq!(of_bytes(b""), "FILE: not a safetensors file: it has 0 bytes, and a header has at least 8");
    // A terabyte, which must not be allocated.
    let mut claims = (1u64 << 40).to_le_bytes().to_vec();
    claims.extend(b"{}");
    assert_eq!(
        of_bytes(&claims),
        "FILE: not a complete safetensors file: its header claims 1099511627776 bytes, at most 2 are possible"
    );
    assert!(of_bytes(&u64::MAX.to_le_bytes()).ends_with("at most 0 are possible"));
    let one = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"a": {{"dtype": "{dtype}", "shape": {shape}, "data_offsets": {offsets}}}}}"#)
    };
    assert_eq!(
        of_header(&one("F32", "[2]", "[0, 8]"), 7),
        "FILE: not a complete safetensors file: its arrays take 8 bytes, the file has 7"
    );
    assert_eq!(
        of_header(&one("F32", "[274877906944]", "[0, 1099511627776]"), 8),
        "FILE: not a complete safetensors file: its arrays take 1099511627776 bytes, the file has 8"
    );
    assert_eq!(
        of_header(&one("F32", "[3]", "[0, 8]"), 8),
        "FILE: array `a` has the bytes 0 to 8, which is not the size of F32 with the shape [3]"
    );
    assert_eq!(
        of_header(&one("F32", "[2]", "[8, 0]"), 8),
        "FILE: array `a` leaves a gap before it: it starts at byte 8, the previous array ends at byte 0"
    );
    let huge = format!("[{0}, {0}]", u64::MAX);
    assert_eq!(of_header(&one("F32", &huge, "[0, 8]"), 8), format!("FILE: array `a` has an impossible shape: {huge}"));
    let overlap = r#"{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}"#;
    assert_eq!(
        of_header(overlap, 12),
        "FILE: array `b` overlaps the array before it: it starts at byte 4, the previous array ends at byte 8"
    );
    let twice = r#"{"a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]},
        "a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}"#;
    assert!(of_header(twice, 0).contains("array `a` is listed twice"), "{}", of_header(twice, 0));
    let unknown = of_header(&one("F128", "[1]", "[0, 16]"), 16);
    assert!(unknown.contains("array `a`: unknown variant `F128`"), "{unknown}");
    let broken = of_header("{\"a\": ", 0);
    assert!(broken.starts_with("FILE: not a safetensors file: its header cannot be parsed"), "{broken}");
    let text = of_header("\u{fffd}", 0);
    assert!(text.starts_with("FILE: not a safetensors file: its header cannot be parsed"), "{text}");
    let nested = of_header(&"[".repeat(100_000), 0);
    assert!(nested.starts_with("FILE: not a safetensors file: its header cannot be parsed"), "{nested}");
}

#[test]
fn a_file_truncated_while_open_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    write_arrays(folder.path(), &[("a", &[3])]);
    let opened = WeightFiles::open(folder.path()).unwrap();
    let path = folder.path().join("model.safetensors");
    let length = path.metadata().unwrap().len();
    files::append(&path).unwrap().set_len(length - 1).unwrap();
    let error = message(opened.array("a", &[3]), folder.path());
    assert_eq!(error, "cannot read `DIR/model.safetensors`: array `a`: failed to fill whole buffer");
}

/// The error of reading a decoder of two arrays from a folder with these arrays.
fn of_model(arrays: &[(&str, &[usize])], tied: bool) -> String {
    let folder = tempfile::tempdir().unwrap();
    write_arrays(folder.path(), arrays);
    let text = format!(r#"{{"model_type": "llama", "tie_word_embeddings": {tied}}}"#);
    let mut parameters = vec![parameter("model.embed_tokens.weight", &[2, 3])];
    if !tied {
        parameters.push(parameter("lm_head.weight", &[2, 3]));
    }
    message(model::read(folder.path(), &config(&text).unwrap().architecture, &parameters), folder.path())
}

#[test]
fn arrays_of_another_model_are_refused() {
    let embedding = ("model.embed_tokens.weight", [2usize, 3].as_slice());
    assert_eq!(of_model(&[embedding], false), "`DIR/model.safetensors`: array `lm_head.weight` is missing");
    assert_eq!(
        of_model(&[("model.embed_tokens.weight", &[3, 2])], true),
        "`DIR/model.safetensors`: array `model.embed_tokens.weight` has the shape [3, 2], not [2, 3]"
    );
    assert_eq!(
        of_model(&[embedding, ("model.more.weight", &[1])], true),
        "`DIR/model.safetensors`: array `model.more.weight` is not a parameter of this model"
    );
    assert_eq!(
        of_model(&[embedding, ("lm_head.weight", &[2, 3])], true),
        "array `lm_head.weight` differs from the token embedding, but `tie_word_embeddings` is true"
    );
    assert_eq!(
        of_model(&[("embed_tokens.weight", &[2, 3])], true),
        "`DIR`: no array name starts with `model.`: these are not the weights of a language model"
    );
}

#[test]
fn mixed_or_unknown_naming_schemes_are_refused() {
    let of = |names: &[&str]| super::super::NamingScheme::of(names, true).unwrap_err().to_string();
    assert_eq!(
        of(&["language_model.model.norm.weight", "model.vision_tower.x"]),
        "some array names start with `language_model.`, others with `model.vision_tower.`"
    );
    assert_eq!(
        of(&["model.norm.weight"]),
        "no array name starts with `language_model.` or `model.language_model.`: these are not the weights of LLaVA"
    );
}

#[test]
fn infinities_and_unsupported_types_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let header = r#"{"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]},
        "b": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [4, 8]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    // 1 and minus infinity.
    bytes.extend([0x80, 0x3f, 0x80, 0xff, 0, 0, 0, 0]);
    files::write_atomic(&folder.path().join("model.safetensors"), &bytes).unwrap();
    let opened = WeightFiles::open(folder.path()).unwrap();
    let error = message(opened.array("a", &[2]), folder.path());
    assert_eq!(error, "`DIR/model.safetensors`: array `a` has the value -inf at index 1");
    let error = message(opened.array("b", &[4]), folder.path());
    assert_eq!(error, "`DIR/model.safetensors`: array `b` is of type F8_E4M3: supported are F32, F16 and BF16");
}

#[test]
fn failed_writes_leave_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let array = |dtype, values| Output { name: "a".to_string(), shape: vec![1], dtype, values };
    let error = message(writer::write(folder.path(), &[array(Dtype::F16, &[70_000.0])]), folder.path());
    assert_eq!(error, "cannot write `DIR/model.safetensors`: array `a` has the value 70000, which F16 cannot store");
    let error = message(writer::write(folder.path(), &[array(Dtype::F32, &[f32::NAN])]), folder.path());
    assert_eq!(error, "cannot write `DIR/model.safetensors`: array `a` has the value NaN, which F32 cannot store");
    assert!(files::list_names(folder.path()).unwrap().is_empty());
    sharded(folder.path());
    let error = message(writer::write(folder.path(), &[array(Dtype::F32, &[1.0])]), folder.path());
    assert_eq!(error, "`DIR/model-1.safetensors` exists already: write weights into a folder without weights");
}
