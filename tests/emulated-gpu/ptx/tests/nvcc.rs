//! Kernels that nvcc compiled (fixtures/kernels.cu), one per family of instructions, compared with Rust.

#![allow(unsafe_code, reason = "kernels get addresses")]
#![allow(clippy::float_cmp, reason = "results are exact where they are compared so")]

use half::{bf16, f16};
use ptx::{Launch, Module, Order, Outcome, Span, Spans, launch};

/// An argument of a kernel: a buffer, or a value.
enum Arg {
    Buffer(u64, u64),
    Value(Vec<u8>),
}

fn buffer<T>(values: &mut [T]) -> Arg {
    Arg::Buffer(values.as_mut_ptr() as u64, size_of_val(values) as u64)
}

fn module(capability: u32) -> Module {
    let text = match capability {
        75 => include_str!("fixtures/kernels-sm75.ptx"),
        _ => include_str!("fixtures/kernels-sm80.ptx"),
    };
    Module::parse(text).unwrap()
}

fn outcome(
    module: &Module,
    kernel: &str,
    order: Order,
    (grid, block, shared): (u32, u32, usize),
    args: &[Arg],
) -> Outcome {
    let kernel = &module.kernels[kernel];
    let program = kernel.compile(module).unwrap();
    let mut params = Vec::new();
    let mut spans: Vec<Span> = module
        .data
        .values()
        .map(|data| Span { start: data.address(), end: data.address() + data.len() as u64 })
        .collect();
    for (arg, param) in args.iter().zip(&kernel.params) {
        params.resize(param.offset, 0);
        match arg {
            Arg::Buffer(start, len) => {
                params.extend(start.to_le_bytes());
                spans.push(Span { start: *start, end: start + len });
            }
            Arg::Value(bytes) => params.extend(bytes),
        }
    }
    spans.sort_by_key(|span| span.start);
    launch(&Launch {
        program: &program,
        grid: [grid, 1, 1],
        block: [block, 1, 1],
        dynamic_shared: shared,
        params,
        spans: &Spans::new(spans),
        workers: 1,
        order,
        find_shared_races: true,
        find_block_races: true,
    })
}

/// Runs a test for both capabilities and all orders of warps.
fn each(first: u32, test: impl Fn(&dyn Fn(&str, (u32, u32, usize), &[Arg]))) {
    for capability in [75, 80].into_iter().filter(|&capability| capability >= first) {
        let module = module(capability);
        for order in [Order::Lockstep, Order::Warps { last_first: false }, Order::Warps { last_first: true }] {
            test(&|kernel, size, args| {
                let outcome = outcome(&module, kernel, order, size, args);
                assert_eq!(outcome.fault, None);
                assert_eq!(
                    (outcome.uneven_barriers, outcome.shared_races, outcome.block_races),
                    (0, 0, 0),
                    "{:?}",
                    outcome.race
                );
            });
        }
    }
}

/// Numbers from a linear congruential generator.
fn random(count: usize) -> Vec<u32> {
    let mut state = 12345u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32 ^ (state >> 13) as u32
    };
    std::iter::repeat_with(next).take(count).collect()
}

/// Floats in -4..4 that are multiples of 1/64.
fn random_floats(count: usize) -> Vec<f32> {
    random(count).iter().map(|bits| (bits % 512) as f32 / 64.0 - 4.0).collect()
}

#[test]
fn shuffles() {
    each(75, |run| {
        let mut input = random_floats(128);
        let [mut sums, mut scans, mut firsts] = [(); 3].map(|()| vec![0f32; 128]);
        let args = [buffer(&mut input), buffer(&mut sums), buffer(&mut scans), buffer(&mut firsts)];
        run("shuffles", (2, 64, 0), &args);
        for (i, warp) in input.chunks(32).enumerate() {
            for lane in 0..32 {
                let at = i * 32 + lane;
                assert_eq!(sums[at], warp.iter().sum::<f32>());
                assert_eq!(scans[at], warp[..=lane].iter().sum::<f32>());
                let next = if lane % 8 == 7 { warp[lane] } else { warp[lane + 1] };
                assert_eq!(firsts[at], warp[0] + next);
            }
        }
    });
}

#[test]
fn votes() {
    each(75, |run| {
        let mut input: Vec<i32> = random(96).iter().map(|bits| *bits as i32).collect();
        input[32..64].fill(5);
        let mut out = vec![0u32; 6 * 96];
        run("votes", (1, 96, 0), &[buffer(&mut input), buffer(&mut out)]);
        let count = input.iter().filter(|value| **value > 0).count() as u32;
        for i in 0..96 {
            let warp = &input[i / 32 * 32..][..32];
            let ballot = (0..32).fold(0, |ballot, lane| ballot | u32::from(warp[lane] > 0) << lane);
            let third = if i % 2 == 1 { ballot & 0xaaaa_aaaa } else { u32::MAX };
            let expected = [ballot, u32::from(ballot != 0), u32::from(ballot == u32::MAX), third, count, 1];
            assert_eq!(out[6 * i..][..6], expected, "thread {i}");
        }
    });
}

#[test]
fn sixteen_bit_conversions_and_vectors() {
    each(75, |run| {
        let n = 70;
        let mut input = random_floats(4 * 80);
        input.iter_mut().enumerate().for_each(|(i, value)| *value *= 1.0 + i as f32 * 1.7e-3);
        input[5] = f32::INFINITY;
        let (mut bf, mut hf) = (vec![0u16; 4 * 80], vec![0u16; 4 * 80]);
        let mut back = vec![0f32; 4 * 80];
        let count = Arg::Value((n as i32).to_le_bytes().to_vec());
        run("halves", (3, 32, 0), &[buffer(&mut input), buffer(&mut bf), buffer(&mut hf), buffer(&mut back), count]);
        for i in 0..4 * n {
            assert_eq!(bf[i], bf16::from_f32(input[i]).to_bits(), "{}", input[i]);
            assert_eq!(hf[i], f16::from_f32(input[i]).to_bits(), "{}", input[i]);
            let half = if i % 4 < 2 { bf16::from_bits(bf[i]).to_f32() } else { f16::from_bits(hf[i]).to_f32() };
            assert_eq!(back[i], half);
        }
        assert!(bf[4 * n..].iter().all(|value| *value == 0));
    });
}

#[test]
fn sixteen_bit_arithmetic() {
    each(75, |run| {
        let halves =
            |seed: usize| random_floats(64 + seed)[seed..].iter().map(|x| f16::from_f32(*x)).collect::<Vec<_>>();
        let (mut a, mut b) = (halves(0), halves(7));
        let (mut sum, mut fma, mut product) = (a.clone(), a.clone(), vec![bf16::ZERO; 64]);
        let args = [buffer(&mut a), buffer(&mut b), buffer(&mut sum), buffer(&mut fma), buffer(&mut product)];
        run("half_arithmetic", (1, 64, 0), &args);
        for i in 0..64 {
            let (x, y) = (a[i].to_f64(), b[i].to_f64());
            assert_eq!(sum[i], f16::from_f64(x + y));
            assert_eq!(fma[i], f16::from_f64(x * y + x));
            let (x, y) = (bf16::from_f64(x).to_f64(), bf16::from_f64(y).to_f64());
            assert_eq!(product[i], bf16::from_f64(x * y));
        }
    });
}

#[test]
fn bits() {
    each(75, |run| {
        let mut input = random(64);
        let mut out = vec![0u32; 12 * 32];
        run("bits", (1, 32, 0), &[buffer(&mut input), buffer(&mut out)]);
        for i in 0..32 {
            let (x, y) = (input[2 * i], input[2 * i + 1]);
            let both = u64::from(y) << 32 | u64::from(x);
            let bytes = both.to_le_bytes();
            let sign = if bytes[1] > 127 { 0xff } else { 0 };
            let low24 = |x: u32| (x << 8) as i32 >> 8;
            let expected = [
                u32::from_le_bytes([bytes[3], sign, bytes[1], bytes[5]]),
                x.count_ones(),
                x.leading_zeros(),
                x.reverse_bits(),
                (both << (y & 31) >> 32) as u32,
                (both >> (y & 63).min(32)) as u32,
                (x & y) ^ (!x | (y >> 3)),
                low24(x).wrapping_mul(low24(y)) as u32,
                (x as i32).abs_diff(y as i32).wrapping_add(7),
                ((u64::from(x) * u64::from(y)) >> 32) as u32,
                x >> 5 & 0x1ff,
                y & !(0x7ff << 7) | (x & 0x7ff) << 7,
            ];
            // `__byte_perm` uses three bits of each selector.
            let permuted = u32::from_le_bytes([bytes[3], bytes[1], bytes[1], bytes[5]]);
            assert!([expected[0], permuted].contains(&out[12 * i]));
            assert_eq!(out[12 * i + 1..][..11], expected[1..], "{x:#x} {y:#x}");
        }
    });
}

#[test]
fn long_integers() {
    each(75, |run| {
        let wide = |seed: usize| {
            let bits = random(64 + seed);
            bits[seed..]
                .windows(2)
                .map(|pair| (u64::from(pair[0]) << 32 | u64::from(pair[1])) as i64)
                .take(32)
                .collect::<Vec<_>>()
        };
        let (mut a, mut b) = (wide(0), wide(5));
        (a[0], b[0], b[1]) = (17, -5, 3);
        let mut out = vec![0i64; 6 * 32];
        run("long_integers", (1, 32, 0), &[buffer(&mut a), buffer(&mut b), buffer(&mut out)]);
        for i in 0..32 {
            let (a, b) = (a[i], b[i]);
            let product = u128::from(a as u64) * u128::from(b as u64) + u128::from(a as u64);
            let high = ((i128::from(a) * i128::from(b)) >> 64) as i64;
            let expected = [a / b, a % b, (a as u64 / b as u64) as i64, high, (product >> 64) as i64, product as i64];
            assert_eq!(out[6 * i..][..6], expected);
        }
    });
}

#[test]
fn atomics() {
    let module = module(80);
    for order in [Order::Lockstep, Order::Warps { last_first: true }] {
        let mut input: Vec<f32> = (0..256).map(|i| ((i * 37) % 101) as f32).collect();
        let (mut sum, mut longs, mut doubles) = (vec![0f32], vec![0u64], vec![0f64]);
        let mut ints = vec![1000, 0, 0, 0, -1, 0];
        let args = [buffer(&mut input), buffer(&mut sum), buffer(&mut ints), buffer(&mut longs), buffer(&mut doubles)];
        assert_eq!(outcome(&module, "atomics", order, (4, 64, 0), &args).fault, None);
        let total: f32 = input.iter().sum();
        assert_eq!((sum[0], longs[0], doubles[0]), (total, total as u64, f64::from(total)));
        assert_eq!(ints, [0, 100, 256, -1, -65536, 512]);
    }
}

#[test]
fn parameters_and_memories() {
    each(75, |run| {
        let mut shape = Vec::new();
        shape.extend(3i32.to_le_bytes());
        shape.extend(41i32.to_le_bytes());
        shape.extend([10i64, 20, 30].iter().flat_map(|stride| stride.to_le_bytes()));
        shape.extend(0.5f32.to_le_bytes());
        shape.extend([0; 4]);
        let mut input = random_floats(41);
        let mut out = vec![0f32; 32];
        run("spaces", (1, 32, 32 * 16), &[Arg::Value(shape), buffer(&mut input), buffer(&mut out)]);
        let at = |i: usize, j: usize| input[(i * 8 + j) % 41];
        let dynamic = |i: usize| [at(i, (i + 1) & 7), [1.0, 2.0, 3.0, 4.0][i & 3], [10.0, 20.0, 30.0][i % 3], 3.0];
        for (i, out) in out.iter().enumerate() {
            let generic = match i & 1 {
                1 => at(4 * (i & 7), (4 * (i & 7)) & 7) * 0.5,
                _ => dynamic(i & 7)[0],
            };
            assert_eq!(*out, dynamic((i + 1) % 32).iter().sum::<f32>() + generic, "thread {i}");
        }
    });
}

fn erf(x: f64) -> f64 {
    let mut term = x;
    let mut sum = x;
    for n in 1..60 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

#[test]
fn functions_of_floats() {
    each(75, |run| {
        let mut input = random_floats(64);
        let mut out = vec![0f32; 640];
        run("transcendental", (1, 64, 0), &[buffer(&mut input), buffer(&mut out)]);
        for (i, &x) in input.iter().enumerate() {
            let wide = f64::from(x);
            let expected = [
                wide.exp(),
                wide.exp(),
                wide.abs().ln_1p(),
                wide.tanh(),
                erf(wide),
                wide.sin(),
                1.0 / (wide.abs() + 1.0).sqrt(),
                (wide.abs() + 1.0).powf(1.5),
                1.0 / (1.0 + (-wide).exp()),
                f64::from(
                    x.min(0.5)
                        + x.max(-0.5)
                        + x.round_ties_even()
                        + x.floor()
                        + x.clamp(0.0, 1.0)
                        + if x == 0.0 { 1e-9 } else { x },
                ),
            ];
            for (index, (found, expected)) in out[10 * i..].iter().zip(expected).enumerate() {
                let error = (f64::from(*found) - expected).abs();
                assert!(error <= 2e-6 * expected.abs().max(0.1), "{index} of {x}: {found} {expected}");
            }
        }
    });
}

#[test]
fn functions_that_are_not_inlined() {
    each(75, |run| {
        let mut input = random_floats(64);
        let (mut out, mut powers) = (vec![0f32; 64], vec![0f64; 64]);
        run("functions", (1, 64, 0), &[buffer(&mut input), buffer(&mut out), buffer(&mut powers)]);
        for (i, &x) in input.iter().enumerate() {
            let power = |n: usize| (0..n).fold(1f32, |product, _| product * x);
            assert_eq!(out[i], power(i % 4) + power(i % 4 + 1), "{x} {i}");
            let expected = f64::from(x).abs().powf(1.5);
            assert!(
                (powers[i] - expected).abs() <= 1e-15 * expected.max(1e-300) * 4.0,
                "{x}: {} {expected}",
                powers[i]
            );
        }
    });
}

#[test]
fn reductions_of_a_warp() {
    each(80, |run| {
        let mut input: Vec<i32> = random(64).iter().map(|bits| *bits as i32).collect();
        let mut out = vec![0i32; 3 * 64];
        run("redux", (1, 64, 0), &[buffer(&mut input), buffer(&mut out)]);
        for i in 0..64 {
            let warp = &input[i / 32 * 32..][..32];
            let sum = warp.iter().fold(0i32, |sum, value| sum.wrapping_add(*value));
            let most = warp.iter().map(|value| *value as u32).max().unwrap() as i32;
            assert_eq!(out[3 * i..][..3], [sum, *warp.iter().min().unwrap(), most]);
        }
    });
}

#[test]
fn tensor_cores_and_asynchronous_copies() {
    let matrices = || {
        let convert = |values: Vec<f32>| values.iter().map(|x| bf16::from_f32(*x)).collect::<Vec<_>>();
        let b = random_floats(16 * 16 + 16 * 8);
        (convert(random_floats(16 * 16)), convert(b[256..].to_vec()), vec![0f32; 16 * 8])
    };
    each(80, |run| {
        let (mut a, mut b, mut c) = matrices();
        run("tensor_core", (1, 32, 0), &[buffer(&mut a), buffer(&mut b), buffer(&mut c)]);
        for (i, j) in (0..16).flat_map(|i| (0..8).map(move |j| (i, j))) {
            let sum: f32 = (0..16).map(|k| a[i * 16 + k].to_f32() * b[k * 8 + j].to_f32()).sum();
            assert!((c[i * 8 + j] - sum).abs() < 1e-4, "{i}, {j}");
        }
    });
    let text = include_str!("fixtures/kernels-sm80.ptx");
    let without = text.replace("cp.async.wait_group 0;", "");
    assert_ne!(text, without);
    let module = Module::parse(&without).unwrap();
    let (mut a, mut b, mut c) = matrices();
    let args = [buffer(&mut a), buffer(&mut b), buffer(&mut c)];
    assert_eq!(outcome(&module, "tensor_core", Order::Lockstep, (1, 32, 0), &args).fault, None);
    assert!(c.iter().all(|value| value.is_nan()), "without a wait, the copy is not complete");
}

#[test]
fn a_barrier_that_is_missing_is_a_race_in_shared_memory() {
    let text = include_str!("fixtures/kernels-sm80.ptx").replace("bar.sync \t0;", "");
    let module = Module::parse(&text).unwrap();
    let mut input = vec![1f32; 256];
    let (mut sum, mut longs, mut doubles) = (vec![0f32], vec![0u64], vec![0f64]);
    let mut ints = vec![0; 6];
    let args = [buffer(&mut input), buffer(&mut sum), buffer(&mut ints), buffer(&mut longs), buffer(&mut doubles)];
    let outcome = outcome(&module, "atomics", Order::Lockstep, (4, 64, 0), &args);
    assert!(outcome.shared_races > 0);
    assert!(outcome.race.unwrap().contains("use shared memory at"));
}
