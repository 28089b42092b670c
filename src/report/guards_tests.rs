//! What keeps a table honest: items that pick are not shown, items that were trained on are told, others' numbers stand
//! beside our own.

use super::fixture::{evaluation, input, request};
use super::input::{Evaluation, Select, TableRequest};
use super::{Report, build};
use crate::data::records::Overlap;

fn lengths(on: &[(&str, &[f64])], shown: &[(&str, &[f64])]) -> Vec<Evaluation> {
    let of = |(items, benchmark): (&[(&str, &[f64])], &str)| -> Vec<Evaluation> {
        let one = |(length, values): &(&str, &[f64])| {
            let mut one = evaluation(&format!("benchmark={benchmark},length={length}"), values);
            // Items of two benchmarks are different ones.
            for score in one.scores.iter_mut().flatten() {
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
    let shared = scores[0].scores.as_ref().unwrap()[1].clone();
    scores[3].scores.as_mut().unwrap()[0] = shared;
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
    let seen = scores[1].scores.as_mut().unwrap();
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
        let score = &mut one.scores.as_mut().unwrap()[0];
        (score.image, score.prompt) = (Some("pack/a.png".to_string()), format!("{question}\nAnswer briefly."));
    }
    assert!(build(&input(picking(), scores.clone())).is_ok());
    // The same question under another instruction is the same item.
    scores[1].scores.as_mut().unwrap()[0].prompt = "How many are red?\nExplain first.".to_string();
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
