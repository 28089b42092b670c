//! The estimates against FLOPs computed from the sizes, known totals, and the counts of an emulated GPU.

use super::*;
use crate::architecture::{Activation, Decoder, Family, Rope, RopeScaling, Tower, Vision};
use crate::flops;
use crate::tests::support::{golden, small_config};

fn small(layers: usize) -> Architecture {
    let mut config = small_config();
    config.decoder.layers = layers;
    Architecture::from_config(&config, 24, 1)
}

/// Llama 3's 8B: 8.03 billion parameters.
fn llama_8b() -> Architecture {
    let rope = Rope { theta: 500_000.0, scaling: RopeScaling::None, rounded: true, sections: Vec::new() };
    let decoder = Decoder {
        dim: 4096,
        layers: 32,
        heads: 32,
        kv_heads: 8,
        head_width: 128,
        ff: 14_336,
        activation: Activation::Swiglu,
        norm_eps: 1e-5,
        norm_offset: false,
        output_norms: false,
        embedding_scale: None,
        score_factor: None,
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        head_norm: false,
        tied_head: false,
        rope,
        local: None,
        bidirectional_images: false,
        max_positions: 8192,
    };
    Architecture { family: Family::Decoder, vision: None, decoder, vocab: 128_256 }
}

fn everything(architecture: &Architecture, precision: Precision) -> Workload<'_> {
    let trainable = Trainable::Model { frozen: Vec::new() };
    Workload { architecture, precision, trainable, gradient_checkpointing: false }
}

/// LoRA of rank 16 on all linear layers of an 8B model, in bf16.
fn lora_8b(architecture: &Architecture, gradient_checkpointing: bool) -> Workload<'_> {
    let trainable = Trainable::Lora { rank: 16, targets: vec![Pattern("*".to_string())] };
    Workload { architecture, precision: Precision::Bf16, trainable, gradient_checkpointing }
}

const GIB: usize = 1 << 30;

#[test]
fn forward_flops_are_those_of_the_sizes() {
    let architecture = small(2);
    for (tiles, targets) in [(0, 40), (1, 40)] {
        let shape = BatchShape { rows: 3, positions: 40, tiles, targets };
        let expected = flops::forward(&architecture, &shape.batch(&architecture).unwrap());
        for precision in [Precision::F32, Precision::Bf16] {
            let found = training(&everything(&architecture, precision), &shape).unwrap().forward.flops();
            assert!((found / expected - 1.0).abs() < 1e-12, "{found} {expected}");
        }
    }
}

#[test]
fn images_of_any_size_count_as_images_of_256_features() {
    for model in ["qwen2-vl", "qwen2.5-vl"] {
        let mut architecture = Checkpoint::read(&golden("hub").join(model)).unwrap().architecture;
        architecture.decoder.max_positions = 512;
        let shape = BatchShape { rows: 2, positions: 300, tiles: 1, targets: 300 };
        let expected = flops::forward(&architecture, &shape.batch(&architecture).unwrap());
        let found = training(&everything(&architecture, Precision::F32), &shape).unwrap().forward.flops();
        assert!((found / expected - 1.0).abs() < 1e-12, "{model}: {found} {expected}");
    }
}

#[test]
fn mergers_of_inner_blocks_count_as_that_of_the_last_one() {
    let architecture = Checkpoint::read(&golden("hub/qwen3-vl")).unwrap().architecture;
    let mut flat = architecture.clone();
    let Some(Vision { tower: Tower::Dynamic(vit), .. }) = &mut flat.vision else { panic!("a tower of one size") };
    assert_eq!(std::mem::take(&mut vit.deepstack).len(), 2);
    let vision = architecture.vision.as_ref().unwrap();
    let (tile, inputs) = (vision.own_tile(), vision.projector_inputs());
    let mut batch = Batch::default();
    batch.images.tiles = vec![tile; 3];
    let more = flops::forward(&architecture, &batch) - flops::forward(&flat, &batch);
    // Two layers of each of two mergers, for 256 features of each of three images; a multiply-add counts as two.
    let expected = (2 * 2 * 3 * 256 * inputs * (inputs + architecture.decoder.dim)) as f64;
    assert!((more / expected - 1.0).abs() < 1e-12, "{more} {expected}");
    let norm = 2 * inputs;
    let layers = inputs * (inputs + 1) + architecture.decoder.dim * (inputs + 1);
    assert_eq!(parameter_count(&architecture) - parameter_count(&flat), 2 * (norm + layers));
}

#[test]
fn backward_flops_are_twice_those_of_the_forward_pass() {
    let architecture = small(4);
    let shape = BatchShape::text(2, 32);
    let cost = training(&everything(&architecture, Precision::F32), &shape).unwrap();
    // Attention's scores are computed again: its backward pass has 3.5 times the FLOPs.
    let ratio = cost.backward.flops() / cost.forward.flops();
    assert!((2.0..2.2).contains(&ratio), "{ratio}");
    let recomputing = Workload { gradient_checkpointing: true, ..everything(&architecture, Precision::F32) };
    let again = training(&recomputing, &shape).unwrap();
    let ratio = again.step().flops() / cost.step().flops();
    assert!((1.2..1.4).contains(&ratio), "{ratio}");
    assert!(again.memory.total() < cost.memory.total());
}

#[test]
fn adapter_of_an_8b_model_fits_into_80_gb() {
    let architecture = llama_8b();
    let shape = BatchShape::text(4, 2048);
    let memory = training(&lora_8b(&architecture, true), &shape).unwrap().memory;
    // 8.03 billion numbers in bf16, and an adapter of 42 million.
    assert!((15.0..16.0).contains(&(memory.weights as f64 / GIB as f64)), "{memory}");
    assert!(memory.total() < 80_000_000_000, "{memory}");
    let all = training(&everything(&architecture, Precision::Bf16), &shape).unwrap().memory;
    // 2 + 4 + 4 + 8 bytes per number.
    assert!(all.total() > 18 * 8_030_000_000 - GIB, "{all}");
}

#[test]
fn largest_batch_is_the_last_that_fits() {
    let architecture = small(2);
    let workload = everything(&architecture, Precision::Bf16);
    let total = |rows| training(&workload, &BatchShape::text(rows, 32)).unwrap().memory.total() as u64;
    let largest = |free| largest_batch(free, &workload, &BatchShape::text(64, 32)).unwrap();
    assert_eq!(largest(total(64)), 64);
    assert_eq!(largest(total(1) - 1), 0);
    let found = largest(total(20));
    assert!(total(found) <= total(20) && total(found + 1) > total(20), "{found}");
}

#[test]
fn batches_that_do_not_fit_the_model_are_refused() {
    let architecture = llama_8b();
    let refused = |shape: BatchShape| training(&lora_8b(&architecture, true), &shape).unwrap_err().to_string();
    let images = refused(BatchShape { tiles: 1, ..BatchShape::text(1, 8) });
    assert_eq!(images, "a batch with images for a model without a vision tower");
    assert!(refused(BatchShape { targets: 9, ..BatchShape::text(1, 8) }).contains("have no room"));
}

#[cfg(feature = "cuda")]
mod gpu {
    use std::sync::Arc;

    use super::super::generation::{run, sampling};
    use super::super::training::{row_groups, training_on};
    use super::*;
    use crate::cuda::ops::decoder::CudaDecoder;
    use crate::cuda::ops::recorder::CopyKind;
    use crate::cuda::tests::alone;
    use crate::ops::TargetGroups;
    use crate::optimizer::{Optimizer, OptimizerConfig};
    use crate::session::{BatchLoss, Session, thread_pool};
    use crate::tests::gpu::{Counts, assert_clean, counts, gpu, section};
    use crate::tests::support::Ramps;
    use crate::{Checkpoint, LoraConfig, Sequence};
    use ablate_core::base::Seed;

    /// The sum of the log-probabilities.
    struct Sum;

    impl BatchLoss<()> for Sum {
        fn groups(&self, batch: &Batch) -> TargetGroups {
            row_groups(batch)
        }

        fn slopes(&self, _: usize, _: &Batch, sums: &[[f64; 2]]) -> Result<(Vec<[f64; 2]>, ())> {
            Ok((vec![[0.0, -1.0]; sums.len()], ()))
        }
    }

    fn batch(architecture: &Architecture, rows: usize, positions: usize) -> Batch {
        let row = |index: usize| {
            let mut tokens = vec![2];
            tokens.extend([if index == 0 { 1 } else { 5 }; 4]);
            tokens.extend((tokens.len()..=positions).map(|at| 5 + (at * 7 + index) as u32 % 19));
            let loss: Vec<bool> = (0..tokens.len()).map(|at| at > positions / 2).collect();
            (tokens, loss, vec!["1".to_string(); usize::from(index == 0)])
        };
        let rows: Vec<_> = (0..rows).map(row).collect();
        let sequence = |(tokens, loss, images)| Sequence { tokens, loss, images };
        let sequences: Vec<Sequence> = rows.iter().map(|(a, b, c)| sequence((&a[..], &b[..], &c[..]))).collect();
        Batch::new(architecture, &sequences, false, &Ramps).unwrap()
    }

    /// What the last of some steps on an emulated GPU did, and the most memory of all of them.
    fn counted(workload: &Workload, config: &ModelConfig, batch: &Batch) -> Option<(Counts, u64)> {
        let start = Checkpoint::initialize(config, 24, 1, Seed(3)).unwrap();
        let trainable_model = match &workload.trainable {
            Trainable::Model { frozen } => {
                TrainableModel::new(start, None, |parameter| !frozen.contains(&parameter.group))
            }
            Trainable::Lora { rank, targets } => {
                let lora = LoraConfig { rank: *rank, alpha: 1.0, dropout: 0.0, targets: targets.clone() };
                let adapter = Adapter::initialize(&start, &lora, Seed(3)).unwrap();
                TrainableModel::new(start, Some(adapter), |_| true)
            }
        };
        let mut trainable_model = trainable_model;
        let mut optimizer = Optimizer::new(&OptimizerConfig::default(), &trainable_model);
        let name = |step: u64| format!("cost {workload:?} {} step {step}", batch.tokens());
        section(Some("cost: start"));
        let pool = Arc::new(thread_pool(1).unwrap());
        let mut session = Session::with_pool(&pool, &trainable_model, &gpu(workload.precision)).unwrap();
        session.start_training(&trainable_model, &optimizer).unwrap();
        for step in 0..4 {
            section(Some(&name(step)));
            session.clear_gradients();
            session.gradients(0..1, &|_| Ok(batch.clone()), &Sum, workload.gradient_checkpointing).unwrap();
            let norm = session.finish_gradients(&trainable_model).unwrap();
            session = session.step(&mut trainable_model, &mut optimizer, norm, step, 4).unwrap();
        }
        section(Some("cost: end"));
        let peaks = (0..4).map(|step| counts(&name(step)).map(|counts| counts.peak_bytes));
        let peak = peaks.collect::<Option<Vec<u64>>>()?.into_iter().max()?;
        Some((counts(&name(3))?, peak))
    }

    /// Fails unless an emulated GPU did this work.
    fn assert_equal(work: &Work, counts: &Counts, place: &str) {
        assert_eq!((work.launches(), work.products()), (counts.launches, counts.products.calls), "{place}");
        let copies = [
            (CopyKind::HostToDevice, &counts.host_to_device),
            (CopyKind::DeviceToHost, &counts.device_to_host),
            (CopyKind::DeviceToDevice, &counts.device_to_device),
            (CopyKind::Memset, &counts.memsets),
        ];
        for (kind, copies) in copies {
            assert_eq!(work.copies(kind), (copies.count, copies.bytes), "{place}: {kind:?}");
        }
    }

    #[test]
    #[ignore = "needs a GPU"]
    fn gpu_generation_does_what_the_estimate_says() {
        let _alone = alone();
        let config = small_config();
        let start = Checkpoint::initialize(&config, 24, 1, Seed(3)).unwrap();
        let architecture = &start.architecture;
        for precision in [Precision::F32, Precision::Bf16] {
            for (prompts, samples, tiles) in [(1, 1, 0), (3, 4, 1)] {
                let shape = GenerationShape { prompts, samples, prompt_tokens: 12, new_tokens: 9, tiles };
                let name = |pass: usize| format!("cost {shape:?} {precision} {pass}");
                section(Some("cost: start"));
                let mut decoder = CudaDecoder::open(&start, &sampling(&shape), 0, precision, 21).unwrap();
                let mut pass = 0;
                section(Some(&name(pass)));
                run(&mut decoder, architecture, &shape, &mut || {
                    pass += 1;
                    section(Some(&name(pass)));
                })
                .unwrap();
                section(Some("cost: end"));
                let (Some(prefill), Some(step)) = (counts(&name(1)), counts(&name(3))) else { return };
                let cost = generation(architecture, precision, &shape).unwrap();
                assert_equal(&cost.prefill, &prefill, &name(1));
                assert_equal(&cost.step, &step, &name(3));
                let peak = (0..4).filter_map(|pass| counts(&name(pass))).map(|counts| counts.peak_bytes).max().unwrap();
                let estimate = cost.memory.allocated() as f64 / peak as f64;
                assert!((1.0..1.1).contains(&estimate), "{shape:?}: {} of {peak}", cost.memory);
            }
        }
        assert_clean();
    }

    #[test]
    #[ignore = "needs a GPU"]
    fn gpu_training_does_what_the_estimate_says() {
        let _alone = alone();
        let mut config = small_config();
        let lora = |targets: &[&str]| {
            let targets = targets.iter().map(|target| Pattern(target.to_string())).collect();
            Trainable::Lora { rank: 2, targets }
        };
        let trainables = [
            Trainable::Model { frozen: Vec::new() },
            Trainable::Model { frozen: vec![ParamGroup::Vision] },
            Trainable::Model { frozen: vec![ParamGroup::Vision, ParamGroup::Projector] },
            lora(&["q_proj", "v_proj"]),
            lora(&["*"]),
        ];
        for (layers, rows, positions) in [(1, 1, 40), (3, 5, 40), (2, 3, 17)] {
            config.decoder.layers = layers;
            let architecture = Architecture::from_config(&config, 24, 1);
            let batch = batch(&architecture, rows, positions);
            for (at, trainable) in trainables.iter().enumerate() {
                let precision = [Precision::F32, Precision::Bf16][(at + layers) % 2];
                for gradient_checkpointing in [false, true] {
                    let trainable = trainable.clone();
                    let workload =
                        Workload { architecture: &architecture, precision, trainable, gradient_checkpointing };
                    let Some((counts, peak)) = counted(&workload, &config, &batch) else { return };
                    let cost = training_on(&workload, &batch).unwrap();
                    let (step, place) = (cost.step(), format!("{workload:?} {rows} x {positions}"));
                    assert_equal(&step, &counts, &place);
                    let estimate = cost.memory.allocated() as f64 / peak as f64;
                    assert!((1.0..1.1).contains(&estimate), "{place}: {} of {peak}", cost.memory);
                }
            }
        }
        assert_clean();
    }
}
