//! `distill`: rationales from a teacher that receives the reference answer. A rationale is kept if it arrives at that
//! answer.
//!
//! Kept samples are items, so that a mix can use any prompt template for them. The rationale and its final answer are
//! the teacher's.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, anyhow};
use serde::{Deserialize, Serialize};

use crate::stages::common::{self, check_range, ratio};
use crate::stages::endpoint::Endpoint;
use crate::stages::endpoint_table::endpoint_table;
use crate::stages::image_input::ImageInput;
use crate::stages::lost_rows::{LostRows, check_max_lost};
use crate::stages::requests::{Question, Response};
use crate::teacher::oracle;
use ablate_core::base::{Seed, wrong_input};
use ablate_core::stage::config::{self, ConfigError, schema_of};
use ablate_core::stage::{
    ArtifactKind, Input, Kind, Manifest, OutputSpec, Pool, Reference, Stage, StageContext, Summary,
};
use ablate_data::answers::{self, DEFAULT_THRESHOLD};
use ablate_data::jsonl;
use ablate_data::prompts::{ANSWER_MARKER, Style, option_lines};
use ablate_data::records::{AnswerType, FinishReason, Item, JudgedItem, Verdict};
use ablate_store::Fault;

pub static KIND: Kind = Kind {
    name: "distill",
    version: 2,
    about: "rationales from a teacher, kept where they arrive at the reference answer",
    outputs: &[
        OutputSpec::new("items.jsonl", ArtifactKind::Items),
        OutputSpec::new("rejects.jsonl", ArtifactKind::Judged),
    ],
    fan_out: &[],
    seeded: true,
    pool: Pool::Teacher,
    parse,
    schema: schema_of::<Distill>,
};

/// The system message. The paper's own is not public; this one is ablate's.
const SYSTEM: &str = "You explain how to find the answer to a question about an image. You are given the reference \
answer: write the reasoning that leads to it from what can be seen, as if you did not know it beforehand. Name the \
visual evidence, keep to short paragraphs, and do not mention the reference answer before you have derived it. If \
the image contradicts the reference, say what you see and conclude with your own answer.";

const INSTRUCTION: &str = "{question}{options}\n\nReference answer: {answer}\n\nWrite the reasoning first. Then end \
with one last line of exactly this form, with nothing after the answer:\n### Answer: {form}";

const TEMPERATURE: f64 = 0.0;
const SAMPLES: usize = 1;
const MAX_TOKENS: u32 = 1024;

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Distill {
    items: Reference,
    teacher: Teacher,
    #[serde(default)]
    keep: KeepRule,
}

endpoint_table! {
/// The key `teacher`: the source of the responses.
struct Teacher {
    api: Api,
    /// Share of the oracle's responses that are made wrong.
    wrong: Option<f64>,
    /// Largest share of items without a rationale for the oracle.
    max_lost: Option<f64>,
    samples: Option<usize>,
    instruction: Option<String>,
}}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Api {
    /// The item's own rationale.
    Oracle,
    /// An OpenAI-compatible endpoint.
    Openai,
}

/// Which samples are kept. A sample without a final answer is never kept, since it makes no training row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum KeepRule {
    #[default]
    AnswerMatches,
    All,
}

fn parse(table: &serde_json::Value) -> Result<Box<dyn Stage>, Vec<ConfigError>> {
    let distill: Distill = config::parse(table)?;
    let given = table.get("teacher").and_then(serde_json::Value::as_object).into_iter().flatten();
    let mut errors = distill.teacher.check(given.map(|(key, _)| key.as_str()));
    if let Some(wrong) = distill.teacher.wrong {
        check_range(&mut errors, "teacher.wrong", wrong, 0.0, 1.0);
    }
    check_max_lost(&mut errors, "teacher.max_lost", distill.teacher.max_lost);
    if errors.is_empty() { Ok(Box::new(distill)) } else { Err(errors) }
}

impl Stage for Distill {
    fn identify(&self, manifest: &mut Manifest) {
        let Distill { items: _, teacher, keep } = self;
        teacher.identify(manifest);
        manifest.value("keep", keep);
    }

    fn inputs(&self) -> Vec<Input> {
        vec![common::stage_input("items", &self.items, &[ArtifactKind::Items])]
    }

    fn variables(&self) -> Vec<String> {
        match self.teacher.api {
            Api::Oracle => Vec::new(),
            Api::Openai => self.teacher.endpoint().variables(),
        }
    }

    fn run(&self, ctx: &StageContext) -> Result<Summary> {
        let items = common::read_items(ctx.input("items")?)?;
        common::check_not_empty(&items, "items")?;
        let mut ids: BTreeSet<(String, String)> =
            items.iter().map(|item| (item.dataset.clone(), item.id.clone())).collect();
        let mut lost_rows = LostRows::new(items.len());
        let instruction = self.teacher.instruction.as_deref().unwrap_or(INSTRUCTION);
        let prompts: Vec<String> = items.iter().map(|item| fill(instruction, item)).collect();
        let responses = match self.teacher.api {
            Api::Oracle => self.teacher.oracle_responses(&items, ctx.seed),
            Api::Openai => {
                let system = self.teacher.system.as_deref().unwrap_or(SYSTEM);
                let questions: Vec<Question> =
                    items.iter().zip(&prompts).map(|(item, prompt)| Question::new(item, system, prompt)).collect();
                let is_usable =
                    |at: usize, response: &Response| defect(response, &judge(&items[at], response)).is_none();
                let replied = self.teacher.endpoint().ask(&questions, ImageInput::Given, &is_usable, ctx)?;
                replied.responses
            }
        };
        let mut kept = Vec::new();
        let mut rejects = Vec::new();
        let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
        let (mut samples, mut bad) = (0, 0);
        for ((item, prompt), responses) in items.into_iter().zip(prompts).zip(responses) {
            let mut rejected = Vec::new();
            let mut number = 0;
            samples += responses.len();
            if responses.is_empty() {
                lost_rows.add("without a rationale", &item.id, &item.dataset);
            }
            for response in responses {
                let verdict = judge(&item, &response);
                let defect = defect(&response, &verdict);
                bad += usize::from(defect.is_some());
                if let Some(reason) = defect.or_else(|| self.mismatch(&verdict)) {
                    *reasons.entry(reason).or_default() += 1;
                    rejected.push(verdict);
                } else {
                    number += 1;
                    let id = kept_id(&item, &mut number, &mut ids);
                    kept.push(distilled(&item, &verdict, id));
                }
            }
            if !rejected.is_empty() {
                rejects.push(JudgedItem { item, prompt, verdicts: rejected });
            }
        }
        let warning = lost_rows.check("`items`", "teacher.max_lost", self.teacher.max_lost.unwrap_or(0.0))?;
        if kept.is_empty() {
            return Err(nothing_kept(&reasons, bad));
        }
        jsonl::write(&ctx.output("items.jsonl"), &kept)?;
        jsonl::write(&ctx.output("rejects.jsonl"), &rejects)?;
        Ok(Summary::default()
            .with("samples", samples)
            .with("kept", kept.len())
            .with("kept_share", ratio(kept.len(), samples))
            .with("rejected", reasons)
            .with_warnings(warning))
    }
}

impl Distill {
    /// Why a response without a defect is not kept.
    fn mismatch(&self, verdict: &Verdict) -> Option<&'static str> {
        match self.keep {
            KeepRule::AnswerMatches if verdict.unreadable => Some("with an answer that cannot be read"),
            KeepRule::AnswerMatches if !verdict.correct => Some("with another answer than the reference"),
            KeepRule::AnswerMatches | KeepRule::All => None,
        }
    }
}

impl Teacher {
    /// The mistakes in the table, which has the keys `given`.
    fn check<'a>(&self, given: impl Iterator<Item = &'a str>) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        let mut mistake = |key: &str, message: String| errors.push(ConfigError::at(&format!("teacher.{key}"), message));
        match self.api {
            Api::Oracle => {
                for key in given.filter(|key| !["api", "wrong", "max_lost"].contains(key)) {
                    mistake(key, format!("`{key}` is for `api = \"openai\"` only"));
                }
            }
            Api::Openai => {
                for (key, given) in [("wrong", self.wrong.is_some()), ("max_lost", self.max_lost.is_some())] {
                    if given {
                        mistake(key, format!("`{key}` is for `api = \"oracle\"` only"));
                    }
                }
                errors.extend(self.endpoint().check("teacher"));
            }
        }
        errors
    }

    /// Adds what determines the responses.
    fn identify(&self, manifest: &mut Manifest) {
        let Teacher { api, wrong, max_lost, system, instruction, .. } = self;
        manifest.value("teacher.api", api);
        match api {
            Api::Oracle => {
                manifest.value("teacher.wrong", &wrong.unwrap_or(0.0));
                manifest.value_unless("teacher.max_lost", &max_lost.unwrap_or(0.0), &0.0);
            }
            Api::Openai => {
                self.endpoint().identify("teacher", manifest);
                manifest.value("teacher.system", system.as_deref().unwrap_or(SYSTEM));
                manifest.value("teacher.instruction", instruction.as_deref().unwrap_or(INSTRUCTION));
            }
        }
    }

    /// The items' own rationales; no response to an item without one.
    fn oracle_responses(&self, items: &[Item], seed: Seed) -> Vec<Vec<Response>> {
        let mut answers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for item in items {
            let known = answers.entry(&item.dataset).or_default();
            known.extend(item.answers.first().map(String::as_str));
        }
        for known in answers.values_mut() {
            known.sort_unstable();
            known.dedup();
        }
        let wrong = self.wrong.unwrap_or(0.0);
        items
            .iter()
            .map(|item| {
                let others = answers.get(item.dataset.as_str()).map_or(&[][..], Vec::as_slice);
                let response = |text| Response { text, finish: FinishReason::Stop, fault: None, tokens: 0 };
                oracle::respond(item, others, wrong, seed).map(response).into_iter().collect()
            })
            .collect()
    }

    /// The endpoint of `api = "openai"`.
    fn endpoint(&self) -> Endpoint {
        Endpoint {
            keys: self.endpoint_keys(),
            temperature: self.temperature.unwrap_or(TEMPERATURE),
            samples: self.samples.unwrap_or(SAMPLES),
            max_tokens: self.max_tokens.unwrap_or(MAX_TOKENS),
        }
    }
}

fn judge(item: &Item, response: &Response) -> Verdict {
    answers::judge(item, &response.text, response.finish, Style::Cot, DEFAULT_THRESHOLD)
}

/// Why a response cannot become a training row, independently of the reference answer. Such a response is requested
/// again.
fn defect(response: &Response, verdict: &Verdict) -> Option<&'static str> {
    match response.fault {
        Some(Fault::Empty) => Some("without a text"),
        Some(Fault::Refused) => Some("refused by the teacher"),
        Some(Fault::Filtered) => Some("held back by a content filter"),
        Some(Fault::Malformed) => Some("that is not a chat completion"),
        Some(Fault::TooLong) => Some("longer than the token limit can explain"),
        Some(Fault::Rejected) => Some("rejected by the endpoint"),
        None if verdict.finish == FinishReason::Length => Some("cut at the token limit"),
        None if verdict.answer.is_none() => Some("without a final answer"),
        None if answers::reasoning(&verdict.text).contains(ANSWER_MARKER) => Some("with several final answers"),
        None if answers::reasoning(&verdict.text).trim().is_empty() => Some("without a rationale"),
        None => None,
    }
}

/// The error for a distillation without kept samples. It is the user's error unless some responses have a defect, since
/// another attempt may then succeed.
fn nothing_kept(reasons: &BTreeMap<&str, usize>, bad: usize) -> anyhow::Error {
    let counts: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    let detail = if counts.is_empty() { "no item has a rationale".to_string() } else { counts.join(", ") };
    let error = anyhow!("no response of the teacher was kept: {detail}");
    if bad > 0 { error } else { wrong_input(error) }
}

/// The id of a kept sample: the item's id for the first, then `id#2` and so on. Numbers that give an existing id are
/// skipped.
fn kept_id(item: &Item, number: &mut usize, ids: &mut BTreeSet<(String, String)>) -> String {
    while *number > 1 {
        let id = format!("{}#{number}", item.id);
        if ids.insert((item.dataset.clone(), id.clone())) {
            return id;
        }
        *number += 1;
    }
    item.id.clone()
}

/// The item with the teacher's rationale.
fn distilled(item: &Item, verdict: &Verdict, id: String) -> Item {
    let rationale = answers::reasoning(&verdict.text);
    let answer = verdict.answer.as_deref().map(|answer| answers::concise(item, answer));
    let rationale_answer = answer.filter(|answer| Some(answer) != item.answers.first());
    Item { id, rationale: Some(rationale.to_string()), rationale_answer, ..item.clone() }
}

/// The instruction with `{question}`, `{options}`, `{answer}` and `{form}` replaced in one pass, so that such a name
/// inside a question is not replaced.
fn fill(instruction: &str, item: &Item) -> String {
    let options = option_lines(&item.options);
    let mut answers = item.answers.clone();
    if matches!(item.answer_type, AnswerType::Vqa | AnswerType::VqaEval | AnswerType::Textvqa) {
        // Several annotators give the same answer.
        let mut distinct = BTreeSet::new();
        answers.retain(|answer| distinct.insert(answer.clone()));
    }
    let answer = item.images.escape(&answers.join(" or "));
    let instruction = item.images.escape(instruction);
    let form = if item.answer_type.is_multiple_choice() { "<letter>" } else { "<answer>" };
    let values =
        [("{question}", item.question.as_str()), ("{options}", &options), ("{answer}", &answer), ("{form}", form)];
    let mut filled = String::new();
    let mut rest = instruction.as_str();
    while let Some(start) = rest.find('{') {
        filled.push_str(&rest[..start]);
        rest = &rest[start..];
        let (name, value) = values.iter().find(|(name, _)| rest.starts_with(name)).unwrap_or(&("{", "{"));
        filled.push_str(value);
        rest = &rest[name.len()..];
    }
    filled + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use ablate_data::image_keys::ImageKeys;

    #[test]
    fn instruction_is_filled_in_one_pass() {
        let item = Item {
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
        };
        assert_eq!(
            fill("{question}{options}\n{answer} {other} {form}", &item),
            "Which {answer}?\nA red\nB blue\nB or blue {other} <letter>"
        );
        let annotated = Item { answer_type: AnswerType::Vqa, answers: ["b", "a", "b"].map(Into::into).into(), ..item };
        assert_eq!(fill("{answer}", &annotated), "b or a");
    }

    #[test]
    fn documents_have_the_default_prompts() {
        let page = include_str!("../../../docs/stages.md");
        for prompt in [SYSTEM, INSTRUCTION] {
            assert!(page.contains(&format!("```text\n{prompt}\n```")), "docs/stages.md lacks {prompt:?}");
        }
    }
}
