//! Prompt templates: they render an item as the user's turn, and a rationale as a response. A template is part of an
//! experiment's identity, because its wording changes scores.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize};

use super::records::Item;

/// Precedes the final answer of a chain-of-thought response.
pub const ANSWER_MARKER: &str = "### Answer:";

/// Names of the built-in templates.
const BUILT_IN_NAMES: [&str; 3] = ["direct", "cot", "bare"];

/// An instruction that is appended to the question on a line of its own.
///
/// In TOML: the name of a built-in template (`"direct"`, `"cot"`, `"bare"`) or an inline table `{ name = "terse", style
/// = "direct", text = "One word.", letter = "One letter." }`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PromptTemplate {
    pub name: String,
    pub style: Style,
    /// The instruction; may be empty.
    pub text: String,
    /// The instruction for items whose answer is the letter of an option.
    pub letter: String,
}

/// The form of a response. It decides where the answer is extracted from and whether the response complies.
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

    /// Reasoning, then the answer.
    pub fn cot() -> PromptTemplate {
        let letter = "Explain first, then answer with the letter.";
        PromptTemplate::new("cot", Style::Cot, "Explain first, then answer.", letter)
    }

    /// The question alone, for rows that contain their own instruction, such as captions.
    pub fn bare() -> PromptTemplate {
        PromptTemplate::new("bare", Style::Direct, "", "")
    }

    /// The built-in template of this name.
    pub fn built_in(name: &str) -> Option<PromptTemplate> {
        [PromptTemplate::direct(), PromptTemplate::cot(), PromptTemplate::bare()]
            .into_iter()
            .find(|template| template.name == name)
    }

    /// Renders the user's turn: question, one line per option, instruction.
    pub fn render(&self, item: &Item) -> String {
        let mut prompt = item.question.clone() + &option_lines(&item.options);
        let instruction = if item.answer_type.is_multiple_choice() { &self.letter } else { &self.text };
        if !instruction.is_empty() {
            prompt.push('\n');
            prompt.push_str(&item.images.escape(instruction));
        }
        prompt
    }

    fn new(name: &str, style: Style, text: &str, letter: &str) -> PromptTemplate {
        PromptTemplate { name: name.to_string(), style, text: text.to_string(), letter: letter.to_string() }
    }
}

/// The letters of options: A to Z.
pub fn option_letters() -> impl Iterator<Item = char> {
    'A'..='Z'
}

/// One line per option, each after a line break: `\nA red\nB blue`.
pub fn option_lines(options: &[String]) -> String {
    let mut lines = String::new();
    for (letter, option) in option_letters().zip(options) {
        lines.extend(['\n', letter, ' ']);
        lines.push_str(option);
    }
    lines
}

/// A chain-of-thought response: the rationale, then the marker and the answer on a line of their own.
pub fn cot_response(rationale: &str, answer: &str) -> String {
    format!("{}\n{ANSWER_MARKER} {}", rationale.trim_end(), answer.trim())
}

/// An answer in the form of a style, without a rationale.
pub fn bare_response(answer: &str, style: Style) -> String {
    match style {
        Style::Direct => answer.to_string(),
        Style::Cot => format!("{ANSWER_MARKER} {answer}"),
    }
}

/// A template given as a table. Serde's untagged enums would not name the wrong key.
#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "PromptTable")]
struct TemplateTable {
    /// Name of the template in instance names.
    name: String,
    /// The form that a response must have.
    style: Style,
    /// Instruction after the question.
    text: String,
    /// Instruction if the answer is a letter; default: `text`.
    letter: Option<String>,
}

impl JsonSchema for PromptTemplate {
    fn schema_name() -> Cow<'static, str> {
        "PromptTemplate".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "The prompt template: the name of a built-in one, or a table that defines one.",
            "anyOf": [{ "enum": BUILT_IN_NAMES }, generator.subschema_for::<TemplateTable>()],
        })
    }
}

impl<'de> Deserialize<'de> for PromptTemplate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PromptTemplate, D::Error> {
        struct NameOrTable;

        impl<'de> Visitor<'de> for NameOrTable {
            type Value = PromptTemplate;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("the name of a prompt template (`direct`, `cot`, `bare`) or a table that defines one")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<PromptTemplate, E> {
                PromptTemplate::built_in(name).ok_or_else(|| E::unknown_variant(name, &BUILT_IN_NAMES))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<PromptTemplate, A::Error> {
                let TemplateTable { name, style, text, letter } =
                    TemplateTable::deserialize(MapAccessDeserializer::new(map))?;
                let letter = letter.unwrap_or_else(|| text.clone());
                Ok(PromptTemplate { name, style, text, letter })
            }
        }

        deserializer.deserialize_any(NameOrTable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::AnswerType;
    use crate::tests::support::item;
    use serde_json::json;

    #[test]
    fn a_prompt_is_question_options_instruction() {
        let choice = item(AnswerType::Letter, "Which is largest?", &["red", "blue"], &["A"]);
        let direct = PromptTemplate::direct().render(&choice);
        assert_eq!(direct, "Which is largest?\nA red\nB blue\nAnswer with the letter.");
        let open = item(AnswerType::Number, "Which is largest?", &[], &["A"]);
        assert_eq!(PromptTemplate::cot().render(&open), "Which is largest?\nExplain first, then answer.");
        assert_eq!(PromptTemplate::bare().render(&open), "Which is largest?");
    }

    #[test]
    fn a_cot_response_ends_with_marker_and_answer() {
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
    fn errors_in_a_template_name_the_key() {
        let error = |prompt| serde_json::from_value::<PromptTemplate>(prompt).unwrap_err().to_string();
        assert_eq!(error(json!("cto")), "unknown variant `cto`, expected one of `direct`, `cot`, `bare`");
        assert_eq!(
            error(json!(3)),
            "invalid type: integer `3`, expected the name of a prompt template (`direct`, `cot`, `bare`) \
             or a table that defines one"
        );
        assert_eq!(
            error(json!({ "name": "a", "style": "direct", "text": "", "txet": "" })),
            "unknown field `txet`, expected one of `name`, `style`, `text`, `letter`"
        );
    }
}
