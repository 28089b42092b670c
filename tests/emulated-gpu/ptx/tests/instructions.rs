//! Single instructions on single values, compared with values from the PTX manual or from Rust.

#![allow(unsafe_code, reason = "kernels get addresses")]

use half::{bf16, f16};
use ptx::{Launch, Module, Order, Outcome, Span, Spans, launch};

fn f(value: f32) -> u64 {
    u64::from(value.to_bits())
}

fn d(value: f64) -> u64 {
    value.to_bits()
}

fn h(value: f32) -> u64 {
    u64::from(f16::from_f32(value).to_bits())
}

fn b(value: f32) -> u64 {
    u64::from(bf16::from_f32(value).to_bits())
}

/// Runs a body over one block with `in` and `out` as lists of 64-bit numbers.
fn run(body: &str, threads: u32, order: Order, input: &mut [u64], out: &mut [u64]) -> Outcome {
    let text = format!(
        ".version 7.1\n.target sm_80\n.address_size 64\n.visible .entry test(.param .u64 in, .param .u64 out)\n{{\n\
         .reg .pred %p<9>;\n.reg .b16 %h<9>;\n.reg .b32 %r<19>;\n.reg .b64 %d<19>;\n\
         ld.param.u64 %d17, [in];\nld.param.u64 %d18, [out];\n{body}\nret;\n}}\n"
    );
    let module = Module::parse(&text).unwrap();
    let program = module.kernels["test"].compile(&module).unwrap_or_else(|error| panic!("{error}"));
    let mut params = (input.as_mut_ptr() as u64).to_le_bytes().to_vec();
    params.extend((out.as_mut_ptr() as u64).to_le_bytes());
    let span = |start: u64, len: usize| Span { start, end: start + 8 * len as u64 };
    let mut spans = vec![span(input.as_ptr() as u64, input.len()), span(out.as_ptr() as u64, out.len())];
    spans.sort_by_key(|span| span.start);
    launch(&Launch {
        program: &program,
        grid: [1, 1, 1],
        block: [threads, 1, 1],
        dynamic_shared: 0,
        params,
        spans: &Spans::new(spans),
        workers: 1,
        order,
        find_shared_races: true,
        find_block_races: false,
    })
}

/// The result of a body that computes one number from `%d1`, `%d2` and `%d3`, whose lower halves are also in `%r1`,
/// `%r2`, `%r3` and `%h1`, `%h2`, `%h3`. The result is in `%d0`, `%r0` or `%h0`.
fn result(body: &str, inputs: &[u64]) -> u64 {
    let mut input = [inputs, &[0; 3]].concat();
    let mut out = [0];
    let mut text = String::new();
    for i in 1..4 {
        let offset = 8 * (i - 1);
        text +=
            &format!("ld.global.u64 %d{i}, [%d17+{offset}];\ncvt.u32.u64 %r{i}, %d{i};\ncvt.u16.u64 %h{i}, %d{i};\n");
    }
    text += body;
    text += match () {
        () if body.contains("%d0") => "\nst.global.u64 [%d18], %d0;",
        () if body.contains("%r0") => "\ncvt.u64.u32 %d0, %r0;\nst.global.u64 [%d18], %d0;",
        () if body.contains("%h0") => "\ncvt.u64.u16 %d0, %h0;\nst.global.u64 [%d18], %d0;",
        () => "\nselp.b64 %d0, 1, 0, %p0;\nst.global.u64 [%d18], %d0;",
    };
    let outcome = run(&text, 1, Order::Lockstep, &mut input, &mut out);
    assert_eq!(outcome.fault, None, "{body}");
    out[0]
}

#[test]
fn integers() {
    let minus = |value: i32| u64::from(value as u32);
    let cases: &[(&str, &[u64], u64)] = &[
        ("add.s32 %r0, %r1, %r2;", &[5, minus(-7)], minus(-2)),
        ("sub.s64 %d0, %d1, %d2;", &[5, 7], -2i64 as u64),
        ("add.s16 %h0, %h1, %h2;", &[0xffff, 2], 1),
        ("mul.wide.s32 %d0, %r1, %r2;", &[minus(-3), 1 << 30], (-3i64 << 30) as u64),
        ("mul.wide.u16 %r0, %h1, %h2;", &[0xffff, 0xffff], 0xfffe_0001),
        ("mad.wide.u32 %d0, %r1, %r2, %d3;", &[1 << 31, 4, 9], (1 << 33) + 9),
        ("mad.lo.s32 %r0, %r1, %r2, %r3;", &[minus(-3), 5, 1], minus(-14)),
        ("mul.hi.u32 %r0, %r1, %r2;", &[1 << 31, 6], 3),
        ("div.s32 %r0, %r1, %r2;", &[minus(-7), 2], minus(-3)),
        ("rem.s32 %r0, %r1, %r2;", &[minus(-7), 2], minus(-1)),
        ("div.u32 %r0, %r1, %r2;", &[7, 0], 0xffff_ffff),
        ("div.s64 %d0, %d1, %d2;", &[-9i64 as u64, 2], -4i64 as u64),
        ("rem.u64 %d0, %d1, %d2;", &[u64::MAX, 10], 5),
        ("min.s32 %r0, %r1, %r2;", &[minus(-1), 1], minus(-1)),
        ("min.u32 %r0, %r1, %r2;", &[minus(-1), 1], 1),
        ("max.s16 %h0, %h1, %h2;", &[0xffff, 1], 1),
        ("abs.s32 %r0, %r1;", &[minus(-5)], 5),
        ("shl.b32 %r0, %r1, %r2;", &[1, 32], 0),
        ("shr.s32 %r0, %r1, %r2;", &[minus(-8), 40], minus(-1)),
        ("shr.u64 %d0, %d1, %r2;", &[u64::MAX, 60], 15),
        ("shf.l.wrap.b32 %r0, %r1, %r2, %r3;", &[0x8000_0000, 1, 33], 3),
        ("shf.r.clamp.b32 %r0, %r1, %r2, %r3;", &[5, 9, 40], 9),
        ("lop3.b32 %r0, %r1, %r2, %r3, 0x96;", &[0b1100, 0b1010, 0b1111], 0b1001),
        ("prmt.b32 %r0, %r1, %r2, 0x7610;", &[0x3322_1100, 0x7766_5544], 0x7766_1100),
        ("prmt.b32 %r0, %r1, %r2, 0x000b;", &[0x8322_1100, 0], 0x0000_00ff),
        ("bfe.s32 %r0, %r1, 4, 4;", &[0xf0], minus(-1)),
        ("bfe.u32 %r0, %r1, 28, 8;", &[0xf000_0000], 15),
        ("bfe.u64 %d0, %d1, 60, 4;", &[0xa << 60], 10),
        ("bfi.b32 %r0, %r1, %r2, 8, 4;", &[0xff, 0], 0xf00),
        ("popc.b64 %r0, %d1;", &[u64::MAX], 64),
        ("clz.b32 %r0, %r1;", &[0], 32),
        ("brev.b32 %r0, %r1;", &[1], 1 << 31),
        ("bfind.u32 %r0, %r1;", &[0x1000], 12),
        ("mul24.lo.s32 %r0, %r1, %r2;", &[0xff_ffff, 5], minus(-5)),
        ("sad.u32 %r0, %r1, %r2, %r3;", &[3, 10, 1], 8),
        ("slct.s32.s32 %r0, %r1, %r2, %r3;", &[3, 10, minus(-1)], 10),
        ("slct.f32.f32 %r0, %r1, %r2, %r3;", &[3, 10, f(0.5)], 3),
        ("not.b16 %h0, %h1;", &[1], 0xfffe),
        ("setp.lt.s32 %p1, %r1, %r2;\nsetp.gt.and.u32 %p0|%p2, %r1, %r2, %p1;", &[minus(-1), 1], 1),
        ("setp.lt.s32 %p1, %r1, %r2;\nsetp.gt.xor.u32 %p2|%p0, %r1, %r2, !%p1;", &[minus(-1), 1], 0),
        ("set.lt.u32.s32 %r0, %r1, %r2;", &[minus(-1), 1], 0xffff_ffff),
        ("setp.ne.b16 %p0, %h1, 0;", &[0x10000], 0),
        ("add.cc.u32 %r4, %r1, %r2;\naddc.u32 %r0, %r3, 0;", &[minus(-1), 1, 7], 8),
        ("sub.cc.u32 %r4, %r1, %r2;\nsubc.u32 %r0, %r3, 0;", &[0, 1, 7], 6),
        ("mad.lo.cc.u32 %r4, %r1, %r2, %r2;\nmadc.hi.u32 %r0, %r1, %r2, %r3;", &[minus(-1), 2, 7], 9),
        ("mov.b64 %d0, {%r1, %r2};", &[1, 2], (2 << 32) + 1),
        ("mov.b64 {%r4, %r0}, %d1;", &[7 << 32], 7),
        ("mov.b32 %r0, {%h1, %h2};", &[0x1234, 0x5678], 0x5678_1234),
        ("mov.b32 {_, %h0}, %r1;", &[0x5678_1234], 0x5678),
        ("mov.b64 %d0, {%h1, %h2, %h3, %h1};", &[1, 2, 3], 0x0001_0003_0002_0001),
    ];
    for (body, inputs, expected) in cases {
        assert_eq!(result(body, inputs), *expected, "{body}");
    }
}

#[test]
fn floats_and_conversions() {
    let nan = f64::from(f32::NAN) as f32;
    let cases: &[(&str, &[u64], u64)] = &[
        ("add.rn.f32 %r0, %r1, %r2;", &[f(1.5), f(2.0)], f(3.5)),
        ("add.sat.f32 %r0, %r1, %r2;", &[f(1.5), f(2.0)], f(1.0)),
        ("add.rm.f32 %r0, %r1, %r2;", &[f(1.0), f(1e-20)], f(1.0)),
        ("add.rp.f32 %r0, %r1, %r2;", &[f(1.0), f(1e-20)], f(1f32.next_up())),
        ("mul.ftz.f32 %r0, %r1, %r2;", &[f(1e-30), f(1e-10)], f(0.0)),
        ("mul.f32 %r0, %r1, %r2;", &[f(1e-30), f(1e-10)], f(1e-40)),
        ("fma.rn.f64 %d0, %d1, %d2, %d3;", &[d(2.0), d(3.0), d(1.0)], d(7.0)),
        ("min.f32 %r0, %r1, %r2;", &[f(nan), f(2.0)], f(2.0)),
        ("max.f32 %r0, %r1, %r2;", &[f(-0.0), f(0.0)], f(0.0)),
        ("max.NaN.f32 %r0, %r1, %r2;", &[f(nan), f(2.0)], f(f32::NAN)),
        ("div.full.f32 %r0, %r1, %r2;", &[f(1.0), f(8.0)], f(0.125)),
        ("sqrt.approx.f32 %r0, %r1;", &[f(9.0)], f(3.0)),
        ("rcp.approx.ftz.f32 %r0, %r1;", &[f(4.0)], f(0.25)),
        ("ex2.approx.ftz.f32 %r0, %r1;", &[f(3.0)], f(8.0)),
        ("lg2.approx.f32 %r0, %r1;", &[f(8.0)], f(3.0)),
        ("neg.f32 %r0, %r1;", &[f(8.0)], f(-8.0)),
        ("setp.ltu.f32 %p0, %r1, %r2;", &[f(nan), f(1.0)], 1),
        ("setp.neu.f32 %p0, %r1, %r2;", &[f(1.0), f(1.0)], 0),
        ("cvt.rzi.s32.f32 %r0, %r1;", &[f(-3.7)], u64::from(-3i32 as u32)),
        ("cvt.rni.u32.f32 %r0, %r1;", &[f(2.5)], 2),
        ("cvt.rzi.u32.f32 %r0, %r1;", &[f(-3.0)], 0),
        ("cvt.rzi.s32.f32 %r0, %r1;", &[f(nan)], 0),
        ("cvt.rzi.s64.f64 %d0, %d1;", &[d(1e30)], i64::MAX as u64),
        ("cvt.rn.f32.s32 %r0, %r1;", &[u64::from(-5i32 as u32)], f(-5.0)),
        ("cvt.rn.f32.u64 %r0, %d1;", &[u64::MAX], f(18_446_744_073_709_551_615.0)),
        ("cvt.rmi.f32.f32 %r0, %r1;", &[f(-1.5)], f(-2.0)),
        ("cvt.sat.f32.f32 %r0, %r1;", &[f(-1.5)], f(0.0)),
        ("cvt.f64.f32 %d0, %r1;", &[f(-1.5)], d(-1.5)),
        ("cvt.s64.s32 %d0, %r1;", &[0xffff_fffe], -2i64 as u64),
        ("cvt.sat.s8.s32 %r0, %r1;", &[300], 127),
        ("cvt.s32.s8 %r0, %r1;", &[0xff], 0xffff_ffff),
        ("cvt.rn.f16.f32 %h0, %r1;", &[f(1.0 / 3.0)], h(1.0 / 3.0)),
        ("cvt.f32.f16 %r0, %h1;", &[h(-2.5)], f(-2.5)),
        ("cvt.rn.bf16.f32 %h0, %r1;", &[f(1.0 / 3.0)], b(1.0 / 3.0)),
        ("cvt.rn.bf16.f32 %h0, %r1;", &[f(nan)], 0x7fff),
        ("cvt.rn.bf16.f32 %h0, %r1;", &[f(f32::MAX)], b(f32::INFINITY)),
        ("cvt.rn.bf16.f32 %h0, %r1;", &[0x3f80_8000], 0x3f80),
        ("cvt.rn.bf16.f32 %h0, %r1;", &[0x3f81_8000], 0x3f82),
        ("cvt.rn.bf16.f32 %h0, %r1;", &[f(-1e-44)], 0x8000),
        ("cvt.f32.bf16 %r0, %h1;", &[b(nan)], u64::from(bf16::from_f32(nan).to_f32().to_bits())),
        ("cvt.rn.relu.bf16.f32 %h0, %r1;", &[f(-1.0)], 0),
        ("cvt.rz.bf16.f32 %h0, %r1;", &[f(1.0 / 3.0)], f(1.0 / 3.0) >> 16),
        ("cvt.f32.bf16 %r0, %h1;", &[b(-2.5)], f(-2.5)),
        ("cvt.rn.bf16x2.f32 %r0, %r1, %r2;", &[f(1.0), f(2.0)], b(1.0) << 16 | b(2.0)),
        ("cvt.rn.f16x2.f32 %r0, %r1, %r2;", &[f(1.0), f(2.0)], h(1.0) << 16 | h(2.0)),
        ("cvt.rna.tf32.f32 %r0, %r1;", &[f(1.0 + 1.0 / 2048.0)], f(1.0 + 1.0 / 1024.0)),
        ("add.f16 %h0, %h1, %h2;", &[h(1.5), h(2.0)], h(3.5)),
        ("fma.rn.bf16 %h0, %h1, %h2, %h3;", &[b(1.5), b(2.0), b(-1.0)], b(2.0)),
        ("fma.rn.f16x2 %r0, %r1, %r1, %r2;", &[h(3.0) << 16 | h(2.0), h(1.0)], h(9.0) << 16 | h(5.0)),
        ("max.bf16x2 %r0, %r1, %r2;", &[b(3.0) << 16 | b(2.0), b(4.0)], b(3.0) << 16 | b(4.0)),
    ];
    for (body, inputs, expected) in cases {
        assert_eq!(result(body, inputs), *expected, "{body}");
    }
}

#[test]
fn a_table_of_branches() {
    let body = "
        setp.gt.u64 %p1, %d1, 2;
        @%p1 bra DEFAULT;
        cvt.u32.u64 %r4, %d1;
        TABLE: .branchtargets ZERO, ONE, ZERO;
        brx.idx %r4, TABLE;
    ZERO:
        mov.u64 %d0, 100;
        bra.uni DONE;
    ONE:
        mov.u64 %d0, 101;
        bra.uni DONE;
    DEFAULT:
        mov.u64 %d0, 109;
    DONE:
        add.s64 %d0, %d0, 1000;";
    assert_eq!([0, 1, 2, 7].map(|index| result(body, &[index])), [1100, 1101, 1100, 1109]);
}

const ORDERS: [Order; 3] = [Order::Lockstep, Order::Warps { last_first: false }, Order::Warps { last_first: true }];

/// Every thread counts to its index, with a loop, before all exchange the counts.
const DIVERGENT: &str = "
    mov.u32 %r1, %tid.x;
    mov.u32 %r2, 0;
    setp.eq.u32 %p1, %r1, 5;
    @%p1 bra LATE;
LOOP:
    setp.ge.u32 %p2, %r2, %r1;
    @%p2 bra EXCHANGE;
    add.u32 %r2, %r2, 1;
    bra.uni LOOP;
EXCHANGE:
    shfl.sync.bfly.b32 %r3|%p3, %r2, 1, 31, -1;
    mul.wide.u32 %d1, %r1, 8;
    add.s64 %d1, %d1, %d18;
    cvt.u64.u32 %d2, %r3;
    st.global.u64 [%d1], %d2;
    ret;
LATE:
    mov.u32 %r2, 55;
    bra.uni EXCHANGE;";

#[test]
fn lanes_wait_for_those_that_come_late() {
    for order in ORDERS {
        let mut out = [0; 64];
        assert_eq!(run(DIVERGENT, 64, order, &mut [0], &mut out).fault, None);
        let count = |lane: u64| if lane == 5 { 55 } else { lane };
        assert!((0..64).all(|lane| out[lane as usize] == count(lane ^ 1)), "{order:?}: {out:?}");
    }
}

#[test]
fn lanes_that_exited_are_not_waited_for() {
    let body = DIVERGENT.replace("    mov.u32 %r2, 55;\n    bra.uni EXCHANGE;", "    ret;");
    for order in ORDERS {
        let mut out = [0; 64];
        assert_eq!(run(&body, 64, order, &mut [0], &mut out).fault, None);
        assert_eq!((out[6], out[5], out[4]), (7, 0, 0xffff_ffff), "lane 4 reads a lane that is not there: NaN");
    }
}

#[test]
fn a_warp_instruction_without_one_of_its_lanes_is_a_fault() {
    let body = DIVERGENT.replace("bra.uni EXCHANGE;", "bar.sync 0;\n    ret;");
    for order in ORDERS {
        let fault = run(&body, 64, order, &mut [0], &mut [0; 64]).fault.unwrap();
        assert!(fault.contains("waits for lanes that do not execute it"), "{fault}");
    }
    let body = DIVERGENT.replace("31, -1;", "31, 0xffff;");
    let fault = run(&body, 32, Order::Lockstep, &mut [0], &mut [0; 64]).fault.unwrap();
    assert!(fault.contains("the mask 0xffff, which lacks it"), "{fault}");
}

#[test]
fn misaligned_vectors_are_a_fault() {
    let vector = |offset: u32| {
        let body = format!("ld.global.v2.u64 {{%d1, %d2}}, [%d17+{offset}];\nst.global.u64 [%d18], %d2;");
        let mut input = [0u64; 8];
        run(&body, 1, Order::Lockstep, &mut input[..], &mut [0]).fault
    };
    // One of both is aligned to 16 bytes.
    let faults = [vector(0), vector(8)];
    assert_eq!(faults.iter().filter(|fault| fault.is_none()).count(), 1);
    assert!(faults.iter().flatten().all(|fault| fault.contains("which is misaligned")), "{faults:?}");
}

#[test]
fn unknown_instructions_and_modifiers_are_errors() {
    for (body, error) in [
        ("dp4a.u32.u32 %r1, %r1, %r1, %r1;", "`dp4a.u32.u32` is not supported"),
        ("ld.global.mystery.u32 %r1, [%d1];", "the modifier `.mystery` of `ld` is not supported"),
        ("call.uni (retval0), power, (param0);", "a call of the function `power`"),
        ("bar.sync 1, 64;", "a barrier of some of the threads"),
    ] {
        let text = format!(".visible .entry test()\n{{\n.reg .b32 %r<9>;\n.reg .b64 %d<9>;\n{body}\nret;\n}}");
        let module = Module::parse(&text).unwrap();
        let found = module.kernels["test"].compile(&module).map(drop).unwrap_err();
        assert!(found.starts_with("kernel `test`: `") && found.contains(error), "{found}");
    }
}
