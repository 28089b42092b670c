//! What keeps a table honest: items that pick are not shown, items that were trained on are told, others' numbers stand
//! beside our own.

use super::fixture::{evaluation, input, request, scores as listed};
use super::input::{Evaluation, Select, TableRequest};
use super::{Report, build};
use ablate_data::records::Overlap;

fn lengths(on: &[(&str, &[f64])], shown: &[(&str, &[f64])]) -> Vec<Evaluation> {
    let of = |(items, benchmark): (&[(&str, &[f64])], &str)| -> Vec<Evaluation> {
        let one = |(length, values): &(&str, &[f64])| {
            let mut one = evaluation(&format!("benchmark={benchmark},length={length}"), values);
            // Items of two benchmarks are different ones.
            for score in listed(&mut one) {
                score.prompt = format!("{benchmark} {}", score.prompt);
            }
            one
        };
        items.iter().map(one).collect()
    };
    [of((on, "dev")), of((shown, "test"))].concat()
}

fn picking() -> TableRequest {
    TableRequest {
        rows: vec!["length".to_string()],
        columns: Vec::new(),
        baseline: None,
        contrasts: Vec::new(),
        select: Some(Select { axis: "length".to_string(), on: "benchmark=dev".to_string() }),
        ..request()
    }
}

fn rows(report: &Report) -> Vec<(String, f64)> {
    let row = |row: &super::table::Row| (row.selector.clone(), row.cells[0].estimate.unwrap().mean);
    report.tables[0].rows.iter().map(row).collect()
}

#[test]
fn the_best_point_of_some_items_is_shown_on_others() {
    let scores = lengths(
        &[("90", &[1.0, 1.0, 0.0]), ("none", &[1.0, 0.0, 0.0])],
        &[("90", &[1.0, 0.0, 0.0, 0.0]), ("none", &[1.0, 1.0, 1.0, 1.0])],
    );
    let report = build(&input(picking(), scores)).unwrap();
    // `none` would be the best of the items that are shown; it was not picked on these.
    assert_eq!(rows(&report), [("length=90".to_string(), 0.25)]);
    assert_eq!(report.tables[0].notes[0], "length = 90 was picked on benchmark=dev: 90 66.7, none 33.3");
}

#[test]
fn a_point_is_not_picked_on_the_items_that_are_shown() {
    let mut scores =
        lengths(&[("90", &[1.0, 0.0]), ("none", &[0.0, 0.0])], &[("90", &[1.0, 0.0]), ("none", &[1.0, 1.0])]);
    let shared = listed(&mut scores[0])[1].clone();
    listed(&mut scores[3])[0] = shared;
    let error = build(&input(picking(), scores)).unwrap_err();
    let told: Vec<String> = error.chain().map(ToString::to_string).collect();
    assert_eq!(
        told.join(": "),
        "report `main`: refused: `length` would be picked on 1 items that the table reports, among them `a-1` of `a`: \
         pick on others"
    );
}

#[test]
fn nothing_is_picked_before_everything_that_decides_has_run() {
    let mut scores = lengths(&[("90", &[1.0]), ("none", &[0.0])], &[("90", &[1.0]), ("none", &[1.0])]);
    scores[1].scores = None;
    let report = build(&input(picking(), scores)).unwrap();
    assert_eq!(rows(&report).len(), 2);
    let note = &report.tables[0].notes[0];
    assert_eq!(note, "`length` is not picked yet: `eval@benchmark=dev,length=none` has not run");
}

#[test]
fn items_that_were_trained_on_are_told() {
    let mut scores =
        vec![evaluation("model=sft", &[1.0, 1.0, 0.0, 0.0]), evaluation("model=dpo", &[1.0, 1.0, 1.0, 0.0])];
    let seen = listed(&mut scores[1]);
    (seen[0].seen, seen[2].seen) = (Some(Overlap::Question), Some(Overlap::Image));
    let table = TableRequest { columns: Vec::new(), contrasts: Vec::new(), ..request() };
    let report = build(&input(table, scores)).unwrap();
    assert_eq!(
        report.tables[0].notes[0],
        "contamination: `eval@model=dpo` asks what its model was trained on: 1 of 4 items with image and question, 1 \
         with the image; on the other 2 it has 50.0"
    );
}

#[test]
fn questions_of_one_image_are_different_items() {
    let mut scores = lengths(&[("90", &[1.0])], &[("90", &[1.0])]);
    for (one, question) in scores.iter_mut().zip(["How many are red?", "How many are blue?"]) {
        let score = &mut listed(one)[0];
        (score.image, score.prompt) = (Some("pack/a.png".to_string()), format!("{question}\nAnswer briefly."));
    }
    assert!(build(&input(picking(), scores.clone())).is_ok());
    // The same question under another instruction is the same item.
    listed(&mut scores[1])[0].prompt = "How many are red?\nExplain first.".to_string();
    assert!(build(&input(picking(), scores)).is_err());
}

#[test]
fn what_was_published_for_a_data_set_that_is_not_there_stands_nowhere() {
    let cells = [("model=sft,dataset=chart", 0.7), ("model=dpo,dataset=chart", 0.8)];
    let cells = cells.map(|(cell, value)| (cell.to_string(), value)).into();
    let published = Some(("elsewhere".to_string(), cells));
    let table = TableRequest { published, columns: vec!["dataset".to_string()], contrasts: Vec::new(), ..request() };
    let scores = vec![evaluation("model=sft", &[1.0]), super::fixture::not_run("model=dpo")];
    let report = build(&input(table, scores)).unwrap();
    let cells = report.tables[0].rows.iter().flat_map(|row| &row.cells);
    assert!(cells.map(|cell| cell.published).all(|published| published.is_none()));
}

#[test]
fn published_numbers_stand_beside_our_own() {
    let scores = vec![
        evaluation("model=sft,prompt=cot", &[1.0, 0.0]),
        evaluation("model=sft,prompt=direct", &[1.0, 0.0]),
        evaluation("model=dpo,prompt=cot", &[1.0, 1.0]),
        evaluation("model=dpo,prompt=direct", &[0.0, 0.0]),
    ];
    let cells = [("model=sft,prompt=cot", 0.744), ("prompt=cot,model=dpo", 0.753)];
    let cells = cells.map(|(cell, value)| (cell.to_string(), value)).into();
    let table = TableRequest {
        published: Some(("Zhang et al., table 6".to_string(), cells)),
        contrasts: Vec::new(),
        ..request()
    };
    let report = build(&input(table, scores)).unwrap();
    let row = |row: usize| report.tables[0].rows[row].cells.iter().map(|cell| cell.published).collect::<Vec<_>>();
    assert_eq!((row(0), row(1)), (vec![Some(0.744), None, None], vec![Some(0.753), None, None]));
    let text = report.terminal(200, false);
    assert!(text.contains("(74.4)") && text.contains("in parentheses: Zhang et al., table 6"), "{text}");
    assert!(report.markdown().contains("(75.3)") && report.html().contains("(75.3)"));
}

fn refusal(table: TableRequest, scores: Vec<Evaluation>) -> String {
    format!("{:#}", build(&input(table, scores)).unwrap_err())
}

#[test]
fn a_baseline_is_one_row() {
    let scores = || {
        vec![
            evaluation("mix=1,model=sft", &[1.0, 0.0]),
            evaluation("mix=2,model=sft", &[1.0, 1.0]),
            evaluation("mix=1,model=dpo", &[1.0, 1.0]),
        ]
    };
    let table = |baseline: &str| TableRequest {
        rows: vec!["model".to_string(), "mix".to_string()],
        columns: Vec::new(),
        contrasts: Vec::new(),
        baseline: Some(baseline.to_string()),
        ..request()
    };
    let told =
        "report `main`: the baseline `model=sft` matches 2 rows: name one of `mix=1,model=sft`, `mix=2,model=sft`";
    assert_eq!(refusal(table("model=sft"), scores()), told);
    // By the value alone, too.
    assert_eq!(refusal(table("sft"), scores()), told.replace("`model=sft`", "`sft`"));
    let one = build(&input(table("model=sft,mix=2"), scores())).unwrap();
    assert_eq!(one.tables[0].baseline.as_deref(), Some("2 · sft"));
}

#[test]
fn no_row_is_compared_with_a_mean_that_it_is_part_of() {
    let scores = || {
        vec![
            evaluation("model=sft,prompt=direct", &[1.0, 0.0]),
            evaluation("model=dpo,prompt=direct", &[1.0, 1.0]),
            evaluation("model=sft,prompt=cot", &[1.0, 0.0]),
            evaluation("model=dpo,prompt=cot", &[1.0, 1.0]),
        ]
    };
    let table = |rows: &str, baseline: &str| TableRequest {
        rows: vec![rows.to_string()],
        columns: Vec::new(),
        contrasts: Vec::new(),
        baseline: Some(baseline.to_string()),
        ..request()
    };
    assert_eq!(
        refusal(table("model", "prompt=direct"), scores()),
        "report `main`: the baseline `prompt=direct` is a mean that 2 rows are part of: name one of `model=sft`, \
         `model=dpo`, or evaluations that are no rows"
    );
    // A row that holds the baseline is the baseline's own.
    let report = build(&input(table("model", "model=sft,prompt=direct"), scores())).unwrap();
    let differences: Vec<bool> = report.tables[0].rows.iter().map(|row| row.cells[0].difference.is_some()).collect();
    assert_eq!(differences, [false, true]);
}

#[test]
fn a_baseline_follows_the_data_set_of_a_row() {
    let mut scores = vec![evaluation("model=sft", &[1.0, 0.0]), evaluation("model=dpo", &[1.0, 1.0])];
    for (one, value) in scores.iter_mut().zip([1.0, 0.0]) {
        listed(one).push(super::fixture::score("b-0", value));
    }
    let table = TableRequest {
        rows: vec!["dataset".to_string()],
        columns: vec!["model".to_string()],
        contrasts: Vec::new(),
        ..request()
    };
    let report = build(&input(table, scores)).unwrap();
    let difference = |row: usize, column: usize| {
        report.tables[0].rows[row].cells[column].difference.as_ref().map(|one| one.estimate.mean)
    };
    assert_eq!([difference(0, 0), difference(1, 0)], [None, None]);
    assert_eq!([difference(0, 1), difference(1, 1)], [Some(0.5), Some(-1.0)]);
    // The mean over the models is one of the row's data set, too.
    let means: Vec<_> = report.tables[0].rows.iter().map(|row| row.cells[2].estimate.unwrap().mean).collect();
    assert_eq!(means, [0.75, 0.5]);
}

#[test]
fn many_data_sets_take_what_they_hold() {
    let arm = |model: &str, right: fn(usize) -> bool| {
        let mut one = evaluation(&format!("model={model}"), &[]);
        for dataset in 0..600 {
            listed(&mut one).push(super::fixture::score(&format!("d{dataset}-0"), f64::from(u8::from(right(dataset)))));
        }
        one
    };
    let table = TableRequest { columns: vec!["dataset".to_string()], contrasts: Vec::new(), ..request() };
    let scores = vec![arm("sft", |dataset| dataset % 2 == 0), arm("dpo", |dataset| dataset % 3 > 0)];
    let report = build(&input(table, scores)).unwrap();
    let cells = &report.tables[0].rows[1].cells;
    assert_eq!((cells.len(), cells[600].datasets.len(), cells[4].datasets.len()), (601, 600, 1));
    let difference = |column: usize| cells[column].difference.as_ref().unwrap().estimate.mean;
    assert_eq!([difference(0), difference(1), difference(2)].map(|points| points as i32), [-1, 1, 0]);
    // (400 - 300) of 600 data sets.
    assert!((difference(600) - 1.0 / 6.0).abs() < 1e-12);
    assert!(report.json().len() < 6_000_000, "{}", report.json().len());
}
