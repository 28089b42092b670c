//! `extends`, variables and overrides.

use expect_test::expect;
use serde_json::json;

use super::support::{Folder, errors, load, names};

#[test]
fn extends_merges_key_by_key() {
    let folder = Folder::new();
    let base = "about = \"below\"\n[vars]\nwidth = 64\n[stage.base]\nkind = \"base\"\ndim = \"${width}\"\n";
    folder.write("base.toml", base);
    folder.write("sub.toml", "extends = \"base.toml\"\n[stage.eval]\nkind = \"eval\"\nmodel = [\"base\", \"base\"]\n");
    let top = "extends = \"sub.toml\"\nname = \"top\"\n[vars]\nwidth = 128\n[stage.eval]\nmodel = [\"base\"]\n";
    folder.write("a.toml", top);
    let (experiment, expansion) = folder.load(&[]);
    assert_eq!((experiment.name.as_str(), experiment.about.as_str()), ("top", "below"));
    assert_eq!(names(&expansion), "base\neval@model=base <- base");
    assert_eq!(expansion.instances[0].table().unwrap(), json!({ "dim": 128 }));
    let place = |key: &str| folder.hide(&experiment.sources.location(&expansion.instances[0].spans[key]));
    assert_eq!(place("dim"), "DIR/base.toml:6:7");
    assert_eq!(place(""), "DIR/base.toml:4:1");
}

#[test]
fn circular_extends_is_reported_as_a_path() {
    let folder = Folder::with("extends = \"b.toml\"\n");
    folder.write("b.toml", "name = \"b\"\nextends = \"a.toml\"\n");
    expect![[r#"
        error: files extend each other in a circle: `DIR/a.toml -> DIR/b.toml -> DIR/a.toml`
          --> DIR/b.toml:2:11 `"a.toml"`
          ::: DIR/a.toml:1:11 `"b.toml"`"#]]
    .assert_eq(&folder.errors(&[]));
}

#[test]
fn an_error_points_into_the_extended_file() {
    let folder = Folder::with("extends = \"b.toml\"\n[stage.base]\ndmi = 1\n");
    folder.write("b.toml", "[stage.base]\nkind = \"base\"\ndim = \"wide\"\n");
    expect![[r#"
        error: `stage.base`: unknown key `dmi`
          --> DIR/a.toml:3:1 `dmi`
          ::: DIR/a.toml:2:1 `[stage.base]` in this stage
          help: a key of a similar name exists: `dim`
        error: `stage.base.dim`: wrong type: string "wide", expected a whole number from 0
          --> DIR/b.toml:3:7 `"wide"`
          ::: DIR/a.toml:2:1 `[stage.base]` in this stage"#]]
    .assert_eq(&folder.errors(&[]));
    expect![[r#"
        error: cannot read `DIR/nowhere.toml`: No such file or directory (os error 2)
          --> DIR/a.toml:1:11 `"nowhere.toml"`"#]]
    .assert_eq(&errors("extends = \"nowhere.toml\"\n"));
}

#[test]
fn variables_keep_their_type() {
    let text = r#"
[vars]
size = 64
folder = "data"
train = "${folder}/train-${size}"
[stage.base]
kind = "base"
dim = "${size}"
[stage.eval]
kind = "eval"
model = "base"
prompt = "${train} costs $${size} and $5"
"#;
    let (_, expansion) = load(text);
    assert_eq!(expansion.instances[0].table().unwrap(), json!({ "dim": 64 }));
    assert_eq!(expansion.instances[1].table().unwrap()["prompt"], "data/train-64 costs ${size} and $5");
}

#[test]
fn wrong_variables_are_reported() {
    let text = r#"
about = "an ${unclosed"
[vars]
size = [1]
a = "${b}"
b = "${a}"
c = "${b}"
[stage.base]
kind = "base"
dim = "${sise}"
[stage.eval]
kind = "eval"
model = "${c}"
prompt = "is ${size} and ${flower}"
"#;
    expect![[r#"
        error: a `${` is not closed
          --> DIR/a.toml:2:9 `"an ${unclosed"`
          help: close it with `}`, or write `$${` for the characters themselves
        error: variables use each other in a circle: `a -> b -> a`
          --> DIR/a.toml:6:5 `"${a}"`
        error: the variable `sise` is not defined
          --> DIR/a.toml:10:7 `"${sise}"`
          help: a variable of a similar name exists: `size`
        error: the variable `size` is a list, which cannot be part of a string
          --> DIR/a.toml:14:10 `"is ${size} and ${flower}"`"#]]
    .assert_eq(&errors(text));
}

#[test]
fn exponential_variables_are_refused() {
    use std::fmt::Write;
    let mut text = "[stage.base]\nkind = \"base\"\n[vars]\nv0 = \"xxxxxxxxxxxxxxxx\"\n".to_string();
    for index in 1..16 {
        let before = format!("${{v{}}}", index - 1);
        writeln!(text, "v{index} = \"{}\"", before.repeat(10)).unwrap();
    }
    let messages = errors(&text);
    assert!(messages.starts_with("error: the values of the variables are too large"), "{messages}");
}

#[test]
fn an_override_wins_and_has_its_own_span() {
    let folder = Folder::with("[stage.base]\nkind = \"base\"\ndim = 1\n");
    let (experiment, expansion) = folder.load(&["stage.base.dim=7", "name=seven"]);
    assert_eq!(experiment.name, "seven");
    assert_eq!(expansion.instances[0].table().unwrap(), json!({ "dim": 7 }));
    assert_eq!(experiment.sources.location(&expansion.instances[0].spans["dim"]), "--set stage.base.dim=7:1:16");
}

#[test]
fn wrong_overrides_are_reported() {
    let folder = Folder::with("[vars]\nsize = 1\n[stage.base]\nkind = \"base\"\ndim = \"${size}\"\n");
    let overrides = [
        "stage.bsae.dim=1",
        "stage.base.dmi=1",
        "stage.base.dim.x=1",
        "stage.base=3",
        "stage=3",
        "vars.sise=2",
        "beta",
        "stage..dim=2",
        "sttings.jobs=1",
        "vars.size=many",
        "extends=b.toml",
    ];
    expect![[r#"
        error: there is no `stage.bsae` to override
          --> --set stage.bsae.dim=1:1:1 `stage.bsae.dim`
          help: a key of a similar name exists: `stage.base`

        error: `stage.base`: unknown key `dmi`
          --> --set stage.base.dmi=1:1:1 `stage.base.dmi`
          ::: DIR/a.toml:3:1 `[stage.base]` in this stage
          help: a key of a similar name exists: `dim`

        error: `stage.base.dim` is not a table, so it has no key to override
          --> --set stage.base.dim.x=1:1:1 `stage.base.dim.x`

        error: `stage.base` is a whole table: name a key in it
          --> --set stage.base=3:1:1 `stage.base`

        error: `stage` is a whole table: name a key in it
          --> --set stage=3:1:1 `stage`

        error: there is no `vars.sise` to override
          --> --set vars.sise=2:1:1 `vars.sise`
          help: a key of a similar name exists: `vars.size`

        error: an override needs a key and a value
          --> --set beta:1:1 `beta`
          help: write `--set stage.dpo.beta=0.2`

        error: `stage..dim` is not a key path
          --> --set stage..dim=2:1:1 `stage..dim`
          help: write `--set stage.dpo.beta=0.2`

        error: unknown key `sttings`
          --> --set sttings.jobs=1:1:1 `sttings.jobs`
          help: a key of a similar name exists: `settings`

        error: `stage.base.dim`: wrong type: string "many", expected a whole number from 0
          --> DIR/a.toml:5:7 `"${size}"`
          ::: DIR/a.toml:3:1 `[stage.base]` in this stage

        error: `extends` cannot be overridden
          --> --set extends=b.toml:1:1 `extends`"#]]
    .assert_eq(&folder.override_errors(&overrides));
}

#[test]
fn too_many_jobs_and_slots_are_refused() {
    let text = "[stage.base]\nkind = \"base\"\n[settings]\njobs = 5000\npools = { gpu = 4611686018427387904 }\n";
    let messages = errors(text);
    assert!(messages.contains("`settings.jobs`: at most 4096 jobs are allowed, not 5000"), "{messages}");
    let pool = "`settings.pools.gpu`: a pool has at most 4096 slots, not 4611686018427387904";
    assert!(messages.contains(pool) && messages.contains("DIR/a.toml:5:17"), "{messages}");
}
