//! The plots of tables, from scores to SVG.

use super::support::{MIXES, evaluation, input, plain_spec};
use crate::build;
use crate::input::{MixtureAxis, ReportInput};
use crate::sweeps::{HeatMap, LineSweep, Sweep};

/// `right` of ten items are right.
fn scored(point: &str, right: usize) -> crate::input::Evaluation {
    let values: Vec<f64> = (0..10).map(|item| f64::from(u8::from(item < right))).collect();
    evaluation(point, &values)
}

fn report(rows: &[&str], columns: &[&str], points: &[(&str, usize)]) -> crate::Report {
    let mut spec = plain_spec(rows, columns);
    spec.baseline = None;
    build(&input(spec, points.iter().map(|(point, right)| scored(point, *right)).collect())).unwrap()
}

fn line(report: &crate::Report) -> &LineSweep {
    match &report.sweeps[0][..] {
        [Sweep::Line(line)] => line,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_axis_of_numbers_is_a_line() {
    let points = [("n=16,m=a", 7), ("n=2,m=a", 4), ("n=1,m=a", 2), ("n=1,m=b", 3), ("n=2,m=b", 5), ("m=c", 6)];
    let report = report(&["m"], &["n"], &points);
    let line = line(&report);
    assert!(line.numeric && line.logarithmic);
    assert_eq!(line.values, [(0.0, "1".to_string()), (1.0, "2".to_string()), (4.0, "16".to_string())]);
    let means = |index: usize| -> Vec<(f64, f64)> {
        line.series[index].points.iter().map(|(at, estimate)| (*at, estimate.mean)).collect()
    };
    assert_eq!((line.series[0].label.as_str(), means(0)), ("a", vec![(0.0, 0.2), (1.0, 0.4), (4.0, 0.7)]));
    assert_eq!((line.series[1].label.as_str(), means(1)), ("b", vec![(0.0, 0.3), (1.0, 0.5)]));
    let html = report.html();
    assert!(html.contains("<b>Accuracy by n</b> in percent") && html.contains("logarithmic axis"), "{html}");
}

#[test]
fn seeds_are_no_axis_of_a_plot() {
    let points = [("m=a,seed=0", 7), ("m=a,seed=1", 4), ("m=b,seed=0", 2), ("m=b,seed=1", 2)];
    assert!(report(&["m"], &[], &points).sweeps[0].is_empty());
}

#[test]
fn cells_without_the_axis_are_levels() {
    let points =
        [("length=short,model=dpo", 7), ("length=cut,model=dpo", 4), ("length=whole,model=dpo", 2), ("model=sft", 6)];
    let report = report(&["model", "length"], &[], &points);
    let line = line(&report);
    assert!(!line.numeric);
    assert_eq!(line.values.iter().map(|value| value.1.as_str()).collect::<Vec<_>>(), ["short", "cut", "whole"]);
    assert_eq!(line.levels.iter().map(|(label, one)| (label.as_str(), one.mean)).collect::<Vec<_>>(), [("sft", 0.6)]);
    let html = report.html();
    assert!(html.contains("values in the order of the file") && html.contains("sft (no length)"));
}

#[test]
fn two_axes_of_numbers_are_a_heat_map() {
    let points = [("a=1,b=10", 1), ("a=1,b=9", 2), ("a=0.5,b=10", 3), ("a=0.5,b=9", 4), ("a=2,b=9", 5)];
    let report = report(&["a"], &["b"], &points);
    let [Sweep::Heat(HeatMap { rows, columns, cells, .. })] = &report.sweeps[0][..] else {
        panic!("{:?}", report.sweeps)
    };
    assert_eq!(
        (rows.as_slice(), columns.as_slice()),
        (&["0.5", "1", "2"].map(String::from)[..], &["9", "10"].map(String::from)[..])
    );
    let means: Vec<Option<f64>> = cells.iter().flatten().map(|cell| cell.map(|one| one.mean)).collect();
    assert_eq!(means, [Some(0.4), Some(0.3), Some(0.2), Some(0.1), Some(0.5), None]);
    assert!(report.html().contains("<table class=\"heat\">"));
}

#[test]
fn three_shares_are_a_ternary_plot() {
    let label = |mix: &[f64; 3]| mix.map(|share| share.to_string()).join("-");
    let evaluations =
        MIXES.iter().map(|mix| scored(&format!("ratio={}", label(mix)), (10.0 * mix[0]) as usize)).collect();
    let mut spec = plain_spec(&["ratio"], &[]);
    spec.baseline = None;
    let axis = |parts: usize| MixtureAxis {
        axis: "ratio".to_string(),
        parts: ["cot", "direct", "reading"][..parts].iter().map(ToString::to_string).collect(),
        shares: MIXES.iter().map(|mix| (label(mix), mix.to_vec())).collect(),
    };
    let given = ReportInput { mixtures: vec![axis(3)], ..input(spec, evaluations) };
    let report = build(&given).unwrap();
    let [Sweep::Ternary(plot)] = &report.sweeps[0][..] else { panic!("{:?}", report.sweeps) };
    assert_eq!(plot.points.len(), 7);
    let best = plot.fit.as_ref().unwrap().best();
    assert!(best.shares[0] > 0.95, "{best:?}");
    assert!(report.html().contains("7 measured mixes; colors: quadratic surface"));
    let few = ReportInput { evaluations: given.evaluations[..2].to_vec(), ..given };
    assert!(build(&few).unwrap().html().contains("2 measured mixes, which do not determine a surface"));
}
