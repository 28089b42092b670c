//! Validity of a table: `select`, baselines, contamination and published numbers.

use super::support::{evaluation, input, not_run, plain_spec, score, scores_mut, selector};
use crate::input::Evaluation;
use crate::table::Row;
use crate::{Report, build};
use ablate_data::image_keys::ImageKeys;
use ablate_data::records::Overlap;
use ablate_experiment::{Published, ReportSpec, Select};

/// Evaluations on the benchmarks `dev` and `test`, by the label of the axis `length`.
fn lengths(dev: &[(&str, &[f64])], test: &[(&str, &[f64])]) -> Vec<Evaluation> {
    let of = |(items, benchmark): (&[(&str, &[f64])], &str)| -> Vec<Evaluation> {
        let one = |(length, values): &(&str, &[f64])| {
            let mut one = evaluation(&format!("benchmark={benchmark},length={length}"), values);
            // Items of two benchmarks are different ones.
            for score in scores_mut(&mut one) {
                score.prompt = format!("{benchmark} {}", score.prompt);
            }
            one
        };
        items.iter().map(one).collect()
    };
    [of((dev, "dev")), of((test, "test"))].concat()
}

fn select_spec() -> ReportSpec {
    let select = Some(Select { axis: "length".to_string(), on: selector("benchmark=dev") });
    ReportSpec { baseline: None, select, ..plain_spec(&["length"], &[]) }
}

fn rows(report: &Report) -> Vec<(String, f64)> {
    let row = |row: &Row| (row.selector.clone(), row.cells[0].estimate.unwrap().mean);
    report.tables[0].rows.iter().map(row).collect()
}

#[test]
fn the_selected_value_is_shown_on_other_items() {
    let scores = lengths(
        &[("90", &[1.0, 1.0, 0.0]), ("none", &[1.0, 0.0, 0.0])],
        &[("90", &[1.0, 0.0, 0.0, 0.0]), ("none", &[1.0, 1.0, 1.0, 1.0])],
    );
    let report = build(&input(select_spec(), scores)).unwrap();
    // `none` is the best on the items that are shown, but it was not selected on them.
    assert_eq!(rows(&report), [("length=90".to_string(), 0.25)]);
    assert_eq!(report.tables[0].notes[0], "length=90 was selected on benchmark=dev: 90 66.7, none 33.3");
}

#[test]
fn selecting_on_reported_items_is_refused() {
    let mut scores =
        lengths(&[("90", &[1.0, 0.0]), ("none", &[0.0, 0.0])], &[("90", &[1.0, 0.0]), ("none", &[1.0, 1.0])]);
    let shared = scores_mut(&mut scores[0])[1].clone();
    scores_mut(&mut scores[3])[0] = shared;
    let error = build(&input(select_spec(), scores)).unwrap_err();
    assert_eq!(
        format!("{error:#}"),
        "report `main`: `length` would be selected on 1 items that the table reports, for example `a-1` of `a`: select on \
         other items"
    );
}

#[test]
fn selection_waits_for_all_deciding_evaluations() {
    let mut scores = lengths(&[("90", &[1.0]), ("none", &[0.0])], &[("90", &[1.0]), ("none", &[1.0])]);
    scores[1].scores = None;
    let report = build(&input(select_spec(), scores)).unwrap();
    assert_eq!(rows(&report).len(), 2);
    let note = &report.tables[0].notes[0];
    assert_eq!(note, "`length` is not selected yet: `eval@benchmark=dev,length=none` has not run");
}

#[test]
fn contaminated_items_are_reported() {
    let mut scores =
        vec![evaluation("model=sft", &[1.0, 1.0, 0.0, 0.0]), evaluation("model=dpo", &[1.0, 1.0, 1.0, 0.0])];
    let seen = scores_mut(&mut scores[1]);
    (seen[0].seen, seen[2].seen) = (Some(Overlap::Question), Some(Overlap::Image));
    let report = build(&input(plain_spec(&["model"], &[]), scores)).unwrap();
    assert_eq!(
        report.tables[0].notes[0],
        "contamination: `eval@model=dpo` evaluates a model on its training data: image and question of 1 of 4 items, and \
         only the image of 1; accuracy on the other 2 items: 50.0"
    );
}

#[test]
fn questions_about_one_image_are_different_items() {
    let mut scores = lengths(&[("90", &[1.0])], &[("90", &[1.0])]);
    for (one, question) in scores.iter_mut().zip(["How many are red?", "How many are blue?"]) {
        let score = &mut scores_mut(one)[0];
        (score.images, score.prompt) =
            (ImageKeys::Leading("pack/a.png".to_string()), format!("{question}\nAnswer briefly."));
    }
    assert!(build(&input(select_spec(), scores.clone())).is_ok());
    // The same question under another instruction is the same item.
    scores_mut(&mut scores[1])[0].prompt = "How many are red?\nExplain first.".to_string();
    assert!(build(&input(select_spec(), scores)).is_err());
}

#[test]
fn items_with_a_common_image_are_one_cluster() {
    let clusters = |images: &[&[&str]]| {
        let mut scores = vec![evaluation("model=sft", &vec![1.0; images.len()])];
        for (score, keys) in scores_mut(&mut scores[0]).iter_mut().zip(images) {
            score.images = match keys {
                [] => ImageKeys::None,
                [key] => ImageKeys::Leading((*key).to_string()),
                keys => ImageKeys::Placed(keys.iter().map(ToString::to_string).collect()),
            };
        }
        build(&input(plain_spec(&["model"], &[]), scores)).unwrap().tables[0].clusters
    };
    assert_eq!(clusters(&[&["a"], &["b"], &[], &[]]), None);
    assert_eq!(clusters(&[&["a"], &["a"], &["b"], &[]]), Some(3));
    // The first three are connected by `b` and `c`.
    assert_eq!(clusters(&[&["a", "b"], &["c"], &["c", "b"], &["d", "e"], &[]]), Some(3));
    assert_eq!(clusters(&[&["a", "b"], &["c", "d"], &["e", "f"], &["b", "c", "f"]]), Some(1));
}

#[test]
fn published_numbers_of_unknown_data_sets_are_ignored() {
    let cells = [("model=sft,dataset=chart", 0.7), ("model=dpo,dataset=chart", 0.8)];
    let cells = cells.map(|(cell, share)| (selector(cell), share)).into();
    let published = Some(Published { source: "a paper".to_string(), cells });
    let spec = ReportSpec { published, ..plain_spec(&["model"], &["dataset"]) };
    let scores = vec![evaluation("model=sft", &[1.0]), not_run("model=dpo")];
    let report = build(&input(spec, scores)).unwrap();
    let cells = report.tables[0].rows.iter().flat_map(|row| &row.cells);
    assert!(cells.map(|cell| cell.published).all(|published| published.is_none()));
}

#[test]
fn published_numbers_are_shown() {
    let scores = vec![
        evaluation("model=sft,prompt=cot", &[1.0, 0.0]),
        evaluation("model=sft,prompt=direct", &[1.0, 0.0]),
        evaluation("model=dpo,prompt=cot", &[1.0, 1.0]),
        evaluation("model=dpo,prompt=direct", &[0.0, 0.0]),
    ];
    let cells = [("model=sft,prompt=cot", 0.744), ("prompt=cot,model=dpo", 0.753)];
    let cells = cells.map(|(cell, share)| (selector(cell), share)).into();
    let published = Some(Published { source: "Zhang et al., table 6".to_string(), cells });
    let spec = ReportSpec { published, ..plain_spec(&["model"], &["prompt"]) };
    let report = build(&input(spec, scores)).unwrap();
    let row = |row: usize| report.tables[0].rows[row].cells.iter().map(|cell| cell.published).collect::<Vec<_>>();
    assert_eq!((row(0), row(1)), (vec![Some(0.744), None, None], vec![Some(0.753), None, None]));
    let text = report.terminal(200, false);
    assert!(text.contains("(74.4)") && text.contains("in parentheses: published in Zhang et al., table 6"), "{text}");
    assert!(report.markdown().contains("(75.3)") && report.html().contains("(75.3)"));
}

fn error(spec: ReportSpec, scores: Vec<Evaluation>) -> String {
    format!("{:#}", build(&input(spec, scores)).unwrap_err())
}

#[test]
fn a_baseline_matches_one_row() {
    let scores = vec![
        evaluation("mix=1,model=sft", &[1.0, 0.0]),
        evaluation("mix=2,model=sft", &[1.0, 1.0]),
        evaluation("mix=1,model=dpo", &[1.0, 1.0]),
    ];
    let table =
        |baseline: &str| ReportSpec { baseline: Some(selector(baseline)), ..plain_spec(&["model", "mix"], &[]) };
    let message =
        "report `main`: the baseline `model=sft` matches 2 rows: name one of `mix=1,model=sft`, `mix=2,model=sft`";
    assert_eq!(error(table("model=sft"), scores.clone()), message);
    let one = build(&input(table("model=sft,mix=2"), scores)).unwrap();
    assert_eq!(one.tables[0].baseline.as_deref(), Some("2 · sft"));
}

#[test]
fn a_baseline_that_averages_rows_is_refused() {
    let scores = vec![
        evaluation("model=sft,prompt=direct", &[1.0, 0.0]),
        evaluation("model=dpo,prompt=direct", &[1.0, 1.0]),
        evaluation("model=sft,prompt=cot", &[1.0, 0.0]),
        evaluation("model=dpo,prompt=cot", &[1.0, 1.0]),
    ];
    let table = |baseline: &str| ReportSpec { baseline: Some(selector(baseline)), ..plain_spec(&["model"], &[]) };
    assert_eq!(
        error(table("prompt=direct"), scores.clone()),
        "report `main`: the baseline `prompt=direct` averages evaluations of 2 rows: name one of `model=sft`, \
         `model=dpo`, or evaluations that are in no row"
    );
    // A row that includes the baseline is not compared with it.
    let report = build(&input(table("model=sft,prompt=direct"), scores)).unwrap();
    let differences: Vec<bool> = report.tables[0].rows.iter().map(|row| row.cells[0].difference.is_some()).collect();
    assert_eq!(differences, [false, true]);
}

#[test]
fn a_baseline_follows_the_data_set_of_a_row() {
    let mut scores = vec![evaluation("model=sft", &[1.0, 0.0]), evaluation("model=dpo", &[1.0, 1.0])];
    for (one, value) in scores.iter_mut().zip([1.0, 0.0]) {
        scores_mut(one).push(score("b-0", value));
    }
    let report = build(&input(plain_spec(&["dataset"], &["model"]), scores)).unwrap();
    let difference = |row: usize, column: usize| {
        report.tables[0].rows[row].cells[column].difference.as_ref().map(|one| one.estimate.mean)
    };
    assert_eq!([difference(0, 0), difference(1, 0)], [None, None]);
    assert_eq!([difference(0, 1), difference(1, 1)], [Some(0.5), Some(-1.0)]);
    // The mean over the models has the data set of the row.
    let means: Vec<_> = report.tables[0].rows.iter().map(|row| row.cells[2].estimate.unwrap().mean).collect();
    assert_eq!(means, [0.75, 0.5]);
}

#[test]
fn json_grows_with_the_scores_of_many_data_sets() {
    let evaluate = |model: &str, right: fn(usize) -> bool| {
        let mut one = evaluation(&format!("model={model}"), &[]);
        for dataset in 0..600 {
            scores_mut(&mut one).push(score(&format!("d{dataset}-0"), f64::from(u8::from(right(dataset)))));
        }
        one
    };
    let scores = vec![evaluate("sft", |dataset| dataset % 2 == 0), evaluate("dpo", |dataset| dataset % 3 > 0)];
    let report = build(&input(plain_spec(&["model"], &["dataset"]), scores)).unwrap();
    let cells = &report.tables[0].rows[1].cells;
    assert_eq!((cells.len(), cells[600].datasets.len(), cells[4].datasets.len()), (601, 600, 1));
    let difference = |column: usize| cells[column].difference.as_ref().unwrap().estimate.mean;
    assert_eq!([difference(0), difference(1), difference(2)].map(|points| points as i32), [-1, 1, 0]);
    // (400 - 300) of 600 data sets.
    assert!((difference(600) - 1.0 / 6.0).abs() < 1e-12);
    assert!(report.json().len() < 6_000_000, "{}", report.json().len());
}
