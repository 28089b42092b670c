//! Messages about wrong references.

use expect_test::expect;

use super::expansion::STUDY;
use super::support::{errors, errors_of};

#[test]
fn a_cycle_is_reported_as_a_path() {
    let text = STUDY.replace("model = \"base\"\n", "model = \"dpo\"\n");
    expect![[r#"
        error: stages read each other in a circle: `sft -> dpo -> sft`
          --> DIR/a.toml:19:9 `"dpo"` `sft` reads `dpo`
          ::: DIR/a.toml:33:10 `"sft@mix=both"` `dpo` reads `sft`
        error: stages read each other in a circle: `sft -> dpo -> pairs -> rollout -> sft`
          --> DIR/a.toml:19:9 `"dpo"` `sft` reads `dpo`
          ::: DIR/a.toml:34:9 `"pairs"` `dpo` reads `pairs`
          ::: DIR/a.toml:29:12 `"rollout"` `pairs` reads `rollout`
          ::: DIR/a.toml:24:9 `"sft@mix=both"` `rollout` reads `sft`"#]]
    .assert_eq(&errors(&text));
}

#[test]
fn a_wrong_output_kind_names_both_kinds() {
    let text = r#"
[stage.base]
kind = "base"
[stage.one]
kind = "sft"
model = "base"
data = "base"
[stage.two]
kind = "sft"
model = "one:curve.jsonl"
data = "one:weights"
"#;
    expect![[r#"
        error: `stage.one.data`: `base` gives checkpoint; `data` needs rows
          --> DIR/a.toml:7:8 `"base"`
          ::: DIR/a.toml:4:1 `[stage.one]` in this stage
        error: `stage.two.model`: `one:curve.jsonl` is curve; `model` needs checkpoint
          --> DIR/a.toml:10:9 `"one:curve.jsonl"`
          ::: DIR/a.toml:8:1 `[stage.two]` in this stage
        error: `stage.two.data`: `one` has no output `weights`
          --> DIR/a.toml:11:8 `"one:weights"`
          ::: DIR/a.toml:8:1 `[stage.two]` in this stage
          help: the outputs are `model`, `curve.jsonl`"#]]
    .assert_eq(&errors(text));
}

#[test]
fn wrong_references_are_reported() {
    let texts = [
        "[stage.base]\nkind = \"base\"\n[stage.eval]\nkind = \"eval\"\nmodel = [\"base\", \"bsae\"]\n",
        "[stage.base]\nkind = \"base\"\n[stage.eval]\nkind = \"eval\"\nmodel = \"base@seed\"\n",
        "[stage.items]\nkind = \"items\"\npath = \"data/train.jsonl\"\n",
    ];
    expect![[r#"
        error: `stage.eval.model`: stage `bsae` is not defined
          --> DIR/a.toml:5:18 `"bsae"` no stage of this name
          ::: DIR/a.toml:3:1 `[stage.eval]` in this stage
          help: a stage of a similar name exists: `base`

        error: `stage.eval.model`: `base@seed` is not a reference: write `stage`, `stage:output` or `stage@axis=value`
          --> DIR/a.toml:5:9 `"base@seed"`
          ::: DIR/a.toml:3:1 `[stage.eval]` in this stage

        error: `stage.items.path`: `data/train.jsonl` does not exist
          --> DIR/a.toml:3:8 `"data/train.jsonl"`
          help: paths are relative to the folder of the experiment: `DIR/data/train.jsonl`"#]]
    .assert_eq(&errors_of(texts));
}
