//! All paths compute the same, and a response depends only on its own prompt.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

use super::cpu::{CpuDecoder, Weights};
use super::decoder::{CachedSequence, Continuation, Draw, NewPrompt, SequenceDecoder};
use super::request::Request;
use super::sample::{Sampling, penalize, sample};
use super::{GenerateConfig, Generated, generate, gpu, log_probs, reference};
use crate::device_error::device_error;
use crate::session::Session;
use crate::tests::support::{RESOURCES, Ramps, small_config};
use crate::trainable_model::TrainableModel;
use crate::{Batch, Checkpoint, DecoderConfig, Resources, Sequence};
use ablate_core::base::Seed;
use ablate_core::base::progress::NoProgress;
use ablate_data::records::FinishReason;
use ablate_data::tokens::{TokenPrompt, TokenRow};

/// A model with very uneven logits, so that greedy and sampled responses differ.
fn model(tied_head: bool) -> Checkpoint {
    shaped(tied_head, 32, 4, 2)
}

fn shaped(tied_head: bool, dim: usize, heads: usize, kv_heads: usize) -> Checkpoint {
    let mut config = small_config();
    config.decoder = DecoderConfig { dim, heads, kv_heads, max_positions: 48, tied_head, ..config.decoder };
    let mut model = Checkpoint::initialize(&config, 30, 1, Seed(3)).unwrap();
    let head = if tied_head { "model.embed_tokens.weight" } else { "lm_head.weight" };
    let index = model.list().iter().position(|parameter| parameter.name == head).unwrap();
    for value in std::sync::Arc::make_mut(&mut model.weights[index]) {
        *value *= 15.0;
    }
    model
}

fn prompts() -> Vec<TokenPrompt> {
    (0..9)
        .map(|i| {
            // One image, none, or two with a token between them.
            let images: Vec<String> = [vec![i], vec![], vec![i, i + 1]][i % 3].iter().map(usize::to_string).collect();
            let mut tokens = vec![2];
            tokens.extend(images.iter().flat_map(|_| [1, 1, 1, 1, 6]));
            tokens.extend((0..=i % 4).map(|j| 5 + (7 * i + j) as u32 % 25));
            tokens.push(3);
            TokenPrompt { key: format!("item {i}"), tokens, images }
        })
        .collect()
}

fn config(temperature: f64) -> GenerateConfig {
    GenerateConfig {
        temperature,
        top_k: 0,
        top_p: 1.0,
        max_tokens: 12,
        samples: 3,
        stop: vec![4, 9],
        repetition_penalty: 1.0,
        batch: 64,
    }
}

fn unwatched(_: usize, _: usize, _: &[u32]) -> bool {
    false
}

fn resources(threads: usize) -> Resources<'static> {
    Resources { threads, ..RESOURCES }
}

fn run(model: &Checkpoint, prompts: &[TokenPrompt], config: &GenerateConfig, threads: usize) -> Vec<Vec<Generated>> {
    let mut found = BTreeMap::new();
    generate(model, prompts, &Ramps, config, Seed(8), &unwatched, &resources(threads), &mut |index, responses| {
        assert!(found.insert(index, responses).is_none(), "prompt {index} came twice");
        Ok(())
    })
    .unwrap();
    assert_eq!(found.len(), prompts.len());
    found.into_values().collect()
}

#[test]
fn the_kv_cache_matches_a_whole_forward_pass() {
    for tied in [false, true] {
        let model = model(tied);
        let weights = Weights::new(&model, 2).unwrap();
        let session = Session::new(&TrainableModel::frozen(&model), &RESOURCES).unwrap();
        let tokens = [2, 1, 1, 1, 1, 7, 8, 3, 20, 21, 22, 4];
        let image = ["6".to_string()];
        let sequence = Sequence { tokens: &[&tokens[..], &[0]].concat(), loss: &[true; 13], images: &image };
        let batch = Batch::new(&model.architecture, &[sequence], false, &Ramps).unwrap();
        let whole = session.logits(&batch).unwrap();
        // Prefill up to position 7, then token by token.
        let mut decoder = CpuDecoder::new(&model.architecture, &weights);
        let mut stepped = decoder.start(&tokens[..8], &image, &Ramps, 1, 12).unwrap().to_vec();
        for &token in &tokens[8..] {
            stepped.extend_from_slice(&decoder.step(&[token]).unwrap());
        }
        let whole = &whole[7 * model.architecture.vocab..];
        assert_eq!(whole.len(), stepped.len());
        let largest = whole.iter().zip(&stepped).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(largest < 1e-4, "logits differ by {largest}");
    }
}

#[test]
fn all_paths_give_the_same_responses() {
    let prompts = prompts();
    for temperature in [0.0, 0.8] {
        assert_paths_agree(&model(false), &prompts, &config(temperature));
    }
    // A repetition penalty changes greedy responses. It includes the prompt.
    let penalized = GenerateConfig { repetition_penalty: 5.0, ..config(0.0) };
    assert_paths_agree(&model(false), &prompts, &penalized);
    assert_ne!(run(&model(false), &prompts, &penalized, 1), run(&model(false), &prompts, &config(0.0), 1));
}

#[test]
fn all_paths_agree_on_wide_heads_and_long_prompts() {
    // On the CPU, heads of 40 need three panels, the last one half full. Prompts of 34 tokens need three, with two positions in the last.
    let tokens = |i: u32| (0..34).map(|j| 2 + (5 * i + 3 * j) % 27).collect();
    let long = |i: u32| TokenPrompt { key: format!("long {i}"), tokens: tokens(i), images: Vec::new() };
    let prompts: Vec<TokenPrompt> = (0..3).map(long).chain(prompts().into_iter().take(2)).collect();
    let config = GenerateConfig { samples: 8, stop: vec![4], ..config(1.0) };
    assert_paths_agree(&shaped(false, 80, 2, 1), &prompts, &config);
}

/// Compares the CPU path, and continuous batching with several numbers of sequences, with whole forward passes.
fn assert_paths_agree(model: &Checkpoint, prompts: &[TokenPrompt], config: &GenerateConfig) {
    let cpu = run(model, prompts, config, 1);
    let request = Request { model, prompts, images: &Ramps, config, seed: Seed(8), watch: &unwatched };
    let mut expected = Vec::new();
    let mut done = |index: usize, responses| {
        assert_eq!(index, expected.len());
        expected.push(responses);
        Ok(())
    };
    reference::generate(&request, &RESOURCES, &mut done).unwrap();
    assert_eq!(cpu, expected);
    // All prompts at a time, one, and two.
    for batch in [64, 1, 2 * config.samples] {
        let config = GenerateConfig { batch, ..config.clone() };
        let request = Request { config: &config, ..request };
        let mut decoder = FakeDecoder::new(&request);
        assert_eq!(cpu, decoder.generate().unwrap(), "batch {batch}");
        assert!(decoder.log.iter().all(|call| call.sequences <= batch.max(config.samples)), "batch {batch}");
    }
}

/// Without a GPU: places hold tokens, and every step computes whole forward passes of the tokens that it finds in its places.
struct FakeDecoder<'a> {
    request: &'a Request<'a>,
    session: Session,
    /// The token of each place.
    places: Vec<Option<u32>>,
    /// The prompt that a sequence continues and the last token, by slot.
    slots: Vec<(usize, u32)>,
    /// Places that fit into memory.
    memory: usize,
    /// Memory runs out at this call of `log` if more than one prompt is reserved for, or also for one.
    fails: Option<(usize, Fails)>,
    reserved: usize,
    log: Vec<Call>,
}

/// When a fake decoder runs out of memory: in all calls from a number on.
#[derive(Clone, Copy, PartialEq)]
enum Fails {
    ManyPrompts,
    Always,
}

/// A prefill or a step.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Call {
    /// Prompts that it reads; 0: a step.
    prompts: usize,
    /// Sequences that it continues or starts.
    sequences: usize,
}

impl<'a> FakeDecoder<'a> {
    fn new(request: &'a Request<'a>) -> FakeDecoder<'a> {
        let session = Session::new(&TrainableModel::frozen(request.model), &RESOURCES).unwrap();
        let (places, slots, log) = (Vec::new(), Vec::new(), Vec::new());
        FakeDecoder { request, session, places, slots, memory: usize::MAX, fails: None, reserved: 0, log }
    }

    /// The responses to all prompts.
    fn generate(&mut self) -> Result<Vec<Vec<Generated>>> {
        let (request, mut found) = (self.request, BTreeMap::new());
        gpu::generate_with(self, request, &NoProgress, &mut |index, responses| {
            assert!(found.insert(index, responses).is_none(), "prompt {index} came twice");
            Ok(())
        })?;
        assert_eq!(found.len(), request.prompts.len());
        Ok(found.into_values().collect())
    }

    /// Samples a token of each sequence: prompt, own tokens, draw.
    fn sample(&mut self, sequences: &[(usize, Vec<u32>, Draw)]) -> Result<Vec<u32>> {
        let texts: Vec<(usize, &[u32])> = sequences.iter().map(|(prompt, own, _)| (*prompt, &own[..])).collect();
        let mut logits = self.session.logits(&self.request.batch(&texts)?)?;
        let GenerateConfig { temperature, top_k, top_p, repetition_penalty, .. } = *self.request.config;
        let rows = logits.chunks_exact_mut(self.request.model.architecture.vocab);
        let mut sampled = Vec::new();
        for ((prompt, own, draw), logits) in sequences.iter().zip(rows) {
            if repetition_penalty > 1.0 {
                let used = self.request.prompts[*prompt].tokens.iter().chain(own).copied().collect();
                penalize(logits, &used, repetition_penalty);
            }
            logits[1] = f32::NEG_INFINITY;
            let token = sample(Sampling { temperature, top_k, top_p }, logits, draw.uniform);
            self.slots[draw.slot] = (*prompt, token);
            sampled.push(token);
        }
        Ok(sampled)
    }

    fn call(&mut self, prompts: usize, sequences: usize) -> Result<()> {
        self.log.push(Call { prompts, sequences });
        match self.fails {
            Some((call, fails)) if self.log.len() > call && (fails == Fails::Always || self.reserved > 3) => {
                Err(device_error("CUDA_ERROR_OUT_OF_MEMORY"))
            }
            _ => Ok(()),
        }
    }
}

impl SequenceDecoder for FakeDecoder<'_> {
    fn places_that_fit(&self) -> Result<usize> {
        Ok(self.memory)
    }

    fn reserve(&mut self, places: usize, slots: usize) -> Result<()> {
        (self.places, self.slots, self.reserved) = (vec![None; places], vec![(0, 0); slots], slots);
        Ok(())
    }

    fn prefill(&mut self, batch: &Batch, prompts: &[NewPrompt]) -> Result<Vec<u32>> {
        let draws = prompts.iter().map(|prompt| prompt.draws.len()).sum();
        self.call(prompts.len(), draws)?;
        assert_eq!(batch.rows.len(), prompts.len());
        let mut sequences = Vec::new();
        for prompt in prompts {
            assert_eq!(prompt.places.len(), prompt.tokens.len());
            for (place, &token) in prompt.places.clone().zip(prompt.tokens) {
                self.places[place] = Some(token);
            }
            // Keys are not unique to a prompt here, its tokens are.
            let known =
                self.request.prompts.iter().position(|known| std::ptr::eq(&raw const known.tokens[..], prompt.tokens));
            sequences.extend(prompt.draws.iter().map(|&draw| (known.unwrap(), Vec::new(), draw)));
        }
        self.sample(&sequences)
    }

    fn step(&mut self, steps: &[Continuation]) -> Result<Vec<u32>> {
        self.call(0, steps.len())?;
        let mut sequences = Vec::new();
        for step in steps {
            let (known, last) = self.slots[step.draw.slot];
            self.places[step.place()] = Some(last);
            let CachedSequence { prompt, prompt_length, own, own_length } = step.cached;
            let read = |start: usize, length: usize| -> Vec<u32> {
                self.places[start..start + length].iter().map(|token| token.expect("a token")).collect()
            };
            assert_eq!(read(prompt, prompt_length), self.request.prompts[known].tokens);
            assert_eq!(step.position() + 1, prompt_length + own_length);
            sequences.push((known, read(own, own_length), step.draw));
        }
        self.sample(&sequences)
    }
}

#[test]
fn out_of_memory_halves_the_number_of_prompts() {
    let (model, prompts) = (model(false), prompts());
    let config = config(1.0);
    let request =
        Request { model: &model, prompts: &prompts, images: &Ramps, config: &config, seed: Seed(8), watch: &unwatched };
    let expected = run(&model, &prompts, &config, 1);
    // In the first prefill, and after some prompts are complete.
    for call in [0, 10] {
        let mut decoder = FakeDecoder { fails: Some((call, Fails::ManyPrompts)), ..FakeDecoder::new(&request) };
        assert_eq!(decoder.generate().unwrap(), expected);
        assert!(decoder.log.len() > call + 1 && decoder.log.last().unwrap().sequences <= 3);
        let mut decoder = FakeDecoder { fails: Some((call, Fails::Always)), ..FakeDecoder::new(&request) };
        let error = decoder.generate().unwrap_err();
        assert_eq!(error.to_string(), "too little memory for a single prompt");
        let text = format!("{error:#}");
        assert!(text.contains("prompt 0 (`item 0`)") == (call == 0) && text.contains("prompt "), "{text}");
        assert!(text.contains("fewer `samples`"), "{text}");
    }
}

#[test]
fn a_prompt_starts_as_soon_as_there_is_room() {
    let (model, prompts) = (model(false), prompts());
    let config = GenerateConfig { batch: 7, ..config(1.0) };
    let request =
        Request { model: &model, prompts: &prompts, images: &Ramps, config: &config, seed: Seed(8), watch: &unwatched };
    let mut decoder = FakeDecoder::new(&request);
    assert_eq!(decoder.generate().unwrap(), run(&model, &prompts, &config, 1));
    // Two prompts at first; a prompt starts while sequences of another go on.
    assert_eq!(decoder.log[0], Call { prompts: 2, sequences: 6 });
    let late = decoder.log.windows(2).skip(1).filter(|calls| calls[0].prompts == 0 && calls[1].prompts > 0);
    assert!(late.clone().count() > 2 && decoder.log.iter().all(|call| call.sequences <= 6), "{:?}", decoder.log);
    // As few places as one prompt needs: one prompt at a time.
    let mut decoder = FakeDecoder { memory: 1, ..FakeDecoder::new(&request) };
    assert_eq!(decoder.generate().unwrap(), run(&model, &prompts, &config, 1));
    assert!(decoder.log.iter().all(|call| call.sequences <= 3), "{:?}", decoder.log);
}

#[test]
fn responses_do_not_depend_on_batch_or_threads() {
    let (model, prompts) = (model(false), prompts());
    let config = config(1.0);
    let together = run(&model, &prompts, &config, 1);
    assert_eq!(together, run(&model, &prompts, &config, 3));
    for batch in [1, 4, 5] {
        assert_eq!(together, run(&model, &prompts, &GenerateConfig { batch, ..config.clone() }, 1), "batch {batch}");
    }
    for (prompt, responses) in prompts.iter().zip(&together) {
        let alone = run(&model, std::slice::from_ref(prompt), &config, 1);
        assert_eq!(alone[0], *responses, "{}", prompt.key);
    }
    // With more samples, the first ones do not change.
    let more = run(&model, &prompts, &GenerateConfig { samples: 5, ..config }, 2);
    assert!(more.iter().zip(&together).all(|(more, three)| more[..3] == three[..]));
}

#[test]
fn responses_end_at_a_stop_token_or_the_limit() {
    let (model, prompts) = (model(false), prompts());
    let all: Vec<Generated> = run(&model, &prompts, &config(1.0), 1).concat();
    let any = |finish| all.iter().any(|one| one.finish == finish);
    assert!(any(FinishReason::Stop) && any(FinishReason::Length));
    for Generated { tokens, finish, count } in all {
        let stopped = finish == FinishReason::Stop;
        assert_eq!(count as usize, tokens.len() + usize::from(stopped));
        assert!(stopped || tokens.len() == 12);
        assert!(!tokens.iter().any(|token| [1, 4, 9].contains(token)), "a stop or image token in {tokens:?}");
    }
    // Samples differ; greedy responses are equal.
    let sampled = run(&model, &prompts[..1], &config(1.0), 1);
    assert!(sampled[0][0] != sampled[0][1]);
    let greedy = run(&model, &prompts[..1], &config(0.0), 1);
    assert!(greedy[0].len() == 3 && greedy[0].iter().all(|one| *one == greedy[0][0]));
    // The model's 48 positions, minus those of the prompt, are a limit too.
    let long = GenerateConfig { max_tokens: 100, stop: vec![], ..config(1.0) };
    for (prompt, responses) in prompts.iter().zip(run(&model, &prompts, &long, 1)) {
        assert_eq!(responses[0].tokens.len(), 48 - prompt.tokens.len());
        assert_eq!(responses[0].finish, FinishReason::Length);
    }
}

#[test]
fn log_probs_match_the_decoder() {
    let (model, prompts) = (model(false), prompts());
    let rows: Vec<TokenRow> = prompts
        .iter()
        .map(|prompt| {
            let tokens = [&prompt.tokens[..], &[6, 7, 4]].concat();
            let loss = (0..tokens.len()).map(|at| at >= prompt.tokens.len()).collect();
            TokenRow { tokens, loss, images: prompt.images.clone() }
        })
        .collect();
    let together = log_probs(&model, &rows, &Ramps, &resources(2)).unwrap();
    let weights = Weights::new(&model, 2).unwrap();
    for (row, values) in rows.iter().zip(&together) {
        let alone = log_probs(&model, std::slice::from_ref(row), &Ramps, &RESOURCES).unwrap();
        assert_eq!(alone, std::slice::from_ref(values));
        let mut decoder = CpuDecoder::new(&model.architecture, &weights);
        let prompt = row.tokens.len() - 3;
        let mut logits = decoder.start(&row.tokens[..prompt], &row.images, &Ramps, 1, 4).unwrap();
        assert_eq!(values.len(), 3);
        for (&token, &value) in row.tokens[prompt..].iter().zip(values) {
            let total: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
            let expected = f64::from(logits[token as usize]) - total.ln();
            assert!((f64::from(value) - expected).abs() < 1e-4, "{value} {expected}");
            logits = decoder.step(&[token]).unwrap();
        }
    }
}

#[test]
fn errors_name_the_prompt() {
    let model = model(false);
    let error = |tokens: Vec<u32>, image: Option<&str>, config: &GenerateConfig| {
        let prompts = [
            prompts()[1].clone(),
            TokenPrompt { key: "x".into(), tokens, images: image.map(Into::into).into_iter().collect() },
        ];
        let result = generate(&model, &prompts, &Ramps, config, Seed(0), &unwatched, &resources(2), &mut |_, _| Ok(()));
        format!("{:#}", result.unwrap_err())
    };
    let config = config(1.0);
    let wrong = error(vec![2, 30, 3], None, &config);
    assert_eq!(wrong, "prompt 1 (`x`): token 30 lies outside the model's vocabulary of 30");
    let full = error(vec![2; 48], None, &config);
    assert_eq!(full, "prompt 1 (`x`): 48 tokens leave no position for a response, the model has 48");
    let missing = error(vec![2, 1, 1, 1, 1, 3], Some("not a number"), &config);
    assert_eq!(missing, "prompt 1 (`x`): invalid digit found in string");
    let none = error(vec![2, 3], None, &GenerateConfig { samples: 0, ..config });
    assert_eq!(none, "nothing to generate: 0 samples of at most 12 tokens");
}

#[test]
fn an_error_of_the_callback_stops_generation() {
    let (model, prompts) = (model(false), prompts());
    let mut calls = 0;
    let mut done = |_: usize, _: Vec<Generated>| -> Result<()> {
        calls += 1;
        bail!("the disk is full")
    };
    let error =
        generate(&model, &prompts, &Ramps, &config(1.0), Seed(0), &unwatched, &resources(2), &mut done).unwrap_err();
    assert_eq!((error.to_string().as_str(), calls), ("the disk is full", 1));
}
