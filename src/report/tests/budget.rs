//! Training budgets: of cells, of the sides of contrasts, and in notes.

use super::support::{contrast, evaluation, input, not_run, plain_spec};
use crate::input::{Evaluation, MeasuredBudget, ReportInput, TrainingRun};
use crate::{Report, build};
use ablate_experiment::{Contrast, ReportSpec};

fn run(stage: &str, steps: f64, tokens: f64) -> TrainingRun {
    let budget = MeasuredBudget {
        steps: Some(steps),
        tokens: Some(tokens),
        flops: Some(1e6 * tokens),
        epochs: Some(1.0),
        examples: Some(16.0 * steps),
        questions: Some(4.0 * steps),
    };
    TrainingRun {
        instance: stage.to_string(),
        stage: stage.split('@').next().unwrap().to_string(),
        budget: Some(budget),
    }
}

fn trained(point: &str, training: &[usize]) -> Evaluation {
    Evaluation { training: training.to_vec(), ..evaluation(point, &[1.0, 0.0, 1.0, 1.0]) }
}

fn trainings() -> Vec<TrainingRun> {
    vec![
        run("base", 5000.0, 9_000_000.0),
        run("sft@mix=cot", 739.0, 930_000.0),
        run("sft@mix=both", 1370.0, 2_140_000.0),
        run("dpo", 382.0, 410_000.0),
        run("rft", 385.0, 402_000.0),
    ]
}

/// Models by prompts: an untuned base, two mixes, and two models trained further.
fn study(contrasts: Vec<Contrast>) -> ReportInput<'static> {
    let models: [(&str, &[usize]); 5] = [
        ("model=base", &[0]),
        ("mix=cot,model=sft", &[0, 1]),
        ("mix=both,model=sft", &[0, 2]),
        ("model=dpo", &[0, 2, 3]),
        ("model=rft", &[0, 2, 4]),
    ];
    let evaluate = |prompt: &'static str| {
        models.map(|(model, training)| trained(&format!("{model},prompt={prompt}"), training)).to_vec()
    };
    let spec = ReportSpec { contrasts, baseline: None, ..plain_spec(&["mix", "model"], &["prompt"]) };
    let evaluations = [evaluate("cot"), evaluate("direct")].concat();
    ReportInput { trainings: trainings(), ..input(spec, evaluations) }
}

fn sentences(report: &Report) -> Vec<Option<&str>> {
    let contrasts = report.tables[0].contrasts.iter();
    contrasts.map(|one| one.budget.as_ref().map(|budget| budget.sentence.as_str())).collect()
}

#[test]
fn a_contrast_compares_what_its_sides_do_not_share() {
    let report = build(&study(vec![
        contrast("4 - 3", "model=sft,mix=both", "model=sft,mix=cot"),
        contrast("dpo - rft", "model=dpo", "model=rft"),
        contrast("dpo - 4", "model=dpo,prompt=cot", "model=sft,mix=both,prompt=cot"),
        contrast("prompts", "model=dpo,prompt=cot", "model=dpo,prompt=direct"),
    ]))
    .unwrap();
    assert_eq!(
        sentences(&report),
        [
            Some("budgets differ: 1,370 steps (2.1 M tokens) against 739 (0.93 M)"),
            Some("budgets equal within 5 %: 382 steps (0.41 M tokens) against 385 (0.40 M)"),
            Some("budgets differ: 382 steps (0.41 M tokens) against no further training"),
            None,
        ]
    );
    let equal = report.tables[0].contrasts.iter().map(|one| one.budget.as_ref().is_some_and(|budget| budget.equal));
    assert_eq!(equal.collect::<Vec<_>>(), [false, true, false, false]);
    let sentence = "budgets differ: 1,370 steps (2.1 M tokens) against 739 (0.93 M)";
    for text in [report.terminal(1000, false), report.markdown(), report.html(), report.json()] {
        assert!(text.contains(sentence), "{text}");
    }
}

#[test]
fn equal_steps_are_equal_budgets() {
    let mut study = study(vec![contrast("4 - 3", "model=sft,mix=both", "model=sft,mix=cot")]);
    study.trainings[2] = run("sft@mix=both", 739.0, 945_000.0);
    let report = build(&study).unwrap();
    assert_eq!(sentences(&report), [Some("equal budgets: 739 steps, tokens within 2 %")]);
    study.trainings[2] = run("sft@mix=both", 739.0, 1_400_000.0);
    let report = build(&study).unwrap();
    assert_eq!(sentences(&report), [Some("budgets differ: 739 steps (1.4 M tokens) against 739 (0.93 M)")]);
}

#[test]
fn seeds_and_selectors_are_averaged() {
    let evaluations = vec![
        trained("model=a,seed=0", &[0, 1]),
        trained("model=a,seed=1", &[0, 2]),
        trained("model=b,seed=0", &[0, 3]),
    ];
    let spec = ReportSpec { contrasts: vec![contrast("a - b", "model=a", "model=b")], ..plain_spec(&["model"], &[]) };
    let spec = ReportSpec { baseline: None, ..spec };
    let report = build(&ReportInput { trainings: trainings(), ..input(spec, evaluations) }).unwrap();
    // The contrast is measured on seed 0, which both have.
    assert_eq!(sentences(&report), [Some("budgets differ: 739 steps (0.93 M tokens) against 382 (0.41 M)")]);
    let budget = report.tables[0].rows[0].cells[0].budget.as_ref().unwrap();
    let steps = budget.steps.unwrap();
    assert_eq!((steps.mean, steps.low, steps.high), (6054.5, 5739.0, 6370.0));
    let stages: Vec<_> = budget.stages.iter().map(|one| (one.stage.as_str(), one.budget.steps.unwrap())).collect();
    assert_eq!(stages, [("base", 5000.0), ("sft", 1054.5)]);
}

#[test]
fn a_table_shows_budgets_without_what_all_rows_share() {
    let report = build(&study(Vec::new())).unwrap();
    let text = report.terminal(200, false);
    let table: Vec<&str> = text.lines().skip_while(|line| *line != "training budget").collect();
    expect_test::expect![[r#"
        training budget
        mix · model   steps   tokens   FLOPs    epochs   questions
        base              0        0        0   –            –
        cot · sft       739   0.93 M   9.3e11   1        2,956
        both · sft    1,370    2.1 M   2.1e12   1        5,480
        dpo           1,752    2.5 M   2.6e12   1        1,528
        rft           1,755    2.5 M   2.5e12   1        1,540
        sums over the training stages of a model, mean over seeds [smallest, largest]; epochs and questions of the last stage
        not counted, because all rows share it: `base` (5,000 steps, 9.0 M tokens)

        note: every cell has fewer than 3 seeds: their intervals and tests are about these training runs, and not about the recipe
        note: training budgets differ: from 739 steps (0.93 M tokens) for `cot · sft` to 1,755 steps (2.5 M tokens) for `rft`"#]].assert_eq(&table.join("\n"));
    assert!(report.markdown().contains("**training budget**") && report.html().contains("Training budget"));
    let first = report.csv().lines().nth(3).unwrap().to_string();
    assert!(first.ends_with(",5000,9000000,9000000000000,1,80000,20000"), "{first}");
}

#[test]
fn rows_of_one_model_have_one_budget() {
    let evaluations = ["cot", "direct"].map(|prompt| trained(&format!("prompt={prompt}"), &[0, 1])).to_vec();
    let spec = ReportSpec { baseline: None, ..plain_spec(&["prompt"], &[]) };
    let report = build(&ReportInput { trainings: trainings(), ..input(spec, evaluations) }).unwrap();
    let table = report.tables[0].budget.as_ref().unwrap();
    assert_eq!((table.rows.len(), table.rows[0].budget.steps.unwrap().mean), (1, 5739.0));
    assert_eq!((table.rows[0].label.as_str(), table.shared.len()), ("all rows", 0));
}

#[test]
fn columns_of_different_models_have_budgets_of_their_own() {
    let points = [("model=a,prompt=cot", 1), ("model=b,prompt=cot", 2), ("model=a,prompt=direct", 1)];
    let evaluations = points.map(|(point, run)| trained(point, &[0, run])).to_vec();
    let spec = ReportSpec { baseline: None, ..plain_spec(&["prompt"], &["model"]) };
    let report = build(&ReportInput { trainings: trainings(), ..input(spec, evaluations) }).unwrap();
    let rows = report.tables[0].budget.as_ref().unwrap().rows.iter();
    let rows: Vec<_> = rows.map(|row| (row.label.as_str(), row.budget.steps.unwrap().mean)).collect();
    assert_eq!(rows, [("CoT · a", 739.0), ("CoT · b", 1370.0), ("direct · a", 739.0)]);
}

#[test]
fn what_is_not_known_is_said() {
    let elsewhere =
        |point: &str, root: &str| Evaluation { trained_elsewhere: Some(root.to_string()), ..trained(point, &[]) };
    let endpoint = "`eval` is a model behind an endpoint";
    let evaluations = vec![elsewhere("model=gpt", endpoint), trained("model=sft", &[0, 1]), not_run("model=dpo")];
    let contrasts =
        vec![contrast("sft - gpt", "model=sft", "model=gpt"), contrast("dpo - sft", "model=dpo", "model=sft")];
    let spec = ReportSpec { baseline: None, contrasts, ..plain_spec(&["model"], &[]) };
    let mut study = ReportInput { trainings: trainings(), ..input(spec, evaluations) };
    let report = build(&study).unwrap();
    assert_eq!(sentences(&report), [Some("budgets cannot be compared: `eval` is a model behind an endpoint"), None]);
    assert!(report.markdown().contains("earlier training is not known"), "{}", report.markdown());
    // Without a model that was trained here, there is no table of budgets.
    study.evaluations.truncate(1);
    study.specs[0].contrasts.clear();
    assert_eq!(build(&study).unwrap().tables[0].budget, None);
}
