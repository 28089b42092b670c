//! The requests of a stage: which of them the store of replies has answered, and which have to be sent.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use anyhow::{Context, Result, anyhow};
use jiff::Timestamp;
use rayon::prelude::*;
use serde_json::{Value, json};

use super::endpoint_table::BadReply;
use super::image_input::ImageInput;
use crate::teacher::{
    Answer, ChatRequest, ContentPart, ImageUrls, KeyedAnswer, KeyedRequests, RequestList, SampledRequests, Sampling,
    Spending,
};
use ablate_core::base::{Hash, RequestProgress, wrong_input};
use ablate_core::stage::Summary;
use ablate_data::chat_prompt::ChatPrompt;
use ablate_data::image_keys::ImageKeys;
use ablate_data::image_placeholders::Part;
use ablate_data::images::ImagePacks;
use ablate_data::records::{FinishReason, Item};
use ablate_store::{Fault, Replies, Reply, Usage};

/// The most replies of one stage. A larger number is a typing error.
const MAX_REPLIES: usize = 20_000_000;

/// How the questions are asked.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// The address of the endpoint.
    pub(super) url: String,
    pub(super) sampling: Sampling,
    /// Numbers of the samples of each question.
    pub(super) samples: Range<usize>,
    /// Kinds of bad replies that are requested once more.
    pub(super) retry: BTreeSet<BadReply>,
    pub(super) image: ImageInput,
    pub(super) image_urls: ImageUrls,
}

/// One prompt of a stage.
#[derive(Clone, Debug)]
pub(super) struct Question<'a> {
    /// What it is about, for messages: ``item `7` ``.
    pub(super) label: String,
    pub(super) system: &'a str,
    pub(super) images: &'a ImageKeys,
    pub(super) prompt: &'a str,
}

impl<'a> Question<'a> {
    /// A question about an item.
    pub(super) fn new(item: &'a Item, system: &'a str, prompt: &'a str) -> Question<'a> {
        Question { label: format!("item `{}`", item.id), system, images: &item.images, prompt }
    }
}

/// One reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Response {
    /// The text that the model wrote, the text of its refusal, or the cause of a fault.
    pub(super) text: String,
    pub(super) finish: FinishReason,
    pub(super) fault: Option<Fault>,
    pub(super) tokens: u32,
}

/// The replies to all questions, and facts about them.
#[derive(Debug, Default)]
pub(super) struct Replied {
    /// By question and sample.
    pub(super) responses: Vec<Vec<Response>>,
    pub(super) sent: RequestProgress,
    /// Replies that were not requested in this run.
    pub(super) stored: u64,
    pub(super) usage: Usage,
    /// What all requests of this round and the ones before have cost.
    pub(super) spent: Spending,
    pub(super) bad: BTreeMap<&'static str, u64>,
    /// Replies that were requested at another address, by that address.
    pub(super) other_addresses: BTreeMap<String, u64>,
}

/// Whether a reply without a fault makes a result.
pub(super) type IsUsable<'a> = &'a (dyn Fn(usize, &Response) -> bool + Sync);

/// A request, which several questions may share.
struct Request {
    /// The first question with it.
    question: usize,
    prompt_tokens: u64,
    /// The keys of its samples.
    keys: Vec<Hash>,
}

/// The requests of a stage and their replies in the store.
pub(super) struct Requests<'a> {
    asked: Asked,
    questions: &'a [Question<'a>],
    packs: ImagePacks,
    replies: Replies,
    /// Without those that have the same content.
    distinct: Vec<Request>,
    /// The request of each question.
    of_question: Vec<usize>,
    /// Samples of each request that have no reply, or a bad one that is requested again.
    open: RefCell<Vec<Vec<OpenSample>>>,
}

#[derive(Clone, Copy, Debug)]
struct OpenSample {
    sample: usize,
    /// Whether the store has a bad reply to it.
    again: bool,
}

impl<'a> Requests<'a> {
    pub(super) fn new(
        asked: Asked,
        questions: &'a [Question<'a>],
        packs: ImagePacks,
        replies: Replies,
    ) -> Result<Requests<'a>> {
        let total = questions.len().saturating_mul(asked.samples.len());
        if total > MAX_REPLIES {
            return Err(wrong_input(anyhow!(
                "the stage needs {total} replies of its endpoint; at most {MAX_REPLIES} are possible: take fewer samples or items"
            )));
        }
        let identify = |question: &Question| {
            let request = chat_request(question, asked.image, &packs)?;
            Ok((request.id(&asked.sampling), request.estimated_tokens()))
        };
        let ids: Vec<(Hash, u64)> = questions.par_iter().map(identify).collect::<Result<_>>()?;
        let mut distinct: Vec<Request> = Vec::new();
        let mut known: HashMap<Hash, usize> = HashMap::new();
        let mut of_question = Vec::with_capacity(questions.len());
        for (question, (id, prompt_tokens)) in ids.into_iter().enumerate() {
            let request = *known.entry(id).or_insert_with(|| {
                let keys = asked.samples.clone().map(|sample| ChatRequest::sample_key(id, sample)).collect();
                distinct.push(Request { question, prompt_tokens, keys });
                distinct.len() - 1
            });
            of_question.push(request);
        }
        let open = RefCell::new(vec![Vec::new(); distinct.len()]);
        Ok(Requests { asked, questions, packs, replies, distinct, of_question, open })
    }

    /// Finds the samples that have to be requested. Returns what the others have cost.
    pub(super) fn find_open(&self, is_usable: IsUsable, retry: &BTreeSet<String>) -> Spending {
        let mut spent = Spending::default();
        let mut open = self.open.borrow_mut();
        for (request, samples) in self.distinct.iter().zip(&mut *open) {
            samples.clear();
            for (sample, key) in request.keys.iter().enumerate() {
                let Some(reply) = self.replies.get(*key) else {
                    samples.push(OpenSample { sample, again: false });
                    continue;
                };
                let usage = reply.total_usage();
                let cost = usage.cost.values().sum();
                spent.add(&Spending { requests: 1 + reply.earlier, tokens: usage.tokens(), cost });
                let bad = bad_reply(request.question, &response(&reply), is_usable);
                let again = |bad: BadReply| {
                    let by_key = self.asked.retry.contains(&bad) && reply.earlier == 0;
                    by_key || retry.contains(bad.name())
                };
                if bad.is_some_and(again) {
                    samples.push(OpenSample { sample, again: true });
                }
            }
        }
        spent
    }

    pub(super) fn len(&self) -> usize {
        self.distinct.len()
    }

    /// Replies to all requests.
    pub(super) fn total(&self) -> u64 {
        self.distinct.iter().map(|request| request.keys.len() as u64).sum()
    }

    /// Estimated tokens of the prompt, and missing samples, of every request that has to be sent.
    pub(super) fn missing(&self) -> Vec<(u64, u64)> {
        let open = self.open.borrow();
        let open = self.distinct.iter().zip(&*open).filter(|(_, samples)| !samples.is_empty());
        open.map(|(request, samples)| (request.prompt_tokens, samples.len() as u64)).collect()
    }

    /// Estimated tokens of the prompt, and usage, of every reply in the store.
    pub(super) fn known(&self) -> Vec<(u64, Usage)> {
        let replies = |request: &Request| {
            let prompt_tokens = request.prompt_tokens;
            let usage = request.keys.iter().filter_map(|key| Some(self.replies.get(*key)?.usage));
            usage.map(|usage| (prompt_tokens, usage)).collect::<Vec<_>>()
        };
        self.distinct.iter().flat_map(replies).collect()
    }

    /// The replies to all questions, and facts about them.
    pub(super) fn collect(self, is_usable: IsUsable, sent: RequestProgress, stored: u64) -> Result<Replied> {
        let mut replied = Replied { sent, stored, ..Replied::default() };
        let mut responses: Vec<Vec<Response>> = Vec::with_capacity(self.distinct.len());
        for request in &self.distinct {
            let mut of_request = Vec::with_capacity(request.keys.len());
            for key in &request.keys {
                let reply =
                    self.replies.get(*key).context("a reply disappeared from the store: was `gc --replies` run?")?;
                let usage = reply.total_usage();
                replied.spent.add(&Spending {
                    requests: 1 + reply.earlier,
                    tokens: usage.tokens(),
                    cost: usage.cost.values().sum(),
                });
                replied.usage.add(&usage);
                if reply.url != self.asked.url {
                    *replied.other_addresses.entry(reply.url.clone()).or_default() += 1;
                }
                let response = response(&reply);
                if let Some(bad) = bad_reply(request.question, &response, is_usable) {
                    *replied.bad.entry(bad.name()).or_default() += 1;
                }
                of_request.push(response);
            }
            responses.push(of_request);
        }
        replied.responses = self.of_question.iter().map(|request| responses[*request].clone()).collect();
        Ok(replied)
    }
}

impl Requests<'_> {
    /// The keys of the samples of a request that were open when the store was last read.
    fn last_open_keys(&self, request: usize) -> Vec<Hash> {
        let keys = &self.distinct[request].keys;
        self.open.borrow()[request].iter().map(|open| keys[open.sample]).collect()
    }
}

impl RequestList for Requests<'_> {
    fn body(&self, request: usize, samples: usize) -> Result<Vec<u8>> {
        let question = &self.questions[self.distinct[request].question];
        chat_request(question, self.asked.image, &self.packs)?.body(
            &self.asked.sampling,
            samples,
            &self.asked.image_urls,
        )
    }

    fn prompt_tokens(&self, request: usize) -> u64 {
        self.distinct[request].prompt_tokens
    }

    fn label(&self, request: usize) -> String {
        self.questions[self.distinct[request].question].label.clone()
    }
}

impl SampledRequests for Requests<'_> {
    fn open(&self, request: usize) -> usize {
        let (keys, mut open) = (&self.distinct[request].keys, self.open.borrow_mut());
        // Another process may have asked the same in the meantime.
        open[request].retain(|open| open.again || self.replies.get(keys[open.sample]).is_none());
        open[request].len()
    }

    fn answered(&self, answers: Vec<(usize, Vec<Answer>)>) -> Result<()> {
        let keyed = |(request, answers): (usize, Vec<Answer>)| {
            let keys = self.last_open_keys(request).into_iter();
            keys.zip(answers).map(move |(key, answer)| KeyedAnswer { key, request: Some(request), answer })
        };
        self.store(answers.into_iter().flat_map(keyed).collect())
    }
}

impl KeyedRequests for Requests<'_> {
    fn open_keys(&self, request: usize) -> Vec<Hash> {
        // Another process may have asked the same in the meantime.
        self.open(request);
        self.last_open_keys(request)
    }

    fn is_stored(&self, key: Hash, since: Timestamp) -> bool {
        self.replies.get(key).is_some_and(|reply| reply.at >= since)
    }

    fn store(&self, answers: Vec<KeyedAnswer>) -> Result<()> {
        let mut lines = Vec::new();
        let mut open = self.open.borrow_mut();
        for KeyedAnswer { key, request, answer } in answers {
            if let Some(request) = request {
                let keys = &self.distinct[request].keys;
                open[request].retain(|open| keys[open.sample] != key);
            }
            lines.push((key, self.asked.reply(answer, self.replies.get(key).as_ref())));
        }
        self.replies.append(&lines)
    }
}

impl Replied {
    /// Adds facts about the replies to a summary.
    pub(super) fn summarize(&self, summary: Summary) -> Summary {
        summary.with("requests", Replied::facts(&[self]))
    }

    /// Facts about the replies of several rounds or teachers together.
    pub(super) fn facts(all: &[&Replied]) -> Value {
        let mut total = Replied::default();
        for one in all {
            let Replied { responses: _, sent, stored, usage, spent: _, bad, other_addresses } = one;
            total.sent.received += sent.received;
            total.sent.retries += sent.retries;
            total.stored += stored;
            total.usage.add(usage);
            for (kind, count) in bad {
                *total.bad.entry(kind).or_default() += count;
            }
            for (url, count) in other_addresses {
                *total.other_addresses.entry(url.clone()).or_default() += count;
            }
        }
        let Replied { sent, stored, usage, bad, other_addresses, .. } = total;
        let mut facts = json!({ "sent": sent.received, "stored": stored, "retries": sent.retries });
        facts["prompt_tokens"] = json!(usage.prompt_tokens);
        facts["reply_tokens"] = json!(usage.reply_tokens);
        if !usage.cost.is_empty() {
            facts["cost"] = json!(usage.cost);
        }
        if !bad.is_empty() {
            facts["bad"] = json!(bad);
        }
        if !other_addresses.is_empty() {
            facts["other_addresses"] = json!(other_addresses);
        }
        facts
    }

    /// The numbers of bad replies by kind, as text; empty without any.
    pub(super) fn bad(&self) -> String {
        let counts = self.bad.iter().map(|(kind, count)| format!("{count} {kind}"));
        counts.collect::<Vec<_>>().join(", ")
    }
}

impl Asked {
    /// The reply to store. `earlier` is the bad one that it replaces.
    fn reply(&self, answer: Answer, earlier: Option<&Reply>) -> Reply {
        let Answer { choice, usage, served } = answer;
        let model = self.sampling.model.clone();
        Reply {
            served: served.filter(|served| *served != model),
            model,
            url: self.url.clone(),
            at: Timestamp::now(),
            text: choice.text,
            reasoning: choice.reasoning,
            cut: choice.cut,
            fault: choice.fault,
            usage,
            earlier: earlier.map_or(0, |reply| reply.earlier + 1),
            earlier_usage: earlier.map(Reply::total_usage).unwrap_or_default(),
        }
    }
}

fn chat_request(question: &Question, image: ImageInput, packs: &ImagePacks) -> Result<ChatRequest> {
    let Question { label, system, images, prompt } = question;
    let (images, prompt) = image.apply(images, prompt);
    images.check([&*prompt]).map_err(|message| wrong_input(anyhow!("{label}: {message}")))?;
    let mut keys = images.keys().iter();
    let content = |part| match part {
        Part::Text(text) => Ok(ContentPart::Text(text.into_owned())),
        Part::Image => {
            let key = keys.next().context("BUG: a prompt with more placeholders than images")?;
            packs.encoded(key).map(ContentPart::Image)
        }
    };
    let parts = ChatPrompt::new(images, &prompt).parts().into_iter().flatten();
    let content = parts.map(content).collect::<Result<_>>().with_context(|| label.clone())?;
    Ok(ChatRequest { system: (*system).to_string(), content })
}

fn response(reply: &Reply) -> Response {
    Response {
        text: reply.text.clone(),
        finish: if reply.cut { FinishReason::Length } else { FinishReason::Stop },
        fault: reply.fault,
        tokens: u32::try_from(reply.usage.reply_tokens).unwrap_or(u32::MAX),
    }
}

/// Why a reply makes no result.
fn bad_reply(question: usize, response: &Response, is_usable: IsUsable) -> Option<BadReply> {
    match response.fault {
        Some(Fault::Empty) => Some(BadReply::Empty),
        Some(Fault::Refused) => Some(BadReply::Refused),
        Some(Fault::Filtered) => Some(BadReply::Filtered),
        Some(Fault::Malformed) => Some(BadReply::Malformed),
        Some(Fault::TooLong) => Some(BadReply::TooLong),
        Some(Fault::Rejected) => Some(BadReply::Rejected),
        None if response.finish == FinishReason::Length => Some(BadReply::Cut),
        None => (!is_usable(question, response)).then_some(BadReply::Form),
    }
}
