//! Token credit: for some questions a correct and an incorrect response with the log-ratio of each token.

use serde::Serialize;

use super::input::{CreditedInstance, Images};
use ablate_data::records::{CreditedItem, CreditedResponse};
use ablate_data::token_credit::lowest;

/// Questions per instance.
pub(super) const QUESTIONS: usize = 3;

/// Most instances that are shown.
pub(super) const INSTANCES: usize = 4;

/// The questions of one instance that are shown.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CreditMap {
    pub instance: String,
    pub questions: Vec<CreditedPair>,
}

/// One question with its first correct and its first incorrect response.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CreditedPair {
    pub id: String,
    pub dataset: String,
    pub prompt: String,
    pub gold: Vec<String>,
    /// Encoded images. They are not part of the JSON.
    #[serde(skip)]
    pub images: Vec<Vec<u8>>,
    pub right: CreditedResponse,
    pub wrong: CreditedResponse,
}

/// Whether a question has a correct and an incorrect response with tokens.
pub(super) fn is_shown(credited: &CreditedItem) -> bool {
    first(credited, true).is_some() && first(credited, false).is_some()
}

pub(super) fn maps(credits: &[CreditedInstance], images: &Images) -> Vec<CreditMap> {
    let question = |credited: &CreditedItem| {
        Some(CreditedPair {
            id: credited.item.id.clone(),
            dataset: credited.item.dataset.clone(),
            prompt: credited.prompt.clone(),
            gold: credited.item.answers.clone(),
            images: credited.item.images.keys().iter().filter_map(|key| images(key)).collect(),
            right: first(credited, true)?.clone(),
            wrong: first(credited, false)?.clone(),
        })
    };
    let map = |one: &CreditedInstance| CreditMap {
        instance: one.instance.clone(),
        questions: one.questions.iter().filter_map(question).take(QUESTIONS).collect(),
    };
    credits.iter().map(map).filter(|map| !map.questions.is_empty()).take(INSTANCES).collect()
}

fn first(credited: &CreditedItem, correct: bool) -> Option<&CreditedResponse> {
    credited.responses.iter().find(|credit| credit.verdict.correct == correct && lowest(credit).is_some())
}
