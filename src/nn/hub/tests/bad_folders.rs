//! Weights that are missing, truncated, inconsistent or of another model.

use std::path::Path;

use expect_test::expect;

use super::super::{Dtype, WeightFiles, families, model, writer, writer::Output};
use super::{config, message, parameter, put, write_arrays};
use crate::architecture::Family;
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
    let error = || message(WeightFiles::open(folder.path()), folder.path());
    assert_eq!(error(), "`DIR` has neither `model.safetensors` nor `model.safetensors.index.json`");
    put(folder.path(), "pytorch_model-00001-of-00002.bin", "");
    assert_eq!(
        error(),
        "`DIR` has `pytorch_model-00001-of-00002.bin` but no `model.safetensors`: convert it to safetensors \
         (`save_pretrained` of transformers does)"
    );
}

#[test]
fn shards_must_match_their_index() {
    for name in ["../model-1.safetensors", "/model-1.safetensors", "deep/model-1.safetensors", "..", ""] {
        let outside = of_shards(|folder| put_index(folder, &format!(r#""a": "{name}""#)));
        assert_eq!(outside, format!("`DIR/model.safetensors.index.json`: the file `{name}` is outside the folder"));
    }
    let lacking = r#""a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-2.safetensors""#;
    let swapped = r#""a": "model-2.safetensors", "b": "model-1.safetensors""#;
    let array = |name: &str| Output { name: name.to_string(), shape: vec![0], dtype: Dtype::F32, values: &[] };
    let unlisted = [&array("b"), &array("c")];
    let second = |folder: &Path| folder.join("model-2.safetensors");
    let messages = [
        of_shards(|folder| files::remove_file(&second(folder)).unwrap()),
        of_shards(|folder| put_index(folder, lacking)),
        of_shards(|folder| put_index(folder, swapped)),
        of_shards(|folder| files::copy(&folder.join("model-1.safetensors"), &second(folder)).unwrap()),
        of_shards(|folder| writer::write_file(&second(folder), &unlisted, writer::FORMAT).unwrap()),
    ];
    expect![[r"
        `DIR/model.safetensors.index.json`: the shard `model-2.safetensors` is missing
        `DIR/model.safetensors.index.json`: array `c` is not in `model-2.safetensors`
        `DIR/model.safetensors.index.json`: array `a` is not in `model-2.safetensors`
        `DIR/model-2.safetensors`: array `a` is also in `model-1.safetensors`
        `DIR/model.safetensors.index.json`: array `c` is in a shard but not in the index"]]
    .assert_eq(&messages.join("\n"));
}

/// The error of opening a file of these bytes.
fn of_bytes(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    files::write_atomic(&folder.path().join("model.safetensors"), bytes).unwrap();
    message(WeightFiles::open(folder.path()), folder.path()).replace("`DIR/model.safetensors`", "FILE")
}

fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// The error of opening a file with this header and `data` bytes of arrays.
fn of_header(header: &str, data: usize) -> String {
    of_bytes(&with_header(header, &vec![0; data]))
}

#[test]
fn truncated_files_and_bad_headers_are_refused() {
    // A terabyte, which must not be allocated.
    let claims = [&(1u64 << 40).to_le_bytes()[..], b"{}"].concat();
    let one = |dtype: &str, shape: &str, offsets: &str, data: usize| {
        let array = format!(r#"{{"dtype": "{dtype}", "shape": {shape}, "data_offsets": {offsets}}}"#);
        of_header(&format!(r#"{{"a": {array}}}"#), data)
    };
    let overlap = r#"{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}"#;
    let messages = [
        of_bytes(b""),
        of_bytes(&claims),
        one("F32", "[2]", "[0, 8]", 7),
        one("F32", "[274877906944]", "[0, 1099511627776]", 8),
        one("F32", "[3]", "[0, 8]", 8),
        one("F32", "[2]", "[8, 0]", 8),
        of_header(overlap, 12),
    ];
    expect![[r"
        FILE: not a safetensors file: it has 0 bytes, and a header has at least 8
        FILE: not a complete safetensors file: its header claims 1099511627776 bytes, at most 2 are possible
        FILE: not a complete safetensors file: its arrays take 8 bytes, the file has 7
        FILE: not a complete safetensors file: its arrays take 1099511627776 bytes, the file has 8
        FILE: array `a` has the bytes 0 to 8, which is not the size of F32 with the shape [3]
        FILE: array `a` leaves a gap before it: it starts at byte 8, the previous array ends at byte 0
        FILE: array `b` overlaps the array before it: it starts at byte 4, the previous array ends at byte 8"]]
    .assert_eq(&messages.join("\n"));
    assert!(of_bytes(&u64::MAX.to_le_bytes()).ends_with("at most 0 are possible"));
    let huge = format!("[{0}, {0}]", u64::MAX);
    assert_eq!(one("F32", &huge, "[0, 8]", 8), format!("FILE: array `a` has an impossible shape: {huge}"));
    let twice = r#"{"a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]},
        "a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}"#;
    assert!(of_header(twice, 0).contains("array `a` is listed twice"), "{}", of_header(twice, 0));
    let unknown = one("F128", "[1]", "[0, 16]", 16);
    assert!(unknown.contains("array `a`: unknown variant `F128`"), "{unknown}");
    for header in ["{\"a\": ", "\u{fffd}", &"[".repeat(100_000)] {
        let error = of_header(header, 0);
        assert!(error.starts_with("FILE: not a safetensors file: its header cannot be parsed"), "{error}");
    }
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
    let messages = [
        of_model(&[embedding], false),
        of_model(&[("model.embed_tokens.weight", &[3, 2])], true),
        of_model(&[embedding, ("model.more.weight", &[1])], true),
        of_model(&[embedding, ("lm_head.weight", &[2, 3])], true),
        of_model(&[("embed_tokens.weight", &[2, 3])], true),
    ];
    expect![[r"
        `DIR/model.safetensors`: array `lm_head.weight` is missing
        `DIR/model.safetensors`: array `model.embed_tokens.weight` has the shape [3, 2], not [2, 3]
        `DIR/model.safetensors`: array `model.more.weight` is not a parameter of this model
        array `lm_head.weight` differs from the token embedding, but `tie_word_embeddings` is true
        `DIR`: no array name starts with `model.`: these are not the weights of a language model"]]
    .assert_eq(&messages.join("\n"));
}

#[test]
fn mixed_or_unknown_naming_schemes_are_refused() {
    let of = |names: &[&str]| families::schemes(Family::Llava).find(names).unwrap_err().to_string();
    let mixed = of(&["language_model.model.norm.weight", "model.vision_tower.x"]);
    assert_eq!(mixed, "some array names start with `language_model.model.`, others with `model.vision_tower.`");
    let unknown = "no array name starts with `language_model.model.` or `model.language_model.`: these are not the weights of LLaVA";
    assert_eq!(of(&["model.norm.weight"]), unknown);
}

#[test]
fn infinities_and_unsupported_types_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let header = r#"{"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]},
        "b": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [4, 8]}}"#;
    // 1 and minus infinity.
    let bytes = with_header(header, &[0x80, 0x3f, 0x80, 0xff, 0, 0, 0, 0]);
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
    let error = |dtype, values| message(writer::write(folder.path(), &[array(dtype, values)]), folder.path());
    let large = error(Dtype::F16, &[70_000.0]);
    assert_eq!(large, "cannot write `DIR/model.safetensors`: array `a` has the value 70000, which F16 cannot store");
    let nan = error(Dtype::F32, &[f32::NAN]);
    assert_eq!(nan, "cannot write `DIR/model.safetensors`: array `a` has the value NaN, which F32 cannot store");
    assert!(files::list_names(folder.path()).unwrap().is_empty());
    sharded(folder.path());
    let other = error(Dtype::F32, &[1.0]);
    assert_eq!(other, "`DIR/model-1.safetensors` exists already: write weights into a folder without weights");
}
