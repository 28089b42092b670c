//! Replies of a model behind an OpenAI-compatible endpoint to the questions of a stage: from the store of replies where it has
//! them, from the endpoint otherwise. Used by every kind that has a model behind an endpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use super::common::{MAX_COUNT, check_max, check_range, with_threads};
use super::endpoint_table::{EndpointKeys, Omitted, SentImages};
use super::image_input::ImageInput;
use super::request_estimate::estimate;
use super::requests::{Asked, IsUsable, Question, Replied, Requests};
use crate::teacher::{
    BatchConfig, BatchLimits, Batches, Client, ClientConfig, DispatchConfig, Dispatcher, ImageUrls, Prices,
    SampledRequests, Sampling, Spending,
};
use ablate_core::base::{Hash, RequestProgress};
use ablate_core::stage::{ConfigError, EstimateContext, Manifest, RequestEstimate, StageContext};
use ablate_data::images::ImagePacks;
use ablate_store::Replies;

const CONCURRENCY: usize = 8;
const TIMEOUT_SECONDS: u64 = 300;
const PATIENCE_SECONDS: u64 = 600;
const BATCH_POLL_SECONDS: u64 = 60;
const MAX_CONCURRENCY: usize = 1024;
/// Per minute. A smaller rate is a typing error, with which the stage would seem to hang.
const MIN_RATE: f64 = 0.01;
/// Per million tokens.
const MAX_PRICE: f64 = 1e9;
/// One year.
const MAX_SECONDS: usize = 366 * 24 * 60 * 60;

/// A model behind an endpoint, and how it samples.
#[derive(Clone, Debug, Default)]
pub(super) struct Endpoint {
    pub(super) keys: EndpointKeys,
    pub(super) temperature: f64,
    pub(super) samples: usize,
    pub(super) max_tokens: u32,
    /// The number of the first sample, and what the samples before it have cost.
    pub(super) first_sample: usize,
    pub(super) spent: Spending,
}

impl Endpoint {
    /// The mistakes in the table called `name`.
    pub(super) fn check(&self, name: &str) -> Vec<ConfigError> {
        let keys = &self.keys;
        let mut errors = Vec::new();
        let mut mistake = |key: &str, message: String| errors.push(ConfigError::at(&format!("{name}.{key}"), message));
        for (key, value) in [("url", &keys.url), ("model", &keys.model)] {
            if value.as_deref().is_none_or(|value| value.trim().is_empty()) {
                mistake(key, format!("the api `openai` needs a `{key}`"));
            }
        }
        if let Some(url) = &keys.url
            && let Err(message) = check_url(url)
        {
            mistake("url", message.to_string());
        }
        if keys.key_env.as_deref().is_some_and(|name| name.trim().is_empty()) {
            mistake(
                "key_env",
                "`key_env` names an environment variable: leave it out for an endpoint without a key".to_string(),
            );
        }
        for (key, zero) in [
            ("samples", self.samples == 0),
            ("max_tokens", self.max_tokens == 0),
            ("concurrency", keys.concurrency == Some(0)),
            ("timeout_seconds", keys.timeout_seconds == Some(0)),
            ("batch_poll_seconds", keys.batch_poll_seconds == Some(0)),
        ] {
            if zero {
                mistake(key, format!("`{key}` must be at least 1"));
            }
        }
        for (key, rate) in
            [("requests_per_minute", keys.requests_per_minute), ("tokens_per_minute", keys.tokens_per_minute)]
        {
            if rate.is_some_and(|rate| !(rate >= MIN_RATE && rate.is_finite())) {
                mistake(key, format!("`{key}` must be a number from {MIN_RATE}"));
            }
        }
        if let Some(prices) = &keys.prices {
            let numbers = [
                ("input", Some(prices.input)),
                ("cached_input", prices.cached_input),
                ("output", Some(prices.output)),
                ("batch", Some(prices.batch)),
            ];
            for (key, price) in numbers {
                if price.is_some_and(|price| !(0.0..=MAX_PRICE).contains(&price)) {
                    mistake(&format!("prices.{key}"), format!("a price must be a number from 0 to {MAX_PRICE}"));
                }
            }
            if prices.currency.len() != 3 || !prices.currency.bytes().all(|byte| byte.is_ascii_uppercase()) {
                mistake("prices.currency", "a currency has three capital letters, such as `USD`".to_string());
            }
        }
        if let Some(cost) = keys.budget.as_ref().and_then(|budget| budget.cost) {
            if !(cost >= 0.0 && cost.is_finite()) {
                mistake("budget.cost", "a budget must be a number from 0".to_string());
            }
            if keys.prices.is_none() {
                mistake("budget.cost", format!("a budget for the cost needs prices: add `{name}.prices`"));
            }
        }
        for field in ["model", "messages", "n", "stream"] {
            if keys.parameters.as_ref().is_some_and(|parameters| parameters.contains_key(field)) {
                mistake(&format!("parameters.{field}"), format!("`{field}` is set by ablate"));
            }
        }
        if keys.batch == Some(true) && keys.images == Some(SentImages::File) {
            let message = "a batch is processed later and elsewhere: leave out `images = \"file\"`";
            mistake("images", message.to_string());
        }
        if keys.api_version.as_deref().is_some_and(|version| !version.bytes().all(is_unreserved)) {
            mistake("api_version", "an API version has letters, digits and `-`, such as `2024-10-21`".to_string());
        }
        let path = |key: &str| format!("{name}.{key}");
        check_max(&mut errors, MAX_COUNT, [(&*path("samples"), Some(self.samples))]);
        check_max(&mut errors, MAX_CONCURRENCY, [(&*path("concurrency"), keys.concurrency)]);
        for (key, seconds) in [
            ("timeout_seconds", keys.timeout_seconds),
            ("patience_seconds", keys.patience_seconds),
            ("batch_poll_seconds", keys.batch_poll_seconds),
        ] {
            let seconds = seconds.map(|seconds| usize::try_from(seconds).unwrap_or(usize::MAX));
            check_max(&mut errors, MAX_SECONDS, [(&*path(key), seconds)]);
        }
        check_range(&mut errors, &path("temperature"), self.temperature, 0.0, f64::INFINITY);
        errors
    }

    /// Adds what determines the replies. This includes the URL, since servers give different weights the same model name.
    pub(super) fn identify(&self, name: &str, manifest: &mut Manifest) {
        let Endpoint { keys, temperature, samples, max_tokens, first_sample: _, spent: _ } = self;
        let EndpointKeys {
            url,
            model,
            revision,
            parameters,
            omit,
            retry,
            images: _,
            key_env: _,
            api_version: _,
            concurrency: _,
            timeout_seconds: _,
            patience_seconds: _,
            requests_per_minute: _,
            tokens_per_minute: _,
            prices: _,
            budget: _,
            batch: _,
            batch_poll_seconds: _,
        } = keys;
        manifest.value(&format!("{name}.url"), url);
        manifest.value(&format!("{name}.model"), model);
        manifest.value(&format!("{name}.temperature"), temperature);
        manifest.value(&format!("{name}.samples"), samples);
        manifest.value(&format!("{name}.max_tokens"), max_tokens);
        manifest.value_unless(&format!("{name}.revision"), revision, &None);
        manifest.value_unless(&format!("{name}.parameters"), parameters, &None);
        manifest.value_unless(&format!("{name}.omit"), omit, &None);
        manifest.value_unless(&format!("{name}.retry"), retry, &None);
    }

    /// The environment variables that the client reads.
    pub(super) fn variables(&self) -> Vec<String> {
        Client::variables(self.keys.key_env.as_deref())
    }

    /// The replies to all questions. Those in the store are not requested again, except bad ones as `retry` says.
    pub(super) fn ask(
        &self,
        questions: &[Question],
        image: ImageInput,
        is_usable: IsUsable,
        ctx: &StageContext,
    ) -> Result<Replied> {
        let urls = match self.keys.images {
            Some(SentImages::File) => ImageUrls::Files(ctx.scratch.join("images")),
            Some(SentImages::Data) | None => ImageUrls::Data,
        };
        let requests = self.requests(questions, image, urls, ctx.threads, &ctx.images, &ctx.replies)?;
        let mut spent = requests.find_open(is_usable, &ctx.retry);
        spent.add(&self.spent);
        let total = requests.total();
        let counts = (0..requests.len()).map(|request| (request, requests.open(request) as u64));
        let (to_send, counts): (Vec<usize>, Vec<u64>) = counts.filter(|(_, open)| *open > 0).unzip();
        let open: u64 = counts.iter().sum();
        let mut sent = RequestProgress::default();
        if !to_send.is_empty() {
            if open < total {
                ctx.progress.note(format!("{} of {total} replies are in the store", total - open));
            }
            let client = Client::new(self.client_config(), &ctx.variables)?;
            let (client, source, progress, done) = (&client, &requests, ctx.progress, total - open);
            sent = if self.is_batch() {
                let config = &self.batch_config(ctx.detach);
                let (replies, scratch) = (&ctx.replies, &ctx.scratch);
                Batches { client, config, source, progress, spent, done, total, replies, scratch }.run(&to_send)?
            } else {
                let config = &self.dispatch_config();
                Dispatcher { client, config, source, progress, spent, done, total }.run(to_send)?
            };
        }
        requests.collect(is_usable, sent, total - open)
    }

    /// The same endpoint, asked for one more sample after these replies.
    pub(super) fn next_sample(&self, replied: &[Replied]) -> Endpoint {
        let mut spent = Spending::default();
        for one in replied {
            spent.add(&one.spent);
        }
        Endpoint { first_sample: self.first_sample + self.samples, samples: 1, spent, ..self.clone() }
    }

    /// The requests that [`Endpoint::ask`] would send.
    pub(super) fn estimate(
        &self,
        questions: &[Question],
        image: ImageInput,
        is_usable: IsUsable,
        ctx: &EstimateContext,
    ) -> Result<RequestEstimate> {
        let requests = self.requests(questions, image, ImageUrls::Data, ctx.threads, &ctx.images, &ctx.replies)?;
        requests.find_open(is_usable, &BTreeSet::new());
        let (missing, known) = (requests.missing(), requests.known());
        Ok(estimate(&missing, &known, self.most_tokens(), self.prices().as_ref()))
    }

    fn requests<'a>(
        &self,
        questions: &'a [Question<'a>],
        image: ImageInput,
        image_urls: ImageUrls,
        threads: usize,
        packs: &BTreeMap<Hash, PathBuf>,
        replies: &Path,
    ) -> Result<Requests<'a>> {
        let asked = Asked {
            url: self.keys.url.clone().unwrap_or_default(),
            sampling: self.sampling(),
            samples: self.first_sample..self.first_sample + self.samples,
            retry: self.keys.retry.clone().unwrap_or_default(),
            image,
            image_urls,
        };
        let (packs, replies) = (ImagePacks::open(packs)?, Replies::open(replies));
        with_threads(threads, || Requests::new(asked, questions, packs, replies))?
    }

    fn client_config(&self) -> ClientConfig {
        ClientConfig {
            url: self.keys.url.clone().unwrap_or_default(),
            api_version: self.keys.api_version.clone(),
            key_env: self.keys.key_env.clone(),
            timeout: Duration::from_secs(self.keys.timeout_seconds.unwrap_or(TIMEOUT_SECONDS)),
            max_tokens: self.most_tokens(),
        }
    }

    fn dispatch_config(&self) -> DispatchConfig {
        DispatchConfig {
            concurrency: self.keys.concurrency.unwrap_or(CONCURRENCY),
            patience: Duration::from_secs(self.keys.patience_seconds.unwrap_or(PATIENCE_SECONDS)),
            requests_per_minute: self.keys.requests_per_minute,
            tokens_per_minute: self.keys.tokens_per_minute,
            prices: self.prices(),
            budget: self.keys.budget.clone().unwrap_or_default(),
            max_tokens: self.most_tokens(),
        }
    }

    /// The most tokens of a reply: those that the requests ask for.
    fn most_tokens(&self) -> u32 {
        let parameters = self.keys.parameters.as_ref();
        let named =
            ["max_completion_tokens", "max_tokens"].into_iter().find_map(|name| parameters?.get(name)?.as_u64());
        named.map_or(self.max_tokens, |tokens| u32::try_from(tokens).unwrap_or(u32::MAX))
    }

    fn batch_config(&self, detach: bool) -> BatchConfig {
        BatchConfig {
            requests: self.dispatch_config(),
            poll: Duration::from_secs(self.keys.batch_poll_seconds.unwrap_or(BATCH_POLL_SECONDS)),
            limits: BatchLimits::default(),
            detach,
        }
    }

    fn is_batch(&self) -> bool {
        self.keys.batch == Some(true)
    }

    /// The prices of the replies that will be requested.
    fn prices(&self) -> Option<Prices> {
        let prices = self.keys.prices.as_ref();
        prices.map(|prices| if self.is_batch() { prices.of_batch() } else { prices.clone() })
    }

    fn sampling(&self) -> Sampling {
        let omit = |omitted: &Omitted| match omitted {
            Omitted::Temperature => "temperature".to_string(),
            Omitted::MaxTokens => "max_tokens".to_string(),
        };
        Sampling {
            model: self.keys.model.clone().unwrap_or_default(),
            revision: self.keys.revision.clone(),
            temperature: self.temperature,
            max_tokens: self.max_tokens,
            parameters: self.keys.parameters.clone().unwrap_or_default(),
            omit: self.keys.omit.iter().flatten().map(omit).collect(),
        }
    }
}

/// Refuses a URL with credentials, since messages and records contain the URL, and one to which `/chat/completions`
/// cannot be appended.
fn check_url(url: &str) -> Result<(), &'static str> {
    let Some(rest) = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://")) else {
        return Err("the URL must begin with `http://` or `https://`");
    };
    if rest.split('/').next().is_some_and(|host| host.contains('@')) {
        return Err(
            "the URL contains a user or a password: name an environment variable with the API key in `key_env`",
        );
    }
    if rest.contains(['?', '#']) {
        return Err("the URL contains `?` or `#`: write the base URL, to which `/chat/completions` is appended");
    }
    Ok(())
}

/// Whether a byte may stand in a query without an escape.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}
