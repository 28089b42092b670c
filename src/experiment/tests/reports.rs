//! Report specifications and messages about wrong ones.

use expect_test::expect;

use super::expansion::STUDY;
use super::support::{errors, load};
use crate::{Contrast, GroupBy, ReportSpec, Selector};

fn render(report: &ReportSpec) -> String {
    let list = |selectors: &[Selector]| selectors.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | ");
    let group_by = |by: &GroupBy| match by {
        GroupBy::Axes(axes) => format!("axes {axes:?}"),
        GroupBy::Selectors(selectors) => format!("selectors {}", list(selectors)),
    };
    let ReportSpec {
        name,
        title,
        stage,
        rows,
        columns,
        baseline,
        metric,
        contrasts,
        labels,
        published,
        select,
        spans: _,
    } = report;
    assert_eq!((published, select), (&None, &None));
    let mut text = format!("{name} \"{title}\": {metric} of {stage}\n  rows: {}\n", group_by(rows));
    text.push_str(&format!(
        "  columns: {}\n  baseline: {:?}\n",
        group_by(columns),
        baseline.as_ref().map(ToString::to_string)
    ));
    for Contrast { name, about, plus, minus, sum, margin } in contrasts {
        text.push_str(&format!("  contrast {name} \"{about}\": {} minus {}", list(plus), list(minus)));
        text.push_str(&format!(
            "{}{}\n",
            if *sum { ", sums" } else { "" },
            margin.map_or(String::new(), |margin| format!(", margin {margin}"))
        ));
    }
    for (selector, label) in labels {
        text.push_str(&format!("  label {selector}: {label}\n"));
    }
    text
}

#[test]
fn a_report_is_parsed_and_normalized() {
    let report = r#"
[report.main]
title = "Does it think?"
rows = ["eval.model", "mix"]
columns = ["eval.prompt", "dataset"]
baseline = "sft, mix=direct"
[[report.main.contrasts]]
name = "cot"
plus = ["model=sft,mix=cot,prompt=cot", "model=dpo"]
minus = ["model=sft,mix=cot,prompt=direct,dataset=chart"]
about = "what thinking adds"
[report.main.labels]
"model=sft,mix=both" = "④ CoT + direct"
"eval.prompt=cot" = "with rationale"
dpo = "⑥ DPO"
[report.form]
metric = "compliance"
rows = ["dpo", "model=sft,mix=both"]
[report.plain]
columns = ["prompt"]
"#;
    let (experiment, _) = load(&format!("{STUDY}{report}"));
    let reports: Vec<String> = experiment.reports.iter().map(render).collect();
    expect![[r#"
        main "Does it think?": accuracy of eval
          rows: axes ["model", "mix"]
          columns: axes ["prompt", "dataset"]
          baseline: Some("mix=direct,model=sft")
          contrast cot "what thinking adds": mix=cot,model=sft,prompt=cot | model=dpo minus dataset=chart,mix=cot,model=sft,prompt=direct
          label mix=both,model=sft: ④ CoT + direct
          label model=dpo: ⑥ DPO
          label prompt=cot: with rationale

        form "form": format compliance of eval
          rows: selectors model=dpo | mix=both,model=sft
          columns: axes []
          baseline: None

        plain "plain": accuracy of eval
          rows: axes ["mix", "model"]
          columns: axes ["prompt"]
          baseline: None
    "#]].assert_eq(&reports.join("\n"));
}

#[test]
fn wrong_reports_are_reported() {
    let report = r#"
[report.main]
stage = "sft"
[report.second]
rows = ["model", "mxi", "seed", "prompt", "model"]
columns = ["prompt"]
baseline = "model=stf,mix=direct"
metric = "speed"
[report.third]
baseline = "model=dpo,mix=cot"
contrasts = [{ name = "a", plus = [], minus = ["prompt=think", "cot", "think"] }]
labels = { "model=sft,model=dpo" = "x", dpe = "y" }
[report.fourth]
rows = ["model", "mxi", "seed", "prompt", "model"]
columns = ["prompt"]
baseline = "model=stf,mix=direct"
[report.fifth]
stage = "evla"
"#;
    expect![[r#"
        error: `report.main.stage`: `sft` gives no scores
          --> DIR/a.toml:58:9 `"sft"`
          ::: DIR/a.toml:57:1 `[report.main]` in this report
          help: the stages that give scores are `eval`
        error: `report.second.metric`: unknown value `speed`
          --> DIR/a.toml:63:10 `"speed"`
          ::: DIR/a.toml:59:1 `[report.second]` in this report
          help: the known values are `accuracy`, `compliance`, `readable`, `accuracy-given-compliance`, `reading-errors`, `arithmetic-errors`, `form-errors`
        error: `report.third.baseline`: `eval` has no point `mix=cot,model=dpo`
          --> DIR/a.toml:65:12 `"model=dpo,mix=cot"`
          ::: DIR/a.toml:64:1 `[report.third]` in this report
          help: each value exists, but not together
        error: `report.third.contrasts.0.plus`: a contrast needs at least one selector on each side
          --> DIR/a.toml:66:35 `[]`
          ::: DIR/a.toml:64:1 `[report.third]` in this report
        error: `report.third.contrasts.0.minus.0`: `eval` has no point `prompt=think`
          --> DIR/a.toml:66:48 `"prompt=think"`
          ::: DIR/a.toml:64:1 `[report.third]` in this report
          help: the values of `prompt` are `direct`, `cot`
        error: `report.third.contrasts.0.minus.1`: `cot` is a value of several axes
          --> DIR/a.toml:66:64 `"cot"`
          ::: DIR/a.toml:64:1 `[report.third]` in this report
          help: write `mix=cot` or `prompt=cot`
        error: `report.third.contrasts.0.minus.2`: `eval` has no point `think`
          --> DIR/a.toml:66:71 `"think"`
          ::: DIR/a.toml:64:1 `[report.third]` in this report
          help: write a selector as `axis=value,other=value`
        error: `report.third.labels`: `model=sft,model=dpo` names `model` twice
          --> DIR/a.toml:67:12 `"model=sft,model=dpo"`
          ::: DIR/a.toml:64:1 `[report.third]` in this report
        error: `report.third.labels`: `eval` has no point `dpe`
          --> DIR/a.toml:67:41 `dpe`
          ::: DIR/a.toml:64:1 `[report.third]` in this report
          help: a value of a similar name exists: `dpo`
        error: `report.fourth.rows.1`: `eval` does not vary with `mxi`
          --> DIR/a.toml:69:18 `"mxi"`
          ::: DIR/a.toml:68:1 `[report.fourth]` in this report
          help: an axis of a similar name exists: `mix`
        error: `report.fourth.rows.2`: seeds are pooled in every cell
          --> DIR/a.toml:69:25 `"seed"`
          ::: DIR/a.toml:68:1 `[report.fourth]` in this report
          help: leave it out: the interval of a cell comes from its seeds
        error: `report.fourth.rows.4`: `model` is named twice
          --> DIR/a.toml:69:43 `"model"`
          ::: DIR/a.toml:68:1 `[report.fourth]` in this report
        error: `report.fourth.columns`: `prompt` cannot make both rows and columns
          --> DIR/a.toml:70:11 `["prompt"]`
          ::: DIR/a.toml:68:1 `[report.fourth]` in this report
        error: `report.fourth.baseline`: `eval` has no point `model=stf`
          --> DIR/a.toml:71:12 `"model=stf,mix=direct"`
          ::: DIR/a.toml:68:1 `[report.fourth]` in this report
          help: a value of a similar name exists: `model=sft`
        error: `report.fifth.stage`: stage `evla` is not defined
          --> DIR/a.toml:73:9 `"evla"`
          ::: DIR/a.toml:72:1 `[report.fifth]` in this report
          help: a stage of a similar name exists: `eval`"#]]
    .assert_eq(&errors(&format!("{STUDY}{report}")));
}

#[test]
fn stage_is_required_if_several_give_scores() {
    let more = "[stage.more]\nkind = \"eval\"\nmodel = \"base\"\n[report.main]\n";
    expect![[r#"
        error: `report.main`: the key `stage` is missing
          --> DIR/a.toml:59:1 `[report.main]`
          help: the stages that give scores are `eval`, `more`"#]]
    .assert_eq(&errors(&format!("{STUDY}{more}")));
}

#[test]
fn the_examples_in_the_docs_are_valid() {
    let reference = include_str!("../../../docs/experiment.md");
    let blocks: Vec<&str> =
        reference.split("```").skip(1).step_by(2).filter_map(|b| b.strip_prefix("toml\n")).collect();
    assert!(blocks.len() > 8);
    for block in &blocks {
        let (_, errors) = toml::de::DeTable::parse_recoverable(block);
        assert!(errors.is_empty(), "{block}\n{errors:?}");
    }
    let with = |part: &str| {
        let block = blocks.iter().find(|block| block.contains(part)).unwrap();
        load(&format!("{STUDY}{block}")).0
    };
    assert_eq!(with("[report.main]").reports[0].contrasts.len(), 1);
    assert_eq!(with("[settings]").settings.pools["teacher"], 8);
    let (truncate, _) = with("[axis.truncate]").axes.into_iter().find(|(name, _)| name == "truncate").unwrap();
    assert_eq!(truncate, "truncate");
}

#[test]
fn an_ambiguous_baseline_is_refused() {
    let report = r#"
[report.rows]
rows = ["model", "mix"]
columns = ["prompt"]
baseline = "model=sft"
[report.mean]
rows = ["model"]
columns = ["prompt"]
baseline = "prompt=direct"
[report.sets]
rows = ["model", "dataset"]
baseline = "model=sft"
[report.lines]
rows = ["model=sft,mix=cot", "model=sft,mix=both"]
baseline = "model=sft"
[report.one]
rows = ["model", "mix"]
columns = ["prompt"]
baseline = "model=sft,mix=both"
[report.held]
rows = ["model"]
baseline = "model=sft,mix=both"
[report.outside]
rows = ["model=dpo", "model=rft"]
baseline = "model=sft"
[report.columns]
rows = ["dataset"]
columns = ["model"]
baseline = "model=dpo"
"#;
    expect![[r#"
        error: `report.rows.baseline`: the baseline `model=sft` matches 3 rows
          --> DIR/a.toml:60:12 `"model=sft"`
          ::: DIR/a.toml:57:1 `[report.rows]` in this report
          help: name one of `mix=cot,model=sft`, `mix=direct,model=sft`, `mix=both,model=sft`
        error: `report.mean.baseline`: the baseline `prompt=direct` averages evaluations of 3 rows
          --> DIR/a.toml:64:12 `"prompt=direct"`
          ::: DIR/a.toml:61:1 `[report.mean]` in this report
          help: name one of `model=sft`, `model=dpo`, `model=rft`, or evaluations that are not in the rows
        error: `report.sets.baseline`: the baseline `model=sft` matches a row of each data set
          --> DIR/a.toml:67:12 `"model=sft"`
          ::: DIR/a.toml:65:1 `[report.sets]` in this report
          help: make `dataset` the columns, or add `dataset=...`
        error: `report.lines.baseline`: the baseline `model=sft` matches 2 rows
          --> DIR/a.toml:70:12 `"model=sft"`
          ::: DIR/a.toml:68:1 `[report.lines]` in this report
          help: name one of `mix=cot,model=sft`, `mix=both,model=sft`"#]]
    .assert_eq(&errors(&format!("{STUDY}{report}")));
}
