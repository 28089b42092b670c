//! Small kernels with known results, as nvcc writes them.

#![allow(clippy::float_cmp, reason = "results are exact")]

use ptx::{Launch, Module, Order, Outcome, Span, Spans, launch};

/// Runs the one kernel of a text over buffers of `f32`; its parameters are a count of 64 bits and the buffers.
fn run(text: &str, grid: u32, block: u32, count: u64, buffers: &mut [&mut [f32]]) -> Outcome {
    run_by(Order::Lockstep, text, grid, block, count, buffers)
}

fn run_by(order: Order, text: &str, grid: u32, block: u32, count: u64, buffers: &mut [&mut [f32]]) -> Outcome {
    let module = Module::parse(text).unwrap();
    let kernel = module.kernels.values().next().unwrap();
    let program = kernel.compile(&module).unwrap();
    let mut params = count.to_le_bytes().to_vec();
    let mut spans = Vec::new();
    for buffer in buffers {
        let start = buffer.as_mut_ptr() as u64;
        params.extend(start.to_le_bytes());
        spans.push(Span { start, end: start + 4 * buffer.len() as u64 });
    }
    spans.sort_by_key(|span| span.start);
    launch(&Launch {
        program: &program,
        grid: [grid, 1, 1],
        block: [block, 1, 1],
        dynamic_shared: 0,
        params,
        spans: &Spans::new(spans),
        workers: 2,
        order,
        find_shared_races: true,
        find_block_races: false,
    })
}

/// `out[i] = a * in[i] + b` in single precision, for the threads below the count.
const SCALE: &str = r#"
.version 7.0
.target sm_75
.address_size 64
.visible .entry scale(.param .u64 n, .param .u64 in, .param .u64 out)
{
    .reg .pred     %p<2>;
    .reg .f32     %f<4>;
    .reg .b32     %r<5>;
    .reg .b64     %rd<9>;
    ld.param.u64     %rd1, [n];
    ld.param.u64     %rd2, [in];
    ld.param.u64     %rd3, [out];
    mov.u32     %r1, %ctaid.x;
    mov.u32     %r2, %ntid.x;
    mov.u32     %r3, %tid.x;
    mad.lo.s32     %r4, %r1, %r2, %r3;
    cvt.u64.u32     %rd4, %r4;
    setp.ge.u64     %p1, %rd4, %rd1; // beyond the end
    @%p1 bra     $L__BB0_2;

    mul.wide.u32     %rd5, %r4, 4;
    add.s64     %rd6, %rd2, %rd5;
    ld.global.f32     %f1, [%rd6];
    mov.f32     %f2, 0f40000000;
    fma.rn.f32     %f3, %f1, %f2, 0f3F800000;
    add.s64     %rd7, %rd3, %rd5;
    st.global.f32     [%rd7], %f3;

$L__BB0_2:
    ret;
}
"#;

/// The sum of each block, by halves, with a barrier between them.
const SUM: &str = r#"
.version 7.0
.target sm_75
.address_size 64
.visible .entry sum(.param .u64 n, .param .u64 in, .param .u64 out)
{
    .reg .pred     %p<4>;
    .reg .f32     %f<6>;
    .reg .b32     %r<12>;
    .reg .b64     %rd<8>;
    .shared .align 4 .b8 buffer[1024];
    ld.param.u64     %rd1, [in];
    ld.param.u64     %rd2, [out];
    mov.u32     %r1, %ctaid.x;
    mov.u32     %r2, %ntid.x;
    mov.u32     %r3, %tid.x;
    mad.lo.s32     %r4, %r1, %r2, %r3;
    mul.wide.u32     %rd3, %r4, 4;
    add.s64     %rd4, %rd1, %rd3;
    ld.global.f32     %f1, [%rd4];
    mov.u32     %r5, buffer;
    shl.b32     %r6, %r3, 2;
    add.s32     %r7, %r5, %r6;
    st.shared.f32     [%r7], %f1;
    shr.u32     %r8, %r2, 1;

$L__BB0_1:
    bar.sync     0;
    setp.ge.u32     %p1, %r3, %r8;
    @%p1 bra     $L__BB0_3;
    shl.b32     %r9, %r8, 2;
    add.s32     %r10, %r7, %r9;
    ld.shared.f32     %f2, [%r10];
    ld.shared.f32     %f3, [%r7];
    add.f32     %f4, %f2, %f3;
    st.shared.f32     [%r7], %f4;

$L__BB0_3:
    shr.u32     %r8, %r8, 1;
    setp.ne.s32     %p2, %r8, 0;
    @%p2 bra     $L__BB0_1;
    setp.ne.s32     %p3, %r3, 0;
    @%p3 bra     $L__BB0_5;
    ld.shared.f32     %f5, [%r7];
    atom.global.add.f32     %f5, [%rd2], %f5;

$L__BB0_5:
    ret;
}
"#;

#[test]
fn threads_beyond_the_end_do_nothing() {
    let mut input: Vec<f32> = (0..300).map(|i| i as f32).collect();
    let mut output = vec![-1.0; 300];
    let outcome = run(SCALE, 10, 32, 290, &mut [&mut input, &mut output]);
    assert_eq!(outcome.fault, None);
    assert!((0..290).all(|i| output[i] == 2.0 * i as f32 + 1.0), "{output:?}");
    assert!(output[290..].iter().all(|value| *value == -1.0));
}

#[test]
fn a_block_sums_values_in_shared_memory() {
    let mut input: Vec<f32> = (0..1024).map(|i| i as f32).collect();
    let mut output = vec![0.0];
    let outcome = run(SUM, 8, 128, 0, &mut [&mut input, &mut output]);
    assert_eq!((outcome.fault, outcome.uneven_barriers), (None, 0));
    assert_eq!(output, [523_776.0]);
}

#[test]
fn a_missing_barrier_is_found() {
    let without = SUM.replace("bar.sync     0;", "");
    let sum = |order, text: &str| {
        let mut input: Vec<f32> = (0..1024).map(|i| i as f32).collect();
        let mut output = vec![0.0];
        assert_eq!(run_by(order, text, 8, 128, 0, &mut [&mut input, &mut output]).fault, None);
        output[0]
    };
    assert_eq!(sum(Order::Lockstep, &without), 523_776.0, "in lockstep it goes unnoticed");
    for last_first in [false, true] {
        assert_eq!(sum(Order::Warps { last_first }, SUM), 523_776.0);
    }
    assert_ne!(sum(Order::Warps { last_first: false }, &without), 523_776.0);
}

#[test]
fn an_access_outside_of_an_allocation_names_its_kernel() {
    let mut input = vec![0.0; 16];
    let mut output = vec![0.0; 32];
    let fault = run(SCALE, 1, 32, 32, &mut [&mut input, &mut output]).fault.unwrap();
    assert!(fault.contains("`scale`, block [0, 0, 0]: reads 4 bytes") && fault.contains("of 64 bytes"), "{fault}");
}

#[test]
fn an_unsupported_instruction_is_named() {
    let text = SCALE.replace("mul.wide.u32     %rd5, %r4, 4;", "dp4a.u32.u32 %r4, %r4, %r4, %r4;");
    let module = Module::parse(&text).unwrap();
    let error = module.kernels["scale"].compile(&module).map(drop).unwrap_err();
    assert_eq!(error, "kernel `scale`: `dp4a.u32.u32 %r4, %r4, %r4, %r4`: `dp4a.u32.u32` is not supported");
}
