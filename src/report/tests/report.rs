//! Reports from scores to rendered text.

use expect_test::expect;

use super::support::{
    axes, contrast, credited, evaluation, input, not_run, plain_spec, score, scores_mut, selector, spec, study,
};
use crate::input::{Cost, Evaluation, GraphNode, NodeState, ScoreSource};
use crate::made_by::{Axis, Command, MadeBy};
use crate::table::{Cell, Verdict};
use crate::{CreditedInstance, Disagreement, Report, ReportInput, build};
use ablate_data::image_keys::ImageKeys;
use ablate_data::records::Failure;
use ablate_experiment::{Metric, ReportSpec};

fn report(spec: ReportSpec, evaluations: Vec<Evaluation>) -> Report {
    build(&input(spec, evaluations)).unwrap()
}

fn cell(report: &Report, row: usize, column: usize) -> &Cell {
    &report.tables[0].rows[row].cells[column]
}

fn mean(report: &Report, row: usize, column: usize) -> Option<f64> {
    cell(report, row, column).estimate.map(|estimate| estimate.mean)
}

#[test]
fn headline_is_the_first_contrast_or_the_best_row() {
    let of = |spec: ReportSpec| {
        let headline = report(spec, study()).headline().unwrap();
        (headline.label, headline.is_contrast, headline.value, headline.partial)
    };
    assert_eq!(of(spec()), ("preferences help".to_string(), true, 0.5, true));
    assert_eq!(of(plain_spec(&["model"], &[])).0, "dpo");
    let errors = ReportSpec { metric: Metric::FormErrors, contrasts: Vec::new(), ..spec() };
    assert_eq!(report(errors, study()).headline(), None, "no item has facts");
}

#[test]
fn terminal_report() {
    expect![[r#"
        Does it help?
        `eval`, 8 items, 1–2 seeds

        accuracy
        model   direct                   CoT                         mean
        sft     25.0 [4.4, 61.4]         37.5  [9.6, 73.8]           31.2  [9.3, 62.4]
        dpo     31.2 [8.3, 64.5] +6.2    87.5† [52.0, 99.4] +50.0    56.2† [30.2, 79.9] +25.0
        percent, 95 % confidence interval over items, for these training runs
        † some instances have not run
        signed numbers: difference to `sft` on shared items and seeds
        * p < 0.05 (Holm-Bonferroni correction over 3 tests) and the confidence interval of the difference
        excludes zero

        format compliance
        model   direct                CoT
        sft     100.0 [58.0, 100.0]   100.0 [58.0, 100.0]
        dpo     100.0 [58.0, 100.0]   100.0 [68.8, 100.0]
        percent of responses in the prompt's format that are not truncated, 95 % confidence interval

        contrasts
        preferences help    +50.0 [−1.1, 81.1]    p 0.13    not shown
            the confidence interval includes zero; an effect above +81.1 is excluded; one seed: the
            variation between training runs is unknown; to show a true effect of +50.0 with 80 % power needs
            14 items
        percentage points, 95 % confidence interval, p-value: one test, no correction

        note: not run yet: `eval@model=dpo,prompt=cot,seed=1`
        note: every cell has fewer than 3 seeds: their intervals and tests are about these training runs,
              and not about the recipe
    "#]]
    .assert_eq(&report(spec(), study()).terminal(100, false));
}

#[test]
fn markdown_report() {
    expect![[r#"
        # reasoner

        ## Does it help?

        `eval`, 8 items, 1–2 seeds.

        **accuracy**

        | model | direct | CoT | mean |
        |---|---:|---:|---:|
        | sft | 25.0 \[4.4, 61.4\] | 37.5 \[9.6, 73.8\] | 31.2 \[9.3, 62.4\] |
        | dpo | 31.2 \[8.3, 64.5\] +6.2 | 87.5† \[52.0, 99.4\] +50.0 | 56.2† \[30.2, 79.9\] +25.0 |

        percent, 95 % confidence interval over items, for these training runs. † some instances have not run. signed numbers: difference to \`sft\` on shared items and seeds. \* p &lt; 0.05 (Holm-Bonferroni correction over 3 tests) and the confidence interval of the difference excludes zero.

        **format compliance**

        | model | direct | CoT |
        |---|---:|---:|
        | sft | 100.0 \[58.0, 100.0\] | 100.0 \[58.0, 100.0\] |
        | dpo | 100.0 \[58.0, 100.0\] | 100.0 \[68.8, 100.0\] |

        percent of responses in the prompt's format that are not truncated, 95 % confidence interval.

        **contrasts**, percentage points, p-value: one test, no correction

        | contrast | difference | 95 % confidence interval | p | items | gained / lost | verdict |
        |---|---:|---:|---:|---:|---:|---|
        | preferences help | +50.0 | [−1.1, 81.1] | 0.13 | 8 | 4 / 0 | **not shown**: the confidence interval includes zero; an effect above +81.1 is excluded; one seed: the variation between training runs is unknown; to show a true effect of +50.0 with 80 % power needs 14 items |

        - not run yet: \`eval@model=dpo,prompt=cot,seed=1\`
        - every cell has fewer than 3 seeds: their intervals and tests are about these training runs, and not about the recipe
    "#]].assert_eq(&report(spec(), study()).markdown());
}

#[test]
fn csv_report() {
    let spec = plain_spec(&["model"], &[]);
    let scores = vec![evaluation("model=sft", &[1.0, 0.0]), evaluation("model=\"dpo\"", &[1.0, 1.0])];
    expect![[r#"
        table,row,column,model,dataset,mean,low,high,items,seeds,difference,difference_low,difference_high,p,p_holm,steps,tokens,flops,epochs,examples,questions
        main,sft,all,sft,,0.5,0.024999999999999904,0.9750000000000001,2,1,,,,,,0,0,0,,0,
        main,sft,all,sft,a,0.5,0.024999999999999904,0.9750000000000001,2,1,,,,,,,,,,,
        main,"""dpo""",all,"""dpo""",,1,0.22360679774997852,1,2,1,0.5,-0.5625581424161613,1,0.9999999999999991,0.9999999999999991,0,0,0,,0,
        main,"""dpo""",all,"""dpo""",a,1,0.22360679774997852,1,2,1,,,,,,,,,,,
    "#]]
    .assert_eq(&report(spec, scores).csv());
}

#[test]
fn csv_has_a_column_per_axis() {
    let mut scores = vec![
        evaluation("model=sft,items=-1,seed=0", &[1.0, 0.0]),
        evaluation("model=sft,items=-1,seed=1", &[1.0, 0.0]),
        evaluation("model=dpo,items=2,seed=0", &[1.0, 0.0]),
    ];
    for evaluation in &mut scores {
        scores_mut(evaluation).push(score("b-0", 1.0));
    }
    let spec = ReportSpec { baseline: None, ..plain_spec(&["model"], &["dataset"]) };
    let csv = report(spec, scores).csv();
    let columns: Vec<&str> = csv.lines().next().unwrap().split(',').take(8).collect();
    // An axis with the name of another column has a longer one.
    assert_eq!(columns, ["table", "row", "column", "axis.items", "model", "seed", "dataset", "mean"]);
    let lines: Vec<String> =
        csv.lines().skip(1).map(|line| line.split(',').take(8).collect::<Vec<_>>().join(",")).collect();
    let expected = [
        // Two seeds have no one label. The cell of one data set is one line.
        "main,sft,a,-1,sft,,a,0.5",
        "main,sft,b,-1,sft,,b,1",
        // The mean of the columns has both data sets.
        "main,sft,mean,-1,sft,,,0.75",
        "main,sft,mean,-1,sft,,a,0.5",
        "main,sft,mean,-1,sft,,b,1",
        "main,dpo,a,2,dpo,0,a,0.5",
        "main,dpo,b,2,dpo,0,b,1",
        "main,dpo,mean,2,dpo,0,,0.75",
        "main,dpo,mean,2,dpo,0,a,0.5",
        "main,dpo,mean,2,dpo,0,b,1",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn unreadable_answers_have_a_table() {
    let mut scores = vec![evaluation("model=sft", &[1.0, 0.0]), evaluation("model=dpo", &[0.0, 0.0])];
    for score in scores_mut(&mut scores[1]) {
        score.unreadable = true;
    }
    let spec = ReportSpec { baseline: None, ..plain_spec(&["model"], &[]) };
    let report = report(spec.clone(), scores.clone());
    let text = report.terminal(100, false);
    let details = text.split("format compliance").nth(1).unwrap().split("note:").next().unwrap();
    expect![[r#"

        model   all
        sft     100.0 [22.4, 100.0]
        dpo     100.0 [22.4, 100.0]
        percent of responses in the prompt's format that are not truncated, 95 % confidence interval

        readable answers
        model   all
        sft     100.0 [22.4, 100.0]
        dpo       0.0 [0.0, 77.6]
        percent of responses with a readable answer of the item's type, 95 % confidence interval

    "#]]
    .assert_eq(details);
    assert!(report.markdown().contains("**readable answers**") && report.html().contains("<h3>Readable answers</h3>"));
    let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
    assert_eq!(json["tables"][0]["rows"][1]["cells"][0]["readable"]["mean"], 0.0);
    let metric = ReportSpec { metric: Metric::Readable, ..spec };
    assert_eq!(mean(&self::report(metric, scores), 1, 0), Some(0.0));
}

#[test]
fn accuracy_given_compliance_leaves_out_other_responses() {
    let (yes, no) = (1.0, 0.0);
    let mut scores = vec![evaluation("model=sft", &[yes, no, no, no]), evaluation("model=dpo", &[yes, yes, no, no])];
    for (evaluation, item) in [(0, 2), (0, 3), (1, 3)] {
        scores_mut(&mut scores[evaluation])[item].compliant = Some(false);
    }
    let spec = plain_spec(&["model"], &[]);
    let accuracy = report(spec.clone(), scores.clone());
    assert!(accuracy.terminal(100, false).contains("accuracy given compliance\nmodel"), "a detail table");
    let given = report(ReportSpec { metric: Metric::AccuracyGivenCompliance, ..spec.clone() }, scores);
    // 1 of 2 and 2 of 3; the difference is over the two items that both answered in the form.
    assert_eq!((mean(&given, 0, 0), mean(&given, 1, 0)), (Some(0.5), Some(2.0 / 3.0)));
    let difference = cell(&given, 1, 0).difference.as_ref().unwrap();
    assert_eq!((difference.estimate.mean, difference.estimate.items), (0.5, 2));
    // Without such a response there is no number, and the table of details is only shown if it says something.
    let mut none = vec![evaluation("model=sft", &[no]), evaluation("model=dpo", &[yes])];
    assert!(!report(spec.clone(), none.clone()).terminal(100, false).contains("accuracy given compliance"));
    scores_mut(&mut none[0])[0].compliant = Some(false);
    let given = report(ReportSpec { metric: Metric::AccuracyGivenCompliance, ..spec }, none);
    assert_eq!((mean(&given, 0, 0), mean(&given, 1, 0)), (None, Some(1.0)));
}

#[test]
fn failures_are_shares_of_the_responses_with_facts() {
    let mut scores = vec![evaluation("model=sft", &[0.0, 0.0, 1.0, 0.0]), evaluation("model=dpo", &[1.0; 4])];
    for score in scores_mut(&mut scores[0]).iter_mut().take(3) {
        score.facts = vec!["red6".to_string()];
    }
    scores_mut(&mut scores[0])[0].failure = Some(Failure::Reading);
    scores_mut(&mut scores[0])[1].failure = Some(Failure::Arithmetic);
    let share = |metric: Metric| {
        let spec = ReportSpec { metric, baseline: None, ..plain_spec(&["model"], &[]) };
        let report = report(spec, scores.clone());
        (mean(&report, 0, 0), mean(&report, 1, 0))
    };
    assert_eq!(share(Metric::ReadingErrors), (Some(1.0 / 3.0), None));
    assert_eq!(share(Metric::ArithmeticErrors), (Some(1.0 / 3.0), None));
    assert_eq!(share(Metric::FormErrors), (Some(0.0), None));
}

#[test]
fn differences_use_shared_items_and_seeds() {
    let report = report(spec(), study());
    assert_eq!(report.tables[0].columns, ["direct", "CoT", "mean"]);
    // sft, CoT: 3 of 8 and 3 of 8. dpo, CoT: 7 of 8, seed 0 alone.
    assert_eq!((mean(&report, 0, 1), mean(&report, 1, 1)), (Some(0.375), Some(0.875)));
    let difference = cell(&report, 1, 1).difference.as_ref().unwrap();
    // On seed 0 alone: items 2, 3, 5 and 6 gained, none lost; exact McNemar 2 / 2^4.
    assert_eq!((difference.estimate.mean, difference.estimate.seeds), (0.5, 1));
    assert_eq!((difference.test.gained, difference.test.lost), (4, 0));
    assert!((difference.test.p_value - 0.125).abs() < 1e-12);
    // The mean over prompts has seed 0 only, as seed 1 lacks a prompt: (2/8 + 7/8) / 2.
    assert_eq!(mean(&report, 1, 2), Some(0.5625));
    assert!(cell(&report, 0, 0).difference.is_none());
}

#[test]
fn evaluations_that_have_not_run_are_missing() {
    let scores = vec![evaluation("model=sft,prompt=cot", &[1.0, 0.0]), not_run("model=dpo,prompt=cot")];
    let report = report(spec(), scores);
    assert_eq!((mean(&report, 0, 0), mean(&report, 1, 0)), (Some(0.5), None));
    let contrast = &report.tables[0].contrasts[0];
    assert_eq!(contrast.verdict, Verdict::NotMeasured);
    assert_eq!(contrast.reason, "`eval@model=dpo,prompt=cot` has not run");
    assert_eq!(report.tables[0].notes[0], "not run yet: `eval@model=dpo,prompt=cot`");
    let text = report.terminal(100, false);
    assert_eq!(text.lines().filter(|line| line.starts_with("dpo ") && line.ends_with('–')).count(), 2, "{text}");
    let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
    assert!(json["tables"][0]["rows"][1]["cells"][0]["estimate"].is_null());
    assert_eq!(json["tables"][0]["contrasts"][0]["verdict"], "not-measured");
}

#[test]
fn report_before_the_first_run() {
    let report = report(spec(), vec![not_run("model=sft,prompt=cot"), not_run("model=dpo,prompt=cot")]);
    assert!(report.terminal(80, true).contains("not run yet: 2 instances"));
    assert!(report.html().contains("Not measured") && report.markdown().contains("not measured"));
    assert!(super::report::report(spec(), Vec::new()).tables[0].rows.is_empty());
}

#[test]
fn a_selector_without_matches_is_reported() {
    let spec = ReportSpec { contrasts: vec![contrast("x", "model=rft", "model=sft")], ..spec() };
    let report = report(spec, study());
    assert_eq!(report.tables[0].contrasts[0].reason, "no instance matches `model=rft`");
}

#[test]
fn invalid_scores_are_refused() {
    let error = |evaluation| format!("{:#}", build(&input(spec(), vec![evaluation])).unwrap_err());
    let mut twice = evaluation("model=sft,prompt=cot", &[1.0]);
    scores_mut(&mut twice).push(score("a-0", 1.0));
    let refused = [
        error(evaluation("model=sft,prompt=cot", &[f64::NAN])),
        error(evaluation("model=sft,prompt=cot", &[0.5, 1.5])),
        error(twice),
    ];
    expect![[r#"
        report `main`: `eval@model=sft,prompt=cot`: the score of the item `a-0` is NaN, not in [0, 1]
        report `main`: `eval@model=sft,prompt=cot`: the score of the item `a-1` is 1.5, not in [0, 1]
        report `main`: `eval@model=sft,prompt=cot`: the item `a-0` is scored twice"#]]
    .assert_eq(&refused.join("\n"));
}

#[test]
fn items_with_different_gold_are_not_compared() {
    let mut scores = vec![evaluation("model=sft,prompt=cot", &[1.0]), evaluation("model=dpo,prompt=cot", &[1.0])];
    scores_mut(&mut scores[1])[0].gold = vec!["8".to_string()];
    let report = report(spec(), scores);
    assert_eq!(report.tables[0].contrasts[0].reason, "the two sides share no item");
    assert_eq!(report.tables[0].datasets[0].items, 2);
}

#[test]
fn one_equal_item_supports_nothing() {
    let scores = vec![evaluation("model=sft,prompt=cot", &[1.0]), evaluation("model=dpo,prompt=cot", &[1.0])];
    let report = report(spec(), scores);
    let contrast = &report.tables[0].contrasts[0];
    let difference = contrast.difference.as_ref().unwrap();
    assert_eq!((difference.estimate.mean, difference.p_holm, contrast.verdict), (0.0, 1.0, Verdict::NotShown));
    expect!["the confidence interval includes zero; an effect above +92.4 is excluded; one seed: the variation between training runs is unknown"].assert_eq(&contrast.reason);
}

#[test]
fn an_evaluation_without_seed_is_compared_with_all_seeds() {
    let scores = vec![
        evaluation("model=base,prompt=cot", &[0.0, 0.0, 1.0]),
        evaluation("model=sft,prompt=cot,seed=0", &[1.0, 1.0, 1.0]),
        evaluation("model=sft,prompt=cot,seed=1", &[1.0, 0.0, 1.0]),
    ];
    let spec = ReportSpec {
        baseline: Some(selector("model=base")),
        contrasts: vec![contrast("training helps", "model=sft", "model=base")],
        ..spec()
    };
    let report = report(spec, scores);
    let difference = report.tables[0].contrasts[0].difference.as_ref().unwrap();
    assert_eq!((difference.test.pairs, difference.test.gained, difference.estimate.seeds), (6, 3, 2));
    assert_eq!(cell(&report, 0, 0).estimate.unwrap().seeds, 1);
}

#[test]
fn columns_by_data_set() {
    let mut scores = vec![evaluation("model=sft", &[1.0, 0.0]), evaluation("model=dpo", &[1.0, 1.0])];
    for (evaluation, value) in scores.iter_mut().zip([0.0, 1.0]) {
        scores_mut(evaluation).push(score("b-0", value));
    }
    let report = report(plain_spec(&["model"], &["dataset"]), scores);
    assert_eq!(report.tables[0].columns, ["a", "b", "mean"]);
    let row = |row: usize| (0..3).map(|column| mean(&report, row, column).unwrap()).collect::<Vec<_>>();
    assert_eq!((row(0), row(1)), (vec![0.5, 0.0, 0.25], vec![1.0, 1.0, 1.0]));
    assert!(!report.tables[0].breakdown);
}

#[test]
fn terminal_lines_fit_the_width() {
    let report = report(spec(), study());
    for width in [40, 60, 80, 100] {
        for line in report.terminal(width, false).lines() {
            assert!(unicode_width::UnicodeWidthStr::width(line) <= width.max(72), "{width}: {line}");
        }
    }
    assert!(report.terminal(100, true).contains("\u{1b}["));
}

#[test]
fn scores_in_files_and_in_memory_give_equal_reports() {
    let folder = tempfile::tempdir().unwrap();
    let mut evaluations = study();
    for (number, evaluation) in evaluations.iter_mut().enumerate().filter(|(_, one)| one.scores.is_some()) {
        let path = folder.path().join(format!("{number}.jsonl"));
        ablate_data::jsonl::write(&path, scores_mut(evaluation)).unwrap();
        evaluation.scores = Some(ScoreSource::File(path));
    }
    let (files, lists) = (report(spec(), evaluations.clone()), report(spec(), study()));
    assert!(!lists.disagreements.is_empty());
    assert_eq!(files, lists);
    evaluations[0].scores = Some(ScoreSource::File(folder.path().join("gone.jsonl")));
    let error = format!("{:#}", build(&input(spec(), evaluations)).unwrap_err());
    assert!(error.starts_with("cannot read the scores of `eval@model=sft,prompt=direct,seed=0`: cannot "), "{error}");
}

#[test]
fn reports_are_reproducible() {
    let render = || report(spec(), study());
    assert_eq!(render().json(), render().json());
    assert_eq!(render().html(), render().html());
}

#[test]
fn user_text_is_escaped() {
    let text =
        || "</pre></style><script>alert(1)</script><img src=x onerror=alert(1)>\" ' | `x` \u{1b}[31m".to_string();
    let mut evaluations = study();
    for evaluation in &mut evaluations {
        evaluation.point.insert("arm".to_string(), text());
        for score in evaluation.scores.is_some().then(|| scores_mut(evaluation)).into_iter().flatten() {
            (score.response, score.prompt, score.dataset) = (text(), text(), text());
            (score.gold, score.answer) = (vec![text()], Some(text()));
            score.images = ImageKeys::Leading("key".to_string());
        }
    }
    let mut spec = ReportSpec { title: text(), rows: axes(&["arm", "model"]), ..spec() };
    spec.labels.push((selector("model=dpo"), text()));
    spec.contrasts[0].about = text();
    let mut input = input(spec, evaluations);
    (input.experiment, input.about) = (text(), text());
    input.notes = vec![text()];
    input.provenance = vec![(text(), text())];
    let varies = vec![Axis { axis: text(), values: vec![text()] }];
    let commands = vec![Command { makes: text(), command: text() }];
    input.made_by = MadeBy { file: text(), overrides: vec![text()], varies, commands, ..MadeBy::default() };
    let reads = vec!["unknown".to_string(), text()];
    let (instance, stage, kind) = (text(), text(), text());
    input.graph = vec![GraphNode { instance, stage, kind, state: NodeState::Missing, reads }];
    input.costs = vec![Cost { instance: text(), stage: text(), kind: text(), ..Cost::default() }];
    let mut credited = credited(&[true, false]);
    (credited.prompt, credited.item.id) = (text(), text());
    for credit in &mut credited.responses {
        credit.tokens.push((text(), -2.0));
        credit.verdict.answer = Some(text());
    }
    input.credits = vec![CreditedInstance { instance: text(), questions: vec![credited] }];
    input.images = Box::new(|_| Some(b"<svg onload=alert(1)>".to_vec()));
    let report = build(&input).unwrap();
    let html = report.html();
    // The script of the page, and the packed answers.
    let answers = report.answers.as_ref().map_or(0, |answers| 1 + answers.texts.len() + answers.images.len());
    assert_eq!(html.matches("<script").count(), 1 + answers);
    assert!(!html.contains("<img") && !html.contains("<svg onload"));
    assert!(html.contains("id=\"credits\"") && html.contains("&lt;script&gt;") && !html.contains('\u{1b}'));
    let markdown = report.markdown();
    assert!(!markdown.contains("<script") && !markdown.contains('\u{1b}'));
    assert!(!report.terminal(100, false).contains('\u{1b}'));
}

#[test]
fn html_makes_no_requests() {
    let mut input = input(spec(), study());
    input.images = Box::new(|_| Some(vec![0x89, b'P', b'N', b'G']));
    let run = input.evaluations.iter_mut().filter(|evaluation| evaluation.scores.is_some());
    for score in run.flat_map(scores_mut) {
        score.images = ImageKeys::Leading("key".to_string());
    }
    let html = build(&input).unwrap().html();
    assert!(html.contains("default-src 'none'") && html.contains("src=\"data:image/png;base64,"));
    for request in ["<script src", "<link", "@import", "url(", "style=\""] {
        assert!(!html.contains(request), "{request}");
    }
    let addresses = html.replace("http://www.w3.org/2000/svg", "");
    assert!(!addresses.contains("http://") && !addresses.contains("https://"));
}

#[test]
fn every_image_of_an_item_is_shown() {
    let mut input = input(spec(), study());
    input.images = Box::new(|key| (key != "lost").then(|| vec![0x89, b'P', b'N', b'G', key.as_bytes()[0]]));
    let run = input.evaluations.iter_mut().filter(|evaluation| evaluation.scores.is_some());
    for score in run.flat_map(scores_mut) {
        score.images = ImageKeys::Placed(["a", "lost", "b"].map(String::from).to_vec());
    }
    let html = build(&input).unwrap().html();
    let images = html.split("<div class=\"images\">").nth(1).unwrap().split("</div>").next().unwrap();
    let urls: Vec<&str> = images.split("src=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert_eq!(urls, ["data:image/png;base64,iVBOR2E=", "data:image/png;base64,iVBOR2I="]);
}

#[test]
fn credit_maps_color_tokens() {
    let mut input = input(spec(), study());
    let seen = [credited(&[true, true]), credited(&[true, false, false])];
    input.credits = vec![CreditedInstance { instance: "score".to_string(), questions: seen.to_vec() }];
    let report = build(&input).unwrap();
    // A question without a wrong response is not shown.
    assert_eq!(report.credits[0].questions.len(), 1);
    let html = report.html();
    let maps = html.split("<pre tabindex=\"0\" dir=\"auto\"><span class=\"credit ").skip(1);
    let maps: Vec<&str> = maps.filter_map(|part| Some(part.split_once("</pre>")?.0)).collect();
    // -0.5 and 1.0 of the right response, -2.0 and 1.0 of the wrong one: 14 steps of color up to the strongest, which is 2.
    expect![[r#"
         minus lowest c4" title="-0.500">1+2</span><span class="credit plus c7" title="+1.000">=3</span>
         minus lowest c14" title="-2.000">1+2</span><span class="credit plus c7" title="+1.000">=3</span>"#]]
    .assert_eq(&maps.join("\n"));
    assert!(!build(&ReportInput { credits: Vec::new(), ..input }).unwrap().html().contains("id=\"credits\""));
}

#[test]
fn disagreements_have_counts() {
    let report = report(spec(), study());
    let lines = report.disagreements[0].1.iter().map(|Disagreement { right, wrong, count, of, seed, .. }| {
        format!("{right} right, {wrong} wrong: {count} of {of}, seed {seed}")
    });
    expect![[r#"
        dpo · CoT right, dpo · direct wrong: 5 of 8, seed 0
        dpo · CoT right, sft · CoT wrong: 4 of 8, seed 0"#]]
    .assert_eq(&lines.collect::<Vec<_>>().join("\n"));
}
