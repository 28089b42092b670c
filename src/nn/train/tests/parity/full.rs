//! Training of all parameters: supervised fine-tuning and every preference loss.

use super::{Case, brief_cases, cases};
use crate::Resources;
use crate::tests::support::RESOURCES;
use crate::train::dpo::{Preference, reference_ratios};
use crate::train::preference::{PreferenceLoss, Reduction, TokenWeights};
use crate::train::sft::CrossEntropy;
use ablate_data::tokens::TokenPair;

#[test]
fn fine_tuning_matches_torch() {
    for case in cases().into_iter().chain(brief_cases()) {
        let objective = CrossEntropy { rows: &case.rows };
        case.follow("sft", &case.expected("sft"), None, &objective);
    }
}

#[test]
fn preference_optimization_matches_trl() {
    for case in cases() {
        for run in ["dpo-sigmoid", "dpo-smoothed", "dpo-hinge", "dpo-ipo", "dpo-sft"] {
            follow(&case, run, &case.pairs);
        }
    }
    for case in brief_cases() {
        follow(&case, "dpo-sigmoid", &case.pairs);
    }
}

#[test]
fn token_weights_match_torch() {
    for case in cases() {
        for run in ["dpo-cosine", "dpo-linear", "dpo-linear-ipo"] {
            follow(&case, run, &case.pairs);
        }
    }
}

pub(super) fn follow(case: &Case, run: &str, pairs: &[TokenPair]) {
    follow_on(&RESOURCES, case, run, pairs);
}

/// As [`follow`], on a given device.
pub(in crate::train::tests) fn follow_on(resources: &Resources, case: &Case, run: &str, pairs: &[TokenPair]) {
    let expected = case.expected(run);
    let fields = &expected.fields["loss"];
    let number = |key: &str| fields.get(key).map_or(0.0, |value| value.as_f64().unwrap());
    let loss = match fields["loss"].as_str().unwrap() {
        "sigmoid" => PreferenceLoss::Sigmoid { label_smoothing: number("label_smoothing") },
        "hinge" => PreferenceLoss::Hinge,
        "ipo" => PreferenceLoss::Ipo,
        other => panic!("unknown loss `{other}`"),
    };
    let weights: Option<TokenWeights> =
        fields.get("token_weights").map(|weights| serde_json::from_value(weights.clone()).unwrap());
    let reduction = Reduction { weights, mean: loss.averages() };
    let reference = reference_ratios(&case.start, pairs, reduction, &case.images, resources).unwrap();
    let (beta, sft_weight) = (number("beta"), number("sft_weight"));
    let objective = Preference { pairs, reference, reduction, loss, beta, sft_weight };
    case.follow_on(resources, run, &expected, None, &objective);
}
