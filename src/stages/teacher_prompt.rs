//! The prompts of a teacher: ablate's own, those of the table, and those for single data sets.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::fill::{fill_placeholders, reference_answer};
use ablate_core::stage::ConfigError;
use ablate_data::prompts::option_lines;
use ablate_data::records::Item;

/// The system message for questions about an image, with the reference answer as a hint. The paper's own is not public; this one
/// is ablate's.
pub(super) const SYSTEM: &str = "You explain how to find the answer to a question about an image. You are given the reference \
answer: write the reasoning that leads to it from what can be seen, as if you did not know it beforehand. Name the \
visual evidence, keep to short paragraphs, and do not mention the reference answer before you have derived it. If \
the image contradicts the reference, say what you see and conclude with your own answer.";

/// As [`SYSTEM`], for questions without an image.
pub(super) const SYSTEM_TEXT: &str = "You explain how to find the answer to a question. You are given the reference answer: write \
the reasoning that leads to it, as if you did not know it beforehand. Keep to short paragraphs, and do not mention the \
reference answer before you have derived it. If the question contradicts the reference, say why and conclude with your own \
answer.";

/// As [`SYSTEM`], without the reference answer.
pub(super) const SYSTEM_WITHOUT_HINT: &str = "You answer a question about an image. Write the reasoning that leads from what can \
be seen to the answer. Name the visual evidence and keep to short paragraphs.";

/// As [`SYSTEM_WITHOUT_HINT`], for questions without an image.
pub(super) const SYSTEM_TEXT_WITHOUT_HINT: &str =
    "You answer a question. Write the reasoning that leads to the answer. Keep to short paragraphs.";

/// The user's turn, with the reference answer as a hint.
pub(super) const INSTRUCTION: &str = "{question}{options}\n\nReference answer: {answer}\n\nWrite the reasoning first. Then end \
with one last line of exactly this form, with nothing after the answer:\n### Answer: {form}";

/// As [`INSTRUCTION`], without the reference answer.
pub(super) const INSTRUCTION_WITHOUT_HINT: &str = "{question}{options}\n\nWrite the reasoning first. Then end with one last line \
of exactly this form, with nothing after the answer:\n### Answer: {form}";

/// The prompt keys of a teacher, or of one of its data sets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PromptKeys {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) system: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) instruction: Option<String>,
    /// Whether the teacher receives the reference answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) hint: Option<bool>,
}

/// The prompts of a teacher.
#[derive(Clone, Debug, Default)]
pub(super) struct TeacherPrompts {
    pub(super) all: PromptKeys,
    /// Keys that replace those of `all`, by data set.
    pub(super) datasets: BTreeMap<String, PromptKeys>,
}

impl TeacherPrompts {
    /// The mistakes in the table called `name`.
    pub(super) fn check(&self, name: &str) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        let mut check = |path: String, keys: &PromptKeys| {
            let instruction = keys.instruction.as_ref().or(self.all.instruction.as_ref());
            let hint = keys.hint.or(self.all.hint);
            let names_answer = instruction.is_some_and(|text| text.contains("{answer}"));
            if hint == Some(false) && names_answer {
                let message =
                    "`hint = false` keeps the reference answer from the teacher, but the instruction has `{answer}`";
                errors.push(ConfigError::at(&format!("{path}.hint"), message));
            }
            if hint == Some(true) && instruction.is_some() && !names_answer {
                let message =
                    "`hint = true` gives the teacher the reference answer, but the instruction has no `{answer}`";
                errors.push(ConfigError::at(&format!("{path}.hint"), message));
            }
        };
        check(name.to_string(), &self.all);
        for (dataset, keys) in &self.datasets {
            check(format!("{name}.datasets.{dataset}"), keys);
        }
        errors
    }

    /// The system message and the user's turn for an item.
    pub(super) fn render(&self, item: &Item) -> (Cow<'_, str>, String) {
        let own = self.datasets.get(&item.dataset);
        let system = own.and_then(|own| own.system.as_deref()).or(self.all.system.as_deref());
        let instruction = own.and_then(|own| own.instruction.as_deref()).or(self.all.instruction.as_deref());
        // An instruction of the user decides by its `{answer}`.
        let hint = own.and_then(|own| own.hint).or(self.all.hint);
        let hint = hint.unwrap_or_else(|| instruction.is_none_or(|text| text.contains("{answer}")));
        let default = match (hint, item.images.is_empty()) {
            (true, false) => SYSTEM,
            (true, true) => SYSTEM_TEXT,
            (false, false) => SYSTEM_WITHOUT_HINT,
            (false, true) => SYSTEM_TEXT_WITHOUT_HINT,
        };
        let instruction = instruction.unwrap_or(if hint { INSTRUCTION } else { INSTRUCTION_WITHOUT_HINT });
        (Cow::Borrowed(system.unwrap_or(default)), fill(instruction, item))
    }
}

/// The instruction with `{question}`, `{options}`, `{answer}` and `{form}` replaced.
fn fill(instruction: &str, item: &Item) -> String {
    let options = option_lines(&item.options);
    let answer = item.images.escape(&reference_answer(item));
    let form = if item.answer_type.is_multiple_choice() { "<letter>" } else { "<answer>" };
    let values =
        [("{question}", item.question.as_str()), ("{options}", &options), ("{answer}", &answer), ("{form}", form)];
    fill_placeholders(&item.images.escape(instruction), &values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ablate_data::image_keys::ImageKeys;
    use ablate_data::records::AnswerType;

    fn item() -> Item {
        Item {
            id: "1".into(),
            dataset: "toy".into(),
            images: ImageKeys::None,
            question: "Which {answer}?".into(),
            options: vec!["red".into(), "blue".into()],
            answer_type: AnswerType::Letter,
            answers: vec!["B".into(), "blue".into()],
            rationale: None,
            rationale_answer: None,
            facts: Vec::new(),
        }
    }

    #[test]
    fn instruction_is_filled_in_one_pass() {
        assert_eq!(
            fill("{question}{options}\n{answer} {other} {form}", &item()),
            "Which {answer}?\nA red\nB blue\nB or blue {other} <letter>"
        );
        let annotated =
            Item { answer_type: AnswerType::Vqa, answers: ["b", "a", "b"].map(Into::into).into(), ..item() };
        assert_eq!(fill("{answer}", &annotated), "b or a");
    }

    #[test]
    fn default_prompts_fit_image_and_hint() {
        let picture = Item { images: ImageKeys::Leading("a.png".into()), ..item() };
        let prompts =
            |hint| TeacherPrompts { all: PromptKeys { hint, ..PromptKeys::default() }, ..TeacherPrompts::default() };
        let system = |hint, item: &Item| prompts(hint).render(item).0.into_owned();
        assert_eq!(
            [None, Some(true), Some(false)].map(|hint| system(hint, &picture)),
            [SYSTEM, SYSTEM, SYSTEM_WITHOUT_HINT]
        );
        for hint in [None, Some(false)] {
            let text = system(hint, &item());
            assert!(!text.contains("image") && !text.contains("seen"), "{text}");
        }
        assert!(prompts(None).render(&picture).1.contains("Reference answer: B or blue"));
        assert!(!prompts(Some(false)).render(&picture).1.contains("Reference"));
    }

    #[test]
    fn prompts_of_a_data_set_replace_those_of_the_teacher() {
        let own = PromptKeys { instruction: Some("Explain {question}".into()), ..PromptKeys::default() };
        let all = PromptKeys { system: Some("Be brief.".into()), ..PromptKeys::default() };
        let prompts = TeacherPrompts { all, datasets: BTreeMap::from([("toy".to_string(), own)]) };
        assert_eq!(prompts.render(&item()), ("Be brief.".into(), "Explain Which {answer}?".to_string()));
        let other = Item { dataset: "other".into(), ..item() };
        assert!(prompts.render(&other).1.contains("Reference answer"));
    }

    #[test]
    fn documents_have_the_default_prompts() {
        let page = include_str!("../../docs/stages.md");
        let all =
            [SYSTEM, SYSTEM_TEXT, SYSTEM_WITHOUT_HINT, SYSTEM_TEXT_WITHOUT_HINT, INSTRUCTION, INSTRUCTION_WITHOUT_HINT];
        for prompt in all {
            assert!(page.contains(&format!("```text\n{prompt}\n```")), "docs/stages.md lacks {prompt:?}");
        }
    }
}
