//! Attention for every width of heads that has its own kernel.

#![expect(clippy::print_stdout, reason = "the errors are for people")]

use std::ops::Range;

use half::bf16;
use rand::Rng;

use super::super::tensor::{CudaTensor, Kind, convert};
use super::super::{CudaOps, Gpu};
use crate::kernels::attention::{Forward, Heads, KeyRanges, attention, attention_backward};
use crate::key_ranges::key_ranges;
use crate::ops::{Ops, SegmentOps};
use crate::tests::gpu::assert_clean;
use crate::{Device, DeviceChoice, Precision};
use ablate_core::base::Seed;

/// Lengths of rows around the sizes of tiles.
const LENGTHS: [usize; 7] = [1, 15, 16, 17, 63, 65, 150];

/// Numbers in bf16, of about the size of activations.
fn random(name: &str, count: usize) -> Vec<f32> {
    let mut generator = Seed(3).stream(name);
    let mut number = || f64::from(generator.next_u32()) / f64::from(u32::MAX) * 4.0 - 2.0;
    (0..count).map(|_| bf16::from_f64(number()).to_f32()).collect()
}

/// Output and the three gradients on the CPU.
fn expected(
    heads: Heads,
    rows: &[Range<usize>],
    keys: Option<&KeyRanges>,
    [q, k, v, dy]: &[Vec<f32>; 4],
) -> [Vec<f32>; 4] {
    let n = rows.last().unwrap().end;
    let (mut out, mut lse) = (vec![0.0; q.len()], vec![0.0; n * heads.heads]);
    attention(heads, rows, keys, q, k, v, &mut out, &mut lse);
    let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
    let forward = Forward { q, k, v, out: &out, lse: &lse };
    attention_backward(heads, rows, keys, &forward, dy, &mut dq, &mut dk, &mut dv);
    [out, dq, dk, dv]
}

/// The same on the GPU.
fn found(
    gpu: &Gpu,
    heads: Heads,
    rows: &[Range<usize>],
    keys: Option<&KeyRanges>,
    values: &[Vec<f32>; 4],
) -> [Vec<f32>; 4] {
    let n = rows.last().unwrap().end;
    let tensor = |values: &Vec<f32>| {
        let uploaded = gpu.upload(values).unwrap();
        let inner = convert(gpu, &uploaded, Kind::Stream, Kind::Inner, values.len()).unwrap();
        CudaTensor::new(Kind::Inner, inner, n, values.len() / n, true)
    };
    let host = |values, count| {
        let wide = convert(gpu, &values, Kind::Inner, Kind::Stream, count).unwrap();
        gpu.read::<f32>(&wide, count).unwrap()
    };
    let [q, k, v, dy] = values.each_ref().map(tensor);
    let mut ops = CudaOps::with(gpu, None, None);
    ops.set_grad_enabled(true);
    let plan = ops.plan_attention(heads, rows, None, keys).unwrap();
    let gradients = [q.gradient(), k.gradient(), v.gradient()];
    let y = ops.attention(0, q, k, v, &plan).unwrap();
    let out = host(y.values(gpu).unwrap(), values[0].len());
    y.gradient().add(gpu, Kind::Inner, dy.values(gpu).unwrap(), dy.len()).unwrap();
    let tape = ops.take_tape();
    ops.run(tape).unwrap();
    let [dq, dk, dv] = gradients.map(|gradient| gradient.take().unwrap());
    [out, host(dq, values[0].len()), host(dk, values[1].len()), host(dv, values[2].len())]
}

fn relative_error(ours: &[f32], expected: &[f32]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    norm(&mut ours.iter().zip(expected).map(|(a, b)| a - b)) / norm(&mut expected.iter().copied())
}

#[test]
#[ignore = "needs a GPU"]
fn gpu_attention_of_every_width() {
    assert!(matches!(DeviceChoice::resolve("cuda:0"), Ok(Device::Cuda(0))));
    let mut start = 0;
    let row = |length: &usize| {
        start += length;
        start - length..start
    };
    let rows: Vec<Range<usize>> = LENGTHS.iter().map(row).collect();
    let n = rows.last().unwrap().end;
    // Every fourth to ninth token of ten is one image, of which each of its tokens sees the end.
    let ends: Vec<u32> = rows
        .iter()
        .flat_map(|row| {
            (0..row.len()).map(|at| if (4..9).contains(&(at % 10)) { at / 10 * 10 + 9 } else { at + 1 }.min(row.len()))
        })
        .map(|end| end as u32)
        .collect();
    let ranges = key_ranges(&rows, &ends, None).unwrap();
    let windows = key_ranges(&rows, &ends, Some(21)).unwrap();
    for precision in [Precision::F32, Precision::Bf16] {
        let gpu = Gpu::open(0, precision).unwrap();
        for width in [8, 16, 24, 32, 48, 64, 80, 96, 112, 128, 160, 256] {
            for (count, kv_heads, causal, keys) in
                [(2, 1, true, None), (1, 1, false, None), (2, 1, true, Some(&ranges)), (1, 1, true, Some(&windows))]
            {
                let heads = Heads { heads: count, kv_heads, width, causal, factor: Heads::usual_factor(width) };
                let sizes = [heads.query(), heads.key(), heads.key(), heads.query()];
                let names = ["q", "k", "v", "dy"];
                let values = [0, 1, 2, 3].map(|at| random(names[at], n * sizes[at]));
                let (ours, wanted) = (found(&gpu, heads, &rows, keys, &values), expected(heads, &rows, keys, &values));
                let errors = [0, 1, 2, 3].map(|at| relative_error(&ours[at], &wanted[at]));
                let allowed = if precision == Precision::F32 { 2e-6 } else { 1e-2 };
                println!(
                    "{precision} width {width:3} causal {causal:5} ranges {:5}: {}",
                    keys.is_some(),
                    errors.map(|error| format!("{error:.1e}")).join(" ")
                );
                assert!(errors.iter().all(|error| *error < allowed), "{heads:?}: {errors:?}");
            }
        }
    }
    assert_clean();
}
