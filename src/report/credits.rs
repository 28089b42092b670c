//! Which credited responses a report shows: of a few questions a right and a wrong one, token by token. Computes no
//! statistics.

use serde::Serialize;

use ablate_data::records::{CreditedItem, CreditedResponse};
use ablate_data::token_credit::lowest;

/// Questions that are shown of one instance.
pub(super) const QUESTIONS: usize = 3;

/// Instances that are shown at most.
pub(super) const INSTANCES: usize = 4;

/// The credited questions of one instance that a report may show.
#[derive(Clone, Debug, PartialEq)]
pub struct Credits {
    pub instance: String,
    pub questions: Vec<CreditedItem>,
}

/// What one instance's credits look like.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CreditMap {
    pub instance: String,
    pub questions: Vec<CreditedPair>,
}

/// One question with a right and a wrong response: the first of either.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CreditedPair {
    pub id: String,
    pub dataset: String,
    pub prompt: String,
    pub gold: Vec<String>,
    /// Encoded image; left out of the JSON.
    #[serde(skip)]
    pub image: Option<Vec<u8>>,
    pub right: CreditedResponse,
    pub wrong: CreditedResponse,
}

/// Whether a question has a right and a wrong response with tokens to show.
pub(super) fn is_shown(credited: &CreditedItem) -> bool {
    first(credited, true).is_some() && first(credited, false).is_some()
}

/// The maps of all instances that have a question to show.
pub(super) fn maps(credits: &[Credits], images: &dyn Fn(&str) -> Option<Vec<u8>>) -> Vec<CreditMap> {
    let question = |credited: &CreditedItem| {
        Some(CreditedPair {
            id: credited.item.id.clone(),
            dataset: credited.item.dataset.clone(),
            prompt: credited.prompt.clone(),
            gold: credited.item.answers.clone(),
            image: credited.item.image.as_deref().and_then(images),
            right: first(credited, true)?.clone(),
            wrong: first(credited, false)?.clone(),
        })
    };
    let map = |one: &Credits| CreditMap {
        instance: one.instance.clone(),
        questions: one.questions.iter().filter_map(question).take(QUESTIONS).collect(),
    };
    credits.iter().map(map).filter(|map| !map.questions.is_empty()).take(INSTANCES).collect()
}

fn first(credited: &CreditedItem, right: bool) -> Option<&CreditedResponse> {
    credited.responses.iter().find(|credit| credit.verdict.correct == right && lowest(credit).is_some())
}
