//! Messages about wrong axes and pins.

use expect_test::expect;

use super::axes::chain;
use super::expansion::STUDY;
use super::support::errors;

#[test]
fn wrong_axes_are_reported() {
    let text = chain(
        r#"
[axis.empty]
key = "stage.sft.lr"
values = []
[axis.both]
key = "stage.sft.lr"
values = [1]
variants.a = {}
[axis.lost]
key = "stage.stf.lr"
values = [1, 1, 2]
[axis.key]
key = "sft.lr"
values = [1]
[axis.labels]
key = "stage.sft.lr"
values = [1, 2]
labels = ["a"]
[axis.nothing]
variants.a = {}
[axis.remove]
variants."a,b" = { "stage.format.sources.other" = "remove" }
variants.c = { "stage.sft.kind" = "dpo", "stage.sft.lr.x.y" = 1 }
variants.d = { stage.sft.lr = 1 }
[axis.seed]
key = "stage.sft.lr"
values = [1]
[axis.wrong]
key = "stage.sft.lr"
values = ["fast", "slow"]
kye = 1
[axis.fast]
key = "stage.sft.lr"
values = ["fast", 1]
"#,
    );
    expect![[r#"
        error: `axis.empty.values`: the list is empty
          --> DIR/a.toml:17:10
           |
        15 | [axis.empty]
           | ------------ in this axis
        16 | key = "stage.sft.lr"
        17 | values = []
           |          ^^

        error: `axis.both`: `key` and `variants` cannot both define the points
          --> DIR/a.toml:18:1
           |
        18 | [axis.both]
           | ^^^^^^^^^^^
           |
           = help: the forms of an axis are `key` `values` `labels`; `variants`; `simplex` `step` `values` `labels`; `random` `points` `seed`; `leave_one_out` `of`; `add_one` `of`; `subsets` `sets`

        error: stage `stf` is not defined
          --> DIR/a.toml:23:7
           |
        23 | key = "stage.stf.lr"
           |       ^^^^^^^^^^^^^^
           |
           = help: a stage of a similar name exists: `sft`

        error: `axis.lost.values.1`: two values have the label `1`
          --> DIR/a.toml:24:14
           |
        22 | [axis.lost]
           | ----------- in this axis
        23 | key = "stage.stf.lr"
        24 | values = [1, 1, 2]
           |              ^
           |
           = help: give each value its own label in `labels`

        error: `sft.lr` is not the path of a key of a stage
          --> DIR/a.toml:26:7
           |
        26 | key = "sft.lr"
           |       ^^^^^^^^
           |
           = help: write `"stage.mix.sources.direct"`, in quotes: the stage, then the path in its table

        error: `axis.labels.labels`: 2 values need 2 labels, not 1
          --> DIR/a.toml:31:10
           |
        28 | [axis.labels]
           | ------------- in this axis
        ...
        31 | labels = ["a"]
           |          ^^^^^

        error: `axis.nothing.variants`: no variant changes a stage
          --> DIR/a.toml:33:1
           |
        32 | [axis.nothing]
           | -------------- in this axis
        33 | variants.a = {}
           | ^^^^^^^^

        error: `a,b` is not a label: no spaces and none of `, : / \ *`, 48 bytes at most
          --> DIR/a.toml:35:10
           |
        35 | variants."a,b" = { "stage.format.sources.other" = "remove" }
           |          ^^^^^

        error: `stage.format.sources.other` cannot be removed: there is no such key
          --> DIR/a.toml:35:51
           |
        35 | variants."a,b" = { "stage.format.sources.other" = "remove" }
           |                    ----------------------------   ^^^^^^^^

        error: the kind of a stage cannot vary along an axis
          --> DIR/a.toml:36:16
           |
        36 | variants.c = { "stage.sft.kind" = "dpo", "stage.sft.lr.x.y" = 1 }
           |                ^^^^^^^^^^^^^^^^
           |
           = help: write a stage of each kind

        error: `stage` is not the path of a key of a stage
          --> DIR/a.toml:37:16
           |
        37 | variants.d = { stage.sft.lr = 1 }
           |                ^^^^^
           |
           = help: write `"stage.mix.sources.direct"`, in quotes: the stage, then the path in its table

        error: `axis.seed`: `seed` is a reserved name and cannot name an axis
          --> DIR/a.toml:38:1
           |
        38 | [axis.seed]
           | ^^^^^^^^^^^

        error: `axis.wrong`: unknown key `kye`
          --> DIR/a.toml:44:1
           |
        41 | [axis.wrong]
           | ------------ in this axis
        ...
        44 | kye = 1
           | ^^^
           |
           = help: a key of a similar name exists: `key`

        error: `stage.sft.lr`: wrong type: string "fast", expected a number
          --> DIR/a.toml:47:11
           |
        10 | [stage.sft]
           | ----------- in this stage
        ...
        47 | values = ["fast", 1]
           |           ^^^^^^"#]]
    .assert_eq(&errors(&text));
}

#[test]
fn two_axes_cannot_set_one_key() {
    let text = chain(
        r#"
[axis.a]
key = "stage.sft.lr"
values = [1, 2]
[axis.b]
variants.x = { "stage.sft.lr" = 3 }
variants.y = {}
"#,
    );
    expect![[r#"
        error: `stage.sft.lr` is changed by the axes `a` and `b`
          --> DIR/a.toml:19:16
           |
        16 | key = "stage.sft.lr"
           |       -------------- also changed here
        ...
        19 | variants.x = { "stage.sft.lr" = 3 }
           |                ^^^^^^^^^^^^^^"#]]
    .assert_eq(&errors(&text));
}

#[test]
fn an_error_at_many_points_is_reported_once() {
    let text = chain(
        r#"
[axis.dim]
key = "stage.sft.lrr"
values = [1]
[axis.other]
key = "stage.base.dim"
values = [1, 2, 3]
[axis.third]
key = "stage.sft.lr"
values = [1, 2, 3]
"#,
    );
    expect![[r#"
        error: `stage.sft`: unknown key `lrr`
          --> DIR/a.toml:16:7
           |
        10 | [stage.sft]
           | ----------- in this stage
        ...
        16 | key = "stage.sft.lrr"
           |       ^^^^^^^^^^^^^^^
           |
           = help: a key of a similar name exists: `lr`"#]]
    .assert_eq(&errors(&text));
}

#[test]
fn wrong_pins_are_reported_with_known_values() {
    let text = STUDY
        .replace("model = \"sft@mix=both\"\nsamples", "model = \"sft@mix=bth\"\nsamples")
        .replace("policy = \"sft@mix=both\"", "policy = \"sft@mx=both\"")
        .replace("data = \"mix@mix=cot\"", "data = \"format@mix=cot\"");
    expect![[r#"
        error: `stage.rollout.model`: `sft` has no point `mix=bth`
          --> DIR/a.toml:24:9
           |
        24 | model = "sft@mix=bth"
           |         ^^^^^^^^^^^^^
           |
           = help: a value of a similar name exists: `mix=both`

        error: `stage.dpo.policy`: `sft` does not vary with `mx`
          --> DIR/a.toml:33:10
           |
        33 | policy = "sft@mx=both"
           |          ^^^^^^^^^^^^^
           |
           = help: an axis of a similar name exists: `mix`

        error: `stage.rft.data`: `format` does not vary with `mix`
          --> DIR/a.toml:40:8
           |
        40 | data = "format@mix=cot"
           |        ^^^^^^^^^^^^^^^^
           |
           = help: `format` is a single instance and varies with no axis"#]]
    .assert_eq(&errors(&text));
}

#[test]
fn too_many_points_are_refused() {
    let values: Vec<String> = (0..501).map(|value| value.to_string()).collect();
    let values = values.join(",");
    let text = chain(&format!(
        "[axis.a]\nkey = \"stage.sft.lr\"\nvalues = [{values}]\n[axis.b]\nkey = \"stage.base.dim\"\nvalues = [{values}]\n"
    ));
    expect![[r#"
        error: `stage.sft`: the experiment has more than 250000 points
          --> DIR/a.toml:10:1
           |
        10 | [stage.sft]
           | ^^^^^^^^^^^"#]]
    .assert_eq(&errors(&text));
}
