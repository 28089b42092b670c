//! Reports from scores to text: what is counted, what is missing, what is refused, what is escaped.

use expect_test::expect;

use super::fixture::{contrast, credited, evaluation, input, not_run, request, score, scores as listed, study};
use super::input::{Cost, GraphNode, NodeState, ScoreRows, TableRequest};
use super::table::{Cell, Verdict};
use super::{Credits, Report, ReportInput, build};

fn report(table: TableRequest, evaluations: Vec<super::input::Evaluation>) -> Report {
    build(&input(table, evaluations)).unwrap()
}

fn report_of_nothing() -> Report {
    report(request(), Vec::new())
}

fn cell(report: &Report, row: usize, column: usize) -> &Cell {
    &report.tables[0].rows[row].cells[column]
}

fn mean(report: &Report, row: usize, column: usize) -> Option<f64> {
    cell(report, row, column).estimate.map(|estimate| estimate.mean)
}

#[test]
fn a_report_reads_well_in_a_terminal() {
    expect![[r#"
        Does it help?
        `eval`, 8 items, 1–2 seeds

        accuracy
        model   direct                    CoT                          mean
        sft     25.0 [0.0, 62.5]          37.5  [12.5, 68.8]           31.2  [12.4, 59.5]
        dpo     31.2 [12.5, 62.7] +6.2    87.5† [62.5, 100.0] +50.0    56.2† [37.5, 75.0] +25.0
        percent, 95 % interval (bootstrap over seeds and items, 200 resamples)
        † not all seeds have run
        signed: difference to `sft` on shared items; * p < 0.05 after Holm over 3 comparisons

        format compliance
        model   direct                 CoT
        sft     100.0 [100.0, 100.0]   100.0 [100.0, 100.0]
        dpo     100.0 [100.0, 100.0]   100.0 [100.0, 100.0]
        percent of responses that follow the prompt's form and end by themselves, 95 % interval

        contrasts (points, 95 % interval, p of one test)
        preferences help    +50.0 [12.5, 75.0]    p 0.13    not supported
            the interval excludes zero, the corrected test does not; these items show differences from 60.1
            points on; one seed: how much another seed would change it is unknown

        note: not run yet: `eval@model=dpo,prompt=cot,seed=1`
        note: some cells have one seed: the interval is of the items alone
        note: 2 seeds: the part of the interval that is due to seeds is on the short side
    "#]]
    .assert_eq(&report(request(), study()).terminal(100, false));
}

#[test]
fn a_report_reads_well_as_markdown() {
    expect![[r#"
        # reasoner

        ## Does it help?

        `eval`, 8 items, 1–2 seeds.

        **accuracy**

        | model | direct | CoT | mean |
        |---|---:|---:|---:|
        | sft | 25.0 \[0.0, 62.5\] | 37.5 \[12.5, 68.8\] | 31.2 \[12.4, 59.5\] |
        | dpo | 31.2 \[12.5, 62.7\] +6.2 | 87.5† \[62.5, 100.0\] +50.0 | 56.2† \[37.5, 75.0\] +25.0 |

        percent, 95 % interval (bootstrap over seeds and items, 200 resamples). † not all seeds have run. signed: difference to \`sft\` on shared items; \* p &lt; 0.05 after Holm over 3 comparisons.

        **format compliance**

        | model | direct | CoT |
        |---|---:|---:|
        | sft | 100.0 \[100.0, 100.0\] | 100.0 \[100.0, 100.0\] |
        | dpo | 100.0 \[100.0, 100.0\] | 100.0 \[100.0, 100.0\] |

        percent of responses that follow the prompt's form and end by themselves, 95 % interval.

        **contrasts**, points, 95 % interval, p of one test

        | claim | difference | 95 % interval | p | items | gained / lost | verdict |
        |---|---:|---:|---:|---:|---:|---|
        | preferences help | +50.0 | [12.5, 75.0] | 0.13 | 8 | 4 / 0 | **not supported**: the interval excludes zero, the corrected test does not; these items show differences from 60.1 points on; one seed: how much another seed would change it is unknown |

        - not run yet: \`eval@model=dpo,prompt=cot,seed=1\`
        - some cells have one seed: the interval is of the items alone
        - 2 seeds: the part of the interval that is due to seeds is on the short side
    "#]].assert_eq(&report(request(), study()).markdown());
}

#[test]
fn a_report_is_a_sheet_of_numbers() {
    let table = TableRequest { columns: Vec::new(), contrasts: Vec::new(), ..request() };
    let scores = vec![evaluation("model=sft", &[1.0, 0.0]), evaluation("model=\"dpo\"", &[1.0, 1.0])];
    expect![[r#"
        table,row,column,dataset,mean,low,high,items,seeds,difference,difference_low,difference_high,p,p_holm
        main,sft,all,,0.5,0,1,2,1,,,,,
        main,sft,all,a,0.5,0,1,2,1,,,,,
        main,"""dpo""",all,,1,1,1,2,1,0.5,0,1,0.9999999999999991,0.9999999999999991
        main,"""dpo""",all,a,1,1,1,2,1,,,,,
    "#]]
    .assert_eq(&report(table, scores).csv());
}

#[test]
fn answers_that_could_not_be_read_are_seen_beside_full_compliance() {
    let mut scores = vec![evaluation("model=sft", &[1.0, 0.0]), evaluation("model=dpo", &[0.0, 0.0])];
    for score in listed(&mut scores[1]) {
        score.unreadable = true;
    }
    let table = TableRequest { columns: Vec::new(), contrasts: Vec::new(), baseline: None, ..request() };
    let report = report(table.clone(), scores.clone());
    let text = report.terminal(100, false);
    let part = text.split("format compliance").nth(1).unwrap().split("note:").next().unwrap();
    expect![[r#"

        model   all
        sft     100.0 [100.0, 100.0]
        dpo     100.0 [100.0, 100.0]
        percent of responses that follow the prompt's form and end by themselves, 95 % interval

        readable answers
        model   all
        sft     100.0 [100.0, 100.0]
        dpo       0.0 [0.0, 0.0]
        percent of responses from which an answer of the item's type could be read, 95 % interval

    "#]]
    .assert_eq(part);
    assert!(report.markdown().contains("**readable answers**") && report.html().contains("<h3>Readable answers</h3>"));
    let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
    assert_eq!(json["tables"][0]["rows"][1]["cells"][0]["readable"]["mean"], 0.0);
    let metric = TableRequest { metric: super::input::Metric::Readable, ..table };
    assert_eq!(mean(&super::tests::report(metric, scores), 1, 0), Some(0.0));
}

#[test]
fn cells_average_seeds_and_differences_take_shared_pairs() {
    let report = report(request(), study());
    assert_eq!(report.tables[0].columns, ["direct", "CoT", "mean"]);
    // sft, CoT: 3 of 8 and 3 of 8. dpo, CoT: 7 of 8, seed 0 alone.
    assert_eq!((mean(&report, 0, 1), mean(&report, 1, 1)), (Some(0.375), Some(0.875)));
    let difference = cell(&report, 1, 1).difference.as_ref().unwrap();
    // On seed 0 alone: items 2, 3, 5 and 6 gained, none lost; exact McNemar 2 / 2^4.
    assert_eq!((difference.estimate.mean, difference.estimate.seeds), (0.5, 1));
    assert_eq!((difference.comparison.gained, difference.comparison.lost), (4, 0));
    assert!((difference.comparison.p - 0.125).abs() < 1e-12);
    // The mean over prompts has seed 0 only, as seed 1 lacks a prompt: (2/8 + 7/8) / 2.
    assert_eq!(mean(&report, 1, 2), Some(0.5625));
    assert!(cell(&report, 0, 0).difference.is_none());
}

#[test]
fn what_has_not_run_is_missing_and_never_zero() {
    let scores = vec![evaluation("model=sft,prompt=cot", &[1.0, 0.0]), not_run("model=dpo,prompt=cot")];
    let report = report(request(), scores);
    assert_eq!((mean(&report, 0, 0), mean(&report, 1, 0)), (Some(0.5), None));
    let contrast = &report.tables[0].contrasts[0];
    assert_eq!(contrast.verdict, Verdict::NotMeasured);
    assert_eq!(contrast.words, "`eval@model=dpo,prompt=cot` has not run");
    assert_eq!(report.tables[0].notes[0], "not run yet: `eval@model=dpo,prompt=cot`");
    let text = report.terminal(100, false);
    assert_eq!(text.lines().filter(|line| line.starts_with("dpo ") && line.ends_with('–')).count(), 2, "{text}");
    let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
    assert!(json["tables"][0]["rows"][1]["cells"][0]["estimate"].is_null());
    assert_eq!(json["tables"][0]["contrasts"][0]["verdict"], "not-measured");
}

#[test]
fn nothing_has_run_yet() {
    let report = report(request(), vec![not_run("model=sft,prompt=cot"), not_run("model=dpo,prompt=cot")]);
    assert!(report.terminal(80, true).contains("not run yet: 2 instances"));
    assert!(report.html().contains("Not measured") && report.markdown().contains("not measured"));
    let none = report_of_nothing();
    assert!(none.tables[0].rows.is_empty() || none.tables[0].rows[0].cells.iter().all(|cell| cell.estimate.is_none()));
}

#[test]
fn a_selector_that_matches_nothing_is_said() {
    let table = TableRequest { contrasts: vec![contrast("x", "model=rft", "model=sft")], ..request() };
    let report = report(table, study());
    assert_eq!(report.tables[0].contrasts[0].words, "no instance matches `model=rft`");
}

#[test]
fn scores_that_are_no_scores_are_refused() {
    let told = |evaluations| build(&input(request(), evaluations)).map(|_| ()).map_err(|error| format!("{error:#}"));
    let refused = [
        told(vec![evaluation("model=sft,prompt=cot", &[f64::NAN])]),
        told(vec![evaluation("model=sft,prompt=cot", &[0.5, 1.5])]),
        told(vec![super::input::Evaluation {
            scores: Some(ScoreRows::Listed(vec![score("a-0", 1.0), score("a-0", 1.0)])),
            ..not_run("model=sft,prompt=cot")
        }]),
    ];
    let refused: Vec<String> = refused.into_iter().map(Result::unwrap_err).collect();
    expect![[r#"
        report `main`: `eval@model=sft,prompt=cot`: the item `a-0` has the score NaN, not one from 0 to 1
        report `main`: `eval@model=sft,prompt=cot`: the item `a-1` has the score 1.5, not one from 0 to 1
        report `main`: `eval@model=sft,prompt=cot`: the item `a-0` is scored twice"#]]
    .assert_eq(&refused.join("\n"));
}

#[test]
fn items_that_only_share_a_name_are_not_compared() {
    let mut scores = vec![evaluation("model=sft,prompt=cot", &[1.0]), evaluation("model=dpo,prompt=cot", &[1.0])];
    listed(&mut scores[1])[0].gold = vec!["8".to_string()];
    let report = report(request(), scores);
    assert_eq!(report.tables[0].contrasts[0].words, "the two sides share no item");
    assert_eq!(report.tables[0].datasets[0].items, 2);
}

#[test]
fn one_item_and_no_change_support_nothing() {
    let scores = vec![evaluation("model=sft,prompt=cot", &[1.0]), evaluation("model=dpo,prompt=cot", &[1.0])];
    let report = report(request(), scores);
    let contrast = &report.tables[0].contrasts[0];
    let difference = contrast.difference.as_ref().unwrap();
    assert_eq!((difference.estimate.mean, difference.p_holm, contrast.verdict), (0.0, 1.0, Verdict::NotSupported));
    expect!["the interval includes zero; these items are too few, or too alike, to show any difference; one seed: how much another seed would change it is unknown"].assert_eq(&contrast.words);
}

#[test]
fn an_arm_without_seeds_is_compared_with_every_seed() {
    let scores = vec![
        evaluation("model=base,prompt=cot", &[0.0, 0.0, 1.0]),
        evaluation("model=sft,prompt=cot,seed=0", &[1.0, 1.0, 1.0]),
        evaluation("model=sft,prompt=cot,seed=1", &[1.0, 0.0, 1.0]),
    ];
    let table = TableRequest {
        baseline: Some("model=base".to_string()),
        contrasts: vec![contrast("training helps", "model=sft", "model=base")],
        ..request()
    };
    let report = report(table, scores);
    let difference = report.tables[0].contrasts[0].difference.as_ref().unwrap();
    assert_eq!((difference.comparison.pairs, difference.comparison.gained, difference.estimate.seeds), (6, 3, 2));
    assert_eq!(cell(&report, 0, 0).estimate.unwrap().seeds, 1);
}

#[test]
fn data_sets_may_be_the_columns() {
    let mut scores = vec![evaluation("model=sft", &[1.0, 0.0]), evaluation("model=dpo", &[1.0, 1.0])];
    for (evaluation, value) in scores.iter_mut().zip([0.0, 1.0]) {
        listed(evaluation).push(score("b-0", value));
    }
    let table = TableRequest { columns: vec!["dataset".to_string()], contrasts: Vec::new(), ..request() };
    let report = report(table, scores);
    assert_eq!(report.tables[0].columns, ["a", "b", "mean"]);
    let row = |row: usize| (0..3).map(|column| mean(&report, row, column).unwrap()).collect::<Vec<_>>();
    assert_eq!((row(0), row(1)), (vec![0.5, 0.0, 0.25], vec![1.0, 1.0, 1.0]));
    assert!(!report.tables[0].breakdown);
}

#[test]
fn lines_keep_to_the_width() {
    let report = report(request(), study());
    for width in [40, 60, 80, 100] {
        for line in report.terminal(width, false).lines() {
            assert!(unicode_width::UnicodeWidthStr::width(line) <= width.max(72), "{width}: {line}");
        }
    }
    assert!(report.terminal(100, true).contains("\u{1b}["));
}

#[test]
fn scores_in_files_give_the_report_of_scores_in_lists() {
    let folder = tempfile::tempdir().unwrap();
    let mut evaluations = study();
    for (number, evaluation) in evaluations.iter_mut().enumerate().filter(|(_, one)| one.scores.is_some()) {
        let path = folder.path().join(format!("{number}.jsonl"));
        ablate_data::jsonl::write(&path, listed(evaluation)).unwrap();
        evaluation.scores = Some(ScoreRows::File(path));
    }
    let (files, lists) = (report(request(), evaluations.clone()), report(request(), study()));
    assert!(!lists.disagreements.is_empty());
    assert_eq!(files, lists);
    evaluations[0].scores = Some(ScoreRows::File(folder.path().join("gone.jsonl")));
    let error = format!("{:#}", build(&input(request(), evaluations)).unwrap_err());
    assert!(error.starts_with("`eval@model=sft,prompt=direct,seed=0`: its scores cannot be read: cannot "), "{error}");
}

#[test]
fn equal_scores_give_equal_reports() {
    let render = || report(request(), study());
    assert_eq!(render().json(), render().json());
    assert_eq!(render().html(), render().html());
}

#[test]
fn no_text_of_a_user_becomes_markup() {
    let evil = "</pre></style><script>alert(1)</script><img src=x onerror=alert(1)>\" ' | `x` \u{1b}[31m";
    let mut evaluations = study();
    for evaluation in &mut evaluations {
        evaluation.point.insert("arm".to_string(), evil.to_string());
        for score in evaluation.scores.is_some().then(|| listed(evaluation)).into_iter().flatten() {
            score.response = evil.to_string();
            score.prompt = evil.to_string();
            score.gold = vec![evil.to_string()];
            score.answer = Some(evil.to_string());
            score.dataset = evil.to_string();
            score.image = Some("key".to_string());
        }
    }
    let mut table = TableRequest { title: evil.to_string(), stage: "eval".to_string(), ..request() };
    table.rows = vec!["arm".to_string(), "model".to_string()];
    table.labels.insert("model=dpo".to_string(), evil.to_string());
    table.contrasts[0].about = evil.to_string();
    let mut input = input(table, evaluations);
    input.experiment = evil.to_string();
    input.about = evil.to_string();
    input.notes = vec![evil.to_string()];
    input.provenance = vec![(evil.to_string(), evil.to_string())];
    input.graph = vec![GraphNode {
        instance: evil.to_string(),
        stage: evil.to_string(),
        kind: evil.to_string(),
        state: NodeState::Missing,
        reads: vec!["nobody".to_string(), evil.to_string()],
    }];
    input.costs =
        vec![Cost { instance: evil.to_string(), stage: evil.to_string(), kind: evil.to_string(), ..Cost::default() }];
    let mut credited = credited(&[true, false]);
    (credited.prompt, credited.item.id) = (evil.to_string(), evil.to_string());
    for credit in &mut credited.responses {
        credit.tokens.push((evil.to_string(), -2.0));
        credit.verdict.answer = Some(evil.to_string());
    }
    input.credits = vec![Credits { instance: evil.to_string(), questions: vec![credited] }];
    input.images = Box::new(|_| Some(b"<svg onload=alert(1)>".to_vec()));
    let report = build(&input).unwrap();
    let html = report.html();
    assert!(!html.contains("<script") && !html.contains("<img") && !html.contains("<svg onload"));
    assert!(html.contains("id=\"credits\"") && html.contains("&lt;script&gt;") && !html.contains('\u{1b}'));
    let markdown = report.markdown();
    assert!(!markdown.contains("<script") && !markdown.contains('\u{1b}'));
    assert!(!report.terminal(100, false).contains('\u{1b}'));
}

#[test]
fn the_page_asks_nobody_for_anything() {
    let mut input = input(request(), study());
    input.images = Box::new(|_| Some(vec![0x89, b'P', b'N', b'G']));
    let run = input.evaluations.iter_mut().filter(|evaluation| evaluation.scores.is_some());
    for score in run.flat_map(listed) {
        score.image = Some("key".to_string());
    }
    let html = build(&input).unwrap().html();
    assert!(html.contains("default-src 'none'") && html.contains("src=\"data:image/png;base64,"));
    assert!(
        !html.contains("<script") && !html.contains("<link") && !html.contains("@import") && !html.contains("url(")
    );
    let addresses = html.replace("http://www.w3.org/2000/svg", "");
    assert!(!addresses.contains("http://") && !addresses.contains("https://"));
}

#[test]
fn a_credit_map_colors_tokens_and_frames_the_lowest() {
    let mut input = input(request(), study());
    let seen = [credited(&[true, true]), credited(&[true, false, false])];
    input.credits = vec![Credits { instance: "score".to_string(), questions: seen.to_vec() }];
    let report = build(&input).unwrap();
    // A question without a wrong response is not shown.
    assert_eq!(report.credits[0].questions.len(), 1);
    let html = report.html();
    let maps = html.split("<pre tabindex=\"0\"><span class=\"credit ").skip(1);
    let maps: Vec<&str> = maps.filter_map(|part| Some(part.split_once("</pre>")?.0)).collect();
    // -0.5 and 1.0 of the right response, -2.0 and 1.0 of the wrong one: shares of 70 % by the strongest, which is 2.
    expect![[r#"
         minus lowest" style="--share:18%" title="-0.500">1+2</span><span class="credit plus" style="--share:35%" title="+1.000">=3</span>
         minus lowest" style="--share:70%" title="-2.000">1+2</span><span class="credit plus" style="--share:35%" title="+1.000">=3</span>"#]]
    .assert_eq(&maps.join("\n"));
    assert!(!build(&ReportInput { credits: Vec::new(), ..input }).unwrap().html().contains("id=\"credits\""));
}

#[test]
fn disagreements_show_both_ways_with_their_counts() {
    let report = report(request(), study());
    let told: Vec<String> = report.disagreements[0]
        .1
        .iter()
        .map(|one| format!("{} right, {} wrong: {} of {}, seed {}", one.right, one.wrong, one.count, one.of, one.seed))
        .collect();
    expect![[r#"
        dpo · CoT right, dpo · direct wrong: 5 of 8, seed 0
        dpo · CoT right, sft · CoT wrong: 4 of 8, seed 0"#]]
    .assert_eq(&told.join("\n"));
}
