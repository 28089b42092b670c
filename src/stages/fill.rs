//! Instructions with placeholders such as `{question}`.

use std::collections::BTreeSet;

use ablate_data::records::{AnswerType, Item};

/// The template with the placeholders replaced in one pass, so that a placeholder inside a value is not replaced.
pub(super) fn fill_placeholders(template: &str, values: &[(&str, &str)]) -> String {
    let mut filled = String::new();
    let mut rest = template;
    while let Some(start) = rest.find('{') {
        filled.push_str(&rest[..start]);
        rest = &rest[start..];
        let (name, value) = values.iter().find(|(name, _)| rest.starts_with(name)).unwrap_or(&("{", "{"));
        filled.push_str(value);
        rest = &rest[name.len()..];
    }
    filled + rest
}

/// The gold answers of an item as a text: `a or b`.
pub(super) fn reference_answer(item: &Item) -> String {
    let mut answers = item.answers.clone();
    if matches!(item.answer_type, AnswerType::Vqa | AnswerType::VqaEval | AnswerType::Textvqa) {
        // Several annotators give the same answer.
        let mut distinct = BTreeSet::new();
        answers.retain(|answer| distinct.insert(answer.clone()));
    }
    answers.join(" or ")
}
