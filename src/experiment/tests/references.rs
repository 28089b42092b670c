//! Messages about wrong references.

use expect_test::expect;

use super::support::errors;

#[test]
fn an_unknown_stage_suggests_a_similar_one() {
    let text = "[stage.base]\nkind = \"base\"\n[stage.eval]\nkind = \"eval\"\nmodel = [\"base\", \"bsae\"]\n";
    expect![[r#"
        error: `stage.eval.model`: stage `bsae` is not defined
         --> DIR/a.toml:5:18
          |
        3 | [stage.eval]
          | ------------ in this stage
        4 | kind = "eval"
        5 | model = ["base", "bsae"]
          |                  ^^^^^^ no stage of this name
          |
          = help: a stage of a similar name exists: `base`"#]]
    .assert_eq(&errors(text));
}

#[test]
fn a_cycle_is_reported_as_a_path() {
    let text = r#"
[stage.format]
kind = "mix"
sources = {}
[stage.sft]
kind = "sft"
model = "dpo"
data = "format"
[stage.rollout]
kind = "rollout"
model = "sft"
[stage.pairs]
kind = "pairs"
rollouts = "rollout"
[stage.dpo]
kind = "dpo"
policy = "sft"
pairs = "pairs"
[stage.eval]
kind = "eval"
model = "dpo"
"#;
    expect![[r#"
        error: stages read each other in a circle: `sft -> dpo -> sft`
          --> DIR/a.toml:7:9
           |
         7 | model = "dpo"
           |         ^^^^^ `sft` reads `dpo`
        ...
        17 | policy = "sft"
           |          ----- `dpo` reads `sft`

        error: stages read each other in a circle: `sft -> dpo -> pairs -> rollout -> sft`
          --> DIR/a.toml:7:9
           |
         7 | model = "dpo"
           |         ^^^^^ `sft` reads `dpo`
        ...
        11 | model = "sft"
           |         ----- `rollout` reads `sft`
        ...
        14 | rollouts = "rollout"
           |            --------- `pairs` reads `rollout`
        ...
        18 | pairs = "pairs"
           |         ------- `dpo` reads `pairs`"#]]
    .assert_eq(&errors(text));
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
         --> DIR/a.toml:7:8
          |
        4 | [stage.one]
          | ----------- in this stage
        ...
        7 | data = "base"
          |        ^^^^^^

        error: `stage.two.model`: `one:curve.jsonl` is curve; `model` needs checkpoint
          --> DIR/a.toml:10:9
           |
         8 | [stage.two]
           | ----------- in this stage
         9 | kind = "sft"
        10 | model = "one:curve.jsonl"
           |         ^^^^^^^^^^^^^^^^^

        error: `stage.two.data`: `one` has no output `weights`
          --> DIR/a.toml:11:8
           |
         8 | [stage.two]
           | ----------- in this stage
        ...
        11 | data = "one:weights"
           |        ^^^^^^^^^^^^^
           |
           = help: the outputs are `model`, `curve.jsonl`"#]]
    .assert_eq(&errors(text));
}

#[test]
fn a_malformed_reference_shows_the_form() {
    let text = "[stage.base]\nkind = \"base\"\n[stage.eval]\nkind = \"eval\"\nmodel = \"base@seed\"\n";
    expect![[r#"
        error: `stage.eval.model`: `base@seed` is not a reference: write `stage`, `stage:output` or `stage@axis=value`
         --> DIR/a.toml:5:9
          |
        3 | [stage.eval]
          | ------------ in this stage
        4 | kind = "eval"
        5 | model = "base@seed"
          |         ^^^^^^^^^^^"#]]
    .assert_eq(&errors(text));
}

#[test]
fn a_missing_external_path_is_shown_in_full() {
    expect![[r#"
        error: `stage.items.path`: `data/train.jsonl` does not exist
         --> DIR/a.toml:3:8
          |
        3 | path = "data/train.jsonl"
          |        ^^^^^^^^^^^^^^^^^^
          |
          = help: paths are relative to the folder of the experiment: `DIR/data/train.jsonl`"#]]
    .assert_eq(&errors("[stage.items]\nkind = \"items\"\npath = \"data/train.jsonl\"\n"));
}
