//! Tables of the model-free kinds: what their mistakes are told as, and what of them is identity.

use serde_json::{Value, json};

use crate::stages::KINDS;
use ablate_core::stage::{Manifest, ManifestEntry, find_kind};

fn told(kind: &str, table: &Value) -> Vec<String> {
    let errors = (find_kind(KINDS, kind).unwrap().parse)(table).map(|_| ()).unwrap_err();
    errors.iter().map(|error| format!("{}: {}", error.path.join("."), error.message)).collect()
}

fn chart(count: usize) -> Value {
    json!({ "synthetic": { "datasets": ["chart", "pick"], "split": "train", "count": count } })
}

#[test]
fn mistakes_in_a_table_are_told_with_their_keys() {
    expect_test::expect![[r#"
        : the stage has no rows: neither `path`, `files` nor `synthetic` is given
        synthetic.datasets.1: unknown value `chrat`
        synthetic: rows come from `path` or from `synthetic`, and both are given
        images: `images` belongs to `path`: synthetic rows bring their own
        take: no rows: `take` is at least 1
        vocab: `vocab` is for training, and `path` imports a tokenizer
        vocab: the smallest vocabulary of this algorithm has 261 tokens
        teacher.url: `url` is for a remote teacher, and the oracle asks nobody
        teacher.wrong: `2` is out of range: it is a number from 0 to 1
        teacher.model: the api `openai` needs a `model`
        teacher.url: the address begins with neither `http://` nor `https://`
        teacher.samples: `samples` is at least 1
        teacher.api: unknown value `gpt`
        keep: unknown value `some`
        sources: the mix has no sources
        sources.a.weight: `-1` is out of range: it is a number at least 0
        sources.a.sa: unknown key `sa`
        : tokens cannot be counted without a `tokenizer`
        sources.a.prompt: the template `direct` asks for another form than `as`
        sources.a.per_question: `per_question` is for `as = "correct"` only
        truncate: unknown value `wrods`
        band: the band is empty: 0.9 is more than 0.1
        dev: `2` is out of range: it is a number from 0 to 1
        truncate: tokens cannot be counted without a `tokenizer`
        style: unknown value `long`"#]]
    .assert_eq(
        &[
            told("items", &json!({})),
            told("items", &json!({ "synthetic": { "datasets": ["chart", "chrat"], "split": "train", "count": 0 } })),
            told("items", &json!({ "path": "a", "synthetic": chart(1)["synthetic"], "images": "b", "take": 0 })),
            told("tokenizer", &json!({ "path": "a", "vocab": 9 })),
            told("tokenizer", &json!({ "train_on": ["a"], "vocab": 9 })),
            told("distill", &json!({ "items": "a", "teacher": { "api": "oracle", "url": "x", "wrong": 2 } })),
            told("distill", &json!({ "items": "a", "teacher": { "api": "openai", "url": "ftp://x", "samples": 0 } })),
            told("distill", &json!({ "items": "a", "teacher": { "api": "gpt" }, "keep": "some" })),
            told("mix", &json!({ "sources": {} })),
            told("mix", &json!({ "rows": 5, "sources": { "a": { "from": "x", "weight": -1 } } })),
            told("mix", &json!({ "sources": { "a": { "from": "x", "weight": 1, "rows": 2, "sa": "cot" } } })),
            told(
                "mix",
                &json!({ "sources": { "a": { "from": "x", "weight": 1 }, "b": { "from": "x", "tokens": 5 } } }),
            ),
            told(
                "mix",
                &json!({ "sources": { "a": { "from": "x", "as": "cot", "prompt": "direct", "per_question": 1 } } }),
            ),
            told("pairs", &json!({ "judged": "a", "band": [0.9, 0.1], "truncate": { "wrods": 3 } })),
            told("pairs", &json!({ "judged": "a", "band": [0.9, 0.1], "truncate": { "tokens": 3 }, "dev": 2 })),
            told("judge", &json!({ "rollouts": "a", "style": "long", "threshold": 2 })),
        ]
        .concat()
        .join("\n"),
    );
}

/// A difference here means that results in people's stores are computed again: raise the kind's version, or undo it.
#[test]
fn the_fingerprints_of_a_fixed_config_stay() {
    let tables = [
        ("items", chart(5)),
        ("items", json!({ "path": "a/rows.jsonl", "answer_type": "anls" })),
        ("tokenizer", json!({ "train_on": ["items"] })),
        ("distill", json!({ "items": "a", "teacher": { "api": "oracle", "wrong": 0.1 } })),
        (
            "distill",
            json!({ "items": "a", "teacher": { "api": "openai", "url": "http://x", "model": "m", "retries": 9 } }),
        ),
        (
            "mix",
            json!({ "rows": 9, "sources": { "a": { "from": "x", "as": "cot", "weight": 1 }, "b": { "from": "y" } } }),
        ),
        ("judge", json!({ "rollouts": "a" })),
        ("pairs", json!({ "judged": "a" })),
    ];
    let line = |(name, table): &(&str, Value)| {
        let kind = find_kind(KINDS, name).unwrap();
        let mut manifest = Manifest::new(kind.name, kind.version);
        (kind.parse)(table).unwrap().identify(&mut manifest);
        let keys: Vec<&str> = manifest.entries.iter().map(ManifestEntry::key).collect();
        format!("{name} {} {}\n", manifest.fingerprint().short(), keys.join(" "))
    };
    expect_test::expect![[r#"
        items 3d0fb4fe1a synthetic.datasets synthetic.split synthetic.count synthetic.stream
        items ac146c4b0a dataset answer_type
        tokenizer f8b76c36e3 algorithm vocab prompts
        distill 016c554cca teacher.api teacher.wrong keep
        distill 22d9a20af2 teacher.api teacher.url teacher.model teacher.temperature teacher.samples teacher.max_tokens teacher.system teacher.instruction keep
        mix 6d79d69847 size.rows sources.a.as sources.a.weight sources.a.prompt.text sources.a.prompt.letter sources.b.as sources.b.keep sources.b.prompt.text sources.b.prompt.letter
        judge ba081b5ed9 style threshold
        pairs 33efedec8e band per_question dev truncate.words unreadable
    "#]].assert_eq(&tables.iter().map(line).collect::<String>());
}

#[test]
fn how_fast_a_teacher_is_asked_is_no_identity() {
    let fingerprint = |teacher: Value| {
        let mut manifest = Manifest::new("distill", 1);
        let table = json!({ "items": "a", "teacher": teacher });
        (find_kind(KINDS, "distill").unwrap().parse)(&table).unwrap().identify(&mut manifest);
        manifest.fingerprint()
    };
    let plain = json!({ "api": "openai", "url": "http://x", "model": "m" });
    let slowly = json!({ "api": "openai", "url": "http://x", "model": "m", "key_env": "KEY", "concurrency": 64,
        "timeout_seconds": 5, "retries": 0, "temperature": 0, "samples": 1 });
    assert_eq!(fingerprint(plain.clone()), fingerprint(slowly));
    assert_ne!(fingerprint(plain), fingerprint(json!({ "api": "openai", "url": "http://x", "model": "other" })));
}

#[test]
fn removing_a_source_is_leaving_it_out() {
    let fingerprint = |table: Value| {
        let mut manifest = Manifest::new("mix", 1);
        (find_kind(KINDS, "mix").unwrap().parse)(&table).unwrap().identify(&mut manifest);
        manifest.fingerprint()
    };
    let source = json!({ "from": "x", "as": "cot" });
    assert_eq!(
        fingerprint(json!({ "sources": { "a": source, "b": "remove" } })),
        fingerprint(json!({ "sources": { "a": source } }))
    );
}

#[test]
fn counts_that_nobody_means_are_told_before_memory_ends() {
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
    let lines: Vec<String> = cases.iter().flat_map(|(kind, table)| told(kind, table)).collect();
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
