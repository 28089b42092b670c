//! The common form of rows in all layouts, and its conversion to items.

use std::path::Path;

use serde_json::json;

use super::images::{MemberNames, RowImage, RowImages};
use super::option_lists::OptionList;
use super::options::{ImportOptions, RowFile};
use super::placement::{Placement, place};
use super::rows;
use crate::gold_answers;
use crate::prompts::ANSWER_MARKER;
use crate::records::{AnswerType, Exchange, Item, Row};
use ablate_core::base::Hash;

/// A row of any layout. In its texts `<image>` stands for an image and `\<image>` for the text.
#[derive(Debug)]
pub(super) struct Example {
    pub(super) id: Option<String>,
    pub(super) dataset: Option<String>,
    /// The conversation, or why it cannot be read.
    pub(super) turns: Result<Turns, String>,
    pub(super) images: Vec<RowImage>,
    pub(super) member_names: MemberNames,
    /// The question, if it is not the user's turn.
    pub(super) question: Option<String>,
    pub(super) options: OptionList,
    pub(super) answer_type: Option<AnswerType>,
    pub(super) answer: Option<String>,
    pub(super) answers: Vec<String>,
    pub(super) rationale: Option<String>,
    pub(super) facts: Vec<String>,
    /// Other errors of the row.
    pub(super) wrong: Vec<String>,
}

/// A conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Turns {
    pub(super) system: Option<String>,
    /// The user's texts with the assistant's; the last response may be missing.
    pub(super) turns: Vec<(String, Option<String>)>,
}

impl Turns {
    pub(super) fn single(prompt: String, response: String) -> Turns {
        Turns { system: None, turns: vec![(prompt, Some(response))] }
    }
}

/// The texts of a training row.
#[derive(Default)]
struct Conversation {
    system: Option<String>,
    history: Vec<Exchange>,
    prompt: String,
    response: String,
}

/// What a row needs besides its fields.
pub(super) struct Context<'a> {
    pub(super) file: &'a RowFile,
    /// The folder of image paths, if the stage has none.
    pub(super) base: Option<&'a Path>,
    pub(super) options: &'a ImportOptions,
}

impl Example {
    /// Converts to an item; returns all errors of the row.
    pub(super) fn item(mut self, context: &Context<'_>, images: &mut RowImages) -> Result<Item, Vec<String>> {
        let Context { file, options, .. } = context;
        let mut wrong = std::mem::take(&mut self.wrong);
        let mut placement = Placement::Leading;
        let (question, response) = match self.single_turn() {
            Ok((human, response)) => (
                self.place_question(&human).and_then(|(placed, question)| {
                    placement = placed;
                    options.strip_instruction(question)
                }),
                rows::parse_text(&response, "gpt"),
            ),
            Err(what) => (Err(what), Ok(String::new())),
        };
        let mut read = |text: Result<String, String>| text.map_err(|what| wrong.push(what)).unwrap_or_default();
        let (question, response) = (read(question), read(response));
        let members = self.members(context, images).unwrap_or_else(|what| {
            wrong.extend(what);
            Vec::new()
        });
        self.unescape_texts(placement).unwrap_or_else(|what| wrong.push(what));
        let (reasoning, final_answer) = match response.rsplit_once(ANSWER_MARKER) {
            // A turn that begins with the marker has an answer and no rationale.
            Some((rationale, answer)) => (
                Some(rationale.trim().to_string()).filter(|rationale| !rationale.is_empty()),
                answer.trim().to_string(),
            ),
            None => (None, response.trim().to_string()),
        };
        if let Some(answer) =
            self.answer.as_ref().filter(|answer| !self.answers.is_empty() && !self.answers.contains(answer))
        {
            wrong.push(format!("`answer` is `{answer}`, which is not one of `answers`"));
        }
        let mut answers = self.answers;
        if answers.is_empty() {
            answers.extend(self.answer);
        }
        if answers.is_empty() && !final_answer.is_empty() {
            answers.push(final_answer.clone());
        }
        if wrong.is_empty() && answers.iter().all(|answer| answer.trim().is_empty()) {
            wrong.push("the row has no answer: `answer`, `answers` and the assistant's turn are empty".to_string());
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        for answer in &mut answers {
            if let Some(letter) = self.options.letter(answer) {
                *answer = letter;
            }
        }
        let rationale = self.rationale.filter(|rationale| !rationale.trim().is_empty()).or(reasoning.clone());
        // The assistant's turn may end with another answer: some data sets contain generated rationales.
        let differs = reasoning.is_some() && !final_answer.is_empty() && Some(&final_answer) != answers.first();
        let dataset = self.dataset.filter(|_| !file.overrides_rows).unwrap_or_else(|| file.dataset.clone());
        let options_given = !self.options.texts.is_empty();
        let answer_type = self.answer_type.unwrap_or_else(|| options.answer_type(&dataset, options_given));
        let id = if let Some(id) = self.id {
            id
        } else {
            let content = contents(&members, images)?;
            derived_id(&json!([dataset, question, content, self.options.texts, answers]))
        };
        let mut item = Item {
            id,
            dataset,
            images: placement.keys(members),
            question,
            options: self.options.texts,
            answer_type,
            answers,
            rationale_answer: (differs && rationale == reasoning).then_some(final_answer),
            rationale,
            facts: self.facts,
        };
        gold_answers::normalize_answers(&mut item, options.option_answers)?;
        Ok(item)
    }

    /// Converts to a training row; returns all errors of the row.
    pub(super) fn row(mut self, context: &Context<'_>, images: &mut RowImages) -> Result<Row, Vec<String>> {
        let mut wrong = std::mem::take(&mut self.wrong);
        if !self.options.texts.is_empty() {
            wrong.push("the row has options: read questions with options by a stage of kind `items`".to_string());
        }
        let turns = self.turns.clone().and_then(|turns| self.conversation(turns));
        let (placement, conversation) = turns.unwrap_or_else(|what| {
            wrong.push(what);
            (Placement::Leading, Conversation::default())
        });
        let Conversation { system, history, prompt, response } = conversation;
        let members = self.members(context, images).unwrap_or_else(|what| {
            wrong.extend(what);
            Vec::new()
        });
        if wrong.is_empty() && prompt.is_empty() && members.is_empty() {
            wrong.push("the row has no prompt".to_string());
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let dataset = self.dataset.unwrap_or_else(|| context.file.dataset.clone());
        let id = if let Some(id) = self.id {
            id
        } else {
            let content = contents(&members, images)?;
            derived_id(&json!([dataset, system, history, prompt, content, response]))
        };
        let (source, images) = (String::new(), placement.keys(members));
        Ok(Row { id, dataset, source, images, system, history, prompt, response, question: None })
    }

    /// The texts of a training row, and where its images stand.
    fn conversation(&self, turns: Turns) -> Result<(Placement, Conversation), String> {
        let (texts, responses): (Vec<String>, Vec<Option<String>>) = turns.turns.into_iter().unzip();
        let (placement, texts) = place(self.images.len(), texts)?;
        let response = |text: Option<String>| rows::parse_text(&text.unwrap_or_default(), "response");
        let responses = responses.into_iter().map(response).collect::<Result<Vec<_>, _>>()?;
        let mut history: Vec<Exchange> =
            texts.into_iter().zip(responses).map(|(prompt, response)| Exchange { prompt, response }).collect();
        let Exchange { prompt, response } = history.pop().ok_or("the row has no turn of the user")?;
        Ok((placement, Conversation { system: turns.system, history, prompt, response }))
    }

    /// The members of the row's images.
    fn members(&self, context: &Context<'_>, images: &mut RowImages) -> Result<Vec<String>, Vec<String>> {
        let member = |image| images.member(image, self.member_names, context.base);
        self.images.iter().map(member).collect::<Result<_, _>>().map_err(|what| vec![what])
    }

    /// The only turn of the conversation. The response may be empty.
    fn single_turn(&self) -> Result<(String, String), String> {
        let turns = self.turns.as_ref().map_err(Clone::clone)?;
        if turns.system.is_some() {
            return Err("the row has a system message: read conversations by a source of a `mix`".to_string());
        }
        match turns.turns.as_slice() {
            [(prompt, response)] => Ok((prompt.clone(), response.clone().unwrap_or_default())),
            more => {
                let count: usize = more.iter().map(|(_, response)| 1 + usize::from(response.is_some())).sum();
                Err(format!(
                    "the conversation has {count} turns: split it into rows with one question and one answer, or \
                     read conversations by a source of a `mix`"
                ))
            }
        }
    }

    /// The question of a row, and where its images stand: `question`, or else the human's turn. Both are parsed, so
    /// that a placeholder in either is found. Several images may also stand in the options.
    fn place_question(&self, human: &str) -> Result<(Placement, String), String> {
        let place = |text: &str| {
            let mut texts = vec![text.to_string()];
            if self.images.len() > 1 {
                texts.extend(self.options.texts.iter().cloned());
            }
            let (placement, texts) = place(self.images.len(), texts)?;
            Ok::<_, String>((placement, texts.into_iter().next().unwrap_or_default()))
        };
        let Some(key) = &self.question else {
            return match place(human)? {
                (_, question) if question.is_empty() => Err("the human's turn has no question".to_string()),
                placed => Ok(placed),
            };
        };
        if self.images.len() < 2 {
            place(human)?;
        }
        match place(key)? {
            (_, question) if question.is_empty() => {
                Err("`question` is empty: remove the key or write a question".to_string())
            }
            placed => Ok(placed),
        }
    }

    /// Unescapes the other texts of a row.
    fn unescape_texts(&mut self, placement: Placement) -> Result<(), String> {
        let keys = [("rationale", &mut self.rationale), ("answer", &mut self.answer)];
        let single = keys.into_iter().filter_map(|(key, value)| Some((key, value.as_mut()?)));
        // Placeholders in the options stand for images if there are several.
        let literal = placement == Placement::Leading;
        let options = self.options.texts.iter_mut().filter(|_| literal).map(|value| ("options", value));
        let answers = self.answers.iter_mut().map(|value| ("answers", value));
        let facts = self.facts.iter_mut().map(|value| ("facts", value));
        for (key, value) in single.chain(options).chain(answers).chain(facts) {
            *value = rows::parse_text(value, key)?;
        }
        Ok(())
    }
}

/// The content of members, for ids.
pub(super) fn contents(members: &[String], images: &mut RowImages) -> Result<Vec<String>, Vec<String>> {
    let content = |member: &String| images.content(member).map(|hash| hash.to_string());
    members.iter().map(content).collect::<Result<_, _>>().map_err(|what| vec![what])
}

/// The id of a row without one: the first 16 hex digits of a hash of its content.
pub(super) fn derived_id(content: &serde_json::Value) -> String {
    Hash::of_bytes(content.to_string().as_bytes()).to_string()[..16].to_string()
}
