//! Zipped axes, excluded points, `when` and targets.

use expect_test::expect;

use super::support::{Folder, errors_of, load, names};

const STAGES: &str = r#"
[stage.items]
kind = "mix"
sources = {}
[stage.base]
kind = "base"
[stage.mix]
kind = "mix"
sources = { plain = { from = "items" } }
[stage.sft]
kind = "sft"
model = "base"
data = "mix"
[stage.rollouts]
kind = "rollout"
model = "sft"
[stage.pairs]
kind = "pairs"
rollouts = "rollouts"
[stage.dpo]
kind = "dpo"
policy = "sft"
pairs = "pairs"
[stage.eval]
kind = "eval"
model = ["sft", "dpo"]
[axis.weight]
key = "stage.mix.sources.plain.weight"
values = [1, 2, 3]
labels = ["one", "two", "three"]
"#;

const LENGTH: &str = "[axis.length]\nkey = \"stage.pairs.truncate\"\nvalues = [70, 90, 110]\n";

fn only(text: &str, stages: &[&str]) -> String {
    let names = names(&load(text).1);
    let wanted = |line: &&str| stages.iter().any(|stage| line.split(['@', ' ']).next() == Some(stage));
    names.lines().filter(wanted).collect::<Vec<_>>().join("\n")
}

#[test]
fn zipped_axes_pair_by_index() {
    let text = format!("{STAGES}{LENGTH}[points]\nzip = [[\"weight\", \"length\"]]\n");
    expect![[r#"
        dpo@length=70,weight=one <- sft@weight=one sft@weight=one pairs@length=70,weight=one
        dpo@length=90,weight=two <- sft@weight=two sft@weight=two pairs@length=90,weight=two
        dpo@length=110,weight=three <- sft@weight=three sft@weight=three pairs@length=110,weight=three
        eval@model=sft,weight=one <- sft@weight=one
        eval@model=sft,weight=two <- sft@weight=two
        eval@model=sft,weight=three <- sft@weight=three
        eval@length=70,model=dpo,weight=one <- dpo@length=70,weight=one
        eval@length=90,model=dpo,weight=two <- dpo@length=90,weight=two
        eval@length=110,model=dpo,weight=three <- dpo@length=110,weight=three"#]]
    .assert_eq(&only(&text, &["dpo", "eval"]));
}

#[test]
fn exclude_also_drops_reading_stages() {
    let exclude = r#"exclude = ["weight=one", "weight=two,length=70", "weight=two,eval.model=sft"]"#;
    let text = format!("{STAGES}{LENGTH}[points]\n{exclude}\n");
    expect![[r#"
        sft@weight=two <- base mix@weight=two
        sft@weight=three <- base mix@weight=three
        dpo@length=90,weight=two <- sft@weight=two sft@weight=two pairs@length=90,weight=two
        dpo@length=110,weight=two <- sft@weight=two sft@weight=two pairs@length=110,weight=two
        dpo@length=70,weight=three <- sft@weight=three sft@weight=three pairs@length=70,weight=three
        dpo@length=90,weight=three <- sft@weight=three sft@weight=three pairs@length=90,weight=three
        dpo@length=110,weight=three <- sft@weight=three sft@weight=three pairs@length=110,weight=three
        eval@model=sft,weight=three <- sft@weight=three
        eval@length=90,model=dpo,weight=two <- dpo@length=90,weight=two
        eval@length=110,model=dpo,weight=two <- dpo@length=110,weight=two
        eval@length=70,model=dpo,weight=three <- dpo@length=70,weight=three
        eval@length=90,model=dpo,weight=three <- dpo@length=90,weight=three
        eval@length=110,model=dpo,weight=three <- dpo@length=110,weight=three"#]]
    .assert_eq(&only(&text, &["sft", "dpo", "eval"]));
}

#[test]
fn when_selects_the_points_of_a_stage() {
    let text = STAGES.replace("[stage.dpo]\n", "[stage.dpo]\nwhen = [\"weight=one\", \"weight=three\"]\n");
    expect![[r#"
        dpo@weight=one <- sft@weight=one sft@weight=one pairs@weight=one
        dpo@weight=three <- sft@weight=three sft@weight=three pairs@weight=three
        eval@model=sft,weight=one <- sft@weight=one
        eval@model=sft,weight=two <- sft@weight=two
        eval@model=sft,weight=three <- sft@weight=three
        eval@model=dpo,weight=one <- dpo@weight=one
        eval@model=dpo,weight=three <- dpo@weight=three"#]]
    .assert_eq(&only(&text, &["dpo", "eval"]));
}

#[test]
fn when_adds_an_axis_to_a_stage() {
    let text = STAGES.replace("[stage.base]\n", "[stage.base]\nwhen = \"weight=two\"\n");
    expect![[r#"
        base@weight=two
        sft@weight=two <- base@weight=two mix@weight=two"#]]
    .assert_eq(&only(&text, &["base", "sft"]));
}

#[test]
fn targets_bring_only_what_they_read() {
    let text = format!("targets = [\"sft\"]\n{STAGES}[stage.broken]\nkind = \"eval\"\nmodel = \"nowhere\"\n");
    expect![[r#"
        items
        base
        mix@weight=one <- items
        mix@weight=two <- items
        mix@weight=three <- items
        sft@weight=one <- base mix@weight=one
        sft@weight=two <- base mix@weight=two
        sft@weight=three <- base mix@weight=three"#]]
    .assert_eq(&names(&load(&text).1));
}

#[test]
fn extended_files_merge_in_order() {
    let folder = Folder::new();
    folder.write("base.toml", "name = \"base\"\n[stage.base]\nkind = \"base\"\ndim = 1\n");
    folder.write("wide.toml", "extends = \"base.toml\"\n[stage.base]\ndim = 2\n");
    folder.write("also.toml", "extends = \"base.toml\"\n[stage.items]\nkind = \"mix\"\nsources = {}\n");
    folder.write("a.toml", "extends = [\"wide.toml\", \"also.toml\"]\nname = \"a\"\n");
    let (experiment, expansion) = folder.load(&[]);
    // `base.toml` is extended twice but merged once, so it does not override `wide.toml`.
    assert_eq!((experiment.name.as_str(), experiment.texts.len()), ("a", 4));
    let tables = expansion.instances.iter().map(|one| (one.name.as_str(), &*one.config));
    assert_eq!(tables.collect::<Vec<_>>(), [("base", r#"{"dim":2}"#), ("items", r#"{"sources":{}}"#)]);
}

#[test]
fn wrong_points_are_reported() {
    let points = [
        "[points]\nzip = [[\"weight\", \"lenght\"]]\n",
        "[points]\nzip = [[\"weight\"]]\n",
        "[axis.two]\nkey = \"stage.dpo.beta\"\nvalues = [1, 2]\n[points]\nzip = [[\"weight\", \"two\"]]\n",
        "[points]\nexclude = [\"weight=four\"]\n",
        "[points]\nexclude = [\"eval.model=stf\"]\n",
        "[points]\nexclude = [3, \"\", \"weight\"]\n",
        "[points]\nexcept = []\n",
    ];
    expect![[r#"
        error: `points.zip.0.1`: there is no axis `lenght`
          --> DIR/a.toml:35:19 `"lenght"`
          ::: DIR/a.toml:34:1 `[points]` in this table
          help: an axis of a similar name exists: `length`

        error: `points.zip.0`: a group of zipped axes needs at least two
          --> DIR/a.toml:35:8 `["weight"]`
          ::: DIR/a.toml:34:1 `[points]` in this table

        error: `points.zip.0.1`: zipped axes need the same number of points: `weight` has 3, `two` has 2
          --> DIR/a.toml:38:19 `"two"`
          ::: DIR/a.toml:37:1 `[points]` in this table

        error: `points.exclude`: the axis `weight` has no value `four`
          --> DIR/a.toml:35:12 `"weight=four"`
          help: the values of `weight` are `one`, `two`, `three`

        error: `points.exclude`: no point is `eval.model=stf`
          --> DIR/a.toml:35:12 `"eval.model=stf"`

        error: `points.exclude`: wrong type: a number, expected a string
          --> DIR/a.toml:35:12 `3`
        error: `points.exclude`: an empty text names no point
          --> DIR/a.toml:35:15 `""`
        error: `points.exclude`: `weight` is not a selector: write `axis=value,other=value`
          --> DIR/a.toml:35:19 `"weight"`

        error: `points`: unknown key `except`
          --> DIR/a.toml:35:1 `except`
          ::: DIR/a.toml:34:1 `[points]` in this table
          help: the known keys are `zip`, `exclude`"#]]
    .assert_eq(&errors_of(points.map(|points| format!("{STAGES}{LENGTH}{points}"))));
}

#[test]
fn wrong_conditions_and_targets_are_reported() {
    let when = |when: &str| STAGES.replace("[stage.base]\n", &format!("[stage.base]\nwhen = {when}\n"));
    let targets = |targets: &str| format!("targets = {targets}\n{STAGES}");
    let texts = [when("\"weigth=two\""), when("[]"), targets("[]"), targets("[\"sfd\", \"eval\"]")];
    expect![[r#"
        error: `stage.base.when`: there is no axis `weigth`
          --> DIR/a.toml:6:8 `"weigth=two"`
          help: an axis of a similar name exists: `weight`

        error: `stage.base.when`: an empty list means that the stage never exists
          --> DIR/a.toml:6:8 `[]`

        error: `targets` names no stage
          --> DIR/a.toml:1:11 `[]`
          help: omit `targets` to run all stages

        error: `targets`: stage `sfd` is not defined
          --> DIR/a.toml:1:12 `"sfd"`
          help: a stage of a similar name exists: `sft`"#]]
    .assert_eq(&errors_of(texts));
}

#[test]
fn exclude_of_seeds_and_overlapping_excludes() {
    let exclude = r#"exclude = ["weight=one,seed=1", "weight=one", "weight=two,seed=0"]"#;
    let text = format!("{STAGES}[seeds]\nvalues = [0, 1]\nfrom = [\"mix\"]\n[points]\n{exclude}\n");
    expect![[r#"
        mix@seed=1,weight=two <- items
        mix@seed=0,weight=three <- items
        mix@seed=1,weight=three <- items
        sft@seed=1,weight=two <- base mix@seed=1,weight=two
        sft@seed=0,weight=three <- base mix@seed=0,weight=three
        sft@seed=1,weight=three <- base mix@seed=1,weight=three"#]]
    .assert_eq(&only(&text, &["mix", "sft"]));
}

#[test]
fn an_error_at_some_points_names_the_first() {
    let axis = r#"
[axis.beta]
variants.low = { "stage.dpo.beta" = 0.1 }
variants.high = { "stage.dpo.beta" = 0.5 }
variants.own = {}
"#;
    let text = STAGES.replace("policy = \"sft\"\n", "policy = \"sft\"\nbeta = -1.0\n") + axis;
    let texts = [
        text.clone(),
        text.replace("own = {}", "own = {}\nvariants.none = {}"),
        // No point is named if all points have the error, or if an axis sets the value: its place shows the axis.
        text.replace("\"stage.dpo.beta\" = 0", "\"stage.sft.lr\" = 0"),
        text.replace("0.1", "-0.1").replace("0.5", "-0.5").replace("beta = -1.0", "beta = 1.0"),
    ];
    expect![[r#"
        error: `stage.dpo.beta`: must not be negative (at `beta=own`)
          --> DIR/a.toml:23:8 `-1.0`
          ::: DIR/a.toml:20:1 `[stage.dpo]` in this stage

        error: `stage.dpo.beta`: must not be negative (at `beta=own` and 1 more point)
          --> DIR/a.toml:23:8 `-1.0`
          ::: DIR/a.toml:20:1 `[stage.dpo]` in this stage

        error: `stage.dpo.beta`: must not be negative
          --> DIR/a.toml:23:8 `-1.0`
          ::: DIR/a.toml:20:1 `[stage.dpo]` in this stage

        error: `stage.dpo.beta`: must not be negative
          --> DIR/a.toml:34:37 `-0.1`
          ::: DIR/a.toml:20:1 `[stage.dpo]` in this stage
        error: `stage.dpo.beta`: must not be negative
          --> DIR/a.toml:35:38 `-0.5`
          ::: DIR/a.toml:20:1 `[stage.dpo]` in this stage"#]]
    .assert_eq(&errors_of(texts));
}
