//! Axes, variants, lists that fan out, and pins.

use expect_test::expect;

use super::support::{load, names};

const CHAIN: &str = r#"
[stage.base]
kind = "base"
[stage.format]
kind = "mix"
sources = { plain = { from = "items" } }
[stage.items]
kind = "mix"
sources = {}
[stage.sft]
kind = "sft"
model = "base"
data = "format"
"#;

pub(super) fn chain(more: &str) -> String {
    format!("{CHAIN}{more}")
}

#[test]
fn labels_default_to_the_text_of_values() {
    let text = r#"
[stage.base]
kind = "base"
[stage.rollout]
kind = "rollout"
model = "base"
[stage.pairs]
kind = "pairs"
rollouts = "rollout"
[axis.truncate]
key = "stage.pairs.truncate"
values = [{ words = 70 }, [0.25, 0.85], "none", true, "a, long: text/with * all that no name may have, and more"]
[axis.dim]
key = "stage.base.dim"
values = [1, 2]
labels = ["small", "large"]
"#;
    expect![[r#"
        base@dim=small
        base@dim=large
        rollout@dim=small <- base@dim=small
        rollout@dim=large <- base@dim=large
        pairs@dim=small,truncate=words=70 <- rollout@dim=small
        pairs@dim=large,truncate=words=70 <- rollout@dim=large
        pairs@dim=small,truncate=0.25+0.85 <- rollout@dim=small
        pairs@dim=large,truncate=0.25+0.85 <- rollout@dim=large
        pairs@dim=small,truncate=none <- rollout@dim=small
        pairs@dim=large,truncate=none <- rollout@dim=large
        pairs@dim=small,truncate=true <- rollout@dim=small
        pairs@dim=large,truncate=true <- rollout@dim=large
        pairs@dim=small,truncate=a--long--text-with---all-that-no-name-43a4acd872 <- rollout@dim=small
        pairs@dim=large,truncate=a--long--text-with---all-that-no-name-43a4acd872 <- rollout@dim=large"#]]
    .assert_eq(&names(&load(text).1));
}

#[test]
fn equal_points_share_one_instance() {
    let text = chain(
        r#"
[axis.lr]
key = "stage.sft.lr"
values = [0.5, 1, 1.0]
labels = ["half", "one", "also-one"]
[seeds]
values = [3, 4]
from = ["base"]
"#,
    );
    let (_, expansion) = load(&text);
    expect![[r#"
        base@seed=3
        base@seed=4
        items
        format <- items
        sft@lr=half,seed=3 <- base@seed=3 format
        sft@lr=half,seed=4 <- base@seed=4 format
        sft@lr=one,seed=3 <- base@seed=3 format
        sft@lr=one,seed=4 <- base@seed=4 format
        sft@lr=also-one,seed=3 = sft@lr=one,seed=3
        sft@lr=also-one,seed=4 = sft@lr=one,seed=4"#]]
    .assert_eq(&names(&expansion));
    assert_eq!(expansion.get(expansion.find("sft@lr=also-one,seed=4").unwrap()).seed, 4);
    assert_eq!(expansion.points_of("sft").count(), 6);
}

#[test]
fn variants_set_and_remove_keys() {
    let text = chain(
        r#"
[axis.data]
variants.all = {}
variants.more = { "stage.format.sources.extra.from" = "items", "stage.format.sources.extra.weight" = 2 }
variants.none = { "stage.format.sources.plain" = "remove", "stage.sft.lr" = 0.5 }
"#,
    );
    let (experiment, expansion) = load(&text);
    expect![[r#"
        base
        items
        format@data=all <- items
        format@data=more <- items items
        sft@data=all <- base format@data=all
        sft@data=more <- base format@data=more
        sft@data=none <- base items
        format@data=none = items"#]]
    .assert_eq(&names(&expansion));
    let more = expansion.get(expansion.find("format@data=more").unwrap());
    assert_eq!(more.table().unwrap()["sources"]["extra"], serde_json::json!({ "from": "items", "weight": 2 }));
    let place = experiment.sources.location(&more.spans["sources.extra.weight"]);
    assert!(place.ends_with("a.toml:17:102"), "{place}");
}

#[test]
fn two_lists_that_fan_out_have_distinct_names() {
    let text = r#"
[stage.base]
kind = "base"
[stage.format]
kind = "mix"
sources = {}
[stage.first]
kind = "eval"
model = ["base"]
[stage.sft]
kind = "sft"
model = "base"
data = "format"
[stage.eval]
kind = "eval"
model = ["base", "sft@lr=1", "sft@lr=2"]
prompt = ["direct", { name = "mine", text = "why?" }]
[axis.lr]
key = "stage.sft.lr"
values = [1, 2, 3]
"#;
    expect![[r#"
        base
        format
        first@model=base <- base
        sft@lr=1 <- base format
        sft@lr=2 <- base format
        sft@lr=3 <- base format
        eval@model=base,prompt=direct <- base
        eval@model=base,prompt=mine <- base
        eval@model=sft@lr=1,prompt=direct <- sft@lr=1
        eval@model=sft@lr=1,prompt=mine <- sft@lr=1
        eval@model=sft@lr=2,prompt=direct <- sft@lr=2
        eval@model=sft@lr=2,prompt=mine <- sft@lr=2"#]]
    .assert_eq(&names(&load(text).1));
}
