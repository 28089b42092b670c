//! Tests of the driver through its functions.

use std::ffi::{CString, c_void};
use std::ptr::{null, null_mut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::abi::Handle;
use crate::device_functions::{cuCtxSetCurrent, cuDevicePrimaryCtxRetain};
use crate::exports::{emulated_gpu_counts, emulated_gpu_section};
use crate::graph_functions::{cuGraphInstantiateWithFlags, cuGraphLaunch, cuStreamBeginCapture_v2, cuStreamEndCapture};
use crate::memory_functions::{
    cuMemAlloc_v2, cuMemFree_v2, cuMemFreeHost, cuMemHostAlloc, cuMemcpyDtoH_v2, cuMemcpyDtoHAsync_v2, cuMemcpyHtoD_v2,
    cuMemcpyHtoDAsync_v2, cuMemsetD32Async,
};
use crate::module_functions::{cuFuncSetAttribute, cuLaunchKernel, cuModuleGetFunction, cuModuleLoadData};
use crate::state::state;
use crate::status::{ILLEGAL_ADDRESS, INVALID_PTX, INVALID_VALUE, NOT_FOUND, OUT_OF_MEMORY, SUCCESS};
use crate::stream_functions::{cuStreamCreate, cuStreamSynchronize};

const NON_BLOCKING: u32 = 1;

/// `out[i] = 2 * in[i]` for the threads of all blocks; `wrong` uses what is not supported.
const KERNELS: &str = "
.version 7.0
.target sm_75
.address_size 64
.extern .shared .align 16 .b8 dynamic[];
.visible .entry twice(.param .u64 in, .param .u64 out)
{
    .reg .b32 %r<5>;
    .reg .f32 %f<3>;
    .reg .b64 %rd<6>;
    ld.param.u64 %rd1, [in];
    ld.param.u64 %rd2, [out];
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %ntid.x;
    mov.u32 %r3, %tid.x;
    mad.lo.s32 %r4, %r1, %r2, %r3;
    mul.wide.u32 %rd3, %r4, 4;
    add.s64 %rd4, %rd1, %rd3;
    add.s64 %rd5, %rd2, %rd3;
    ld.global.f32 %f1, [%rd4];
    add.f32 %f2, %f1, %f1;
    st.global.f32 [%rd5], %f2;
    ret;
}
.visible .entry wrong()
{
    .reg .b32 %r<3>;
    tex.1d.v4.s32.s32 {%r1, %r1, %r1, %r1}, [%r2, {%r2}];
    ret;
}
";

/// A context of a test, which no other test uses at the same time.
struct Context {
    module: Handle,
    _lock: MutexGuard<'static, ()>,
}

fn context() -> Context {
    static LOCK: Mutex<()> = Mutex::new(());
    let lock = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    state().broken = None;
    let (mut context, mut module) = (null_mut(), null_mut());
    let text = CString::new(KERNELS).unwrap();
    // SAFETY: all pointers are valid, here and below.
    unsafe {
        assert_eq!(cuDevicePrimaryCtxRetain(&raw mut context, 0), SUCCESS);
        assert_eq!(cuCtxSetCurrent(context), SUCCESS);
        assert_eq!(cuModuleLoadData(&raw mut module, text.as_ptr().cast()), SUCCESS);
    }
    Context { module, _lock: lock }
}

impl Context {
    fn function(&self, name: &str) -> Handle {
        let mut function = null_mut();
        let name = CString::new(name).unwrap();
        // SAFETY: the pointers are valid.
        assert_eq!(unsafe { cuModuleGetFunction(&raw mut function, self.module, name.as_ptr()) }, SUCCESS);
        function
    }

    fn twice(&self, from: u64, to: u64, blocks: u32, shared: u32, stream: Handle) -> u32 {
        let (from, to) = (&raw const from, &raw const to);
        let mut params: [*mut c_void; 2] = [from.cast_mut().cast(), to.cast_mut().cast()];
        let function = self.function("twice");
        // SAFETY: the parameters are those of the kernel.
        unsafe { cuLaunchKernel(function, blocks, 1, 1, 32, 1, 1, shared, stream, params.as_mut_ptr(), null_mut()) }
    }
}

fn allocate(floats: usize) -> u64 {
    let mut address = 0;
    // SAFETY: the pointer is valid.
    assert_eq!(unsafe { cuMemAlloc_v2(&raw mut address, 4 * floats) }, SUCCESS);
    address
}

fn upload(to: u64, values: &[f32]) {
    // SAFETY: the pointer has as many bytes.
    assert_eq!(unsafe { cuMemcpyHtoD_v2(to, values.as_ptr().cast(), size_of_val(values)) }, SUCCESS);
}

fn download(from: u64, count: usize) -> Vec<f32> {
    let mut values = vec![0f32; count];
    // SAFETY: the pointer has as many bytes.
    assert_eq!(unsafe { cuMemcpyDtoH_v2(values.as_mut_ptr().cast(), from, 4 * count) }, SUCCESS);
    values
}

fn free(address: u64) {
    // SAFETY: the driver checks the address.
    assert_eq!(unsafe { cuMemFree_v2(address) }, SUCCESS);
}

fn stream() -> Handle {
    let mut stream = null_mut();
    // SAFETY: the pointer is valid.
    assert_eq!(unsafe { cuStreamCreate(&raw mut stream, NON_BLOCKING) }, SUCCESS);
    stream
}

fn synchronize(stream: Handle) {
    // SAFETY: the driver checks the handle.
    assert_eq!(unsafe { cuStreamSynchronize(stream) }, SUCCESS);
}

/// The counts of a section.
fn section(name: &str) -> serde_json::Value {
    // SAFETY: the buffer has the length.
    let bytes = unsafe {
        let len = emulated_gpu_counts(null_mut(), 0);
        let mut bytes = vec![0u8; len];
        assert_eq!(emulated_gpu_counts(bytes.as_mut_ptr().cast(), len), len);
        assert_eq!(bytes.pop(), Some(0));
        bytes
    };
    let counts: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    assert!(counts["all"]["launches"].as_u64() >= counts["sections"][name]["launches"].as_u64());
    counts["sections"][name].clone()
}

fn start_section(name: &str) {
    let name = CString::new(name).unwrap();
    // SAFETY: the name ends with a zero.
    unsafe { emulated_gpu_section(name.as_ptr()) };
}

#[test]
fn a_kernel_runs_and_is_counted_in_its_section() {
    let context = context();
    start_section("run");
    let (from, to) = (allocate(64), allocate(64));
    upload(from, &[1.5; 64]);
    assert_eq!(context.twice(from, to, 2, 0, null_mut()), SUCCESS);
    assert_eq!(download(to, 64), [3.0; 64]);
    free(from);
    // SAFETY: null ends the section.
    unsafe { emulated_gpu_section(null()) };
    free(to);
    let counts = section("run");
    assert_eq!(counts["launches"], 1);
    assert_eq!(counts["kernels"]["twice"]["threads"], 64);
    assert_eq!(counts["host_to_device"], serde_json::json!({"count": 1, "bytes": 256}));
    assert_eq!(counts["allocations"], serde_json::json!({"count": 2, "bytes": 512}));
    assert_eq!(
        (&counts["frees"], &counts["peak_bytes"], &counts["bytes_in_use"]),
        (&1.into(), &1024.into(), &512.into())
    );
    assert_eq!(counts["races"], serde_json::json!({}));
}

#[test]
fn new_memory_is_nan() {
    let _context = context();
    let memory = allocate(8);
    assert!(download(memory, 8).iter().all(|value| value.is_nan()));
    free(memory);
}

#[test]
fn an_access_outside_of_memory_breaks_the_context() {
    let context = context();
    start_section("outside");
    let (from, to) = (allocate(64), allocate(32));
    assert_eq!(context.twice(from, to, 2, 0, null_mut()), ILLEGAL_ADDRESS);
    // SAFETY: the driver checks the address.
    assert_eq!(unsafe { cuMemFree_v2(from) }, ILLEGAL_ADDRESS);
    let fault = section("outside")["faults"][0].as_str().unwrap().to_string();
    assert!(fault.contains("`twice`, block [1, 0, 0]: writes 4 bytes"), "{fault}");
    assert!(fault.contains("0 bytes behind the end of an allocation of 128 bytes"), "{fault}");
    state().broken = None;
    free(from);
    // Freed memory is no memory.
    assert_eq!(context.twice(from, to, 1, 0, null_mut()), ILLEGAL_ADDRESS);
    state().broken = None;
    free(to);
}

#[test]
fn two_streams_race_without_a_wait() {
    let context = context();
    let (from, to) = (allocate(32), allocate(32));
    upload(from, &[1.0; 32]);
    // SAFETY: the driver checks the handle.
    synchronize(null_mut());
    let (first, second) = (stream(), stream());
    for (name, waits, races) in [("no wait", false, 1), ("wait", true, 0)] {
        start_section(name);
        assert_eq!(context.twice(from, to, 1, 0, first), SUCCESS);
        if waits {
            synchronize(first);
        }
        assert_eq!(context.twice(from, to, 1, 0, second), SUCCESS);
        synchronize(second);
        synchronize(first);
        assert_eq!(section(name)["races"].as_object().unwrap().len(), races, "{name}");
    }
    free(from);
    free(to);
}

#[test]
fn a_copy_to_pinned_memory_is_complete_after_a_wait() {
    let _context = context();
    let (memory, stream) = (allocate(16), stream());
    let mut host: *mut c_void = null_mut();
    // SAFETY: all pointers have 64 bytes.
    unsafe {
        assert_eq!(cuMemHostAlloc(&raw mut host, 64, 0), SUCCESS);
        let host = host.cast::<f32>();
        assert_eq!(cuMemsetD32Async(memory, 2f32.to_bits(), 16, stream), SUCCESS);
        assert_eq!(cuMemcpyDtoHAsync_v2(host.cast(), memory, 64, stream), SUCCESS);
        assert!((0..16).all(|i| (*host.add(i)).is_nan()));
        synchronize(stream);
        assert!((0..16).all(|i| (*host.add(i)).to_bits() == 2f32.to_bits()));
        for (name, waits, races) in [("wait before write", true, 0), ("no wait before write", false, 1)] {
            start_section(name);
            host.write(1.0);
            assert_eq!(cuMemcpyHtoDAsync_v2(memory, host.cast(), 64, stream), SUCCESS);
            if waits {
                synchronize(stream);
            }
            host.write(2.0);
            synchronize(stream);
            assert_eq!(section(name)["races"].as_object().unwrap().len(), races, "{name}");
        }
        assert_eq!(cuMemFreeHost(host.cast()), SUCCESS);
    }
    free(memory);
}

#[test]
fn a_graph_repeats_recorded_work() {
    let context = context();
    let (from, to, stream) = (allocate(32), allocate(32), stream());
    let (mut graph, mut executable) = (null_mut(), null_mut());
    start_section("graph");
    // SAFETY: all pointers are valid.
    unsafe {
        assert_eq!(cuStreamBeginCapture_v2(stream, 0), SUCCESS);
        assert_eq!(context.twice(from, to, 1, 0, stream), SUCCESS);
        assert_eq!(context.twice(to, from, 1, 0, stream), SUCCESS);
        assert_eq!(cuStreamEndCapture(stream, &raw mut graph), SUCCESS);
        assert_eq!(section("graph")["launches"], 0);
        assert_eq!(cuGraphInstantiateWithFlags(&raw mut executable, graph, 0), SUCCESS);
    }
    upload(from, &[1.0; 32]);
    synchronize(null_mut());
    for _ in 0..3 {
        // SAFETY: the handles are valid.
        assert_eq!(unsafe { cuGraphLaunch(executable, stream) }, SUCCESS);
    }
    synchronize(stream);
    assert_eq!(download(from, 32), [64.0; 32]);
    let counts = section("graph");
    assert_eq!((&counts["graph_launches"], &counts["launches"]), (&3.into(), &6.into()));
    free(from);
    free(to);
}

#[test]
fn wrong_launches_are_refused() {
    let context = context();
    let (from, to) = (allocate(32), allocate(32));
    assert_eq!(context.twice(from, to, 0, 0, null_mut()), INVALID_VALUE);
    let too_much = 64 << 10;
    assert_eq!(context.twice(from, to, 1, too_much, null_mut()), INVALID_VALUE);
    // SAFETY: the handles are valid, and the kernel has no parameters.
    unsafe {
        assert_eq!(cuFuncSetAttribute(context.function("twice"), 8, too_much as i32), SUCCESS);
        assert_eq!(context.twice(from, to, 1, too_much, null_mut()), SUCCESS);
        assert_eq!(cuFuncSetAttribute(context.function("twice"), 8, 300 << 10), INVALID_VALUE);
        let mut function = null_mut();
        assert_eq!(cuModuleGetFunction(&raw mut function, context.module, c"absent".as_ptr()), NOT_FOUND);
        start_section("wrong");
        let wrong = context.function("wrong");
        assert_eq!(cuLaunchKernel(wrong, 1, 1, 1, 1, 1, 1, 0, null_mut(), null_mut(), null_mut()), INVALID_PTX);
        let fault = section("wrong")["faults"][0].as_str().unwrap().to_string();
        assert!(fault.starts_with("kernel `wrong`: `tex.1d.v4.s32.s32"), "{fault}");
        let mut address = 0;
        assert_eq!(cuMemAlloc_v2(&raw mut address, 9 << 30), OUT_OF_MEMORY);
    }
    free(from);
    free(to);
}
