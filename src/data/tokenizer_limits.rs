//! Limits for a `tokenizer.json`: how much its steps before and after the model may lengthen a text. A downloaded file
//! must not turn a line into gigabytes.

use anyhow::{Result, bail};
use base64::Engine;
use serde::Deserialize;
use serde_json::Value;

/// Maximum file size in bytes. The largest published files have a third of it.
pub(super) const MAX_FILE_BYTES: u64 = 128 << 20;

/// Maximum factor by which all steps of a pipeline together may lengthen a text in the worst case.
const MAX_GROWTH: u64 = 1000;

/// Maximum number of bytes that a step may insert.
const MAX_INSERTED_BYTES: usize = 1024;

/// Maximum number of steps of a pipeline.
const MAX_STEPS: usize = 64;

/// The parts of a file that change text.
#[derive(Deserialize)]
pub(super) struct Pipeline {
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    decoder: Option<Value>,
    model: Option<Model>,
}

#[derive(Deserialize)]
struct Model {
    dropout: Option<f64>,
}

impl Pipeline {
    /// Refuses steps that may lengthen a text too much, and a model that draws tokens at random.
    pub(super) fn check(&self) -> Result<()> {
        if let Some(dropout) = self.model.as_ref().and_then(|model| model.dropout).filter(|dropout| *dropout != 0.0) {
            bail!("`model.dropout` is {dropout}: tokens would be random; only null and 0 are supported");
        }
        let before = growth("normalizer", self.normalizer.as_ref())?;
        let before = before.saturating_mul(growth("pre_tokenizer", self.pre_tokenizer.as_ref())?);
        for (what, growth) in
            [("`normalizer` and `pre_tokenizer`", before), ("`decoder`", growth("decoder", self.decoder.as_ref())?)]
        {
            if growth > MAX_GROWTH {
                bail!("{what} can make a text more than {MAX_GROWTH} times longer");
            }
        }
        Ok(())
    }
}

/// The factor by which the steps of a part can lengthen a text.
fn growth(part: &str, value: Option<&Value>) -> Result<u64> {
    let mut steps = Vec::new();
    let mut open: Vec<&Value> = value.into_iter().collect();
    while let Some(step) = open.pop() {
        let inner = ["normalizers", "pretokenizers", "decoders"].into_iter().find_map(|key| step.get(key)?.as_array());
        match inner {
            Some(inner) => open.extend(inner),
            None => steps.push(step),
        }
        if steps.len() + open.len() > MAX_STEPS {
            bail!("`{part}` has more than {MAX_STEPS} steps");
        }
    }
    let mut growth = 1u64;
    // Unicode normalization counts once: a second one changes nothing.
    let mut normalization = 1;
    for step in steps {
        let kind = step.get("type").and_then(Value::as_str).unwrap_or_default();
        let text = |key: &str| step.get(key).and_then(Value::as_str).unwrap_or_default();
        let inserted = ["content", "prepend", "prefix", "suffix", "replacement"].map(|key| text(key).len());
        if let Some(bytes) = inserted.into_iter().find(|bytes| *bytes > MAX_INSERTED_BYTES) {
            bail!("a `{kind}` of `{part}` inserts {bytes} bytes: at most {MAX_INSERTED_BYTES} are allowed");
        }
        let factor = match kind {
            "Replace" => replaced(step, text("content").len()),
            "ByteLevel" => 2,
            "Metaspace" => text("replacement").len().max(1) as u64,
            "BertNormalizer" => 3,
            "Precompiled" => precompiled(part, text("precompiled_charsmap"))?,
            // U+FDFA becomes 18 characters: 3 bytes become 33.
            "NFKC" | "NFKD" => {
                normalization = 11;
                1
            }
            "NFC" | "NFD" | "Lowercase" | "Nmt" => {
                normalization = normalization.max(3);
                1
            }
            _ => 1,
        };
        growth = growth.saturating_mul(factor);
    }
    Ok(growth.saturating_mul(normalization))
}

/// The factor by which a replacement can lengthen a text. A regular expression may match the empty string at every
/// position.
fn replaced(step: &Value, content: usize) -> u64 {
    let found = step.get("pattern").and_then(|pattern| pattern.get("String")).and_then(Value::as_str).map(str::len);
    match found {
        Some(found) if found > 0 => content.div_ceil(found).max(1) as u64,
        _ => content as u64 + 1,
    }
}

/// The factor by which a SentencePiece table can lengthen a text. The table is the size of a trie, the trie, and
/// zero-terminated texts.
fn precompiled(part: &str, table: &str) -> Result<u64> {
    let Ok(table) = base64::engine::general_purpose::STANDARD.decode(table) else {
        bail!("`precompiled_charsmap` of `{part}` is not base64");
    };
    let size = table.first_chunk().map_or(0, |size| u32::from_le_bytes(*size) as usize);
    let texts = table.get(size.saturating_add(4)..).unwrap_or_default();
    let longest = texts.split(|byte| *byte == 0).map(<[u8]>::len).max().unwrap_or(0);
    if longest > 64 {
        bail!("`precompiled_charsmap` of `{part}` inserts {longest} bytes for a character: at most 64 are allowed");
    }
    Ok(longest.max(1) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(file: Value) -> Result<(), String> {
        let pipeline: Pipeline = serde_json::from_value(file).unwrap();
        pipeline.check().map_err(|error| error.to_string())
    }

    fn replace(pattern: &str, content: &str) -> Value {
        json!({"type": "Replace", "pattern": {"String": pattern}, "content": content})
    }

    #[test]
    fn published_pipelines_pass() {
        let llama = json!([{"type": "Prepend", "prepend": "\u{2581}"}, replace(" ", "\u{2581}")]);
        let qwen = json!([{"type": "Split", "pattern": {"Regex": "x"}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false}]);
        let xlnet = json!([replace("``", "\""), {"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Lowercase"},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]);
        for file in [
            json!({}),
            json!({"normalizer": null, "pre_tokenizer": null, "model": {"type": "BPE", "dropout": null}}),
            json!({"normalizer": {"type": "Sequence", "normalizers": llama}}),
            json!({"normalizer": {"type": "NFC"}, "pre_tokenizer": {"type": "Sequence", "pretokenizers": qwen}}),
            json!({"normalizer": {"type": "Sequence", "normalizers": xlnet},
                "pre_tokenizer": {"type": "Metaspace", "replacement": "\u{2581}"}}),
            json!({"decoder": {"type": "Sequence", "decoders": [replace("\u{2581}", " "), {"type": "Fuse"}]}}),
            json!({"model": {"dropout": 0.0}}),
        ] {
            assert_eq!(check(file.clone()), Ok(()), "{file}");
        }
    }

    #[test]
    fn pipelines_that_grow_text_too_much_are_refused() {
        let error = |file| check(file).unwrap_err();
        let both = "`normalizer` and `pre_tokenizer` can make a text more than 1000 times longer";
        let doubling = vec![replace("a", "aa"); 40];
        assert_eq!(error(json!({"normalizer": {"type": "Sequence", "normalizers": doubling}})), both);
        let bytes = vec![json!({"type": "ByteLevel"}); 40];
        assert_eq!(error(json!({"pre_tokenizer": {"type": "Sequence", "pretokenizers": bytes}})), both);
        let prepend = json!({"type": "Prepend", "prepend": "x".repeat(2000)});
        let message = "a `Prepend` of `normalizer` inserts 2000 bytes: at most 1024 are allowed";
        assert_eq!(error(json!({"normalizer": prepend})), message);
        let decoder = json!({"type": "Sequence", "decoders": [replace("a", &"b".repeat(900)), replace("b", "cc")]});
        assert_eq!(error(json!({"decoder": decoder})), "`decoder` can make a text more than 1000 times longer");
        let empty = json!({"type": "Replace", "pattern": {"Regex": "a*"}, "content": "x".repeat(1000)});
        assert_eq!(error(json!({"normalizer": empty})), both);
        let many = vec![json!({"type": "Strip"}); 65];
        let message = "`normalizer` has more than 64 steps";
        assert_eq!(error(json!({"normalizer": {"type": "Sequence", "normalizers": many}})), message);
        let table = [&4u32.to_le_bytes()[..], &[0; 4], &[b'x'; 100], &[0]].concat();
        let table = base64::engine::general_purpose::STANDARD.encode(table);
        let message =
            "`precompiled_charsmap` of `normalizer` inserts 100 bytes for a character: at most 64 are allowed";
        assert_eq!(error(json!({"normalizer": {"type": "Precompiled", "precompiled_charsmap": table}})), message);
        let message = "`model.dropout` is 0.1: tokens would be random; only null and 0 are supported";
        assert_eq!(error(json!({"model": {"dropout": 0.1}})), message);
    }
}
