//! All paths compute the same, and a response depends only on its own prompt.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

use super::cpu::{CpuDecoder, Weights};
use super::request::Request;
use super::{GenerateConfig, Generated, generate, gpu, log_probs, reference};
use crate::device_error::device_error;
use crate::dfdx::decoder::{BatchDecoder, batch_decoder};
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
        let weights = Weights::new(&model).unwrap();
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
    // Heads of 40 need three panels, the last one half full. Prompts of 34 tokens need three, with two positions in the last.
    let tokens = |i: u32| (0..34).map(|j| 2 + (5 * i + 3 * j) % 27).collect();
    let long = |i: u32| TokenPrompt { key: format!("long {i}"), tokens: tokens(i), images: Vec::new() };
    let prompts: Vec<TokenPrompt> = (0..3).map(long).chain(prompts().into_iter().take(2)).collect();
    let config = GenerateConfig { samples: 8, stop: vec![4], ..config(1.0) };
    assert_paths_agree(&shaped(false, 80, 2, 1), &prompts, &config);
}

/// Compares the CPU path and the GPU path, in groups of several sizes, with whole forward passes.
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
    // In one group, in groups of one prompt, and in groups of two.
    for batch in [64, config.samples, 2 * config.samples] {
        let config = GenerateConfig { batch, ..config.clone() };
        let mut gpu = Vec::new();
        let mut done = |index: usize, responses| {
            assert_eq!(index, gpu.len());
            gpu.push(responses);
            Ok(())
        };
        gpu::generate(&Request { config: &config, ..request }, &RESOURCES, &mut done).unwrap();
        assert_eq!(cpu, gpu, "batch {batch}");
    }
}

/// A device with memory for `most` prompts. It fails in the prefill, or, like dfdx, by a panic after a step.
struct Small {
    decoder: Box<dyn BatchDecoder>,
    most: usize,
    late: bool,
    taken: usize,
    sizes: Vec<usize>,
}

impl BatchDecoder for Small {
    fn prefill(&mut self, texts: &Batch, samples: usize) -> anyhow::Result<Vec<f32>> {
        self.sizes.push(texts.rows.len());
        self.taken = 0;
        if texts.rows.len() > self.most && !self.late {
            return Err(device_error("CUDA_ERROR_OUT_OF_MEMORY"));
        }
        self.decoder.prefill(texts, samples)
    }

    fn step(&mut self, tokens: &[u32]) -> anyhow::Result<Vec<f32>> {
        self.taken += 1;
        let size = self.sizes.last().copied().unwrap_or(0);
        assert!(self.taken < 2 || size <= self.most, "a test's panic: CUDA_ERROR_OUT_OF_MEMORY");
        self.decoder.step(tokens)
    }

    fn retain(&mut self, sequences: &[usize]) -> anyhow::Result<()> {
        self.decoder.retain(sequences)
    }
}

#[test]
fn out_of_memory_halves_the_group() {
    let (model, prompts) = (model(false), prompts());
    let config = config(1.0);
    let request =
        Request { model: &model, prompts: &prompts, images: &Ramps, config: &config, seed: Seed(8), watch: &unwatched };
    let run = |most: usize, late: bool| {
        let decoder = batch_decoder(&model, &RESOURCES).unwrap();
        let mut decoder = Small { decoder, most, late, taken: 0, sizes: Vec::new() };
        let mut found = Vec::new();
        let result = gpu::generate_with(&mut decoder, &request, &NoProgress, &mut |_, responses| {
            found.push(responses);
            Ok(())
        });
        (result, found, decoder.sizes)
    };
    for late in [false, true] {
        let (result, found, sizes) = run(2, late);
        result.unwrap();
        assert_eq!(found, self::run(&model, &prompts, &config, 1));
        assert!(sizes[0] > 2 && sizes.last().is_some_and(|&size| size <= 2), "{sizes:?}");
        let error = run(0, late).0.unwrap_err();
        assert_eq!(error.to_string(), "too little memory for a single prompt");
        assert!(format!("{error:#}").contains("prompts `item 0` to `item 0`"), "{error:?}");
        assert!(format!("{error:#}").contains("fewer `samples`"), "{error:?}");
    }
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
    let weights = Weights::new(&model).unwrap();
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
