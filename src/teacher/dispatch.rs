//! Sends many requests through a client: at the same time, within limits, with retries, until every request has its replies.
//!
//! Replies are passed on when they arrive, so that they can be stored: a request that was answered is not sent again.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use futures_util::future::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use super::backoff::Backoff;
use super::budget::{Budget, Prices, PromptTokens, Spending, budget_error};
use super::client::{Client, Received};
use super::completion::{Choice, Completion, Tokens};
use super::failure::Failure;
use super::health::Health;
use super::rate_limit::RateLimit;
use ablate_core::base::{Money, Progress, RequestProgress, StageEvent};
use ablate_store::{Fault, Usage};

/// How often outages are checked.
const TICK: Duration = Duration::from_millis(500);
/// How long a stage that is stopped waits for replies.
const TIME_TO_STOP: Duration = Duration::from_secs(5);
/// The bodies of requests in flight have at most this size together, unless one alone is larger.
const BODY_KIB: usize = 64 << 10;
/// If the first requests are all rejected, the cause is not their content.
const REJECTED_AT_START: usize = 3;
/// Failed requests that a message lists.
const LISTED: usize = 5;

/// How requests are sent.
#[derive(Clone, Debug)]
pub struct DispatchConfig {
    pub concurrency: usize,
    /// How long a request is retried.
    pub patience: Duration,
    pub requests_per_minute: Option<f64>,
    pub tokens_per_minute: Option<f64>,
    pub prices: Option<Prices>,
    pub budget: Budget,
    /// The most tokens of one reply.
    pub max_tokens: u32,
}

/// One reply to a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub choice: Choice,
    pub usage: Usage,
    /// The model, as the endpoint names it.
    pub served: Option<String>,
}

/// Requests, by number.
pub trait RequestList {
    /// The body for this many samples.
    fn body(&self, request: usize, samples: usize) -> Result<Vec<u8>>;
    /// Estimated tokens of the prompt.
    fn prompt_tokens(&self, request: usize) -> u64;
    /// What the request is about, for messages.
    fn label(&self, request: usize) -> String;
}

/// Requests that are answered one at a time.
pub trait SampledRequests: RequestList {
    /// Samples of a request that are not answered yet.
    fn open(&self, request: usize) -> usize;
    /// Stores replies. After this returns they are not requested again.
    fn answered(&self, answers: Vec<(usize, Vec<Answer>)>) -> Result<()>;
}

/// The work of one stage at its endpoint.
pub struct Dispatcher<'a> {
    pub client: &'a Client,
    pub config: &'a DispatchConfig,
    pub source: &'a dyn SampledRequests,
    pub progress: &'a dyn Progress,
    /// What the stage spent in earlier attempts.
    pub spent: Spending,
    /// Replies of the stage that the store has, and all that it needs.
    pub done: u64,
    pub total: u64,
}

/// A request in flight.
struct Flight {
    request: usize,
    samples: usize,
    reserved: Spending,
    outcome: Outcome,
}

enum Outcome {
    Received(Received),
    /// Another process answered it in the meantime.
    Known,
    /// The endpoint does not sample several replies at the same time.
    AskSingly,
    Rejected(anyhow::Error),
    /// The patience ended. The time is that of the first failure.
    GaveUp(anyhow::Error, Instant),
    Fatal(anyhow::Error),
    /// Not sent, because the stage stops.
    Stopped,
}

/// State that the requests in flight share. They run on one thread.
struct Shared<'a> {
    of: &'a Dispatcher<'a>,
    rate: RateLimit,
    health: RefCell<Health>,
    memory: Semaphore,
    stopping: Cell<bool>,
    stop: Notify,
    single: Cell<bool>,
    prompt_tokens: RefCell<PromptTokens>,
    counts: RefCell<RequestProgress>,
}

/// Why no more requests are started.
enum Stop {
    Fatal(anyhow::Error),
    Budget(String),
    Terminated,
}

/// What the loop keeps.
struct Run {
    queue: VecDeque<usize>,
    spent: Spending,
    done: u64,
    answered: bool,
    stop: Option<Stop>,
    rejected: Vec<(usize, usize, anyhow::Error)>,
    failed: Vec<(usize, anyhow::Error)>,
}

impl Dispatcher<'_> {
    /// Sends these requests. Fails if one of them has no reply in the end; the replies of the others are stored.
    pub fn run(&self, requests: Vec<usize>) -> Result<RequestProgress> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.context("cannot start the HTTP client")?.block_on(self.send_all(requests))
    }

    async fn send_all(&self, requests: Vec<usize>) -> Result<RequestProgress> {
        let DispatchConfig { concurrency, patience, requests_per_minute, tokens_per_minute, .. } = *self.config;
        let shared = Shared {
            of: self,
            rate: RateLimit::new(requests_per_minute, tokens_per_minute),
            health: RefCell::default(),
            memory: Semaphore::new(BODY_KIB),
            stopping: Cell::new(false),
            stop: Notify::new(),
            single: Cell::new(false),
            prompt_tokens: RefCell::default(),
            counts: RefCell::new(RequestProgress { cost: self.money(0.0), ..RequestProgress::default() }),
        };
        let mut run = Run {
            queue: requests.into(),
            spent: self.spent.clone(),
            done: self.done,
            answered: self.done > 0,
            stop: None,
            rejected: Vec::new(),
            failed: Vec::new(),
        };
        let mut in_flight = FuturesUnordered::new();
        let mut reserved = Spending::default();
        let mut tick = tokio::time::interval(TICK);
        // A stage that is stopped waits for the replies that are being paid for, until its process ends.
        self.progress.allow_time_to_stop(TIME_TO_STOP);
        let mut terminate = signal(SignalKind::terminate()).context("cannot listen to signals")?;
        loop {
            while run.stop.is_none() && in_flight.len() < concurrency && !run.awaits_first_reply() {
                let Some(&request) = run.queue.front() else { break };
                let open = self.source.open(request);
                let samples = if shared.single.get() { open.min(1) } else { open };
                let most = self.most(&shared, request, samples);
                let mut all = run.spent.clone();
                all.add(&reserved);
                if let Some(limit) = self.config.budget.exceeded(&all, &most, self.currency()) {
                    // What is in flight may cost less than it may cost at most.
                    if in_flight.is_empty() {
                        run.stop = Some(Stop::Budget(limit));
                    }
                    break;
                }
                run.queue.pop_front();
                reserved.add(&most);
                in_flight.push(shared.send(request, samples, most));
            }
            if in_flight.is_empty() {
                break;
            }
            tokio::select! {
                biased;
                Some(first) = in_flight.next() => {
                    let mut flights = vec![first];
                    while let Some(Some(next)) = in_flight.next().now_or_never() {
                        flights.push(next);
                    }
                    for flight in &flights {
                        reserved.subtract(&flight.reserved);
                    }
                    self.settle(&shared, &mut run, flights)?;
                }
                _ = terminate.recv() => run.stop = run.stop.or(Some(Stop::Terminated)),
                _ = tick.tick() => {
                    if let Some(text) = shared.health.borrow_mut().report(patience) {
                        self.progress.choice(text);
                    }
                }
            }
            if run.stop.is_some() && !shared.stopping.replace(true) {
                shared.stop.notify_waiters();
            }
        }
        self.finish(run)?;
        drop(in_flight);
        Ok(shared.counts.into_inner())
    }

    /// Counts and stores what arrived.
    fn settle(&self, shared: &Shared, run: &mut Run, flights: Vec<Flight>) -> Result<()> {
        let mut answers = Vec::new();
        let mut again = Vec::new();
        for Flight { request, samples, outcome, .. } in flights {
            match outcome {
                Outcome::Received(Received { completion, pause }) => {
                    if let Some(pause) = pause {
                        shared.rate.pause(pause);
                    }
                    answers.push((request, self.answers(shared, request, samples, completion)));
                    run.answered = true;
                    again.push(request);
                }
                Outcome::Rejected(error) => run.rejected.push((request, samples, error)),
                Outcome::AskSingly => again.push(request),
                Outcome::GaveUp(error, since) if shared.health.borrow().answered_since(since) => {
                    run.failed.push((request, error));
                }
                Outcome::GaveUp(error, _) | Outcome::Fatal(error) if run.stop.is_none() => {
                    run.stop = Some(Stop::Fatal(error));
                }
                Outcome::Known | Outcome::Stopped | Outcome::GaveUp(..) | Outcome::Fatal(_) => {}
            }
        }
        if run.answered {
            for (request, samples, error) in run.rejected.drain(..) {
                let choice = Choice { text: format!("{error:#}"), fault: Some(Fault::Rejected), ..Choice::default() };
                let answer = Answer { choice, usage: Usage::default(), served: None };
                answers.push((request, vec![answer; samples]));
            }
        }
        {
            let mut counts = shared.counts.borrow_mut();
            for answer in answers.iter().flat_map(|(_, answers)| answers) {
                counts.received += 1;
                counts.bad += u64::from(answer.choice.fault.is_some());
                counts.tokens = counts.tokens.saturating_add(answer.usage.tokens());
                let cost = answer.usage.cost.values().sum::<f64>();
                if let Some(money) = &mut counts.cost {
                    money.amount += cost;
                }
                let tokens = answer.usage.tokens();
                run.spent.add(&Spending { requests: 1, tokens, cost });
                run.done += 1;
            }
        }
        if !answers.is_empty() {
            self.source.answered(answers)?;
        }
        for request in again {
            if self.source.open(request) > 0 {
                run.queue.push_front(request);
            }
        }
        let requests = Some(shared.counts.borrow().clone());
        let (done, total, unit) = (run.done, self.total, "replies".to_string());
        self.progress.emit(StageEvent::Progress { done, total, unit, loss: None, tokens_per_second: None, requests });
        Ok(())
    }

    /// The replies of one response. The prompt's tokens belong to the first.
    fn answers(&self, shared: &Shared, request: usize, samples: usize, completion: Completion) -> Vec<Answer> {
        let Completion { mut choices, model, tokens } = completion;
        let estimate = self.source.prompt_tokens(request);
        let tokens = tokens.unwrap_or_else(|| {
            // The endpoint does not count: a token has about four bytes.
            let bytes: usize = choices.iter().map(|choice| choice.text.len() + choice.reasoning.len()).sum();
            Tokens { prompt: estimate, cached: 0, reply: bytes as u64 / 4 }
        });
        shared.prompt_tokens.borrow_mut().learn(estimate, tokens.prompt);
        let count = choices.len() as u64;
        if choices.len() > samples {
            self.progress.note(format!(
                "{}: the endpoint returned {count} replies to a request for {samples}; the others are dropped",
                self.source.label(request)
            ));
            choices.truncate(samples);
        }
        let served = model.filter(|model| !model.trim().is_empty());
        let answer = |(number, choice)| {
            let first = number == 0;
            let share = tokens.reply / count + if first { tokens.reply % count } else { 0 };
            let prompt = if first { tokens.prompt } else { 0 };
            let tokens = Tokens { prompt, cached: if first { tokens.cached } else { 0 }, reply: share };
            Answer { choice, usage: Prices::usage(self.config.prices.as_ref(), tokens), served: served.clone() }
        };
        choices.into_iter().enumerate().map(answer).collect()
    }

    /// The result of the whole work.
    fn finish(&self, mut run: Run) -> Result<()> {
        match run.stop {
            Some(Stop::Fatal(error)) => return Err(error),
            Some(Stop::Terminated) => return Err(anyhow!("stopped after {} of {} replies", run.done, self.total)),
            Some(Stop::Budget(limit)) => {
                return Err(budget_error(&limit, run.done, self.total));
            }
            None => {}
        }
        if !run.rejected.is_empty() {
            let (request, _, error) = run.rejected.swap_remove(0);
            return Err(error.context(self.source.label(request)));
        }
        if run.failed.is_empty() {
            return Ok(());
        }
        let count = run.failed.len();
        let mut text = format!("{count} requests have no reply; the replies to the others are kept");
        for (request, error) in run.failed.iter().take(LISTED) {
            text.push_str(&format!("\n{}: {error:#}", self.source.label(*request)));
        }
        if count > LISTED {
            text.push_str(&format!("\nand {} more", count - LISTED));
        }
        Err(anyhow!("{text}\nhelp: the same command sends only these again"))
    }

    /// The most that a request may cost.
    fn most(&self, shared: &Shared, request: usize, samples: usize) -> Spending {
        let prompt = shared.prompt_tokens.borrow().at_most(self.source.prompt_tokens(request));
        let tokens = Tokens { prompt, cached: 0, reply: u64::from(self.config.max_tokens) * samples as u64 };
        let cost = self.config.prices.as_ref().map_or(0.0, |prices| prices.cost(tokens));
        Spending { requests: samples as u64, tokens: tokens.prompt.saturating_add(tokens.reply), cost }
    }

    fn currency(&self) -> &str {
        self.config.prices.as_ref().map_or("", |prices| &prices.currency)
    }

    fn money(&self, amount: f64) -> Option<Money> {
        Some(Money { amount, currency: self.config.prices.as_ref()?.currency.clone() })
    }
}

impl Run {
    /// Whether all requests so far were rejected. Then the next ones are sent only if the endpoint accepts one of them.
    fn awaits_first_reply(&self) -> bool {
        !self.answered && self.rejected.len() >= REJECTED_AT_START
    }
}

impl Shared<'_> {
    async fn send(&self, request: usize, samples: usize, reserved: Spending) -> Flight {
        let outcome = self.attempts(request, samples, reserved.tokens).await;
        Flight { request, samples, reserved, outcome }
    }

    /// Sends a request until it is answered.
    async fn attempts(&self, request: usize, samples: usize, tokens: u64) -> Outcome {
        if samples == 0 {
            return Outcome::Known;
        }
        let mut backoff = Backoff::new(self.of.config.patience);
        loop {
            if self.is_stopped_before(self.rate.wait(tokens)).await {
                return Outcome::Stopped;
            }
            let (error, pause) = match self.attempt(request, samples).await {
                Ok(received) => {
                    if let Some(text) = self.health.borrow_mut().answered() {
                        self.of.progress.choice(text);
                    }
                    return Outcome::Received(received);
                }
                Err(Failure::Permanent(error)) => return Outcome::Fatal(error.context(self.of.source.label(request))),
                Err(Failure::Rejected(_)) if samples > 1 && !self.single.get() => {
                    self.single.set(true);
                    return Outcome::AskSingly;
                }
                Err(Failure::Rejected(error)) => return Outcome::Rejected(error),
                Err(Failure::Retryable { error, pause }) => (error, pause),
            };
            tracing::debug!(request = self.of.source.label(request), error = format!("{error:#}"), "failed");
            self.health.borrow_mut().failed(&error);
            if let Some(pause) = pause {
                self.rate.pause(pause);
            }
            let pause = match backoff.failed(pause) {
                Ok(pause) => pause,
                Err(end) => {
                    let error = error.context(end.to_string()).context(self.of.source.label(request));
                    return Outcome::GaveUp(error, end.since);
                }
            };
            self.counts.borrow_mut().retries += 1;
            if self.is_stopped_before(tokio::time::sleep(pause)).await {
                return Outcome::Stopped;
            }
        }
    }

    /// Waits. Returns true, without waiting any longer, if the stage stops or has stopped.
    async fn is_stopped_before(&self, end: impl Future<Output = ()>) -> bool {
        // The notification reaches only those who wait, and this request may have been in flight then.
        if !self.stopping.get() {
            tokio::select! {
                () = end => {}
                () = self.stop.notified() => {}
            }
        }
        self.stopping.get()
    }

    async fn attempt(&self, request: usize, samples: usize) -> Result<Received, Failure> {
        let body = self.of.source.body(request, samples).map_err(Failure::Permanent)?;
        let kib = (body.len() / 1024 + 1).min(BODY_KIB);
        let permit = self.memory.acquire_many(kib as u32).await;
        let _permit = permit.map_err(|error| Failure::Permanent(anyhow!("BUG: {error}")))?;
        self.of.client.complete(body, samples).await
    }
}
