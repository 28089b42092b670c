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
          --> DIR/a.toml:17:10 `[]`
          ::: DIR/a.toml:15:1 `[axis.empty]` in this axis
        error: `axis.both`: `key` and `variants` cannot both define the points
          --> DIR/a.toml:18:1 `[axis.both]`
          help: the forms of an axis are `key` `values` `labels`; `variants`; `simplex` `step` `values` `labels`; `random` `points` `seed`; `leave_one_out` `of`; `add_one` `of`; `subsets` `sets`
        error: stage `stf` is not defined
          --> DIR/a.toml:23:7 `"stage.stf.lr"`
          help: a stage of a similar name exists: `sft`
        error: `axis.lost.values.1`: two values have the label `1`
          --> DIR/a.toml:24:14 `1`
          ::: DIR/a.toml:22:1 `[axis.lost]` in this axis
          help: give each value its own label in `labels`
        error: `sft.lr` is not the path of a key of a stage, or of a variable
          --> DIR/a.toml:26:7 `"sft.lr"`
          help: write `"stage.mix.sources.direct"`, in quotes: the stage, then the path in its table; or `"vars.NAME"`
        error: `axis.labels.labels`: 2 values need 2 labels, not 1
          --> DIR/a.toml:31:10 `["a"]`
          ::: DIR/a.toml:28:1 `[axis.labels]` in this axis
        error: `axis.nothing.variants`: no variant changes a stage
          --> DIR/a.toml:33:1 `variants`
          ::: DIR/a.toml:32:1 `[axis.nothing]` in this axis
        error: `a,b` is not a label: no spaces and none of `, : / \ *`, 48 bytes at most
          --> DIR/a.toml:35:10 `"a,b"`
        error: `stage.format.sources.other` cannot be removed: there is no such key
          --> DIR/a.toml:35:51 `"remove"`
          ::: DIR/a.toml:35:20 `"stage.format.sources.other"`
        error: the kind of a stage cannot vary along an axis
          --> DIR/a.toml:36:16 `"stage.sft.kind"`
          help: write a stage of each kind
        error: `stage` is not the path of a key of a stage, or of a variable
          --> DIR/a.toml:37:16 `stage`
          help: write `"stage.mix.sources.direct"`, in quotes: the stage, then the path in its table; or `"vars.NAME"`
        error: `axis.seed`: `seed` is a reserved name and cannot name an axis
          --> DIR/a.toml:38:1 `[axis.seed]`
        error: `axis.wrong`: unknown key `kye`
          --> DIR/a.toml:44:1 `kye`
          ::: DIR/a.toml:41:1 `[axis.wrong]` in this axis
          help: a key of a similar name exists: `key`
        error: `stage.sft.lr`: wrong type: string "fast", expected a number
          --> DIR/a.toml:47:11 `"fast"`
          ::: DIR/a.toml:10:1 `[stage.sft]` in this stage"#]].assert_eq(&errors(&text));
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
          --> DIR/a.toml:19:16 `"stage.sft.lr"`
          ::: DIR/a.toml:16:7 `"stage.sft.lr"` also changed here"#]]
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
          --> DIR/a.toml:16:7 `"stage.sft.lrr"`
          ::: DIR/a.toml:10:1 `[stage.sft]` in this stage
          help: a key of a similar name exists: `lr`"#]]
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
          --> DIR/a.toml:24:9 `"sft@mix=bth"`
          help: a value of a similar name exists: `mix=both`
        error: `stage.dpo.policy`: `sft` does not vary with `mx`
          --> DIR/a.toml:33:10 `"sft@mx=both"`
          help: an axis of a similar name exists: `mix`
        error: `stage.rft.data`: `format` does not vary with `mix`
          --> DIR/a.toml:40:8 `"format@mix=cot"`
          help: `format` is a single instance and varies with no axis"#]]
    .assert_eq(&errors(&text));
}

#[test]
fn too_many_points_are_refused() {
    let values: Vec<String> = (0..501).map(|value| value.to_string()).collect();
    let values = values.join(",");
    let axis = |name: &str, key: &str| format!("[axis.{name}]\nkey = \"{key}\"\nvalues = [{values}]\n");
    let text = chain(&(axis("a", "stage.sft.lr") + &axis("b", "stage.base.dim")));
    expect![[r#"
        error: `stage.sft`: the experiment has more than 250000 points
          --> DIR/a.toml:10:1 `[stage.sft]`"#]]
    .assert_eq(&errors(&text));
}
