//! Generation on a GPU against the CPU, and what a step costs.

use std::collections::BTreeMap;
use std::sync::Mutex;

use anyhow::Result;

use super::alone;
use crate::cuda::ops::decoder::CudaDecoder;
use crate::device_error::device_error;
use crate::infer::decoder::{CachedSequence, Continuation, Draw, NewPrompt, SequenceDecoder};
use crate::infer::request::Request;
use crate::infer::{GenerateConfig, Generated, generate, gpu};
use crate::tests::gpu::{Counts, counted};
use crate::tests::parity::Subject;
use crate::tests::support::{RESOURCES, Ramps, parity, small_config};
use crate::{Batch, Checkpoint, DecoderConfig, Device, Precision, Resources, Sequence};
use ablate_core::base::progress::NoProgress;
use ablate_core::base::{Progress, Seed, StageEvent, files};
use ablate_data::tokens::TokenPrompt;

const ON_GPU: Resources = Resources { device: Device::Cuda(0), ..RESOURCES };

/// A model with uneven logits.
fn model(layers: usize, vocab: usize) -> Checkpoint {
    let mut config = small_config();
    config.decoder = DecoderConfig { layers, max_positions: 64, ..config.decoder };
    let mut model = Checkpoint::initialize(&config, vocab, 1, Seed(3)).unwrap();
    let index = model.list().iter().position(|parameter| parameter.name == "lm_head.weight").unwrap();
    for value in std::sync::Arc::make_mut(&mut model.weights[index]) {
        *value *= 15.0;
    }
    model
}

/// Prompts of different lengths with one image, none, or two.
fn prompts() -> Vec<TokenPrompt> {
    (0..9)
        .map(|i| {
            let images: Vec<String> = [vec![i], vec![], vec![i, i + 1]][i % 3].iter().map(usize::to_string).collect();
            let mut tokens = vec![2];
            tokens.extend(images.iter().flat_map(|_| [1, 1, 1, 1, 6]));
            tokens.extend((0..=i % 4).map(|j| 5 + (7 * i + j) as u32 % 25));
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
        batch: 16,
    }
}

fn responses(model: &Checkpoint, config: &GenerateConfig, resources: &Resources) -> Vec<Vec<Generated>> {
    let mut found = BTreeMap::new();
    let mut done = |index, responses| {
        found.insert(index, responses);
        Ok(())
    };
    generate(model, &prompts(), &Ramps, config, Seed(8), &|_, _, _| false, resources, &mut done).unwrap();
    found.into_values().collect()
}

#[test]
#[ignore = "needs a GPU"]
fn gpu_greedy_tokens_match_transformers_for_every_family() {
    let _alone = alone();
    let mut folders: Vec<_> = files::entries(&parity("hub")).unwrap().into_iter().map(|(_, path, _)| path).collect();
    folders.retain(|folder| folder.join("config.json").exists());
    assert!(folders.len() > 10, "only {} checkpoints", folders.len());
    for folder in folders {
        let tally = Subject::open(&folder).and_then(|subject| subject.greedy_on(&ON_GPU)).unwrap();
        assert!(tally.right > 0 && tally.wrong.is_empty(), "{}: {:?}", folder.display(), tally.wrong);
    }
}

#[test]
#[ignore = "needs a GPU"]
fn gpu_samples_match_the_cpu_in_every_batch() {
    let _alone = alone();
    let model = model(2, 30);
    let plain = config(1.0);
    let configs = [
        config(0.0),
        GenerateConfig { repetition_penalty: 5.0, ..config(0.0) },
        plain.clone(),
        GenerateConfig { top_k: 5, ..plain.clone() },
        GenerateConfig { top_p: 0.8, temperature: 0.7, ..plain.clone() },
        GenerateConfig { top_k: 12, top_p: 0.9, repetition_penalty: 1.3, ..plain.clone() },
        GenerateConfig { max_tokens: 1, ..plain.clone() },
        GenerateConfig { max_tokens: 100, stop: Vec::new(), ..plain },
    ];
    for config in configs {
        let expected = responses(&model, &config, &RESOURCES);
        for batch in [1, 16] {
            let config = GenerateConfig { batch, ..config.clone() };
            assert_eq!(responses(&model, &config, &ON_GPU), expected, "{config:?}");
        }
    }
}

#[test]
#[ignore = "needs a GPU"]
fn gpu_generation_runs_in_every_precision() {
    let _alone = alone();
    let model = model(2, 30);
    for precision in [Precision::Tf32, Precision::Bf16] {
        let found = responses(&model, &config(1.0), &Resources { precision, ..ON_GPU });
        let tokens = found.iter().flatten().flat_map(|response| &response.tokens);
        assert!(tokens.clone().count() > 100 && tokens.clone().all(|&token| token < 30 && token != 1), "{precision}");
    }
}

/// A GPU with memory for `most` sequences.
struct Small {
    decoder: CudaDecoder,
    most: usize,
    reserved: Vec<usize>,
}

impl SequenceDecoder for Small {
    fn places_that_fit(&self) -> Result<usize> {
        self.decoder.places_that_fit()
    }

    fn reserve(&mut self, places: usize, slots: usize) -> Result<()> {
        self.reserved.push(slots);
        self.decoder.reserve(places, slots)
    }

    fn prefill(&mut self, batch: &Batch, prompts: &[NewPrompt]) -> Result<Vec<u32>> {
        self.decoder.prefill(batch, prompts)
    }

    fn step(&mut self, sequences: &[Continuation]) -> Result<Vec<u32>> {
        let tokens = self.decoder.step(sequences)?;
        if sequences.len() > self.most {
            return Err(device_error("CUDA_ERROR_OUT_OF_MEMORY"));
        }
        Ok(tokens)
    }
}

#[test]
#[ignore = "needs a GPU"]
fn gpu_out_of_memory_starts_again_with_fewer_prompts() {
    let _alone = alone();
    let (model, prompts, config) = (model(2, 30), prompts(), config(1.0));
    let decoder = CudaDecoder::open(&model, &config, 0, Precision::F32, 64).unwrap();
    let mut small = Small { decoder, most: 6, reserved: Vec::new() };
    let mut found = BTreeMap::new();
    let request = Request {
        model: &model,
        prompts: &prompts,
        images: &Ramps,
        config: &config,
        seed: Seed(8),
        watch: &|_, _, _| false,
    };
    gpu::generate_with(&mut small, &request, &NoProgress, &mut |index, responses| {
        found.insert(index, responses);
        Ok(())
    })
    .unwrap();
    assert_eq!(found.into_values().collect::<Vec<_>>(), responses(&model, &config, &RESOURCES));
    assert_eq!(small.reserved, [15, 9, 6]);
}

/// Names the process in which memory does run out.
const WITH_LITTLE_MEMORY: &str = "ABLATE_TEST_LITTLE_MEMORY";

/// In a process of its own, because the emulated GPU reads the size of its memory once.
#[test]
#[ignore = "needs the emulated GPU"]
fn gpu_memory_that_runs_out_gives_the_same_responses() {
    let _alone = alone();
    if counted("memory", || ()).1.is_none() {
        return;
    }
    if std::env::var_os(WITH_LITTLE_MEMORY).is_none() {
        let name = "cuda::tests::generation::gpu_memory_that_runs_out_gives_the_same_responses";
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", name]).env("EMULATED_GPU_MEMORY", "2").env(WITH_LITTLE_MEMORY, "1");
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    // The embedding and the head take half of the 2 MiB; the logits of all sequences would take 1.7 MB.
    let model = model(2, 4000);
    let config = GenerateConfig { samples: 12, batch: 108, ..config(1.0) };
    let notes = Notes(Mutex::default());
    let found = responses(&model, &config, &Resources { progress: &notes, ..ON_GPU });
    let notes = notes.0.lock().unwrap();
    assert!(notes.iter().any(|note| note.starts_with("too little memory for a batch of 9 prompts")), "{notes:?}");
    assert_eq!(found, responses(&model, &config, &RESOURCES));
    // A single prompt with too many samples.
    let config = GenerateConfig { samples: 100, ..config };
    let (prompts, mut done) = (prompts(), |_: usize, _: Vec<Generated>| Ok(()));
    let result = generate(&model, &prompts, &Ramps, &config, Seed(8), &|_, _, _| false, &ON_GPU, &mut done);
    let text = format!("{:#}", result.unwrap_err());
    assert!(text.starts_with("too little memory for a single prompt: fewer `samples`"), "{text}");
    assert!(text.contains("prompt 0 (`item 0`)"), "{text}");
}

struct Notes(Mutex<Vec<String>>);

impl Progress for Notes {
    fn emit(&self, event: StageEvent) {
        if let StageEvent::Note { text } = event {
            self.0.lock().unwrap().push(text);
        }
    }
}

/// A decoder with `sequences` that continue one prompt of eight tokens.
struct Stepper {
    decoder: CudaDecoder,
    sequences: Vec<Continuation>,
    first: Vec<u32>,
    prefill: Option<Counts>,
}

impl Stepper {
    fn start(name: &str, model: &Checkpoint, precision: Precision, sequences: usize) -> Stepper {
        const OWN: usize = 16;
        let config = GenerateConfig { top_k: 7, top_p: 0.9, repetition_penalty: 1.1, ..config(1.0) };
        let mut decoder = CudaDecoder::open(model, &config, 0, precision, 64).unwrap();
        let tokens: Vec<u32> = (2..10).collect();
        decoder.reserve(tokens.len() + sequences * OWN, sequences).unwrap();
        let draws: Vec<Draw> = (0..sequences).map(|slot| Draw { slot, uniform: 0.4 }).collect();
        let texts = [&tokens[..], &[0]].concat();
        let loss: Vec<bool> = (0..texts.len()).map(|at| at == tokens.len()).collect();
        let sequence = Sequence { tokens: &texts, loss: &loss, images: &[] };
        let batch = Batch::new(&model.architecture, &[sequence], false, &Ramps).unwrap();
        let new = [NewPrompt { tokens: &tokens, places: 0..tokens.len(), draws: draws.clone() }];
        let (first, prefill) = counted(&format!("prefill {name}"), || decoder.prefill(&batch, &new).unwrap());
        let cached = |slot: usize| CachedSequence {
            prompt: 0,
            prompt_length: tokens.len(),
            own: tokens.len() + slot * OWN,
            own_length: 0,
        };
        let sequences =
            draws.into_iter().map(|draw| Continuation { cached: cached(draw.slot), behind: 0, draw }).collect();
        Stepper { decoder, sequences, first, prefill }
    }

    /// Continues the first `count` sequences.
    fn step(&mut self, count: usize) -> Vec<u32> {
        self.sequences[..count].iter_mut().for_each(|sequence| sequence.cached.own_length += 1);
        self.decoder.step(&self.sequences[..count]).unwrap()
    }
}

#[test]
#[ignore = "needs a GPU"]
fn gpu_samples_of_a_prompt_share_its_prefill() {
    let _alone = alone();
    let model = model(2, 30);
    let mut one = Stepper::start("one", &model, Precision::F32, 1);
    let mut many = Stepper::start("many", &model, Precision::F32, 8);
    assert_eq!(many.first, vec![one.first[0]; 8]);
    for _ in 0..4 {
        assert_eq!(many.step(8), vec![one.step(1)[0]; 8]);
    }
    if let (Some(one), Some(many)) = (one.prefill, many.prefill) {
        assert_eq!((one.products, one.launches), (many.products, many.launches));
    }
}

#[test]
#[ignore = "needs a GPU"]
#[expect(clippy::print_stdout, reason = "the table is for people")]
fn gpu_a_step_costs_few_launches_and_copies() {
    let _alone = alone();
    println!("precision layers sequences launches products bytes/sequence allocations");
    for precision in [Precision::F32, Precision::Bf16] {
        for sequences in [1, 4, 16, 64] {
            let mut by_layers = Vec::new();
            for layers in [1, 2, 4, 8] {
                let name = format!("{precision} {layers} {sequences}");
                let mut stepper = Stepper::start(&name, &model(layers, 30), precision, sequences);
                stepper.step(sequences);
                stepper.step(sequences);
                // All, then fewer and fewer.
                for (step, divisor) in [1, 2, 5, 64].into_iter().enumerate() {
                    let count = sequences.div_ceil(divisor);
                    let (_, counts) = counted(&format!("{name}, step {step}"), || stepper.step(count));
                    let Some(counts) = counts else { continue };
                    let bytes = counts.host_to_device.bytes + counts.device_to_host.bytes;
                    assert!(bytes < 64 * count as u64, "{bytes} bytes for {count} sequences");
                    assert_eq!((counts.host_to_device.count, counts.device_to_host.count), (1, 1));
                    assert_eq!(counts.allocations.count, 0, "{name}, {count}: {counts:?}");
                    assert_eq!((counts.shared_races, counts.uneven_barriers), (0, 0));
                    if step == 0 {
                        let bytes = bytes / count as u64;
                        let Counts { launches, products, allocations, .. } = counts;
                        println!(
                            "{precision} {layers} {sequences} {launches} {} {bytes} {}",
                            products.calls, allocations.count
                        );
                        by_layers.push((layers as u64, launches + products.calls));
                    }
                }
            }
            for pair in by_layers.windows(2) {
                let [(layers, before), (more, after)] = pair else { panic!("two") };
                assert_eq!(after - before, 12 * (more - layers), "{precision}, {sequences} sequences: {by_layers:?}");
            }
        }
    }
}

#[test]
#[ignore = "needs a GPU"]
fn gpu_biases_and_head_norms_cost_few_launches() {
    let _alone = alone();
    // Biases of queries, keys and values cost nothing, norms of queries and keys one launch each.
    for (family, expected) in [("llama3", 12), ("qwen2", 12), ("qwen3", 14)] {
        let model = Checkpoint::read(&parity("hub").join(family)).unwrap();
        let layers = model.architecture.decoder.layers as u64;
        let mut stepper = Stepper::start(family, &model, Precision::F32, 3);
        let (_, counts) = counted(&format!("step of {family}"), || stepper.step(3));
        let Some(Counts { launches, products, .. }) = counts else { continue };
        // Embedding, the last norm and sampling, and the product of the head.
        assert_eq!(launches + products.calls - 4, layers * expected, "{family}, {layers} layers");
    }
}
