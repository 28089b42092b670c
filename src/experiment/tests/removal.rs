//! The value `"remove"`, and keys with dots.

use expect_test::expect;
use serde_json::json;

use super::expansion::STUDY;
use super::support::{Folder, errors, instances, load, names};
use crate::Instance;

/// A folder with `STUDY`, and a file `a.toml` that extends it.
fn over(text: &str) -> Folder {
    let folder = Folder::with(format!("extends = \"study.toml\"\n{text}"));
    folder.write("study.toml", STUDY);
    folder
}

#[test]
fn keys_of_every_level_are_removed() {
    let folder = over(
        r#"
seeds = "remove"
[axis]
mix = "remove"
[stage]
rollout = "remove"
pairs = "remove"
dpo = "remove"
[stage.mix.sources]
cot = "remove"
[stage.sft]
data = "mix"
[stage.rft]
model = "sft"
data = "mix"
lr = "remove"
[stage.eval]
model = ["sft", "rft"]
prompt = "remove"
"#,
    );
    let (_, expansion) = folder.load(&[]);
    expect![[r#"
        format
        mix <- format
        base
        sft <- base mix
        rft <- sft mix
        eval@model=sft <- sft
        eval@model=rft <- rft"#]]
    .assert_eq(&names(&expansion));
    let mix = instances(&expansion, "mix")[0];
    assert_eq!(mix.table().unwrap(), json!({ "sources": { "direct": { "from": "format", "weight": 0.5 } } }));
}

#[test]
fn removing_a_missing_key_is_refused() {
    let folder = over(
        r#"
[axis]
mxi = "remove"
[stage]
evla = "remove"
[stage.mix.sources]
cots = "remove"
nothing = "remove"
[stage.other.sources]
cot = "remove"
[report]
main = "remove"
"#,
    );
    expect![[r#"
        error: `axis.mxi` cannot be removed: there is no such key
          --> DIR/a.toml:4:7 `"remove"`
          ::: DIR/a.toml:4:1 `mxi`
          help: a key of a similar name exists: `axis.mix`
        error: `stage.evla` cannot be removed: there is no such key
          --> DIR/a.toml:6:8 `"remove"`
          ::: DIR/a.toml:6:1 `evla`
          help: a key of a similar name exists: `stage.eval`
        error: `stage.mix.sources.cots` cannot be removed: there is no such key
          --> DIR/a.toml:8:8 `"remove"`
          ::: DIR/a.toml:8:1 `cots`
          help: a key of a similar name exists: `stage.mix.sources.cot`
        error: `stage.mix.sources.nothing` cannot be removed: there is no such key
          --> DIR/a.toml:9:11 `"remove"`
          ::: DIR/a.toml:9:1 `nothing`
        error: `stage.other`: the key `kind` is missing
          --> DIR/a.toml:10:8 `other`
          help: the kinds are `items`, `base`, `mix`, `sft`, `rollout`, `pairs`, `dpo`, `eval`
        error: `stage.other.sources.cot` cannot be removed: there is no such key
          --> DIR/a.toml:11:7 `"remove"`
          ::: DIR/a.toml:11:1 `cot`
        error: `report.main` cannot be removed: there is no such key
          --> DIR/a.toml:13:8 `"remove"`
          ::: DIR/a.toml:13:1 `main`"#]]
    .assert_eq(&folder.errors(&[]));
}

#[test]
fn a_removal_in_a_variant_applies_to_its_stage() {
    let folder = over("[axis.mix.variants]\ncot = \"remove\"\nnone = { \"stage.mix.sources.cot\" = \"remove\" }\n");
    // The variant `cot` is removed, so the reference that pins it is wrong.
    let messages = folder.errors(&[]);
    assert!(messages.contains("has no point `mix=cot`"), "{messages}");
    let (experiment, _) = load(STUDY);
    assert_eq!(experiment.axes[0].1, ["cot", "direct", "both"]);
}

#[test]
fn remove_is_a_string_in_the_first_file() {
    let (experiment, _) = load("about = \"remove\"\n[stage.base]\nkind = \"base\"\n");
    assert_eq!(experiment.about, "remove");
}

#[test]
fn an_override_can_remove_a_key() {
    let folder = over("");
    let (_, expansion) = folder.load(&["stage.rft.lr=remove", "seeds=remove"]);
    assert!(expansion.instances.iter().all(|instance| !instance.name.contains("seed=")));
    assert!(instances(&expansion, "rft")[0].table().unwrap().get("lr").is_none());
    let wrong = ["stage.mix.sources.cto=remove", "stage.dop=remove", "stage.dpo.beta.x=remove"];
    expect![[r#"
        error: `stage.mix.sources.cto` cannot be removed: there is no such key
          --> --set stage.mix.sources.cto=remove:1:23 `remove`
          ::: --set stage.mix.sources.cto=remove:1:1 `stage.mix.sources.cto`
          help: a key of a similar name exists: `stage.mix.sources.cot`

        error: `stage.dop` cannot be removed: there is no such key
          --> --set stage.dop=remove:1:11 `remove`
          ::: --set stage.dop=remove:1:1 `stage.dop`
          help: a key of a similar name exists: `stage.dpo`

        error: `stage.dpo.beta.x` cannot be removed: there is no such key
          --> --set stage.dpo.beta.x=remove:1:18 `remove`
          ::: --set stage.dpo.beta.x=remove:1:1 `stage.dpo.beta.x`"#]]
    .assert_eq(&folder.override_errors(&wrong));
}

const DOTTED: &str = r#"
[stage.a]
kind = "base"
[stage.mix]
kind = "mix"
[stage.mix.sources]
"v1.5" = { from = "mix0" }
[stage.mix0]
kind = "mix"
sources = {}
"#;

#[test]
fn keys_with_dots_are_quoted_in_paths() {
    let axis = "[axis.share]\nkey = \"stage.mix.sources.'v1.5'.weight\"\nvalues = [0.25, 0.5]\n";
    let (_, expansion) = load(&format!("{DOTTED}{axis}"));
    let weight = |instance: &Instance| instance.table().unwrap()["sources"]["v1.5"]["weight"].clone();
    assert_eq!(weight(instances(&expansion, "mix")[1]), json!(0.5));
    let (_, expansion) = Folder::with(DOTTED).load(&["stage.mix.sources.\"v1.5\".weight=2"]);
    assert_eq!(weight(instances(&expansion, "mix")[0]), json!(2));
}

#[test]
fn messages_show_valid_paths() {
    let axis = "[axis.share]\nkey = \"stage.mix.sources.v1.5.weight\"\nvalues = [0.25]\n";
    expect![[r#"
        error: `stage.mix.sources.v1.5.weight` does not exist, but a key with dots in its name does
          --> DIR/a.toml:12:7 `"stage.mix.sources.v1.5.weight"`
          help: write `stage.mix.sources."v1.5".weight`"#]]
    .assert_eq(&errors(&format!("{DOTTED}{axis}")));
    let wrong = [
        "stage.mix.sources.v1.5.weight=2",
        "stage.mix.sources.\"v1.5\".weight=much",
        "stage.mix.sources.\"v1.5\".form=2",
        "stage.mix.sources.\"v1.5\".from=mix1",
        "stage.mix.sources.\"v1.5=2",
    ];
    expect![[r#"
        error: `stage.mix.sources.v1.5.weight` does not exist, but a key with dots in its name does
          --> --set stage.mix.sources.v1.5.weight=2:1:1 `stage.mix.sources.v1.5.weight`
          help: write `stage.mix.sources."v1.5".weight`

        error: `stage.mix.sources."v1.5".weight`: wrong type: string "much", expected a number
          --> --set stage.mix.sources."v1.5".weight=much:1:33 `much`
          ::: DIR/a.toml:4:1 `[stage.mix]` in this stage

        error: `stage.mix.sources."v1.5"`: unknown key `form`
          --> --set stage.mix.sources."v1.5".form=2:1:1 `stage.mix.sources."v1.5".form`
          ::: DIR/a.toml:4:1 `[stage.mix]` in this stage
          help: a key of a similar name exists: `from`

        error: `stage.mix.sources."v1.5".from`: stage `mix1` is not defined
          --> --set stage.mix.sources."v1.5".from=mix1:1:31 `mix1` no stage of this name
          ::: DIR/a.toml:4:1 `[stage.mix]` in this stage
          help: a stage of a similar name exists: `mix`

        error: `stage.mix.sources."v1.5` is not a key path
          --> --set stage.mix.sources."v1.5=2:1:1 `stage.mix.sources."v1.5`
          help: write `--set stage.dpo.beta=0.2`"#]]
    .assert_eq(&Folder::with(DOTTED).override_errors(&wrong));
}

#[test]
fn variables_may_have_dots_in_their_names() {
    let text = "[vars]\n\"v1.5\" = 3\n[stage.a]\nkind = \"base\"\ndim = \"${'v1.5'}\"\n";
    for (change, dim) in [(None, 3), (Some("vars.\"v1.5\"=7"), 7)] {
        let (_, expansion) = Folder::with(text).load(change.as_slice());
        assert_eq!(expansion.instances[0].table().unwrap(), json!({ "dim": dim }));
    }
}
