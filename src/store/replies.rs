//! Replies of endpoints, by the content of their requests. A reply may have cost money, so it is stored when it arrives, shared by
//! all experiments of the store, and deleted only by `gc --replies`.
//!
//! `replies/log` is a [`Log`]: one line per reply, the last line of a key is valid. A reply that replaces a bad one names
//! what the earlier ones cost.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::log::{Line, Log};
use ablate_core::base::Hash;

/// The stored replies.
#[derive(Debug)]
pub struct Replies {
    log: Log,
}

/// One reply, and what it cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// The requested model.
    pub model: String,
    /// The model that answered, as the endpoint names it, if it differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served: Option<String>,
    /// The address of the endpoint.
    pub url: String,
    pub at: Timestamp,
    /// The text that the model wrote, or the text of its refusal.
    pub text: String,
    /// The reasoning that the endpoint returned apart from the text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reasoning: String,
    /// Whether the text was cut at the token limit.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
    /// Why the reply has no usable text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    #[serde(flatten)]
    pub usage: Usage,
    /// How often the request was answered before, each time with a bad reply.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub earlier: u64,
    /// What the earlier replies cost, together.
    #[serde(default, skip_serializing_if = "Usage::is_empty")]
    pub earlier_usage: Usage,
}

/// Why a reply has no usable text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// It has no text.
    Empty,
    /// The model declined to answer (`refusal`).
    Refused,
    /// The service removed the text or a part of it (`content_filter`).
    Filtered,
    /// It is not a chat completion.
    Malformed,
    /// It is longer than `max_tokens` can explain.
    TooLong,
    /// The endpoint rejected this request, and answered others.
    Rejected,
}

impl Fault {
    /// The name in the log, in tables and in summaries.
    pub fn name(self) -> &'static str {
        match self {
            Fault::Empty => "empty",
            Fault::Refused => "refused",
            Fault::Filtered => "filtered",
            Fault::Malformed => "malformed",
            Fault::TooLong => "too-long",
            Fault::Rejected => "rejected",
        }
    }
}

/// Tokens, as the endpoint counts them, and their cost by the prices of the table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    #[serde(default, skip_serializing_if = "is_zero")]
    pub prompt_tokens: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reply_tokens: u64,
    /// By currency.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub cost: BTreeMap<String, f64>,
}

impl Usage {
    pub fn is_empty(&self) -> bool {
        *self == Usage::default()
    }

    /// Adds another usage.
    pub fn add(&mut self, other: &Usage) {
        self.prompt_tokens = self.prompt_tokens.saturating_add(other.prompt_tokens);
        self.reply_tokens = self.reply_tokens.saturating_add(other.reply_tokens);
        for (currency, amount) in &other.cost {
            *self.cost.entry(currency.clone()).or_default() += amount;
        }
    }

    pub fn tokens(&self) -> u64 {
        self.prompt_tokens.saturating_add(self.reply_tokens)
    }
}

impl Reply {
    /// What this reply and the earlier ones to the same request cost.
    pub fn total_usage(&self) -> Usage {
        let mut total = self.usage.clone();
        total.add(&self.earlier_usage);
        total
    }
}

/// Totals of the replies of one model at one address.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ReplyTotals {
    pub model: String,
    pub url: String,
    pub replies: u64,
    /// Replies without a usable text, by kind.
    pub bad: BTreeMap<String, u64>,
    pub prompt_tokens: u64,
    pub reply_tokens: u64,
    /// By currency.
    pub cost: BTreeMap<String, f64>,
    pub bytes: u64,
    pub first: Option<Timestamp>,
    pub last: Option<Timestamp>,
}

impl ReplyTotals {
    fn add(&mut self, reply: &Reply, bytes: u64) {
        self.replies += 1;
        if let Some(fault) = reply.fault {
            *self.bad.entry(fault.name().to_string()).or_default() += 1;
        }
        let Usage { prompt_tokens, reply_tokens, cost } = reply.total_usage();
        self.prompt_tokens = self.prompt_tokens.saturating_add(prompt_tokens);
        self.reply_tokens = self.reply_tokens.saturating_add(reply_tokens);
        for (currency, amount) in cost {
            *self.cost.entry(currency).or_default() += amount;
        }
        self.bytes += bytes;
        self.first = Some(self.first.map_or(reply.at, |first| first.min(reply.at)));
        self.last = Some(self.last.map_or(reply.at, |last| last.max(reply.at)));
    }
}

impl Replies {
    /// The replies in the folder `replies` of a store. The folder is created with the first reply.
    pub fn open(folder: &Path) -> Replies {
        Replies { log: Log::new(folder.join("log")) }
    }

    /// The reply to a request.
    pub fn get(&self, request: Hash) -> Option<Reply> {
        serde_json::from_str(&self.log.get(request)?).ok()
    }

    /// Stores replies by their requests. They survive a power cut after this returns.
    pub fn append(&self, replies: &[(Hash, Reply)]) -> Result<()> {
        let line = |(request, reply): &(Hash, Reply)| Ok((*request, serde_json::to_string(reply)?));
        let lines = replies.iter().map(line).collect::<Result<Vec<_>>>()?;
        self.log.append(&lines, true).context("cannot store the replies of the endpoint")
    }

    pub(super) fn path(&self) -> &Path {
        self.log.path()
    }

    /// The numbers of damaged lines. With `remove` they are removed.
    pub(super) fn damaged_lines(&self, remove: bool) -> Result<Vec<usize>> {
        let mut damaged = Vec::new();
        self.log.visit(&mut |line| {
            if let Line::Damaged(number) = line {
                damaged.push(number);
            }
            Ok(())
        })?;
        if remove && !damaged.is_empty() {
            self.log.rewrite(&|_, _| true)?;
        }
        Ok(damaged)
    }

    /// Totals of the stored replies by model and address.
    pub fn totals(&self) -> Result<Vec<ReplyTotals>> {
        self.totals_of(&|_| true)
    }

    /// Deletes replies that are older than `age`, or all, and returns what was or would be deleted.
    pub fn delete(&self, older_than: Option<Duration>, dry_run: bool) -> Result<Vec<ReplyTotals>> {
        let oldest = older_than.map(|age| Timestamp::now().checked_sub(age).unwrap_or(Timestamp::MIN));
        let is_deleted = |reply: &Reply| oldest.is_none_or(|oldest| reply.at < oldest);
        let deleted = self.totals_of(&is_deleted)?;
        if !dry_run {
            self.log.rewrite(&|_, text| serde_json::from_str(text).is_ok_and(|reply| !is_deleted(&reply)))?;
        }
        Ok(deleted)
    }

    fn totals_of(&self, is_counted: &dyn Fn(&Reply) -> bool) -> Result<Vec<ReplyTotals>> {
        let mut last: HashMap<Hash, u64> = HashMap::new();
        self.log.visit(&mut |line| {
            if let Line::Entry(start, request, _) = line {
                last.insert(request, start);
            }
            Ok(())
        })?;
        let mut totals: BTreeMap<(String, String), ReplyTotals> = BTreeMap::new();
        self.log.visit(&mut |line| {
            if let Line::Entry(start, request, text) = line
                && last.get(&request) == Some(&start)
                && let Ok(reply) = serde_json::from_str::<Reply>(text)
                && is_counted(&reply)
            {
                let key = (reply.model.clone(), reply.url.clone());
                let new = || ReplyTotals { model: key.0.clone(), url: key.1.clone(), ..ReplyTotals::default() };
                totals.entry(key.clone()).or_insert_with(new).add(&reply, text.len() as u64);
            }
            Ok(())
        })?;
        Ok(totals.into_values().collect())
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde needs")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(model: &str, tokens: u64) -> Reply {
        Reply {
            model: model.to_string(),
            served: None,
            url: "http://one/v1".to_string(),
            at: Timestamp::from_second(1_000_000 + tokens as i64).unwrap(),
            text: "Zwei\n### Answer: 2".to_string(),
            reasoning: String::new(),
            cut: false,
            fault: None,
            usage: Usage { prompt_tokens: tokens, reply_tokens: 2, cost: BTreeMap::from([("EUR".to_string(), 0.5)]) },
            earlier: 0,
            earlier_usage: Usage::default(),
        }
    }

    fn key(name: &str) -> Hash {
        Hash::of_bytes(name.as_bytes())
    }

    #[test]
    fn replies_are_shared_and_the_last_one_counts() {
        let folder = tempfile::tempdir().unwrap();
        let [one, other] = [(); 2].map(|()| Replies::open(&folder.path().join("replies")));
        assert_eq!(other.get(key("a")), None);
        let empty = Reply { fault: Some(Fault::Empty), text: String::new(), ..reply("m", 10) };
        one.append(&[(key("a"), empty.clone()), (key("b"), reply("m", 20))]).unwrap();
        assert_eq!(other.get(key("a")), Some(empty.clone()));
        let good = Reply { earlier: 1, earlier_usage: empty.total_usage(), ..reply("m", 30) };
        other
            .append(&[(key("a"), good.clone()), (key("c"), Reply { fault: Some(Fault::Refused), ..reply("n", 5) })])
            .unwrap();
        assert_eq!(one.get(key("a")), Some(good));
        let totals = one.totals().unwrap();
        let found: Vec<_> =
            totals.iter().map(|t| (t.model.as_str(), t.replies, t.prompt_tokens, t.cost["EUR"])).collect();
        assert_eq!(found, [("m", 2, 60, 1.5), ("n", 1, 5, 0.5)]);
        assert_eq!(totals[1].bad, BTreeMap::from([("refused".to_string(), 1)]));
    }

    #[test]
    fn damaged_reply_is_found_and_affects_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let replies = Replies::open(folder.path());
        replies.append(&[(key("a"), reply("m", 1)), (key("b"), reply("m", 2))]).unwrap();
        let mut bytes = ablate_core::base::files::read_bytes(replies.path()).unwrap();
        let place = bytes.windows(4).position(|part| part == b"Zwei").unwrap();
        bytes[place] = b'D';
        ablate_core::base::files::write_atomic(replies.path(), &bytes).unwrap();
        assert_eq!((replies.get(key("a")), replies.get(key("b"))), (None, Some(reply("m", 2))));
        assert_eq!(replies.damaged_lines(true).unwrap(), [2]);
        assert_eq!((replies.damaged_lines(false).unwrap(), replies.totals().unwrap()[0].replies), (vec![], 1));
    }

    #[test]
    fn replies_are_deleted_only_by_name_and_age() {
        let folder = tempfile::tempdir().unwrap();
        let replies = Replies::open(folder.path());
        let now = Reply { at: Timestamp::now(), ..reply("m", 1) };
        replies.append(&[(key("old"), reply("m", 1)), (key("new"), now)]).unwrap();
        let day = Some(Duration::from_secs(24 * 3600));
        assert_eq!(replies.delete(day, true).unwrap()[0].replies, 1);
        assert!(replies.get(key("old")).is_some());
        assert_eq!(replies.delete(day, false).unwrap()[0].replies, 1);
        assert_eq!((replies.get(key("old")), replies.get(key("new")).is_some()), (None, true));
        assert_eq!(replies.delete(None, false).unwrap()[0].replies, 1);
        assert_eq!(replies.totals().unwrap(), []);
    }
}
