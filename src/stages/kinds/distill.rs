//! `distill`: rationales from one or several teachers, which receive the reference answer or not. A rationale is kept if it
//! arrives at that answer.
//!
//! Kept samples are items, so that a mix can use any prompt template for them. The rationale and its final answer are
//! the teacher's.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::{Result, anyhow};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::stages::common::{self, MAX_COUNT, check_max, check_range, ratio};
use crate::stages::drop_report::DropReport;
use crate::stages::endpoint::Endpoint;
use crate::stages::endpoint_table::endpoint_table;
use crate::stages::image_input::ImageInput;
use crate::stages::lost_rows::{LostRows, check_max_lost};
use crate::stages::requests::{IsUsable, Question, Replied, Response};
use crate::stages::teacher_prompt::{INSTRUCTION, PromptKeys, SYSTEM, TeacherPrompts};
use crate::teacher::oracle;
use ablate_core::base::{Seed, wrong_input};
use ablate_core::stage::config::{self, ConfigError, schema_of};
use ablate_core::stage::{
    ArtifactKind, EstimateContext, Input, Kind, Manifest, OutputSpec, Pool, Reference, RequestEstimate, Stage,
    StageContext, Summary, Work,
};
use ablate_data::answers::{self, DEFAULT_THRESHOLD, canonical};
use ablate_data::jsonl;
use ablate_data::prompts::{ANSWER_MARKER, Style};
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
    work: Work::sampling,
    parse,
    schema: schema_of::<Distill>,
};

const TEMPERATURE: f64 = 0.0;
const SAMPLES: usize = 1;
const MAX_TOKENS: u32 = 1024;

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Distill {
    items: Reference,
    teacher: Teachers,
    #[serde(default)]
    keep: Keep,
    /// Keeps an item's samples only if this many teachers arrive at their answer.
    agreement: Option<usize>,
    /// More samples for items of which no sample was kept.
    #[serde(default)]
    resample: usize,
}

/// The key `teacher`: one table, or a list of them.
#[derive(Debug)]
enum Teachers {
    One(Box<Teacher>),
    Several(Vec<Teacher>),
}

endpoint_table! {
/// The source of the responses.
struct Teacher {
    api: Api,
    /// Share of the oracle's responses that are made wrong.
    wrong: Option<f64>,
    /// Largest share of items without a rationale for the oracle.
    max_lost: Option<f64>,
    samples: Option<usize>,
    instruction: Option<String>,
    /// Whether the teacher receives the reference answer.
    hint: Option<bool>,
    /// Prompts for the items of single data sets.
    datasets: Option<BTreeMap<String, PromptKeys>>,
}}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Api {
    /// The item's own rationale.
    Oracle,
    /// An OpenAI-compatible endpoint.
    Openai,
}

/// The key `keep`: one rule, or one for each answer type.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Keep {
    All(KeepRule),
    ByType(BTreeMap<AnswerType, KeepRule>),
}

/// Which samples are kept. A sample without a final answer is never kept, since it makes no training row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum KeepRule {
    #[default]
    AnswerMatches,
    All,
}

/// The responses of one teacher to all items.
struct Taught {
    prompts: Vec<String>,
    responses: Vec<Vec<Response>>,
    /// `None` for the oracle.
    replied: Vec<Replied>,
}

fn parse(table: &Value) -> Result<Box<dyn Stage>, Vec<ConfigError>> {
    let distill: Distill = config::parse(table)?;
    let mut errors = Vec::new();
    let tables = match &table["teacher"] {
        Value::Array(tables) => tables.iter().collect(),
        one => vec![one],
    };
    for ((name, teacher), table) in distill.teachers().into_iter().zip(tables) {
        let given = table.as_object().into_iter().flatten().map(|(key, _)| key.as_str());
        errors.extend(teacher.check(&name, given));
    }
    let teachers = distill.teachers().len();
    if teachers == 0 {
        errors.push(ConfigError::at("teacher", "the list of teachers is empty"));
    }
    if let Some(agreement) = distill.agreement {
        let mut mistake = |message: String| errors.push(ConfigError::at("agreement", message));
        match agreement {
            0 | 1 => mistake("`agreement` is the number of teachers that must agree: at least 2".to_string()),
            _ if agreement > teachers => {
                mistake(format!(
                    "{agreement} teachers must agree, but `teacher` names {teachers}: write a list of tables"
                ));
            }
            _ => {}
        }
    }
    if distill.resample > 0 && distill.teachers().iter().any(|(_, teacher)| teacher.api == Api::Oracle) {
        errors.push(ConfigError::at("resample", "the oracle has one response to an item: `resample` is for endpoints"));
    }
    check_max(&mut errors, MAX_COUNT, [("resample", Some(distill.resample))]);
    if errors.is_empty() { Ok(Box::new(distill)) } else { Err(errors) }
}

impl Stage for Distill {
    fn identify(&self, manifest: &mut Manifest) {
        let Distill { items: _, teacher: _, keep, agreement, resample } = self;
        for (name, teacher) in self.teachers() {
            teacher.identify(&name, manifest);
        }
        manifest.value("keep", keep);
        manifest.value_unless("agreement", agreement, &None);
        manifest.value_unless("resample", resample, &0);
    }

    fn inputs(&self) -> Vec<Input> {
        vec![common::stage_input("items", &self.items, &[ArtifactKind::Items])]
    }

    fn variables(&self) -> Vec<String> {
        let remote = self.teachers().into_iter().filter(|(_, teacher)| teacher.api == Api::Openai);
        let variables: BTreeSet<String> = remote.flat_map(|(_, teacher)| teacher.endpoint().variables()).collect();
        variables.into_iter().collect()
    }

    fn pool(&self) -> Option<Pool> {
        let remote = self.teachers().iter().any(|(_, teacher)| teacher.api == Api::Openai);
        (!remote).then_some(Pool::Light)
    }

    fn estimate_requests(&self, ctx: &EstimateContext) -> Result<Option<RequestEstimate>> {
        let input = ctx.inputs.get("items").ok_or_else(|| anyhow!("BUG: no input `items`"))?;
        let items = common::read_items(input)?;
        let mut total: Option<RequestEstimate> = None;
        for (name, teacher) in self.teachers().into_iter().filter(|(_, teacher)| teacher.api == Api::Openai) {
            let prompts = teacher.render(&name, &items)?;
            let questions = questions(&items, &prompts);
            let is_usable = |at: usize, response: &Response| is_usable(&items[at], response);
            let estimate = teacher.endpoint().estimate(&questions, ImageInput::Given, &is_usable, ctx)?;
            total = Some(total.map_or(estimate.clone(), |total| total.plus(&estimate)));
        }
        Ok(total)
    }

    fn run(&self, ctx: &StageContext) -> Result<Summary> {
        let items = common::read_items(ctx.input("items")?)?;
        common::check_not_empty(&items, "items")?;
        let mut ids: BTreeSet<(String, String)> =
            items.iter().map(|item| (item.dataset.clone(), item.id.clone())).collect();
        let taught: Vec<Taught> = self
            .teachers()
            .iter()
            .map(|(name, teacher)| self.teach(name, teacher, &items, ctx))
            .collect::<Result<_>>()?;
        let mut lost_rows = LostRows::new(items.len());
        let (mut kept, mut rejects) = (Vec::new(), Vec::new());
        let mut report = DropReport::default();
        let mut samples = 0;
        for (at, item) in items.iter().enumerate() {
            let judged: Vec<Vec<(&Response, Verdict)>> = taught
                .iter()
                .map(|taught| taught.responses[at].iter().map(|response| (response, judge(item, response))).collect())
                .collect();
            let agreed = self.agreed_answers(item, &judged);
            let mut number = 0;
            for (taught, judged) in taught.iter().zip(&judged) {
                samples += judged.len();
                if judged.is_empty() {
                    lost_rows.add("without a rationale", &item.id, &item.dataset);
                }
                let mut rejected = Vec::new();
                for (response, verdict) in judged {
                    let disagrees = || agreed.as_ref().is_some_and(|agreed| !agrees(item, verdict, agreed));
                    let reason = defect(response, verdict)
                        .or_else(|| self.mismatch(item, verdict))
                        .or_else(|| disagrees().then_some("with an answer that too few teachers give"));
                    if let Some(reason) = reason {
                        report.add(item, verdict, reason);
                        rejected.push(verdict.clone());
                    } else {
                        number += 1;
                        let id = kept_id(item, &mut number, &mut ids);
                        kept.push(distilled(item, verdict, id));
                    }
                }
                if !rejected.is_empty() {
                    rejects.push(JudgedItem {
                        item: item.clone(),
                        prompt: taught.prompts[at].clone(),
                        verdicts: rejected,
                    });
                }
            }
            let all: Vec<&Verdict> = judged.iter().flatten().map(|(_, verdict)| verdict).collect();
            report.compare(item, &all);
        }
        let max_lost = self.teachers().iter().find_map(|(_, teacher)| teacher.max_lost).unwrap_or(0.0);
        let warning = lost_rows.check("`items`", "teacher.max_lost", max_lost)?;
        let bad: Vec<String> = taught.iter().flat_map(|taught| &taught.replied).map(Replied::bad).collect();
        let bad = bad.into_iter().filter(|bad| !bad.is_empty()).collect::<Vec<_>>().join("; ");
        if kept.is_empty() {
            return Err(nothing_kept(&report.reasons(), &bad));
        }
        jsonl::write(&ctx.output("items.jsonl"), &kept)?;
        jsonl::write(&ctx.output("rejects.jsonl"), &rejects)?;
        let mut summary = Summary::default()
            .with("samples", samples)
            .with("kept", kept.len())
            .with("kept_share", ratio(kept.len(), samples))
            .with("rejected", report.reasons())
            .with_warnings(warning);
        let replied: Vec<&Replied> = taught.iter().flat_map(|taught| &taught.replied).collect();
        if !replied.is_empty() {
            summary = summary.with("requests", Replied::facts(&replied)).with("dropped", report.dropped());
            summary = summary.with("doubtful_labels", report.doubtful_labels());
        }
        if !bad.is_empty() {
            let help = "the key `retry` or `ablate retry --bad` requests them again";
            summary = summary.with_warnings([format!("bad replies: {bad}; {help}")]);
        }
        Ok(summary)
    }
}

impl Distill {
    /// The teachers with the names of their tables.
    fn teachers(&self) -> Vec<(String, &Teacher)> {
        match &self.teacher {
            Teachers::One(teacher) => vec![("teacher".to_string(), teacher)],
            Teachers::Several(teachers) => {
                teachers.iter().enumerate().map(|(at, teacher)| (format!("teacher.{at}"), teacher)).collect()
            }
        }
    }

    /// The responses of one teacher.
    fn teach(&self, name: &str, teacher: &Teacher, items: &[Item], ctx: &StageContext) -> Result<Taught> {
        let prompts = teacher.render(name, items)?;
        if teacher.api == Api::Oracle {
            let responses = teacher.oracle_responses(items, ctx.seed);
            return Ok(Taught { prompts: turns(prompts), responses, replied: Vec::new() });
        }
        let all = questions(items, &prompts);
        let mut endpoint = teacher.endpoint();
        let usable = |at: usize, response: &Response| is_usable(&items[at], response);
        let first = endpoint.ask(&all, ImageInput::Given, &usable, ctx)?;
        let mut responses = first.responses.clone();
        let mut replied = vec![first];
        // Items without a kept sample are asked for one more, as often as the table allows.
        for _ in 0..self.resample {
            let is_kept = |at: usize, response: &Response| {
                let verdict = judge(&items[at], response);
                defect(response, &verdict).is_none() && self.mismatch(&items[at], &verdict).is_none()
            };
            let none_kept = |at: &usize| responses[*at].iter().all(|response| !is_kept(*at, response));
            let again: Vec<usize> = (0..items.len()).filter(none_kept).collect();
            if again.is_empty() {
                break;
            }
            endpoint = endpoint.next_sample(&replied);
            let some: Vec<Question> = again.iter().map(|at| all[*at].clone()).collect();
            let usable = |at: usize, response: &Response| is_usable(&items[again[at]], response);
            let usable: IsUsable = &usable;
            let more = endpoint.ask(&some, ImageInput::Given, usable, ctx)?;
            for (at, response) in again.iter().zip(&more.responses) {
                responses[*at].extend(response.iter().cloned());
            }
            replied.push(more);
        }
        drop(all);
        Ok(Taught { prompts: turns(prompts), responses, replied })
    }

    /// Why a response without a defect is not kept.
    fn mismatch(&self, item: &Item, verdict: &Verdict) -> Option<&'static str> {
        let rule = match &self.keep {
            Keep::All(rule) => *rule,
            Keep::ByType(rules) => rules.get(&item.answer_type).copied().unwrap_or_default(),
        };
        match rule {
            KeepRule::AnswerMatches if verdict.unreadable => Some("with an answer that cannot be read"),
            KeepRule::AnswerMatches if !verdict.correct => Some("with another answer than the reference"),
            KeepRule::AnswerMatches | KeepRule::All => None,
        }
    }

    /// The answers, in canonical form, that enough teachers give; `None` without `agreement`.
    fn agreed_answers(&self, item: &Item, judged: &[Vec<(&Response, Verdict)>]) -> Option<BTreeSet<String>> {
        let agreement = self.agreement?;
        let mut teachers: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
        for (teacher, samples) in judged.iter().enumerate() {
            for (response, verdict) in samples {
                if let Some(answer) = verdict.answer.as_deref().filter(|_| defect(response, verdict).is_none()) {
                    teachers.entry(canonical(item, answer)).or_default().insert(teacher);
                }
            }
        }
        Some(
            teachers
                .into_iter()
                .filter(|(_, teachers)| teachers.len() >= agreement)
                .map(|(answer, _)| answer)
                .collect(),
        )
    }
}

fn agrees(item: &Item, verdict: &Verdict, agreed: &BTreeSet<String>) -> bool {
    verdict.answer.as_deref().is_some_and(|answer| agreed.contains(&canonical(item, answer)))
}

/// System message and user's turn, by item.
type Rendered<'a> = Vec<(Cow<'a, str>, String)>;

fn questions<'a>(items: &'a [Item], prompts: &'a Rendered) -> Vec<Question<'a>> {
    items.iter().zip(prompts).map(|(item, (system, prompt))| Question::new(item, system, prompt)).collect()
}

fn turns(prompts: Rendered) -> Vec<String> {
    prompts.into_iter().map(|(_, prompt)| prompt).collect()
}

/// Whether a row can be made of a response.
fn is_usable(item: &Item, response: &Response) -> bool {
    defect(response, &judge(item, response)).is_none()
}

impl Teacher {
    /// The mistakes in the table called `name`, which has the keys `given`.
    fn check<'a>(&self, name: &str, given: impl Iterator<Item = &'a str>) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        let mut mistake = |key: &str, message: String| errors.push(ConfigError::at(&format!("{name}.{key}"), message));
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
                errors.extend(self.endpoint().check(name));
                errors.extend(self.prompts().check(name));
            }
        }
        if let Some(wrong) = self.wrong {
            check_range(&mut errors, &format!("{name}.wrong"), wrong, 0.0, 1.0);
        }
        check_max_lost(&mut errors, &format!("{name}.max_lost"), self.max_lost);
        errors
    }

    /// Adds what determines the responses.
    fn identify(&self, name: &str, manifest: &mut Manifest) {
        let Teacher { api, wrong, max_lost, system, instruction, hint, datasets, .. } = self;
        manifest.value(&format!("{name}.api"), api);
        match api {
            Api::Oracle => {
                manifest.value(&format!("{name}.wrong"), &wrong.unwrap_or(0.0));
                manifest.value_unless(&format!("{name}.max_lost"), &max_lost.unwrap_or(0.0), &0.0);
            }
            Api::Openai => {
                self.endpoint().identify(name, manifest);
                manifest.value(&format!("{name}.system"), system.as_deref().unwrap_or(SYSTEM));
                manifest.value(&format!("{name}.instruction"), instruction.as_deref().unwrap_or(INSTRUCTION));
                manifest.value_unless(&format!("{name}.hint"), hint, &None);
                manifest.value_unless(&format!("{name}.datasets"), datasets, &None);
            }
        }
    }

    fn prompts(&self) -> TeacherPrompts {
        let (system, instruction, hint) = (self.system.clone(), self.instruction.clone(), self.hint);
        let datasets = self.datasets.clone().unwrap_or_default();
        TeacherPrompts { all: PromptKeys { system, instruction, hint }, datasets }
    }

    /// The prompts for all items. Fails if the table, which is called `name`, names a data set that no item has.
    fn render(&self, name: &str, items: &[Item]) -> Result<Rendered<'static>> {
        let prompts = self.prompts();
        let known: BTreeSet<&str> = items.iter().map(|item| item.dataset.as_str()).collect();
        if let Some(unknown) = prompts.datasets.keys().find(|dataset| !known.contains(dataset.as_str())) {
            let known: Vec<&str> = known.into_iter().collect();
            return Err(wrong_input(anyhow!(
                "`{name}.datasets` names `{unknown}`, but no item is of this data set; the items have `{}`",
                known.join("`, `")
            )));
        }
        let render = |item| {
            let (system, prompt) = prompts.render(item);
            (Cow::Owned(system.into_owned()), prompt)
        };
        Ok(items.iter().map(render).collect())
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
            ..Endpoint::default()
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

/// The error for a distillation without kept samples.
fn nothing_kept(reasons: &BTreeMap<&str, usize>, bad: &str) -> anyhow::Error {
    let counts: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    let detail = if counts.is_empty() { "no item has a rationale".to_string() } else { counts.join(", ") };
    let help = if bad.is_empty() {
        ""
    } else {
        "\nhelp: bad replies are kept: the key `retry` or `ablate retry --bad` requests them again"
    };
    wrong_input(anyhow!("no response of the teacher was kept: {detail}{help}"))
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

impl Default for Keep {
    fn default() -> Keep {
        Keep::All(KeepRule::default())
    }
}

impl JsonSchema for Keep {
    fn schema_name() -> Cow<'static, str> {
        "Keep".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Which samples are kept: one rule, or a table with a rule for each answer type.",
            "anyOf": [
                generator.subschema_for::<KeepRule>(),
                generator.subschema_for::<BTreeMap<AnswerType, KeepRule>>(),
            ],
        })
    }
}

impl<'de> Deserialize<'de> for Keep {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Keep, D::Error> {
        struct RuleOrTable;
        impl<'de> Visitor<'de> for RuleOrTable {
            type Value = Keep;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`answer-matches`, `all`, or a table with one of them for each answer type")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Keep, E> {
                KeepRule::deserialize(de::value::StrDeserializer::new(text)).map(Keep::All)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Keep, A::Error> {
                BTreeMap::deserialize(MapAccessDeserializer::new(map)).map(Keep::ByType)
            }
        }
        deserializer.deserialize_any(RuleOrTable)
    }
}

impl JsonSchema for Teachers {
    fn schema_name() -> Cow<'static, str> {
        "Teachers".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "The table of a teacher, or a list of them.",
            "anyOf": [generator.subschema_for::<Teacher>(), generator.subschema_for::<Vec<Teacher>>()],
        })
    }
}

impl<'de> Deserialize<'de> for Teachers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Teachers, D::Error> {
        struct OneOrSeveral;
        impl<'de> Visitor<'de> for OneOrSeveral {
            type Value = Teachers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the table of a teacher, or a list of them")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Teachers, A::Error> {
                Teacher::deserialize(MapAccessDeserializer::new(map)).map(|teacher| Teachers::One(Box::new(teacher)))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Teachers, A::Error> {
                let mut teachers = Vec::new();
                while let Some(teacher) = list.next_element()? {
                    teachers.push(teacher);
                }
                Ok(Teachers::Several(teachers))
            }
        }
        deserializer.deserialize_any(OneOrSeveral)
    }
}
