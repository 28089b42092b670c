//! Axes with computed points: `simplex`, `random`, `leave_one_out`, `add_one` and `subsets`.

use expect_test::expect;

use super::support::{errors, errors_of, instances, load, names};

const MIX: &str = r#"
[stage.items]
kind = "mix"
sources = {}
[stage.mix]
kind = "mix"
[stage.mix.sources]
cot    = { from = "items" }
direct = { from = "items" }
general = { from = "items" }
[stage.base]
kind = "base"
"#;

fn mix(more: &str) -> String {
    format!("{MIX}{more}")
}

/// The tables of all instances of a stage, one per line.
fn tables(text: &str, stage: &str) -> String {
    let expansion = load(text).1;
    let tables = instances(&expansion, stage).into_iter().map(|one| format!("{} {}", one.name, &*one.config));
    tables.collect::<Vec<_>>().join("\n")
}

#[test]
fn simplex_points_by_step() {
    let text = mix(r#"
[axis.ratio]
simplex = ["stage.mix.sources.cot.weight", "stage.mix.sources.direct.weight"]
step = 0.5
"#);
    expect![[r#"
        mix@ratio=1-0 {"sources":{"cot":{"from":"items","weight":1.0},"direct":{"from":"items","weight":0.0},"general":{"from":"items"}}}
        mix@ratio=0.5-0.5 {"sources":{"cot":{"from":"items","weight":0.5},"direct":{"from":"items","weight":0.5},"general":{"from":"items"}}}
        mix@ratio=0-1 {"sources":{"cot":{"from":"items","weight":0.0},"direct":{"from":"items","weight":1.0},"general":{"from":"items"}}}"#]].assert_eq(&tables(&text, "mix"));
    let (experiment, _) = load(&text);
    assert_eq!(experiment.simplexes["ratio"].parts, ["cot", "direct"]);
    assert_eq!(experiment.simplexes["ratio"].shares, [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]);
}

#[test]
fn simplex_points_by_list() {
    let text = mix(r#"
[axis.ratio]
simplex = ["stage.mix.sources.cot.weight", "stage.mix.sources.direct.weight", "stage.mix.sources.general.weight"]
values = [[0.5, 0.25, 0.25], [0, 1, 0]]
labels = ["half", "direct"]
"#);
    expect![[r#"
        mix@ratio=half {"sources":{"cot":{"from":"items","weight":0.5},"direct":{"from":"items","weight":0.25},"general":{"from":"items","weight":0.25}}}
        mix@ratio=direct {"sources":{"cot":{"from":"items","weight":0.0},"direct":{"from":"items","weight":1.0},"general":{"from":"items","weight":0.0}}}"#]].assert_eq(&tables(&text, "mix"));
}

#[test]
fn more_random_points_keep_the_first_ones() {
    let search = |points: usize| {
        mix(&format!(
            r#"
[axis.search]
points = {points}
seed = 7
random = [
  {{ key = "stage.base.dim", uniform = [8, 64] }},
  {{ key = "stage.mix.sources.general.weight", log_uniform = [1e-3, 1.0] }},
  {{ keys = ["stage.mix.sources.cot.weight", "stage.mix.sources.direct.weight"], dirichlet = true }},
]
"#
        ))
    };
    expect![[r#"
        mix@search=1 {"sources":{"cot":{"from":"items","weight":0.3634},"direct":{"from":"items","weight":0.6366},"general":{"from":"items","weight":0.009631}}}
        mix@search=2 {"sources":{"cot":{"from":"items","weight":0.2332},"direct":{"from":"items","weight":0.7668},"general":{"from":"items","weight":0.002736}}}"#]].assert_eq(&tables(&search(2), "mix"));
    expect![[r#"
        base@search=1 {"dim":22}
        base@search=2 {"dim":64}"#]]
    .assert_eq(&tables(&search(2), "base"));
    assert!(tables(&search(3), "mix").starts_with(&tables(&search(2), "mix")));
}

#[test]
fn random_choice_may_remove_a_key() {
    let text = mix(r#"
[axis.search]
points = 4
random = [{ key = "stage.mix.sources.general", choice = ["remove", { from = "items", weight = 2.0 }] }]
"#);
    expect![[r#"
        mix@search=1 {"sources":{"cot":{"from":"items"},"direct":{"from":"items"}}}
        mix@search=3 {"sources":{"cot":{"from":"items"},"direct":{"from":"items"},"general":{"from":"items","weight":2.0}}}"#]].assert_eq(&tables(&text, "mix"));
}

#[test]
fn axes_keep_subsets_of_entries() {
    let axes = [
        "[axis.without]\nleave_one_out = \"stage.mix.sources\"\nof = [\"cot\", \"direct\"]\n",
        "[axis.with]\nadd_one = \"stage.mix.sources\"\nof = [\"cot\", \"direct\"]\n",
        "[axis.sources]\nsubsets = \"stage.mix.sources\"\n\
         sets = { neither = [], cot = [\"cot\"], both = [\"cot\", \"direct\"] }\n",
    ];
    expect![[r#"
        mix@without=all {"sources":{"cot":{"from":"items"},"direct":{"from":"items"},"general":{"from":"items"}}}
        mix@without=no-cot {"sources":{"direct":{"from":"items"},"general":{"from":"items"}}}
        mix@without=no-direct {"sources":{"cot":{"from":"items"},"general":{"from":"items"}}}
        mix@with=none {"sources":{"general":{"from":"items"}}}
        mix@with=cot {"sources":{"cot":{"from":"items"},"general":{"from":"items"}}}
        mix@with=direct {"sources":{"direct":{"from":"items"},"general":{"from":"items"}}}
        mix@sources=neither {"sources":{"general":{"from":"items"}}}
        mix@sources=cot {"sources":{"cot":{"from":"items"},"general":{"from":"items"}}}
        mix@sources=both {"sources":{"cot":{"from":"items"},"direct":{"from":"items"},"general":{"from":"items"}}}"#]]
    .assert_eq(&axes.map(|axis| tables(&mix(axis), "mix")).join("\n"));
}

#[test]
fn equal_points_of_an_axis_share_an_instance() {
    let text = mix(r#"
[axis.sources]
subsets = "stage.mix.sources"
sets.one = ["cot"]
sets.same = ["cot"]
sets.other = ["direct"]
"#);
    let (_, expansion) = load(&text);
    expect![[r#"
        items
        mix@sources=one <- items items
        mix@sources=other <- items items
        base
        mix@sources=same = mix@sources=one"#]]
    .assert_eq(&names(&expansion));
    assert_eq!(expansion.aliases.len(), 1);
}

#[test]
fn wrong_forms_of_axes_are_reported() {
    let keys = "[\"stage.mix.sources.cot.weight\", \"stage.mix.sources.direct.weight\"]";
    let axes = [
        "",
        "key = \"stage.base.dim\"\nadd_one = \"stage.mix.sources\"\n",
        "key = \"stage.base.dim\"\nvalues = [1]\nstep = 0.5\n",
        "simplex = [\"stage.mix.sources.cot.weight\"]\nstep = 0.5\n",
        &format!("simplex = {keys}\nstep = 0.3\n"),
        &format!("simplex = {keys}\nvalues = [[0.5, 0.6]]\n"),
        "random = [{ key = \"stage.base.dim\", uniform = [1, 2] }]\n",
        "points = 2\nrandom = [{ key = \"stage.base.dim\" }]\n",
        "points = 2\nrandom = [{ key = \"stage.base.dim\", log_uniform = [0, 1] }]\n",
        "leave_one_out = \"stage.mix.sources\"\nof = [\"cott\"]\n",
        "leave_one_out = \"stage.mix.nothing\"\n",
        "subsets = \"stage.mix.sources\"\nsets.x = [\"direkt\"]\n",
    ];
    expect![[r#"
        error: `axis.a`: the axis has no points
          --> DIR/a.toml:13:1 `[axis.a]`
          help: the forms of an axis are `key` `values` `labels`; `variants`; `simplex` `step` `values` `labels`; `random` `points` `seed`; `leave_one_out` `of`; `add_one` `of`; `subsets` `sets`

        error: `axis.a`: `key` and `add_one` cannot both define the points
          --> DIR/a.toml:13:1 `[axis.a]`
          help: the forms of an axis are `key` `values` `labels`; `variants`; `simplex` `step` `values` `labels`; `random` `points` `seed`; `leave_one_out` `of`; `add_one` `of`; `subsets` `sets`

        error: `axis.a`: `step` cannot be used with `key`
          --> DIR/a.toml:16:1 `step`
          ::: DIR/a.toml:13:1 `[axis.a]` in this axis
          help: the forms of an axis are `key` `values` `labels`; `variants`; `simplex` `step` `values` `labels`; `random` `points` `seed`; `leave_one_out` `of`; `add_one` `of`; `subsets` `sets`

        error: `axis.a.simplex`: `simplex` needs 2 to 6 keys, not 1
          --> DIR/a.toml:14:11 `["stage.mix.sources.cot.weight"]`
          ::: DIR/a.toml:13:1 `[axis.a]` in this axis

        error: `axis.a.step`: 1 is not a multiple of the step 0.3
          --> DIR/a.toml:15:8 `0.3`
          ::: DIR/a.toml:13:1 `[axis.a]` in this axis

        error: `axis.a.values.0`: a point must be 2 numbers of at least 0 that add up to 1
          --> DIR/a.toml:15:11 `[0.5, 0.6]`
          ::: DIR/a.toml:13:1 `[axis.a]` in this axis

        error: `axis.a.points`: `random` needs the number of `points`
          --> DIR/a.toml:13:1 `[axis.a]`

        error: `axis.a.random.0`: write one of `uniform`, `log_uniform`, `choice` and `dirichlet = true`
          --> DIR/a.toml:15:11 `{ key = "stage.base.dim" }`
          ::: DIR/a.toml:13:1 `[axis.a]` in this axis

        error: `axis.a.random.0`: `log_uniform` needs bounds above 0, the lower one first
          --> DIR/a.toml:15:11 `{ key = "stage.base.dim", log_uniform = [0, 1] }`
          ::: DIR/a.toml:13:1 `[axis.a]` in this axis

        error: `axis.a.of.0`: `stage.mix.sources` has no entry `cott`
          --> DIR/a.toml:15:7 `"cott"`
          ::: DIR/a.toml:13:1 `[axis.a]` in this axis
          help: an entry of a similar name exists: `cot`

        error: `axis.a.leave_one_out`: `stage.mix.nothing` is not a table
          --> DIR/a.toml:14:17 `"stage.mix.nothing"`
          ::: DIR/a.toml:13:1 `[axis.a]` in this axis

        error: `axis.a.sets.x.0`: `stage.mix.sources` has no entry `direkt`
          --> DIR/a.toml:15:11 `"direkt"`
          ::: DIR/a.toml:13:1 `[axis.a]` in this axis
          help: an entry of a similar name exists: `direct`"#]].assert_eq(&errors_of(axes.map(|axis| format!("{MIX}[axis.a]\n{axis}"))));
}

#[test]
fn extreme_numbers_in_axes_are_refused() {
    let wrong = |axis: &str| errors(&mix(axis)).lines().next().unwrap_or_default().to_string();
    let keys = "[\"stage.mix.sources.cot.weight\", \"stage.mix.sources.direct.weight\"]";
    let step = |step: &str| wrong(&format!("[axis.a]\nsimplex = {keys}\nstep = {step}\n"));
    let draw = |draw: &str| wrong(&format!("[axis.a]\npoints = 2\nrandom = [{draw}]\n"));
    let messages = [
        step("1e-9"),
        step("1e-18"),
        step("-0.5"),
        draw("{ key = \"stage.base.dim\", uniform = [9007199254740993, 9007199254740992] }"),
        draw("{ key = \"stage.base.dim\", uniform = [1, 2] }, { key = \"stage.base.dim\", uniform = [3, 4] }"),
        draw(&format!("{{ key = \"stage.base.dim\", keys = {keys}, dirichlet = true }}")),
        draw("{ keys = [\"stage.base.dim\", \"stage.base.dim\"], dirichlet = true }"),
    ];
    expect![[r#"
        error: `axis.a.step`: the step 0.000000001 makes more than 250000 points
        error: `axis.a.step`: the step 0.000000000000000001 makes more than 250000 points
        error: `axis.a.step`: 1 is not a multiple of the step -0.5
        error: `axis.a.random.0`: the range is empty: 9007199254740993 is more than 9007199254740992
        error: `axis.a.random.1`: `stage.base.dim` is sampled twice
        error: `axis.a.random.0`: `key` and `keys` cannot be used together
        error: `axis.a.random.0`: `stage.base.dim` is sampled twice"#]]
    .assert_eq(&messages.join("\n"));
}

#[test]
fn entry_names_must_be_labels() {
    let texts = ["none", "a,b"].map(|entry| {
        let text = MIX.replace("general = ", &format!("\"{entry}\" = "));
        format!("{text}[axis.a]\nadd_one = \"stage.mix.sources\"\n")
    });
    expect![[r#"
        error: `axis.a.add_one`: two points have the label `none`
          --> DIR/a.toml:14:11 `"stage.mix.sources"`
          ::: DIR/a.toml:13:1 `[axis.a]` in this axis

        error: `axis.a.add_one`: `a,b` is not a label: no spaces and none of `, : / \ *`, 48 bytes at most
          --> DIR/a.toml:14:11 `"stage.mix.sources"`
          ::: DIR/a.toml:13:1 `[axis.a]` in this axis"#]]
    .assert_eq(&errors_of(texts));
}

#[test]
fn random_values_stay_within_bounds() {
    let random = r#"[{ key = "stage.mix.sources.cot.weight", uniform = [0.49996, 0.49999] }]"#;
    let text = mix(&format!("[axis.a]\npoints = 20\nrandom = {random}\n"));
    assert!(!tables(&text, "mix").contains("0.5}"));
}
