//! Values that depend on the point of a stage: `${axis.NAME}`, axes over variables, and `--set` with several values.

use expect_test::expect;
use serde_json::{Value, json};

use super::support::{Folder, errors, errors_of, instances, load, names};
use crate::Expansion;

/// Each instance of a stage with the value of a key.
fn values(expansion: &Expansion, stage: &str, key: &str) -> Vec<(String, Value)> {
    let of = |instance: &&crate::Instance| (instance.name.clone(), instance.table().unwrap()[key].clone());
    instances(expansion, stage).iter().map(of).collect()
}

#[test]
fn an_axis_over_a_variable_changes_the_stages_that_use_it() {
    let text = r#"
[vars]
size = 1
double = "${size}"
[axis.size]
key = "vars.size"
values = [64, 128]
[stage.base]
kind = "base"
dim = "${double}"
[stage.other]
kind = "base"
dim = 3
[stage.eval]
kind = "eval"
model = "base"
prompt = "with ${size} of $${size}"
"#;
    let (experiment, expansion) = load(text);
    assert_eq!(experiment.axes, [("size".to_string(), vec!["64".to_string(), "128".to_string()])]);
    assert_eq!(
        names(&expansion),
        "base@size=64\nbase@size=128\nother\neval@size=64 <- base@size=64\neval@size=128 <- base@size=128"
    );
    let expected = [("base@size=64".to_string(), json!(64)), ("base@size=128".to_string(), json!(128))];
    assert_eq!(values(&expansion, "base", "dim"), expected);
    assert_eq!(values(&expansion, "eval", "prompt")[1].1, json!("with 128 of ${size}"));
}

#[test]
fn the_value_of_an_axis_is_part_of_a_text() {
    let text = r#"
[axis.lr]
values = [1e-4, 5e-6]
[axis.mode]
variants.slow = { "stage.eval.prompt" = "slow at ${axis.lr}" }
variants.fast = {}
[stage.base]
kind = "base"
[stage.eval]
kind = "eval"
model = "base"
prompt = "run --lr ${axis.lr} --mode ${axis.mode}"
"#;
    let (_, expansion) = load(text);
    expect![[r#"
        eval@lr=0.0001,mode=slow "slow at 0.0001"
        eval@lr=0.0001,mode=fast "run --lr 0.0001 --mode fast"
        eval@lr=5e-6,mode=slow "slow at 5e-6"
        eval@lr=5e-6,mode=fast "run --lr 5e-6 --mode fast""#]]
    .assert_eq(
        &values(&expansion, "eval", "prompt")
            .iter()
            .map(|(name, value)| format!("{name} {value}"))
            .collect::<Vec<_>>()
            .join("\n"),
    );
}

#[test]
fn a_value_alone_keeps_its_type_and_a_part_of_a_variable_can_vary() {
    let text = r#"
[vars]
model = { dim = 1, name = "m" }
[axis.dim]
key = "vars.model.dim"
values = [8, 16]
[axis.count]
values = [2]
[stage.base]
kind = "base"
dim = "${axis.count}"
[stage.eval]
kind = "eval"
model = "base"
prompt = { model = "${model}", dim = "${axis.dim}" }
"#;
    let (_, expansion) = load(text);
    assert_eq!(values(&expansion, "base", "dim"), [("base@count=2".to_string(), json!(2))]);
    assert_eq!(values(&expansion, "eval", "prompt")[1].1, json!({ "model": { "dim": 16, "name": "m" }, "dim": 16 }));
}

#[test]
fn random_and_simplex_axes_change_variables() {
    let text = r#"
[vars]
a = 0
b = 0
lr = 0
[axis.share]
simplex = ["vars.a", "vars.b"]
step = 0.5
[axis.search]
points = 2
random = [{ key = "vars.lr", uniform = [1, 9] }]
[stage.base]
kind = "base"
[stage.eval]
kind = "eval"
model = "base"
prompt = "${a} ${b}"
[stage.sft]
kind = "base"
dim = "${lr}"
"#;
    let (_, expansion) = load(text);
    let shares: Vec<Value> = values(&expansion, "eval", "prompt").into_iter().map(|(_, value)| value).collect();
    assert_eq!(shares, [json!("1.0 0.0"), json!("0.5 0.5"), json!("0.0 1.0")]);
    assert_eq!(instances(&expansion, "sft").len(), 2);
}

#[test]
fn values_that_vary_are_refused_outside_of_stages() {
    let texts = [
        "about = \"${axis.lr}\"\n[axis.lr]\nvalues = [1]\n[stage.base]\nkind = \"base\"\ndim = \"${axis.lr}\"\n",
        "[axis.k]\nvalues = [\"base\"]\n[stage.base]\nkind = \"${axis.k}\"\n",
        "[vars]\nx = 1\n[axis.x]\nkey = \"vars.x\"\nvalues = [1, 2]\n[settings]\njobs = \"${x}\"\n\
         [stage.base]\nkind = \"base\"\ndim = \"${x}\"\n",
        "[axis.lr]\nvalues = [1]\n[stage.base]\nkind = \"base\"\ndim = \"${axis.rl}\"\n",
        "[stage.base]\nkind = \"base\"\ndim = \"${axis.seed}\"\n",
        "[stage.base]\nkind = \"base\"\n[axis.lr]\nvalues = [1]\n",
        "[vars]\nx = 1\n[stage.base]\nkind = \"base\"\n[axis.lr]\nkey = \"vars.x\"\nvalues = [1]\n",
        "[vars]\nx = 1\n[stage.base]\nkind = \"base\"\ndim = \"${x}\"\n[axis.lr]\nkey = \"vars.y\"\nvalues = [1]\n",
        "[vars]\nx = 1\n[stage.base]\nkind = \"base\"\ndim = \"${x}\"\n[axis.lr]\nkey = \"vars.x\"\nvalues = [1, \"remove\"]\n",
        "[axis.lr]\nvalues = [[1, 2]]\n[stage.base]\nkind = \"base\"\n[stage.eval]\nkind = \"eval\"\nmodel = \"base\"\n\
         prompt = \"at ${axis.lr}\"\n",
    ];
    expect![[r#"
        error: `${axis.lr}` varies along an axis, so only stages can use it
          --> DIR/a.toml:1:9 `"${axis.lr}"`
          help: not in `kind` and `when`, and outside of stages only in the `variants` of an axis

        error: `${axis.k}` varies along an axis, so only stages can use it
          --> DIR/a.toml:4:8 `"${axis.k}"`
          help: not in `kind` and `when`, and outside of stages only in the `variants` of an axis

        error: `${x}` varies along an axis, so only stages can use it
          --> DIR/a.toml:7:8 `"${x}"`
          help: not in `kind` and `when`, and outside of stages only in the `variants` of an axis

        error: the axis `rl` is not defined
          --> DIR/a.toml:5:7 `"${axis.rl}"`
          help: an axis of a similar name exists: `lr`

        error: the axis `seed` is not defined
          --> DIR/a.toml:3:7 `"${axis.seed}"`
          help: a program reads its seed from the environment variable `ABLATE_SEED`

        error: `axis.lr` changes no stage
          --> DIR/a.toml:3:7 `lr`
          help: use its value in a stage: `${axis.lr}`, or name a `key`

        error: `axis.lr` changes no stage
          --> DIR/a.toml:5:7 `lr`
          help: use the variable in a stage: `${x}`

        error: the variable `y` is not defined
          --> DIR/a.toml:7:7 `"vars.y"`
          help: a variable of a similar name exists: `x`

        error: `axis.lr.values.1`: an axis cannot remove a variable
          --> DIR/a.toml:8:14 `"remove"`
          ::: DIR/a.toml:6:1 `[axis.lr]` in this axis

        error: the value of the axis `lr` is a list, which cannot be part of a string
          --> DIR/a.toml:8:10 `"at ${axis.lr}"`"#]]
    .assert_eq(&errors_of(texts));
}

#[test]
fn an_axis_with_an_error_is_reported_once() {
    let text = "[axis.lr]\nvalues = []\n[stage.base]\nkind = \"base\"\ndim = \"${axis.lr}\"\n";
    expect![[r#"
        error: `axis.lr.values`: the list is empty
          --> DIR/a.toml:2:10 `[]`
          ::: DIR/a.toml:1:1 `[axis.lr]` in this axis"#]]
    .assert_eq(&errors(text));
}

#[test]
fn two_axes_over_one_variable_are_refused() {
    let text = "[vars]\nx = 1\n[stage.base]\nkind = \"base\"\ndim = \"${x}\"\n\
                [axis.a]\nkey = \"vars.x\"\nvalues = [1]\n[axis.b]\nkey = \"vars.x\"\nvalues = [2]\n";
    expect![[r#"
        error: `vars.x` is changed by the axes `a` and `b`
          --> DIR/a.toml:10:7 `"vars.x"`
          ::: DIR/a.toml:7:7 `"vars.x"` also changed here"#]]
    .assert_eq(&errors(text));
}

#[test]
fn an_override_with_several_values_is_an_axis() {
    let folder = Folder::with(
        "[vars]\nx = 1\n[stage.base]\nkind = \"base\"\ndim = \"${x}\"\n[stage.dpo]\nkind = \"base\"\n\
         [axis.d]\nkey = \"stage.dpo.dim\"\nvalues = [1, 2]\n",
    );
    let (_, expansion) = folder.load(&["vars.x=4, 5"]);
    assert_eq!(names(&expansion), "base@x=4\nbase@x=5\ndpo@d=1\ndpo@d=2");
    let (_, expansion) = folder.load(&["stage.dpo.dim=7,8"]);
    assert_eq!(names(&expansion), "base\ndpo@d=7\ndpo@d=8");
    let (_, expansion) = folder.load(&["stage.base.dim=7,8", "seeds.values=0,1", "seeds.from=[\"dpo\"]"]);
    assert_eq!(
        names(&expansion),
        "base@dim=7\nbase@dim=8\ndpo@d=1,seed=0\ndpo@d=1,seed=1\ndpo@d=2,seed=0\ndpo@d=2,seed=1"
    );
    expect![[r#"
        error: `stage.dpo.dim` takes its values from the axis `d`, so this value would not be used
          --> --set stage.dpo.dim=3:1:1 `stage.dpo.dim`
          help: override the values: `--set 'axis.d.values=[...]'`, or give several

        error: a value is empty: several values are separated by commas
          --> --set stage.base.dim=3,:1:18 ``
          help: quote a text with commas: `--set 'stage.a.run="one, two"'`

        error: it is not clear whether this is one text or several values, which commas separate
          --> --set vars.x=one two, three:1:8 `one two`
          help: quote a text with commas: `--set 'stage.a.run="one, two"'`

        error: there is no `vars.y` to override
          --> --set vars.y=1,2:1:1 `vars.y`
          help: a key of a similar name exists: `vars.x`

        error: `stage.base` is not the path of a key of a stage, or of a variable
          --> --set stage.base=1,2:1:1 `stage.base`
          help: write `"stage.mix.sources.direct"`, in quotes: the stage, then the path in its table; or `"vars.NAME"`"#]].assert_eq(&folder.override_errors(&[
        "stage.dpo.dim=3",
        "stage.base.dim=3,",
        "vars.x=one two, three",
        "vars.y=1,2",
        "stage.base=1,2",
    ]));
}
