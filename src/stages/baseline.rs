//! Baselines of `eval` that need no model: they answer from the gold answers of other items, without looking at images.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Result, anyhow};
use serde::{Deserialize, Serialize};

use super::common::stage_input;
use super::image_input::ImageInput;
use super::sampling::Sampling;
use super::too_long::TooLongAction;
use ablate_core::base::wrong_input;
use ablate_core::stage::{ArtifactKind, ConfigError, Input, Manifest, Reference, Summary};
use ablate_data::answers::{canonical, letter_of_gold};
use ablate_data::prompts::{bare_response, option_letters};
use ablate_data::records::{AnswerType, FinishReason, Item, Rollout, Sample};
use ablate_nn::Precision;

/// The table of a baseline.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Baseline {
    /// Its label in the names of instances.
    name: Option<String>,
    #[serde(rename = "baseline")]
    rule: Rule,
    /// The items whose answers it counts.
    items: Reference,
}

/// How a baseline answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Rule {
    /// With the most frequent answer to the same question, or else to the questions of the data set.
    MostFrequent,
}

/// The responses of a baseline.
pub(super) struct BaselineRollouts {
    pub(super) rollouts: Vec<Rollout>,
    pub(super) summary: Summary,
}

impl Baseline {
    /// Whether the table of a stage has a baseline as its model.
    pub(super) fn is_given(table: &serde_json::Value) -> bool {
        table.get("model").is_some_and(|model| model.get("baseline").is_some())
    }

    /// The keys of the stage that have no effect on a baseline.
    pub(super) fn check(sampling: &Sampling, image: ImageInput) -> Vec<ConfigError> {
        let Sampling {
            prompt: _,
            samples: _,
            temperature,
            top_k,
            top_p,
            // An answer is shorter than every limit, which the other models of the same stage need.
            max_tokens: _,
            stop,
            repetition_penalty,
            precision,
            too_long,
        } = sampling;
        let given = [
            ("image", image != ImageInput::Given),
            ("temperature", *temperature > 0.0),
            ("top_k", *top_k != 0),
            ("top_p", *top_p < 1.0),
            ("stop", !stop.is_empty()),
            ("repetition_penalty", repetition_penalty.is_some()),
            ("precision", *precision != Precision::F32),
            ("too_long", *too_long != TooLongAction::Error),
        ];
        let given = given.into_iter().filter(|(_, given)| *given);
        let message =
            |key| format!("`{key}` has no effect on a baseline: remove it, or give the baseline its own stage");
        given.map(|(key, _)| ConfigError::at(key, message(key))).collect()
    }

    pub(super) fn identify(&self, manifest: &mut Manifest) {
        let Baseline { name: _, rule, items: _ } = self;
        manifest.value("model.baseline", rule);
    }

    pub(super) fn input(&self) -> Input {
        stage_input("model.items", &self.items, &[ArtifactKind::Items])
    }

    /// Responses in the form that the prompt requests. `known` are the items of [`Baseline::input`].
    pub(super) fn respond(&self, sampling: &Sampling, items: Vec<Item>, known: &[Item]) -> Result<BaselineRollouts> {
        let Rule::MostFrequent = self.rule;
        let counts = AnswerCounts::new(known);
        let mut same_question = 0;
        let respond = |item: Item| {
            let (answer, from) = counts.most_frequent(&item)?;
            same_question += usize::from(from == AnswersOf::Question);
            let text = bare_response(&answer, sampling.prompt.style);
            let sample = Sample { text, finish: FinishReason::Stop, tokens: 0, thinking: 0 };
            Ok(Rollout { prompt: sampling.prompt.render(&item), item, samples: vec![sample] })
        };
        let rollouts = items.into_iter().map(respond).collect::<Result<_>>()?;
        let name = self.name.as_deref().unwrap_or("most-frequent");
        let summary = Summary::default().with("model", name).with("same_question", same_question);
        Ok(BaselineRollouts { rollouts, summary })
    }
}

/// The items that an answer was counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AnswersOf {
    Question,
    Dataset,
}

/// Numbers of gold answers, by question and by data set.
#[derive(Debug, Default)]
struct AnswerCounts<'a> {
    questions: HashMap<QuestionKey, Counts>,
    datasets: BTreeMap<(&'a str, AnswerType), Counts>,
}

/// Data set, answer type, question and options; case and white space are ignored.
type QuestionKey = (String, AnswerType, Vec<String>);

/// By canonical answer: its number and its spellings.
type Counts = BTreeMap<String, (usize, BTreeSet<String>)>;

impl<'a> AnswerCounts<'a> {
    fn new(items: &'a [Item]) -> AnswerCounts<'a> {
        let mut counts = AnswerCounts::default();
        for item in items {
            for answer in counted_answers(item) {
                let of_question = counts.questions.entry(question_key(item)).or_default();
                let of_dataset = counts.datasets.entry((&item.dataset, item.answer_type)).or_default();
                for counts in [of_question, of_dataset] {
                    let (count, spellings) = counts.entry(canonical(item, &answer)).or_default();
                    *count += 1;
                    spellings.insert(answer.clone());
                }
            }
        }
        counts
    }

    fn most_frequent(&self, item: &Item) -> Result<(String, AnswersOf)> {
        let of_question = self.questions.get(&question_key(item)).and_then(|counts| first(counts, item));
        if let Some(answer) = of_question {
            return Ok((answer, AnswersOf::Question));
        }
        let of_dataset = self.datasets.get(&(&*item.dataset, item.answer_type));
        let answer = of_dataset.and_then(|counts| first(counts, item)).ok_or_else(|| {
            wrong_input(anyhow!(
                "`model.items` has no answer for item `{}`: no item of the data set `{}` has its answer type and, for a letter, \
                 one of its options; name items of the same data sets, or choose data sets with `datasets`",
                item.id,
                item.dataset
            ))
        })?;
        Ok((answer, AnswersOf::Dataset))
    }
}

/// The most frequent answer, the first in sorted order of several. A letter must be that of an option of the item.
fn first(counts: &Counts, item: &Item) -> Option<String> {
    let is_option = |answer: &str| {
        let options = item.options.len();
        options == 0 || option_letters().take(options).any(|letter| answer == letter.to_string())
    };
    let possible = |spellings: &BTreeSet<String>| {
        !item.answer_type.is_multiple_choice() || spellings.iter().any(|answer| is_option(answer))
    };
    // Of equal numbers `max_by_key` returns the last.
    let counted = counts.values().rev().filter(|(_, spellings)| possible(spellings));
    counted.max_by_key(|(count, _)| *count)?.1.first().cloned()
}

/// The gold answers that an item adds: those of all annotators, otherwise the first one; the letter of an option.
fn counted_answers(item: &Item) -> Vec<String> {
    match item.answer_type {
        AnswerType::Vqa | AnswerType::VqaEval | AnswerType::Textvqa => item.answers.clone(),
        answer_type => {
            let letter = |gold: &String| letter_of_gold(gold, &item.options).map(String::from);
            let is_letter = answer_type.is_multiple_choice();
            let answer = item.answers.first();
            let answer = answer.map(|gold| letter(gold).filter(|_| is_letter).unwrap_or_else(|| gold.clone()));
            answer.into_iter().collect()
        }
    }
}

fn question_key(item: &Item) -> QuestionKey {
    let normalize = |text: &String| text.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ");
    let texts = [&item.question].into_iter().chain(&item.options).map(normalize);
    (item.dataset.clone(), item.answer_type, texts.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn item(question: &str, options: &[&str], answer_type: &str, answers: &[&str]) -> Item {
        serde_json::from_value(json!({
            "id": "1", "dataset": "d", "question": question, "options": options, "answer_type": answer_type, "answers": answers,
        }))
        .unwrap()
    }

    fn answer(known: &[Item], item: &Item) -> (String, AnswersOf) {
        AnswerCounts::new(known).most_frequent(item).unwrap()
    }

    #[test]
    fn the_same_question_comes_before_the_data_set() {
        let text = |question: &str, answer: &str| item(question, &[], "text", &[answer, "another"]);
        let known = [
            text("Is it red?", "Yes"),
            text("is  it RED?", "no"),
            text("Is it red?", "yes."),
            text("Why?", "no"),
            text("Who?", "no"),
        ];
        assert_eq!(answer(&known, &text("Is it red?", "?")), ("Yes".into(), AnswersOf::Question));
        assert_eq!(answer(&known, &text("Is it blue?", "?")), ("no".into(), AnswersOf::Dataset));
        // Of equally frequent answers the first in sorted order.
        assert_eq!(answer(&known[..2], &text("Is it red?", "?")).0, "no");
        let other = Item { dataset: "other".into(), ..text("Is it red?", "?") };
        let error = AnswerCounts::new(&known).most_frequent(&other).unwrap_err().to_string();
        assert!(
            error.starts_with("`model.items` has no answer for item `1`: no item of the data set `other`"),
            "{error}"
        );
    }

    #[test]
    fn a_letter_is_one_of_the_options() {
        let letter = |question: &str, options: &[&str], gold: &str| item(question, options, "letter", &[gold]);
        let known = [
            letter("a", &["red", "green", "blue"], "C"),
            letter("b", &["red", "green", "blue"], "blue"),
            letter("c", &["red", "green"], "B"),
        ];
        assert_eq!(answer(&known, &letter("new", &["one", "two", "three"], "A")), ("C".into(), AnswersOf::Dataset));
        assert_eq!(answer(&known, &letter("new", &["one", "two"], "A")), ("B".into(), AnswersOf::Dataset));
        // Other options make another question.
        assert_eq!(answer(&known, &letter("c", &["green", "red"], "A")).1, AnswersOf::Dataset);
        assert_eq!(answer(&known, &letter("C", &["Red", "green"], "A")), ("B".into(), AnswersOf::Question));
    }

    #[test]
    fn every_annotator_counts() {
        let vqa = |answers: &[&str]| item("q", &[], "vqa", answers);
        let known = [vqa(&["red", "red", "blue"]), vqa(&["blue", "blue", "green"])];
        assert_eq!(answer(&known, &vqa(&["x"])).0, "blue");
    }
}
