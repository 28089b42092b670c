//! `distill`: rationales from a teacher that knows the reference answer, kept where the teacher arrives at it.
//!
//! Kept samples stay items, so that a mix can ask them with any template: the rationale is the teacher's, and so is
//! the answer that it arrives at.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, anyhow};
use serde::{Deserialize, Serialize};

use super::distill_teacher::{Api, Teacher};
use crate::stages::common::{self, check_range, share};
use crate::stages::lost_rows::{Losses, check_most};
use crate::teacher::{Fault, Reply};
use ablate_core::base::wrong_input;
use ablate_core::stage::config::{self, ConfigError, schema_of};
use ablate_core::stage::{
    ArtifactKind, Input, Kind, Manifest, OutputSpec, Pool, Reference, Stage, StageContext, Summary,
};
use ablate_data::answers::{self, DEFAULT_THRESHOLD};
use ablate_data::jsonl;
use ablate_data::prompts::{ANSWER_MARKER, Style, option_lines};
use ablate_data::records::{AnswerType, FinishReason, Item, JudgedItem, Verdict};

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

/// What the teacher is told before the question. The paper shows its own words in an appendix that the public
/// sources lack; these are ours.
const SYSTEM: &str = "You explain how to find the answer to a question about an image. You are given the reference \
answer: write the reasoning that leads to it from what can be seen, as if you did not know it beforehand. Name the \
visual evidence, keep to short paragraphs, and do not mention the reference answer before you have derived it. If \
the image contradicts the reference, say what you see and conclude with your own answer.";

const INSTRUCTION: &str = "{question}{options}\n\nReference answer: {answer}\n\nWrite the reasoning first. Then end \
with one last line of exactly this form, with nothing after the answer:\n### Answer: {form}";

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Distill {
    items: Reference,
    teacher: Teacher,
    #[serde(default)]
    keep: Keep,
}

/// Which samples are kept. One without a final answer never is: no row could be made of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Keep {
    #[default]
    AnswerMatches,
    All,
}

fn parse(table: &serde_json::Value) -> Result<Box<dyn Stage>, Vec<ConfigError>> {
    let distill: Distill = config::parse(table)?;
    let mut errors = distill.teacher.check();
    if let Some(wrong) = distill.teacher.wrong {
        check_range(&mut errors, "teacher.wrong", wrong, 0.0, 1.0);
    }
    check_most(&mut errors, "teacher.max_lost", distill.teacher.max_lost);
    if errors.is_empty() { Ok(Box::new(distill)) } else { Err(errors) }
}

impl Stage for Distill {
    fn identify(&self, manifest: &mut Manifest) {
        let Distill { items: _, teacher, keep } = self;
        teacher.identify(manifest, SYSTEM, INSTRUCTION);
        manifest.value("keep", keep);
    }

    fn inputs(&self) -> Vec<Input> {
        vec![common::input("items", &self.items, &[ArtifactKind::Items])]
    }

    fn variables(&self) -> Vec<String> {
        match self.teacher.api {
            Api::Oracle => Vec::new(),
            Api::Openai => self.teacher.endpoint().variables(),
        }
    }

    fn run(&self, ctx: &StageContext) -> Result<Summary> {
        let items = common::read_items(ctx.input("items")?)?;
        common::not_empty(&items, "items")?;
        let mut names: BTreeSet<(String, String)> =
            items.iter().map(|item| (item.dataset.clone(), item.id.clone())).collect();
        let mut losses = Losses::of(items.len());
        let prompts: Vec<String> =
            items.iter().map(|item| fill(self.teacher.instruction.as_deref().unwrap_or(INSTRUCTION), item)).collect();
        let replies = match self.teacher.api {
            Api::Oracle => self.teacher.ask_oracle(&items, ctx.seed),
            Api::Openai => {
                let system = self.teacher.system.as_deref().unwrap_or(SYSTEM);
                let is_bad = |item: &Item, reply: &Reply| fault(reply, &judge(item, reply)).is_some();
                self.teacher.endpoint().ask(&items, &prompts, system, &is_bad, ctx)?
            }
        };
        let mut kept = Vec::new();
        let mut rejects = Vec::new();
        let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
        let (mut samples, mut bad) = (0, 0);
        for ((item, prompt), replies) in items.into_iter().zip(prompts).zip(replies) {
            let mut rejected = Vec::new();
            let mut number = 0;
            samples += replies.len();
            if replies.is_empty() {
                losses.lose("without a rationale", &item.id, &item.dataset);
            }
            for reply in replies {
                let verdict = judge(&item, &reply);
                let fault = fault(&reply, &verdict);
                bad += usize::from(fault.is_some());
                if let Some(reason) = fault.or_else(|| self.mismatch(&verdict)) {
                    *reasons.entry(reason).or_default() += 1;
                    rejected.push(verdict);
                } else {
                    number += 1;
                    let id = kept_id(&item, &mut number, &mut names);
                    kept.push(distilled(&item, &verdict, id));
                }
            }
            if !rejected.is_empty() {
                rejects.push(JudgedItem { item, prompt, verdicts: rejected });
            }
        }
        let lost = losses.check("`items`", "teacher.max_lost", self.teacher.max_lost.unwrap_or(0.0))?;
        if kept.is_empty() {
            return Err(nothing_kept(&reasons, bad));
        }
        jsonl::write(&ctx.output("items.jsonl"), &kept)?;
        jsonl::write(&ctx.output("rejects.jsonl"), &rejects)?;
        Ok(Summary::default()
            .with("samples", samples)
            .with("kept", kept.len())
            .with("kept_share", share(kept.len(), samples))
            .with("rejected", reasons)
            .with_warnings(lost))
    }
}

impl Distill {
    /// Why a good reply is not kept.
    fn mismatch(&self, verdict: &Verdict) -> Option<&'static str> {
        match self.keep {
            Keep::AnswerMatches if verdict.unreadable => Some("with an answer that cannot be read"),
            Keep::AnswerMatches if !verdict.correct => Some("with another answer than the reference"),
            Keep::AnswerMatches | Keep::All => None,
        }
    }
}

fn judge(item: &Item, reply: &Reply) -> Verdict {
    answers::judge(item, &reply.text, reply.finish, Style::Cot, DEFAULT_THRESHOLD)
}

/// Why a reply is bad: no row could be made of it, whatever the reference says. It is asked for again.
fn fault(reply: &Reply, verdict: &Verdict) -> Option<&'static str> {
    match reply.fault {
        Some(Fault::Empty) => Some("without a text"),
        Some(Fault::Refused) => Some("refused by the teacher"),
        Some(Fault::Filtered) => Some("held back by a content filter"),
        None if verdict.finish == FinishReason::Length => Some("cut at the token limit"),
        None if verdict.answer.is_none() => Some("without a final answer"),
        None if answers::reasoning(&verdict.text).contains(ANSWER_MARKER) => Some("with several final answers"),
        None if answers::reasoning(&verdict.text).trim().is_empty() => Some("without a rationale"),
        None => None,
    }
}

/// The error of a distillation without a row. With bad replies it is one that another attempt may mend.
fn nothing_kept(reasons: &BTreeMap<&str, usize>, bad: usize) -> anyhow::Error {
    let told: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    let told = if told.is_empty() { "no item has a rationale".to_string() } else { told.join(", ") };
    let error = anyhow!("the teacher gave nothing to keep: {told}");
    if bad > 0 { error } else { wrong_input(error) }
}

/// The name of a kept sample: the item's for the first, else `id#2` and so on, by the first number that no item has.
fn kept_id(item: &Item, number: &mut usize, names: &mut BTreeSet<(String, String)>) -> String {
    while *number > 1 {
        let id = format!("{}#{number}", item.id);
        if names.insert((item.dataset.clone(), id.clone())) {
            return id;
        }
        *number += 1;
    }
    item.id.clone()
}

/// The item with the teacher's reasoning in place of its own.
fn distilled(item: &Item, verdict: &Verdict, id: String) -> Item {
    let rationale = answers::reasoning(&verdict.text);
    let concluded = verdict.answer.as_deref().map(|answer| answers::concise(item, answer));
    let rationale_answer = concluded.filter(|answer| Some(answer) != item.answers.first());
    Item { id, rationale: Some(rationale.to_string()), rationale_answer, ..item.clone() }
}

/// The instruction with `{question}`, `{options}`, `{answer}` and `{form}` filled in. One pass, so that a question
/// that holds such a name stays as it is.
fn fill(instruction: &str, item: &Item) -> String {
    let options = option_lines(&item.options);
    let mut answers = item.answers.clone();
    if matches!(item.answer_type, AnswerType::Vqa | AnswerType::VqaEval | AnswerType::Textvqa) {
        // Annotators repeat each other.
        let mut told = BTreeSet::new();
        answers.retain(|answer| told.insert(answer.clone()));
    }
    let answer = answers.join(" or ");
    let form = if item.answer_type.is_multiple_choice() { "<letter>" } else { "<answer>" };
    let values =
        [("{question}", item.question.as_str()), ("{options}", &options), ("{answer}", &answer), ("{form}", form)];
    let mut filled = String::new();
    let mut rest = instruction;
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

    #[test]
    fn an_instruction_is_filled_in_one_pass() {
        let item = Item {
            id: "1".into(),
            dataset: "toy".into(),
            image: None,
            question: "Which {answer}?".into(),
            options: vec!["red".into(), "blue".into()],
            answer_type: AnswerType::Letter,
            answers: vec!["B".into(), "blue".into()],
            rationale: None,
            rationale_answer: None,
        };
        assert_eq!(
            fill("{question}{options}\n{answer} {other} {form}", &item),
            "Which {answer}?\nA red\nB blue\nB or blue {other} <letter>"
        );
        let annotated = Item { answer_type: AnswerType::Vqa, answers: ["b", "a", "b"].map(Into::into).into(), ..item };
        assert_eq!(fill("{answer}", &annotated), "b or a");
    }
}
