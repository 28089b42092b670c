//! Prompt templates: a question turned into the user's turn, and a rationale into a response. A template is part
//! of an experiment's identity, because wording moves scores. Knows no tokenizer.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize};

use super::records::Item;

/// What the final answer of a reasoned response is found by.
pub const MARKER: &str = "### Answer:";

/// Names of the built-in templates.
const BUILT_IN: [&str; 3] = ["direct", "cot", "bare"];

/// An instruction that follows the question on a line of its own.
///
/// In a table it is the name of a built-in template (`"direct"`, `"cot"`, `"bare"`) or an inline table
/// `{ name = "terse", style = "direct", text = "One word.", letter = "One letter." }`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PromptTemplate {
    pub name: String,
    pub style: Style,
    /// The instruction; empty for none.
    pub text: String,
    /// The instruction where the answer is an option's letter.
    pub letter: String,
}

/// What form a response must have: decides where its answer is looked for and whether it complies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Style {
    /// The whole response is the answer.
    Direct,
    /// Reasoning, then `### Answer: ` and the answer.
    Cot,
}

impl PromptTemplate {
    /// A short answer.
    pub fn direct() -> PromptTemplate {
        PromptTemplate::new("direct", Style::Direct, "Answer briefly.", "Answer with the letter.")
    }

    /// Reasoning first.
    pub fn cot() -> PromptTemplate {
        PromptTemplate::new(
            "cot",
            Style::Cot,
            "Explain first, then answer.",
            "Explain first, then answer with the letter.",
        )
    }

    /// The question alone: for rows that bring their own instruction, as captions do.
    pub fn bare() -> PromptTemplate {
        PromptTemplate::new("bare", Style::Direct, "", "")
    }

    /// The template of a built-in name.
    pub fn built_in(name: &str) -> Option<PromptTemplate> {
        [PromptTemplate::direct(), PromptTemplate::cot(), PromptTemplate::bare()]
            .into_iter()
            .find(|template| template.name == name)
    }

    /// The user's turn: question, one line per lettered option, instruction.
    pub fn render(&self, item: &Item) -> String {
        let mut prompt = item.question.clone() + &option_lines(&item.options);
        let instruction = if item.answer_type.names_option() { &self.letter } else { &self.text };
        if !instruction.is_empty() {
            prompt.push('\n');
            prompt.push_str(instruction);
        }
        prompt
    }

    fn new(name: &str, style: Style, text: &str, letter: &str) -> PromptTemplate {
        PromptTemplate { name: name.to_string(), style, text: text.to_string(), letter: letter.to_string() }
    }
}

/// The letters of options, in order.
pub fn letters() -> impl Iterator<Item = char> {
    'A'..='Z'
}

/// A line for every option, each after a line break: `\nA red\nB blue`.
pub fn option_lines(options: &[String]) -> String {
    let mut lines = String::new();
    for (letter, option) in letters().zip(options) {
        lines.extend(['\n', letter, ' ']);
        lines.push_str(option);
    }
    lines
}

/// A response that reasons: the rationale, then the answer after the marker on a line of its own.
pub fn cot_response(rationale: &str, answer: &str) -> String {
    format!("{}\n{MARKER} {}", rationale.trim_end(), answer.trim())
}

/// A template that is written out where it is used. Serde's untagged enums would hide which key is wrong.
#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "PromptTable")]
struct Table {
    /// What it is called in names.
    name: String,
    /// What form a response must have.
    style: Style,
    /// The instruction after the question.
    text: String,
    /// The same where the answer is a letter; `text` when not said.
    letter: Option<String>,
}

impl JsonSchema for PromptTemplate {
    fn schema_name() -> Cow<'static, str> {
        "PromptTemplate".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "What items are asked with: a built-in template, or a table that defines one.",
            "anyOf": [{ "enum": BUILT_IN }, generator.subschema_for::<Table>()],
        })
    }
}

impl<'de> Deserialize<'de> for PromptTemplate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PromptTemplate, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = PromptTemplate;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("the name of a prompt template (`direct`, `cot`, `bare`) or a table that defines one")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<PromptTemplate, E> {
                PromptTemplate::built_in(name).ok_or_else(|| E::unknown_variant(name, &BUILT_IN))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<PromptTemplate, A::Error> {
                let Table { name, style, text, letter } = Table::deserialize(MapAccessDeserializer::new(map))?;
                let letter = letter.unwrap_or_else(|| text.clone());
                Ok(PromptTemplate { name, style, text, letter })
            }
        }

        deserializer.deserialize_any(Either)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::AnswerType;
    use serde_json::json;

    fn item(answer_type: AnswerType, options: &[&str]) -> Item {
        Item {
            id: "1".into(),
            dataset: "toy".into(),
            image: None,
            question: "Which is largest?".into(),
            options: options.iter().map(ToString::to_string).collect(),
            answer_type,
            answers: vec!["A".into()],
            rationale: None,
            concluded: None,
        }
    }

    #[test]
    fn a_prompt_is_question_options_instruction() {
        let choice = item(AnswerType::Letter, &["red", "blue"]);
        assert_eq!(
            PromptTemplate::direct().render(&choice),
            "Which is largest?\nA red\nB blue\nAnswer with the letter."
        );
        let open = item(AnswerType::Number, &[]);
        assert_eq!(PromptTemplate::cot().render(&open), "Which is largest?\nExplain first, then answer.");
        assert_eq!(PromptTemplate::bare().render(&open), "Which is largest?");
    }

    #[test]
    fn a_response_ends_in_the_marker_and_the_answer() {
        assert_eq!(cot_response("3+2=5.\n", "5"), "3+2=5.\n### Answer: 5");
    }

    #[test]
    fn a_template_is_a_name_or_a_table() {
        let read = serde_json::from_value::<PromptTemplate>;
        assert_eq!(read(json!("cot")).unwrap(), PromptTemplate::cot());
        let custom = read(json!({ "name": "terse", "style": "direct", "text": "One word." })).unwrap();
        assert_eq!(custom.letter, "One word.");
        let whole = serde_json::to_value(PromptTemplate::direct()).unwrap();
        assert_eq!(read(whole).unwrap(), PromptTemplate::direct());
    }

    #[test]
    fn mistakes_in_a_template_are_named() {
        let told = |prompt| serde_json::from_value::<PromptTemplate>(prompt).unwrap_err().to_string();
        assert_eq!(told(json!("cto")), "unknown variant `cto`, expected one of `direct`, `cot`, `bare`");
        assert_eq!(
            told(json!(3)),
            "invalid type: integer `3`, expected the name of a prompt template (`direct`, `cot`, `bare`) \
             or a table that defines one"
        );
        assert_eq!(
            told(json!({ "name": "a", "style": "direct", "text": "", "txet": "" })),
            "unknown field `txet`, expected one of `name`, `style`, `text`, `letter`"
        );
    }
}
