//! CUDA graphs: the work of a stream is recorded once and launched many times.

use std::collections::HashMap;
use std::ffi::{c_char, c_uint, c_ulonglong};
use std::sync::Arc;

use crate::abi::{Handle, with};
use crate::status::{CAPTURE_INVALIDATED, INVALID_HANDLE, INVALID_VALUE, SUCCESS};
use crate::work::Work;

/// A graph, and also one that can be launched: the handles of both point to it.
struct Graph {
    work: Arc<Vec<Work>>,
}

/// # Safety
/// The handle is null or that of a graph.
unsafe fn graph_of<'a>(handle: Handle) -> Result<&'a Graph, u32> {
    // SAFETY: the caller says so.
    unsafe { handle.cast::<Graph>().as_ref() }.ok_or(INVALID_HANDLE)
}

/// # Safety
/// As above; the handle is not used again.
unsafe fn destroy(handle: Handle) -> u32 {
    if handle.is_null() {
        return INVALID_HANDLE;
    }
    // SAFETY: the caller says so.
    drop(unsafe { Box::from_raw(handle.cast::<Graph>()) });
    SUCCESS
}

/// # Safety
/// As above.
unsafe fn instantiate(executable: &mut Handle, graph: Handle) -> u32 {
    // SAFETY: the caller says so.
    match unsafe { graph_of(graph) } {
        Ok(graph) => {
            *executable = Box::into_raw(Box::new(Graph { work: graph.work.clone() })).cast();
            SUCCESS
        }
        Err(status) => status,
    }
}

fn begin(handle: Handle) -> u32 {
    with(|state| {
        let stream = state.stream(handle)?;
        if stream < crate::streams::FIRST_CREATED || state.captures.streams.contains_key(&stream) {
            return Err(INVALID_VALUE);
        }
        state.captures.next += 1;
        let recording = state.captures.next;
        state.captures.streams.insert(stream, recording);
        state.captures.recordings.insert(recording, Vec::new());
        Ok(())
    })
}

driver! {
    fn cuStreamBeginCapture_v2(handle: Handle, _mode: c_uint) { begin(handle) }
    fn cuStreamEndCapture(handle: Handle, graph: *mut Handle) {
        with(|state| {
            let stream = state.stream(handle)?;
            let recording = *state.captures.streams.get(&stream).ok_or(INVALID_VALUE)?;
            let keep = |map: &mut HashMap<usize, usize>| map.retain(|_, other| *other != recording);
            keep(&mut state.captures.streams);
            keep(&mut state.captures.events);
            let work = state.captures.recordings.remove(&recording).ok_or(CAPTURE_INVALIDATED)?;
            *graph = Box::into_raw(Box::new(Graph { work: Arc::new(work) })).cast();
            Ok(())
        })
    }
    fn cuStreamIsCapturing(handle: Handle, status: *mut c_uint) {
        with(|state| {
            let stream = state.stream(handle)?;
            *status = c_uint::from(state.captures.streams.contains_key(&stream));
            Ok(())
        })
    }
    fn cuGraphInstantiateWithFlags(executable: *mut Handle, graph: Handle, _flags: c_ulonglong) {
        instantiate(&mut *executable, graph)
    }
    fn cuGraphInstantiate_v2(executable: *mut Handle, graph: Handle, _node: *mut Handle, _log: *mut c_char, _len: usize) {
        instantiate(&mut *executable, graph)
    }
    fn cuGraphGetNodes(graph: Handle, _nodes: *mut Handle, count: *mut usize) {
        match graph_of(graph) {
            Ok(graph) => { *count = graph.work.len(); SUCCESS }
            Err(status) => status,
        }
    }
    fn cuGraphUpload(_executable: Handle, _stream: Handle) { SUCCESS }
    fn cuGraphLaunch(executable: Handle, handle: Handle) {
        with(|state| {
            let work = graph_of(executable)?.work.clone();
            let stream = state.stream(handle)?;
            state.not_capturing(stream)?;
            state.count(|counts| counts.graph_launches += 1);
            work.iter().try_for_each(|work| state.perform(stream, work))
        })
    }
    fn cuGraphExecDestroy(executable: Handle) { destroy(executable) }
    fn cuGraphDestroy(graph: Handle) { destroy(graph) }
}
