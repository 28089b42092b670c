//! Messages about wrong texts and tables.

use expect_test::expect;

use super::expansion::STUDY;
use super::support::{Folder, errors, errors_of};

#[test]
fn wrong_keys_and_values_are_reported() {
    let texts = [
        "[stage.base]\nkind = \"base\"\ndmi = 64\n",
        "ablation = 3\n[stage.base]\nkind = \"base\"\n",
        "stage.base = { kind = \"base\", dim = \"wide\" }\n",
        "[stage.base]\nkind = \"base\"\n[stage.sft]\nkind = \"sft\"\nmodel = \"base\"\n",
        &STUDY.replace("beta = 0.1", "beta = -0.1"),
        "[stage.base]\nkind = \"base\"\ndim = nan\na = 2026-01-01\nb = 99999999999999999999\n",
        "",
        "name = \"a/b\"\n[stage.\"a b\"]\nkind = \"base\"\n",
    ];
    expect![[r#"
        error: `stage.base`: unknown key `dmi`
          --> DIR/a.toml:3:1 `dmi`
          ::: DIR/a.toml:1:1 `[stage.base]` in this stage
          help: a key of a similar name exists: `dim`

        error: unknown key `ablation`
          --> DIR/a.toml:1:1 `ablation`
          help: the known keys are `name`, `about`, `extends`, `vars`, `stage`, `seeds`, `axis`, `points`, `targets`, `report`, `settings`

        error: `stage.base.dim`: wrong type: string "wide", expected a whole number from 0
          --> DIR/a.toml:1:37 `"wide"`
          ::: DIR/a.toml:1:14 `{ kind = "base", dim = "wide" }` in this stage

        error: `stage.sft`: the key `data` is missing
          --> DIR/a.toml:3:1 `[stage.sft]`

        error: `stage.dpo.beta`: must not be negative
          --> DIR/a.toml:35:8 `-0.1`
          ::: DIR/a.toml:31:1 `[stage.dpo]` in this stage

        error: the number `nan` is not finite
          --> DIR/a.toml:3:7 `nan`
        error: `stage.base`: unknown key `a`
          --> DIR/a.toml:4:1 `a`
          ::: DIR/a.toml:1:1 `[stage.base]` in this stage
          help: the known keys are `dim`
        error: dates are not supported: write a string, "2026-01-01"
          --> DIR/a.toml:4:5 `2026-01-01`
        error: `stage.base`: unknown key `b`
          --> DIR/a.toml:5:1 `b`
          ::: DIR/a.toml:1:1 `[stage.base]` in this stage
          help: the known keys are `dim`
        error: the number `99999999999999999999` is too large
          --> DIR/a.toml:5:5 `99999999999999999999`

        error: the experiment has no stage
          --> DIR/a.toml:1:1 ``
          help: write a table `[stage.NAME]` with a `kind`

        error: `name`: `a/b` is not a name: use letters, digits, `-` and `_`, 48 bytes at most
          --> DIR/a.toml:1:8 `"a/b"`
        error: `stage.a b`: `a b` is not a name: use letters, digits, `-` and `_`, 48 bytes at most
          --> DIR/a.toml:2:8 `"a b"`"#]].assert_eq(&errors_of(texts));
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
          --> DIR/a.toml:2:1 `[stage.base]`
          help: the kinds are `items`, `base`, `mix`, `sft`, `rollout`, `pairs`, `dpo`, `eval`
        error: `stage.sft.kind`: `stf` is not a kind of stage
          --> DIR/a.toml:5:8 `"stf"`
          help: a kind of a similar name exists: `sft`
        error: `stage.eval.kind`: `benchmark` is not a kind of stage
          --> DIR/a.toml:7:8 `"benchmark"`
          help: the kinds are `items`, `base`, `mix`, `sft`, `rollout`, `pairs`, `dpo`, `eval`
        error: `stage.plain`: wrong type: a string, expected a table
          --> DIR/a.toml:9:9 `"text"`"#]]
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
          --> DIR/a.toml:2:1 `nmae`
          help: a key of a similar name exists: `name`
        error: `stage.base`: unknown key `dmi`
          --> DIR/a.toml:5:1 `dmi`
          ::: DIR/a.toml:3:1 `[stage.base]` in this stage
          help: a key of a similar name exists: `dim`
        error: `stage.sft.data`: wrong type: integer `5`, expected a string
          --> DIR/a.toml:9:8 `5`
          ::: DIR/a.toml:6:1 `[stage.sft]` in this stage
        error: `seeds.values.1`: wrong type: string "one", expected a whole number from 0
          --> DIR/a.toml:14:14 `"one"`
          ::: DIR/a.toml:13:1 `[seeds]` in this table
        error: `settings.device`: `gpu` is not a device
          --> DIR/a.toml:17:10 `"gpu"`
          ::: DIR/a.toml:16:1 `[settings]` in this table
          help: write `auto`, `cpu`, `cuda:0` for the first GPU, or `cuda:0,cuda:1` for two
        error: `settings.jobs`: at least one job is needed
          --> DIR/a.toml:18:8 `0`
          ::: DIR/a.toml:16:1 `[settings]` in this table
        error: `settings.pools`: unknown key `gpus`
          --> DIR/a.toml:19:11 `gpus`
          ::: DIR/a.toml:16:1 `[settings]` in this table
          help: the pools are `cpu`, `gpu`, `teacher`, and those that stages name in `limits.pool`
        error: `settings.pools.cpu`: a pool needs at least one slot
          --> DIR/a.toml:19:27 `0`
          ::: DIR/a.toml:16:1 `[settings]` in this table"#]]
    .assert_eq(&errors(text));
}

#[test]
fn syntax_errors_are_reported() {
    let texts = [
        "[stage.base]\nkind = base\ndim =\n\n[stage.sft\nkind = \"sft\"\n",
        // Of a table that is defined twice, the keys are not reported.
        "[stage.base]\nkind = \"base\"\ndim = 1\ndim = 2\n[stage.base]\nkind = \"base\"\n",
        "[stage.base]\nkind = \"base\"\ndim = 99asoner\nheads = 1e\nlayers = 01\n",
        "[stage.base]\nkind = \"base\"\ndim = 0x\n",
    ];
    expect![[r#"
        error: string values must be quoted, expected literal string
          --> DIR/a.toml:2:8 `base`
        error: string values must be quoted, expected literal string
          --> DIR/a.toml:3:6 ``
        error: unclosed table, expected `]`
          --> DIR/a.toml:5:11 ``

        error: `dim` is defined twice
          --> DIR/a.toml:4:1 `dim`
        error: `base` is defined twice
          --> DIR/a.toml:5:8 `base`

        error: invalid float
          --> DIR/a.toml:3:9 `asoner`
        error: invalid exponent, expected digits
          --> DIR/a.toml:4:11 ``
        error: unexpected leading zero
          --> DIR/a.toml:5:10 `0`

        error: `0x` is not a number
          --> DIR/a.toml:3:7 `0x`"#]]
    .assert_eq(&errors_of(texts));
}

#[test]
fn an_unreadable_file_is_reported() {
    expect!["error: `DIR/a.toml` is not UTF-8 text: byte 8"].assert_eq(&Folder::with(b"name = \"\xff\"\n").errors(&[]));
    expect!["error: cannot read `DIR/a.toml`: No such file or directory (os error 2)"]
        .assert_eq(&Folder::new().errors(&[]));
}
