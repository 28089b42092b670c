//! Sends the requests of a stage as batches, which cost less and take up to a day.
//!
//! A request is paid once, whenever the process ends: a submitted batch is written down before it is created
//! ([`BatchStates`]), a later attempt waits for it, and only requests that no unfinished batch contains are submitted.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use jiff::Timestamp;

use super::batch_client::{Batch, Gone};
use super::batch_file::{self, BatchLimits};
use super::batch_line::{Line, LineResult};
use super::batch_states::{BatchState, BatchStates};
use super::budget::{Prices, PromptTokens, Spending, budget_error};
use super::calls::Calls;
use super::client::{self, Client};
use super::completion::{Choice, Completion, Tokens};
use super::dispatch::{Answer, DispatchConfig, RequestList};
use super::failure::Failure;
use ablate_core::base::{Detached, Hash, Money, Progress, RequestProgress, StageEvent, files, wrong_input};
use ablate_store::{Fault, Usage};

/// A request is submitted this often.
const ROUNDS: u32 = 3;
/// Replies that are stored together.
const GROUP: usize = 256;
const GROUP_BYTES: usize = 8 << 20;

/// How requests are sent as batches.
#[derive(Clone, Debug)]
pub struct BatchConfig {
    /// The prices are those of batches.
    pub requests: DispatchConfig,
    /// The pause between two looks at a batch.
    pub poll: Duration,
    pub limits: BatchLimits,
    /// Whether to end with [`Detached`] instead of waiting.
    pub detach: bool,
}

/// A reply to one sample.
#[derive(Clone, Debug)]
pub struct KeyedAnswer {
    pub key: Hash,
    /// The request, if this stage waits for the reply.
    pub request: Option<usize>,
    pub answer: Answer,
}

/// Requests that are answered by the keys of their samples.
pub trait KeyedRequests: RequestList {
    /// The keys of the samples of a request that are not answered yet.
    fn open_keys(&self, request: usize) -> Vec<Hash>;
    /// Whether a reply to a sample was stored at this time or later.
    fn is_stored(&self, key: Hash, since: Timestamp) -> bool;
    /// Stores replies. After this returns they are not requested again.
    fn store(&self, answers: Vec<KeyedAnswer>) -> Result<()>;
}

/// The work of one stage at an endpoint with batches.
pub struct Batches<'a> {
    pub client: &'a Client,
    pub config: &'a BatchConfig,
    pub source: &'a dyn KeyedRequests,
    pub progress: &'a dyn Progress,
    /// What the stage spent in earlier attempts.
    pub spent: Spending,
    /// Replies of the stage that the store has, and all that it needs.
    pub done: u64,
    pub total: u64,
    /// The folder of the replies of the store.
    pub replies: &'a Path,
    /// A folder of the stage for the files of requests.
    pub scratch: &'a Path,
}

/// The state of the work.
struct Run<'a> {
    of: &'a Batches<'a>,
    calls: &'a Calls<'a>,
    states: &'a BatchStates,
    spent: Spending,
    done: u64,
    /// Whether the endpoint has answered a request.
    answered: bool,
    counts: RequestProgress,
    prompt_tokens: PromptTokens,
    /// How often the requests without a reply were submitted.
    rounds: HashMap<Hash, u32>,
    /// Why the first request without a reply has none.
    first_error: Option<String>,
    /// The limit of the budget that stops the stage.
    budget: Option<String>,
}

/// The samples without a reply, by key, with their requests.
struct Open {
    keys: Vec<Hash>,
    requests: HashMap<Hash, usize>,
}

/// What the files of results of one batch say.
#[derive(Default)]
struct Results {
    /// Requests with a reply.
    handled: HashSet<Hash>,
    rejected: Vec<(Hash, String)>,
    foreign: Foreign,
}

/// Lines that are not results of the batch.
#[derive(Clone, Copy, Default)]
struct Foreign {
    unknown: u64,
    unreadable: u64,
}

impl Batches<'_> {
    /// Sends these requests and waits for the replies. Fails if one of them has no reply in the end; the replies of the others
    /// are stored.
    pub fn run(&self, requests: &[usize]) -> Result<RequestProgress> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.context("cannot start the HTTP client")?.block_on(self.wait_for_all(requests))
    }

    async fn wait_for_all(&self, requests: &[usize]) -> Result<RequestProgress> {
        let DispatchConfig { patience, requests_per_minute, .. } = self.config.requests;
        let calls = Calls::new(patience, requests_per_minute, self.progress);
        let states = BatchStates::open(self.replies)?;
        let cost = self.prices().map(|prices| Money { amount: 0.0, currency: prices.currency.clone() });
        let mut run = Run {
            of: self,
            calls: &calls,
            states: &states,
            spent: self.spent.clone(),
            done: self.done,
            answered: self.done > 0,
            counts: RequestProgress { cost, ..RequestProgress::default() },
            prompt_tokens: PromptTokens::default(),
            rounds: HashMap::new(),
            first_error: None,
            budget: None,
        };
        loop {
            let open = self.open(requests);
            let batches = run.submit(&open).await?;
            if batches.is_empty() {
                run.finish(&open)?;
                return Ok(run.counts);
            }
            let mut unfinished = Vec::new();
            let all = batches.len();
            for state in batches {
                if let Some(batch) = run.look_at(&state, &open).await? {
                    unfinished.push((state, batch));
                }
            }
            run.report(&unfinished);
            if unfinished.len() < all {
                continue;
            }
            if self.config.detach {
                return Err(anyhow!(Detached(waiting_text(&unfinished))));
            }
            tokio::time::sleep(self.config.poll).await;
        }
    }

    fn open(&self, requests: &[usize]) -> Open {
        let mut open = Open { keys: Vec::new(), requests: HashMap::new() };
        for request in requests {
            for key in self.source.open_keys(*request) {
                open.keys.push(key);
                open.requests.insert(key, *request);
            }
        }
        open
    }

    fn prices(&self) -> Option<&Prices> {
        self.config.requests.prices.as_ref()
    }
}

impl Run<'_> {
    /// The unfinished batches with open requests. Open requests that none of them has are submitted.
    async fn submit(&mut self, open: &Open) -> Result<Vec<BatchState>> {
        if open.keys.is_empty() {
            return Ok(Vec::new());
        }
        let _lock = self.states.lock().await?;
        let mut batches = Vec::new();
        let mut covered = HashSet::new();
        for state in self.states.at(self.of.client.url())? {
            if !state.requests.iter().any(|key| open.requests.contains_key(key)) {
                // The process ended after it had stored the results.
                if state.requests.iter().all(|key| self.of.source.is_stored(*key, state.submitted)) {
                    self.states.remove(&state)?;
                }
            } else if let Some(state) = self.created(state).await? {
                covered.extend(state.requests.iter().copied());
                batches.push(state);
            }
        }
        let mut reserved = self.spent.clone();
        for key in open.keys.iter().filter(|key| covered.contains(*key)) {
            reserved.add(&self.most(open.requests[key]));
        }
        let is_sent = |key: &Hash| !covered.contains(key) && self.rounds.get(key).is_none_or(|rounds| *rounds < ROUNDS);
        let mut fitting: Vec<Hash> = Vec::new();
        let mut limit = self.budget.clone();
        if limit.is_none() {
            let currency = self.of.prices().map_or("", |prices| &prices.currency);
            for key in open.keys.iter().filter(|key| is_sent(key)) {
                let most = self.most(open.requests[key]);
                limit = self.of.config.requests.budget.exceeded(&reserved, &most, currency);
                if limit.is_some() {
                    break;
                }
                reserved.add(&most);
                fitting.push(*key);
            }
        }
        // What is in flight may cost less than it may cost at most.
        if batches.is_empty() || !fitting.is_empty() {
            self.budget = limit;
        }
        let mut rest = &fitting[..];
        while !rest.is_empty() {
            let state = self.submit_file(rest, open).await?;
            rest = &rest[state.requests.len()..];
            batches.push(state);
        }
        Ok(batches)
    }

    /// The state with the id of its batch. Removes the state of a batch that was never created.
    async fn created(&self, mut state: BatchState) -> Result<Option<BatchState>> {
        if state.batch.is_some() {
            return Ok(Some(state));
        }
        let metadata = state.metadata();
        let found = self.calls.repeat(async || self.of.client.find_batch(&metadata).await).await;
        let Some(batch) = found.with_context(|| self.unclear(&state))? else {
            self.states.remove(&state)?;
            return Ok(None);
        };
        state.batch = Some(batch.id);
        self.states.write(&state)?;
        Ok(Some(state))
    }

    /// Submits the first of `keys` that fit into one file.
    async fn submit_file(&self, keys: &[Hash], open: &Open) -> Result<BatchState> {
        let (client, source) = (self.of.client, self.of.source);
        files::create_dir(self.of.scratch)?;
        let path = self.of.scratch.join("batch.jsonl");
        let body = |number: usize| source.body(open.requests[&keys[number]], 1);
        let count = batch_file::write(&path, client.batch_path(), keys, self.of.config.limits, &body)?;
        let keys = &keys[..count];
        let mut state = BatchState {
            url: client.url().to_string(),
            hash: Hash::of_file(&path)?,
            submitted: Timestamp::now(),
            round: 1 + keys.iter().filter_map(|key| self.rounds.get(key)).max().unwrap_or(&0),
            file: self.calls.repeat(async || client.upload(&path).await).await?,
            batch: None,
            requests: keys.to_vec(),
        };
        files::remove_file(&path)?;
        self.states.write(&state)?;
        let metadata = state.metadata();
        let is_first = Cell::new(true);
        let create = async || {
            // The attempt that failed may have created it.
            if !is_first.replace(false)
                && let Some(batch) = client.find_batch(&metadata).await?
            {
                return Ok(batch);
            }
            let created = client.create_batch(&state.file, &metadata).await;
            if let Err(Failure::Permanent(_) | Failure::Rejected(_)) = &created {
                self.states.remove(&state).map_err(Failure::Permanent)?;
            }
            created
        };
        let created = self.calls.repeat(create).await;
        let batch =
            if self.states.path(&state).exists() { created.with_context(|| self.unclear(&state)) } else { created }?;
        self.of.progress.choice(format!("batch `{}` with {} requests is submitted", batch.id, state.requests.len()));
        state.batch = Some(batch.id);
        self.states.write(&state)?;
        Ok(state)
    }

    /// For a batch that the endpoint may have created.
    fn unclear(&self, state: &BatchState) -> String {
        format!(
            "a batch with {} requests may be submitted\nhelp: the same command looks for it again; if it does not exist, \
             remove `{}` to submit its requests again",
            state.requests.len(),
            self.states.path(state).display()
        )
    }

    /// The batch if it is unfinished. Otherwise its results are stored.
    async fn look_at(&mut self, state: &BatchState, open: &Open) -> Result<Option<Batch>> {
        let id = state.batch.as_deref().context("BUG: a batch without an id")?;
        let client = self.of.client;
        let batch = self.calls.repeat(async || client.batch(id).await).await;
        let batch = batch.map_err(|error| self.explain_gone(error, state))?;
        if !batch.is_finished() {
            return Ok(Some(batch));
        }
        let _lock = self.states.lock().await?;
        // Another process may have stored its results.
        if self.states.path(state).exists() {
            self.settle(state, &batch, open).await?;
        }
        Ok(None)
    }

    /// Says what to do if the endpoint does not have a batch any more. Its requests are not submitted again without being asked,
    /// since they may be paid for.
    fn explain_gone(&self, error: anyhow::Error, state: &BatchState) -> anyhow::Error {
        if !error.chain().any(<dyn Error>::is::<Gone>) {
            return error;
        }
        error.context(format!(
            "the endpoint does not have the batch `{}` or its results any more\nhelp: remove `{}` to submit its {} requests again",
            state.batch.as_deref().unwrap_or_default(),
            self.states.path(state).display(),
            state.requests.len()
        ))
    }

    /// Stores the results of a finished batch.
    async fn settle(&mut self, state: &BatchState, batch: &Batch, open: &Open) -> Result<()> {
        let id = &batch.id;
        if batch.status == "failed" {
            self.states.remove(state)?;
            let reason = batch.first_error();
            return Err(wrong_input(anyhow!(
                "the endpoint refused the batch `{id}`: {}\nhelp: none of its requests was sent; the same command submits them \
                 again",
                self.of.client.first_line(&reason)
            )));
        }
        let mut results = Results::default();
        let known: HashSet<Hash> = state.requests.iter().copied().collect();
        for file in [&batch.output_file_id, &batch.error_file_id].into_iter().flatten().filter(|file| !file.is_empty())
        {
            let (calls, before) = (self.calls, results.foreign);
            let read = calls.repeat(async || {
                results.foreign = before;
                self.read_results(state, file, &known, open, &mut results).await
            });
            read.await.map_err(|error| self.explain_gone(error, state))?;
        }
        let Foreign { unknown, unreadable } = results.foreign;
        for (count, what) in [(unknown, "belong to no request of it"), (unreadable, "cannot be read")] {
            if count > 0 {
                self.of.progress.choice(format!("batch `{id}`: {count} results {what}; they are ignored"));
            }
        }
        let rejected = std::mem::take(&mut results.rejected);
        if let Some((key, text)) = rejected.first()
            && !self.answered
        {
            self.states.remove(state)?;
            return Err(wrong_input(anyhow!("{}: {text}", self.label(*key, open))));
        }
        let answer = |(key, text): (Hash, String)| {
            let choice = Choice { text, fault: Some(Fault::Rejected), ..Choice::default() };
            let answer = Answer { choice, usage: Usage::default(), served: None };
            KeyedAnswer { key, request: open.requests.get(&key).copied(), answer }
        };
        self.store(rejected.into_iter().map(answer).collect())?;
        let status = &batch.status;
        let missing =
            self.close(state, open, &results.handled, &format!("the batch `{id}` is {status} without a result"))?;
        if status == "cancelled" && missing > 0 {
            bail!(
                "the batch `{id}` was cancelled; {missing} requests have no reply\nhelp: the same command submits them again"
            );
        }
        Ok(())
    }

    /// Removes the state of a batch. Its other requests are submitted again. Returns their number.
    fn close(&mut self, state: &BatchState, open: &Open, handled: &HashSet<Hash>, reason: &str) -> Result<usize> {
        let missing: Vec<Hash> = state
            .requests
            .iter()
            .filter(|key| open.requests.contains_key(key) && !handled.contains(key))
            .copied()
            .collect();
        if let Some(first) = missing.first()
            && self.first_error.is_none()
        {
            self.first_error = Some(format!("{}: {reason}", self.label(*first, open)));
        }
        self.rounds.extend(missing.iter().map(|key| (*key, state.round)));
        self.states.remove(state)?;
        Ok(missing.len())
    }

    /// Stores the results in a file.
    async fn read_results(
        &mut self,
        state: &BatchState,
        file: &str,
        known: &HashSet<Hash>,
        open: &Open,
        results: &mut Results,
    ) -> Result<(), Failure> {
        let (client, source) = (self.of.client, self.of.source);
        let mut lines = client.content(file).await?;
        let (mut group, mut bytes) = (Vec::new(), 0);
        loop {
            let line = match lines.next().await {
                Ok(Some(line)) => line,
                Ok(None) => return self.store(group).map_err(Failure::Permanent),
                Err(failure) => {
                    // The next attempt skips what is handled.
                    self.store(group).map_err(Failure::Permanent)?;
                    return Err(failure);
                }
            };
            if line.bytes.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            bytes += line.bytes.len();
            let (key, result) = match Line::parse(&line) {
                Line::Result(key, result) if known.contains(&key) => (key, result),
                Line::Result(..) | Line::Unknown => {
                    results.foreign.unknown += 1;
                    continue;
                }
                // The endpoint ended the connection too early.
                Line::Unreadable if line.is_open => {
                    self.store(group).map_err(Failure::Permanent)?;
                    let error = anyhow!("the results `{file}` of a batch end in the middle of a line");
                    return Err(Failure::Retryable { error, pause: None });
                }
                Line::Unreadable => {
                    results.foreign.unreadable += 1;
                    continue;
                }
            };
            let completion = match result {
                LineResult::Body(body) => client.parse(&body),
                LineResult::TooLong => Ok(client::too_long(client.body_limit(1))),
                LineResult::Unanswered(text) => Err(text),
                LineResult::Rejected(text) => {
                    if results.handled.insert(key) && !source.is_stored(key, state.submitted) {
                        results.rejected.push((key, client.first_line(&text)));
                    }
                    continue;
                }
            };
            match completion {
                Ok(_) if !results.handled.insert(key) || source.is_stored(key, state.submitted) => {}
                Ok(completion) => {
                    let request = open.requests.get(&key).copied();
                    group.push(KeyedAnswer { key, request, answer: self.answer(request, completion) });
                }
                Err(text) if self.first_error.is_none() => {
                    self.first_error = Some(format!("{}: {}", self.label(key, open), client.first_line(&text)));
                }
                Err(_) => {}
            }
            if group.len() >= GROUP || bytes >= GROUP_BYTES {
                self.store(std::mem::take(&mut group)).map_err(Failure::Permanent)?;
                bytes = 0;
            }
        }
    }

    /// The reply in a completion, with its cost.
    fn answer(&mut self, request: Option<usize>, completion: Completion) -> Answer {
        let Completion { choices, model, tokens } = completion;
        let choice = choices.into_iter().next().unwrap_or_default();
        let estimate = request.map(|request| self.of.source.prompt_tokens(request));
        let tokens = tokens.unwrap_or_else(|| {
            // The endpoint does not count: a token has about four bytes.
            let bytes = choice.text.len() + choice.reasoning.len();
            Tokens { prompt: estimate.unwrap_or(0), cached: 0, reply: bytes as u64 / 4 }
        });
        if let Some(estimate) = estimate {
            self.prompt_tokens.learn(estimate, tokens.prompt);
        }
        let served = model.filter(|model| !model.trim().is_empty());
        Answer { choice, usage: Prices::usage(self.of.prices(), tokens), served }
    }

    /// Counts and stores replies.
    fn store(&mut self, answers: Vec<KeyedAnswer>) -> Result<()> {
        if answers.is_empty() {
            return Ok(());
        }
        for KeyedAnswer { request, answer, .. } in &answers {
            let (tokens, cost) = (answer.usage.tokens(), answer.usage.cost.values().sum::<f64>());
            self.counts.received += 1;
            self.counts.bad += u64::from(answer.choice.fault.is_some());
            self.counts.tokens = self.counts.tokens.saturating_add(tokens);
            if let Some(money) = &mut self.counts.cost {
                money.amount += cost;
            }
            self.answered = true;
            if request.is_some() {
                self.spent.add(&Spending { requests: 1, tokens, cost });
                self.done += 1;
            }
        }
        self.of.source.store(answers)?;
        self.report(&[]);
        Ok(())
    }

    fn report(&mut self, unfinished: &[(BatchState, Batch)]) {
        self.counts.retries = self.calls.retries();
        let completed = unfinished.iter().map(|(_, batch)| batch.request_counts.unwrap_or_default().completed);
        let (total, unit) = (self.of.total, "replies".to_string());
        let done = (self.done + completed.sum::<u64>()).min(total);
        let requests = Some(self.counts.clone());
        let event = StageEvent::Progress { done, total, unit, loss: None, tokens_per_second: None, requests };
        self.of.progress.emit(event);
    }

    /// The result of the whole work.
    fn finish(&self, open: &Open) -> Result<()> {
        if open.keys.is_empty() {
            return Ok(());
        }
        if let Some(limit) = &self.budget {
            return Err(budget_error(limit, self.done, self.of.total));
        }
        let error = self.first_error.as_deref().unwrap_or("no reason is known");
        bail!(
            "{} requests have no reply after {ROUNDS} batches; the replies to the others are kept\n{error}\nhelp: the same \
             command submits only these again",
            open.keys.len()
        )
    }

    /// The most that one sample of a request may cost.
    fn most(&self, request: usize) -> Spending {
        let prompt = self.prompt_tokens.at_most(self.of.source.prompt_tokens(request));
        let tokens = Tokens { prompt, cached: 0, reply: u64::from(self.of.config.requests.max_tokens) };
        let cost = self.of.prices().map_or(0.0, |prices| prices.cost(tokens));
        Spending { requests: 1, tokens: tokens.prompt.saturating_add(tokens.reply), cost }
    }

    fn label(&self, key: Hash, open: &Open) -> String {
        let request = open.requests.get(&key);
        request.map_or_else(|| "a request of another stage".to_string(), |request| self.of.source.label(*request))
    }
}

/// What a detached stage waits for.
fn waiting_text(unfinished: &[(BatchState, Batch)]) -> String {
    let first = unfinished.first().map(|(_, batch)| batch.id.clone()).unwrap_or_default();
    let others = match unfinished.len() {
        0 | 1 => String::new(),
        count => format!(" and {} more", count - 1),
    };
    let counts = unfinished.iter().map(|(_, batch)| batch.request_counts.unwrap_or_default());
    let done: u64 = counts.map(|counts| counts.completed + counts.failed).sum();
    let all: usize = unfinished.iter().map(|(state, _)| state.requests.len()).sum();
    format!("{first}{others}: {done} of {all} requests are done")
}
