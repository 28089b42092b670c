//! Tables of the kinds that need no model: their mistakes and their manifests.

use serde_json::{Value, json};

use super::support::{chart, manifest, manifest_line, mistakes};

#[test]
fn mistakes_have_their_keys() {
    expect_test::expect![[r#"
        : `path`, `files` and `synthetic` are missing: the stage needs one of them
        synthetic.datasets.1: unknown value `chrat`
        synthetic: `path` and `synthetic` are both given: write one of them
        images: `images` is for rows of files only, but `synthetic` generates the rows
        take: `take` must be at least 1
        vocab: `vocab` is for training only, but `path` imports a tokenizer
        vocab: the smallest vocabulary of this algorithm has 261 tokens
        teacher.url: `url` is for `api = "openai"` only
        teacher.wrong: `2` is out of range: write a number from 0 to 1
        teacher.model: the api `openai` needs a `model`
        teacher.url: the URL must begin with `http://` or `https://`
        teacher.samples: `samples` must be at least 1
        teacher.api: unknown value `gpt`
        keep: unknown value `some`
        sources: the mix has no sources
        sources.a.weight: `-1` is out of range: write a number at least 0
        sources.a.sa: unknown key `sa`
        : tokens cannot be counted without a `tokenizer`
        sources.a.prompt: the template `direct` requests another form of response than `as`
        sources.a.per_question: `per_question` is for `as = "correct"` only
        truncate: unknown value `wrods`
        band: the band is empty: 0.9 is more than 0.1
        dev: `2` is out of range: write a number from 0 to 1
        truncate: tokens cannot be counted without a `tokenizer`
        style: unknown value `long`"#]]
    .assert_eq(
        &[
            mistakes("items", &json!({})),
            mistakes(
                "items",
                &json!({ "synthetic": { "datasets": ["chart", "chrat"], "split": "train", "count": 0 } }),
            ),
            mistakes("items", &json!({ "path": "a", "synthetic": chart(1)["synthetic"], "images": "b", "take": 0 })),
            mistakes("tokenizer", &json!({ "path": "a", "vocab": 9 })),
            mistakes("tokenizer", &json!({ "train_on": ["a"], "vocab": 9 })),
            mistakes("distill", &json!({ "items": "a", "teacher": { "api": "oracle", "url": "x", "wrong": 2 } })),
            mistakes(
                "distill",
                &json!({ "items": "a", "teacher": { "api": "openai", "url": "ftp://x", "samples": 0 } }),
            ),
            mistakes("distill", &json!({ "items": "a", "teacher": { "api": "gpt" }, "keep": "some" })),
            mistakes("mix", &json!({ "sources": {} })),
            mistakes("mix", &json!({ "rows": 5, "sources": { "a": { "from": "x", "weight": -1 } } })),
            mistakes("mix", &json!({ "sources": { "a": { "from": "x", "weight": 1, "rows": 2, "sa": "cot" } } })),
            mistakes(
                "mix",
                &json!({ "sources": { "a": { "from": "x", "weight": 1 }, "b": { "from": "x", "tokens": 5 } } }),
            ),
            mistakes(
                "mix",
                &json!({ "sources": { "a": { "from": "x", "as": "cot", "prompt": "direct", "per_question": 1 } } }),
            ),
            mistakes("pairs", &json!({ "judged": "a", "band": [0.9, 0.1], "truncate": { "wrods": 3 } })),
            mistakes("pairs", &json!({ "judged": "a", "band": [0.9, 0.1], "truncate": { "tokens": 3 }, "dev": 2 })),
            mistakes("judge", &json!({ "rollouts": "a", "style": "long", "threshold": 2 })),
        ]
        .concat()
        .join("\n"),
    );
}

/// A difference means that all stored results of the kind are computed again: undo it, or raise `version`.
#[test]
fn manifests_are_unchanged() {
    let tables = [
        ("items", chart(5)),
        ("items", json!({ "path": "a/rows.jsonl", "answer_type": "anls" })),
        ("tokenizer", json!({ "train_on": ["items"] })),
        ("distill", json!({ "items": "a", "teacher": { "api": "oracle", "wrong": 0.1 } })),
        (
            "distill",
            json!({ "items": "a", "teacher": { "api": "openai", "url": "http://x", "model": "m", "patience_seconds": 9 } }),
        ),
        (
            "mix",
            json!({ "rows": 9, "sources": { "a": { "from": "x", "as": "cot", "weight": 1 }, "b": { "from": "y" } } }),
        ),
        ("judge", json!({ "rollouts": "a" })),
        ("pairs", json!({ "judged": "a" })),
    ];
    let line = |(kind, table): &(&str, Value)| manifest_line(kind, table);
    expect_test::expect![[r#"
        items 29d9d9c6e4 synthetic.datasets synthetic.split synthetic.count synthetic.stream
        items 7587957771 dataset answer_type
        tokenizer f8b76c36e3 algorithm vocab prompts
        distill 016c554cca teacher.api teacher.wrong keep
        distill 22d9a20af2 teacher.api teacher.url teacher.model teacher.temperature teacher.samples teacher.max_tokens teacher.system teacher.instruction keep
        mix 6d79d69847 size.rows sources.a.as sources.a.weight sources.a.prompt.text sources.a.prompt.letter sources.b.as sources.b.keep sources.b.prompt.text sources.b.prompt.letter
        judge ba081b5ed9 style threshold
        pairs 33efedec8e band per_question dev truncate.words unreadable
    "#]].assert_eq(&tables.iter().map(line).collect::<String>());
}

#[test]
fn manifest_has_no_concurrency_or_patience() {
    let fingerprint = |teacher: Value| manifest("distill", &json!({ "items": "a", "teacher": teacher })).fingerprint();
    let default = json!({ "api": "openai", "url": "http://x", "model": "m" });
    let slow = json!({ "api": "openai", "url": "http://x", "model": "m", "key_env": "KEY", "concurrency": 64,
        "timeout_seconds": 5, "patience_seconds": 0, "temperature": 0, "samples": 1 });
    assert_eq!(fingerprint(default.clone()), fingerprint(slow));
    assert_ne!(fingerprint(default), fingerprint(json!({ "api": "openai", "url": "http://x", "model": "other" })));
}

#[test]
fn removed_source_equals_missing_source() {
    let fingerprint = |table: Value| manifest("mix", &table).fingerprint();
    let source = json!({ "from": "x", "as": "cot" });
    assert_eq!(
        fingerprint(json!({ "sources": { "a": source, "b": "remove" } })),
        fingerprint(json!({ "sources": { "a": source } }))
    );
}

#[test]
fn too_large_counts_are_refused() {
    let huge = 1_u64 << 62;
    let mix = |source: Value| json!({ "sources": { "a": source } });
    let sft = |key: &str, value: Value| json!({ "model": "m", "data": "d", key: value });
    let teacher = |key: &str, value: Value| {
        let mut table = json!({ "items": "i", "teacher": { "api": "openai", "url": "http://t", "model": "m" } });
        table["teacher"][key] = value;
        table
    };
    let mut items = chart(1);
    items["synthetic"]["count"] = json!(1e300);
    let cases = [
        ("items", items),
        ("items", chart(1 << 62)),
        ("items", json!({ "path": "a.json", "take": huge })),
        ("items", json!({ "path": "a.json", "per_dataset": huge })),
        ("tokenizer", json!({ "train_on": ["r"], "vocab": huge })),
        ("mix", mix(json!({ "from": "i", "as": "direct", "rows": huge }))),
        ("mix", mix(json!({ "from": "i", "as": "direct", "per_dataset": huge }))),
        ("sft", sft("batch", json!(huge))),
        ("sft", sft("epochs", json!(huge))),
        ("sft", sft("length_window", json!(huge))),
        ("sft", sft("lora", json!({ "rank": huge }))),
        ("rollout", json!({ "model": "m", "items": "i", "samples": huge, "max_tokens": huge })),
        ("distill", teacher("samples", json!(huge))),
        ("distill", teacher("concurrency", json!(huge))),
        ("distill", teacher("timeout_seconds", json!(huge))),
        ("base", json!({ "tokenizer": "t", "model": { "decoder": { "layers": huge } } })),
    ];
    let lines: Vec<String> = cases.iter().flat_map(|(kind, table)| mistakes(kind, table)).collect();
    expect_test::expect![[r#"
        synthetic.count: wrong type: number `1e+300`, expected a whole number from 0
        synthetic.count: `count` is at most 1000000000, not 4611686018427387904
        take: `take` is at most 1000000000, not 4611686018427387904
        per_dataset: `per_dataset` is at most 1000000000, not 4611686018427387904
        vocab: `vocab` is at most 10000000, not 4611686018427387904
        sources.a.rows: `rows` is at most 1000000000, not 4611686018427387904
        sources.a.per_dataset: `per_dataset` is at most 1000000000, not 4611686018427387904
        batch: `batch` is at most 1000000, not 4611686018427387904
        epochs: `epochs` is at most 1000000, not 4611686018427387904
        length_window: `length_window` is at most 1000000, not 4611686018427387904
        lora.rank: `lora.rank` must be from 1 to 4096, not 4611686018427387904
        samples: `samples` is at most 1000000, not 4611686018427387904
        max_tokens: `max_tokens` is at most 1000000000, not 4611686018427387904
        teacher.samples: `samples` is at most 1000000, not 4611686018427387904
        teacher.concurrency: `concurrency` is at most 1024, not 4611686018427387904
        teacher.timeout_seconds: `timeout_seconds` is at most 31622400, not 4611686018427387904
        model.decoder.layers: `decoder.layers` must be at most 1048576, not 4611686018427387904"#]]
    .assert_eq(&lines.join("\n"));
}
