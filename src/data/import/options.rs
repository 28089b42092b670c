//! Options for imported rows: data set, answer type and instruction where a row does not state them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::gold_answers::OptionAnswers;
use crate::records::AnswerType;

/// Maximum number of characters of a question in an error message.
const MAX_SHOWN: usize = 80;

/// A file of rows.
#[derive(Clone, Debug)]
pub struct RowFile {
    pub path: PathBuf,
    /// The data set of rows that state none.
    pub dataset: String,
    /// Whether `dataset` replaces the data set that a row states.
    pub overrides_rows: bool,
}

/// Options that apply to every file.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// Answer types of rows that state none.
    pub answer_types: Option<AnswerTypes>,
    /// Instructions at the end of questions, which are removed; every question must end with one of them. Empty:
    /// questions stay unchanged.
    pub instructions: Vec<String>,
    /// How gold answers of multiple-choice items name their option.
    pub option_answers: OptionAnswers,
}

/// Answer types of rows that state none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(untagged)]
pub enum AnswerTypes {
    All(AnswerType),
    /// One answer type per data set.
    ByDataset(BTreeMap<String, AnswerType>),
}

impl ImportOptions {
    /// The answer type of a row that states none. Without a configured type, a row with options has a letter as its
    /// answer.
    pub fn answer_type(&self, dataset: &str, has_options: bool) -> AnswerType {
        let given = match &self.answer_types {
            None => None,
            Some(AnswerTypes::All(one)) => Some(*one),
            Some(AnswerTypes::ByDataset(types)) => types.get(dataset).copied(),
        };
        given.unwrap_or(if has_options { AnswerType::Letter } else { AnswerType::Text })
    }

    /// Removes the instruction at the end of a question.
    pub fn strip_instruction(&self, question: String) -> Result<String, String> {
        if self.instructions.is_empty() {
            return Ok(question);
        }
        let question = question.trim_end();
        // One instruction may end with another one; the longest match is removed.
        let fitting = self.instructions.iter().filter_map(|instruction| question.strip_suffix(instruction.trim()));
        match fitting.min_by_key(|rest| rest.len()).map(str::trim_end) {
            Some("") => Err("the question has only an instruction".to_string()),
            Some(rest) => Ok(rest.to_string()),
            None => Err(self.missing_instruction(question)),
        }
    }

    /// The error for a question that ends with no known instruction: its last line and the most similar instruction.
    fn missing_instruction(&self, question: &str) -> String {
        let end = |text: &str, count: usize| {
            let skipped = text.chars().count().saturating_sub(count);
            text.chars().skip(skipped).collect::<String>()
        };
        let nearest = self.instructions.iter().map(|instruction| instruction.trim()).min_by_key(|instruction| {
            let length = instruction.chars().count();
            // Relative to its length (in thousandths), so that a short instruction is not similar to every text.
            strsim::levenshtein(&end(question, length), instruction) * 1000 / length.max(1)
        });
        let (nearest, last) = (nearest.unwrap_or_default(), question.lines().last().unwrap_or_default());
        let last = end(last.trim(), MAX_SHOWN);
        format!(
            "the question ends with `{last}`, which is not one of `instructions`; the most similar one is `{nearest}`"
        )
    }
}

impl<'de> Deserialize<'de> for AnswerTypes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<AnswerTypes, D::Error> {
        struct TypeOrTable;
        impl<'de> Visitor<'de> for TypeOrTable {
            type Value = AnswerTypes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an answer type or a table with an answer type per data set")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<AnswerTypes, E> {
                AnswerType::deserialize(StrDeserializer::new(text)).map(AnswerTypes::All)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<AnswerTypes, A::Error> {
                Deserialize::deserialize(MapAccessDeserializer::new(map)).map(AnswerTypes::ByDataset)
            }
        }
        deserializer.deserialize_any(TypeOrTable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_instruction_at_the_end_is_removed() {
        let instructions = ["Answer briefly.", "Think first. Answer briefly.", "Give the letter."];
        let options = ImportOptions {
            instructions: instructions.map(str::to_string).to_vec(),
            answer_types: None,
            ..ImportOptions::default()
        };
        let strip = |question: &str| options.strip_instruction(question.to_string());
        assert_eq!(strip("How many?\nAnswer briefly. \n").unwrap(), "How many?");
        assert_eq!(strip("How many?\nThink first. Answer briefly.").unwrap(), "How many?");
        assert_eq!(strip("Give the letter. Which?\nGive the letter.").unwrap(), "Give the letter. Which?");
        assert_eq!(strip("Answer briefly.").unwrap_err(), "the question has only an instruction");
        assert_eq!(
            strip("Which?\nGive one letter.").unwrap_err(),
            "the question ends with `Give one letter.`, which is not one of `instructions`; the most similar one is \
             `Give the letter.`"
        );
        assert_eq!(ImportOptions::default().strip_instruction("a \n".into()).unwrap(), "a \n");
    }

    #[test]
    fn answer_types_are_global_or_per_data_set() {
        let types = |value| ImportOptions {
            answer_types: Some(serde_json::from_value(value).unwrap()),
            ..ImportOptions::default()
        };
        assert_eq!(types(json!("vqa")).answer_type("any", true), AnswerType::Vqa);
        let each = types(json!({ "chart": "number" }));
        assert_eq!(each.answer_type("chart", true), AnswerType::Number);
        assert_eq!(each.answer_type("doc", true), AnswerType::Letter);
        assert_eq!(each.answer_type("doc", false), AnswerType::Text);
        let wrong = serde_json::from_value::<AnswerTypes>(json!(3)).unwrap_err().to_string();
        let expected = "expected an answer type or a table with an answer type per data set";
        assert_eq!(wrong, format!("invalid type: integer `3`, {expected}"));
    }
}
