//! Messages about wrong texts and tables.

use expect_test::expect;

use super::support::{Folder, errors};

#[test]
fn an_unknown_key_suggests_a_similar_one() {
    expect![[r#"
        error: `stage.base`: unknown key `dmi`
         --> DIR/a.toml:3:1
          |
        1 | [stage.base]
          | ------------ in this stage
        2 | kind = "base"
        3 | dmi = 64
          | ^^^
          |
          = help: a key of a similar name exists: `dim`"#]]
    .assert_eq(&errors("[stage.base]\nkind = \"base\"\ndmi = 64\n"));
}

#[test]
fn an_unknown_top_level_key_lists_the_known_ones() {
    expect![[r#"
        error: unknown key `ablation`
         --> DIR/a.toml:1:1
          |
        1 | ablation = 3
          | ^^^^^^^^
          |
          = help: the known keys are `name`, `about`, `extends`, `vars`, `stage`, `seeds`, `axis`, `points`, `targets`, `report`, `settings`"#]].assert_eq(&errors("ablation = 3\n[stage.base]\nkind = \"base\"\n"));
}

#[test]
fn a_wrong_type_is_reported_at_the_value() {
    expect![[r#"
        error: `stage.base.dim`: wrong type: string "wide", expected a whole number from 0
         --> DIR/a.toml:1:37
          |
        1 | stage.base = { kind = "base", dim = "wide" }
          |              -----------------------^^^^^^-- in this stage"#]]
    .assert_eq(&errors("stage.base = { kind = \"base\", dim = \"wide\" }\n"));
}

#[test]
fn a_missing_key_is_reported_at_the_stage() {
    let text = "[stage.base]\nkind = \"base\"\n[stage.sft]\nkind = \"sft\"\nmodel = \"base\"\n";
    expect![[r#"
        error: `stage.sft`: the key `data` is missing
         --> DIR/a.toml:3:1
          |
        3 | [stage.sft]
          | ^^^^^^^^^^^"#]]
    .assert_eq(&errors(text));
}

#[test]
fn a_refused_value_is_reported_at_its_place() {
    let text = r#"
[stage.base]
kind = "base"
[stage.rollout]
kind = "rollout"
model = "base"
[stage.pairs]
kind = "pairs"
rollouts = "rollout"
[stage.dpo]
kind = "dpo"
policy = "base"
pairs = "pairs"
beta = -0.1
"#;
    expect![[r#"
        error: `stage.dpo.beta`: must not be negative
          --> DIR/a.toml:14:8
           |
        10 | [stage.dpo]
           | ----------- in this stage
        ...
        14 | beta = -0.1
           |        ^^^^"#]]
    .assert_eq(&errors(text));
}

#[test]
fn missing_and_unknown_kinds_are_reported() {
    let text = r#"
[stage.base]
dim = 64
[stage.sft]
kind = "stf"
[stage.eval]
kind = "benchmark"
[stage]
plain = "text"
"#;
    expect![[r#"
        error: `stage.base`: the key `kind` is missing
         --> DIR/a.toml:2:1
          |
        2 | [stage.base]
          | ^^^^^^^^^^^^
          |
          = help: the kinds are `items`, `base`, `mix`, `sft`, `rollout`, `pairs`, `dpo`, `eval`

        error: `stage.sft.kind`: `stf` is not a kind of stage
         --> DIR/a.toml:5:8
          |
        5 | kind = "stf"
          |        ^^^^^
          |
          = help: a kind of a similar name exists: `sft`

        error: `stage.eval.kind`: `benchmark` is not a kind of stage
         --> DIR/a.toml:7:8
          |
        7 | kind = "benchmark"
          |        ^^^^^^^^^^^
          |
          = help: the kinds are `items`, `base`, `mix`, `sft`, `rollout`, `pairs`, `dpo`, `eval`

        error: `stage.plain`: wrong type: a string, expected a table
         --> DIR/a.toml:9:9
          |
        9 | plain = "text"
          |         ^^^^^^"#]]
    .assert_eq(&errors(text));
}

#[test]
fn a_duplicate_key_is_reported_at_the_second() {
    let text = "[stage.base]\nkind = \"base\"\ndim = 1\ndim = 2\n[stage.base]\nkind = \"base\"\n";
    expect![[r#"
        error: `dim` is defined twice
         --> DIR/a.toml:4:1
          |
        4 | dim = 2
          | ^^^

        error: `base` is defined twice
         --> DIR/a.toml:5:8
          |
        5 | [stage.base]
          |        ^^^^"#]]
    .assert_eq(&errors(text));
}

#[test]
fn all_errors_are_reported_in_file_order() {
    let text = r#"
nmae = "x"
[stage.base]
kind = "base"
dmi = 64
[stage.sft]
kind = "sft"
model = "bse"
data = 5
[stage.eval]
kind = "eval"
model = "sft"
[seeds]
values = [0, "one"]
from = ["stf"]
[settings]
device = "gpu"
jobs = 0
pools = { gpus = 1, cpu = 0 }
"#;
    expect![[r#"
        error: unknown key `nmae`
         --> DIR/a.toml:2:1
          |
        2 | nmae = "x"
          | ^^^^
          |
          = help: a key of a similar name exists: `name`

        error: `stage.base`: unknown key `dmi`
         --> DIR/a.toml:5:1
          |
        3 | [stage.base]
          | ------------ in this stage
        4 | kind = "base"
        5 | dmi = 64
          | ^^^
          |
          = help: a key of a similar name exists: `dim`

        error: `stage.sft.data`: wrong type: integer `5`, expected a string
         --> DIR/a.toml:9:8
          |
        6 | [stage.sft]
          | ----------- in this stage
        ...
        9 | data = 5
          |        ^

        error: `seeds.values.1`: wrong type: string "one", expected a whole number from 0
          --> DIR/a.toml:14:14
           |
        13 | [seeds]
           | ------- in this table
        14 | values = [0, "one"]
           |              ^^^^^

        error: `settings.device`: `gpu` is not a device
          --> DIR/a.toml:17:10
           |
        16 | [settings]
           | ---------- in this table
        17 | device = "gpu"
           |          ^^^^^
           |
           = help: write `auto`, `cpu`, `cuda:0` for the first GPU, or `cuda:0,cuda:1` for two

        error: `settings.jobs`: at least one job is needed
          --> DIR/a.toml:18:8
           |
        16 | [settings]
           | ---------- in this table
        17 | device = "gpu"
        18 | jobs = 0
           |        ^

        error: `settings.pools`: unknown key `gpus`
          --> DIR/a.toml:19:11
           |
        16 | [settings]
           | ---------- in this table
        ...
        19 | pools = { gpus = 1, cpu = 0 }
           |           ^^^^
           |
           = help: the pools are `cpu`, `gpu`, `teacher`, and those that stages name in `limits.pool`

        error: `settings.pools.cpu`: a pool needs at least one slot
          --> DIR/a.toml:19:27
           |
        16 | [settings]
           | ---------- in this table
        ...
        19 | pools = { gpus = 1, cpu = 0 }
           |                           ^"#]]
    .assert_eq(&errors(text));
}

#[test]
fn all_syntax_errors_are_reported() {
    expect![[r#"
        error: string values must be quoted, expected literal string
         --> DIR/a.toml:2:8
          |
        2 | kind = base
          |        ^^^^

        error: string values must be quoted, expected literal string
         --> DIR/a.toml:3:6
          |
        3 | dim =
          |      ^

        error: unclosed table, expected `]`
         --> DIR/a.toml:5:11
          |
        5 | [stage.sft
          |           ^"#]]
    .assert_eq(&errors("[stage.base]\nkind = base\ndim =\n\n[stage.sft\nkind = \"sft\"\n"));
}

#[test]
fn unsupported_values_are_reported() {
    let text = "[stage.base]\nkind = \"base\"\ndim = nan\na = 2026-01-01\nb = 99999999999999999999\n";
    expect![[r#"
        error: the number `nan` is not finite
         --> DIR/a.toml:3:7
          |
        3 | dim = nan
          |       ^^^

        error: `stage.base`: unknown key `a`
         --> DIR/a.toml:4:1
          |
        1 | [stage.base]
          | ------------ in this stage
        ...
        4 | a = 2026-01-01
          | ^
          |
          = help: the known keys are `dim`

        error: dates are not supported: write a string, "2026-01-01"
         --> DIR/a.toml:4:5
          |
        4 | a = 2026-01-01
          |     ^^^^^^^^^^

        error: `stage.base`: unknown key `b`
         --> DIR/a.toml:5:1
          |
        1 | [stage.base]
          | ------------ in this stage
        ...
        5 | b = 99999999999999999999
          | ^
          |
          = help: the known keys are `dim`

        error: the number `99999999999999999999` is too large
         --> DIR/a.toml:5:5
          |
        5 | b = 99999999999999999999
          |     ^^^^^^^^^^^^^^^^^^^^"#]]
    .assert_eq(&errors(text));
}

#[test]
fn a_malformed_number_is_one_error() {
    expect![[r#"
        error: invalid float
         --> DIR/a.toml:3:9
          |
        3 | dim = 99asoner
          |         ^^^^^^

        error: invalid exponent, expected digits
         --> DIR/a.toml:4:11
          |
        4 | heads = 1e
          |           ^

        error: unexpected leading zero
         --> DIR/a.toml:5:10
          |
        5 | layers = 01
          |          ^"#]]
    .assert_eq(&errors("[stage.base]\nkind = \"base\"\ndim = 99asoner\nheads = 1e\nlayers = 01\n"));
    expect![[r#"
        error: `0x` is not a number
         --> DIR/a.toml:3:7
          |
        3 | dim = 0x
          |       ^^"#]]
    .assert_eq(&errors("[stage.base]\nkind = \"base\"\ndim = 0x\n"));
}

#[test]
fn an_unreadable_file_is_reported() {
    let folder = Folder::new();
    folder.write("bytes.toml", b"name = \"\xff\"\n");
    expect!["error: `DIR/bytes.toml` is not UTF-8 text: byte 8"].assert_eq(&folder.errors("bytes.toml", &[]));
    expect!["error: cannot read `DIR/missing.toml`: No such file or directory (os error 2)"]
        .assert_eq(&folder.errors("missing.toml", &[]));
}

#[test]
fn an_empty_file_is_refused() {
    expect![[r#"
        error: the experiment has no stage
         --> DIR/a.toml:1:1
          |
        1 |
          | ^
          |
          = help: write a table `[stage.NAME]` with a `kind`"#]]
    .assert_eq(&errors(""));
}

#[test]
fn invalid_names_are_reported() {
    expect![[r#"
        error: `name`: `a/b` is not a name: use letters, digits, `-` and `_`, 48 bytes at most
         --> DIR/a.toml:1:8
          |
        1 | name = "a/b"
          |        ^^^^^

        error: `stage.a b`: `a b` is not a name: use letters, digits, `-` and `_`, 48 bytes at most
         --> DIR/a.toml:2:8
          |
        2 | [stage."a b"]
          |        ^^^^^"#]]
    .assert_eq(&errors("name = \"a/b\"\n[stage.\"a b\"]\nkind = \"base\"\n"));
}
