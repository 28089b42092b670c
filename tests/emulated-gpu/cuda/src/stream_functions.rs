//! Streams and events.

use std::ffi::{c_int, c_uint};
use std::time::Instant;

use crate::abi::{Handle, current_device, with};
use crate::state::State;
use crate::status::{INVALID_HANDLE, INVALID_VALUE, SUCCESS};
use crate::streams::FIRST_CREATED;

/// The handles of the default stream besides null.
const LEGACY: usize = 1;
const PER_THREAD: usize = 2;
const NON_BLOCKING: c_uint = 1;

impl State {
    /// The stream of a handle.
    pub(crate) fn stream(&self, handle: Handle) -> Result<usize, u32> {
        match handle as usize {
            0 | LEGACY | PER_THREAD => current_device(),
            stream if stream >= FIRST_CREATED && self.streams.device(stream).is_some() => Ok(stream),
            _ => Err(INVALID_HANDLE),
        }
    }
}

fn create(handle: &mut Handle, flags: c_uint) -> u32 {
    with(|state| {
        *handle = state.streams.create(current_device()?, flags & NON_BLOCKING == 0) as Handle;
        Ok(())
    })
}

driver! {
    fn cuStreamCreate(handle: *mut Handle, flags: c_uint) { create(&mut *handle, flags) }
    fn cuStreamCreateWithPriority(handle: *mut Handle, flags: c_uint, _priority: c_int) { create(&mut *handle, flags) }
    fn cuStreamDestroy_v2(handle: Handle) {
        with(|state| if state.streams.destroy(handle as usize) { Ok(()) } else { Err(INVALID_HANDLE) })
    }
    fn cuStreamSynchronize(handle: Handle) {
        with(|state| {
            let stream = state.stream(handle)?;
            state.not_capturing(stream)?;
            state.count(|counts| counts.synchronizations += 1);
            state.streams.synchronize(stream);
            state.complete_copies();
            Ok(())
        })
    }
    fn cuStreamQuery(handle: Handle) {
        with(|state| {
            let stream = state.stream(handle)?;
            state.not_capturing(stream)?;
            state.streams.synchronize(stream);
            state.complete_copies();
            Ok(())
        })
    }
    fn cuStreamWaitEvent(handle: Handle, event: Handle, _flags: c_uint) {
        with(|state| {
            let stream = state.stream(handle)?;
            // A stream that waits for an event of a recording joins the recording.
            match state.captures.events.get(&(event as usize)) {
                Some(recording) => { state.captures.streams.insert(stream, *recording); }
                None => state.streams.wait(stream, event as usize),
            }
            Ok(())
        })
    }
    fn cuEventCreate(event: *mut Handle, _flags: c_uint) {
        *event = Box::into_raw(Box::new(0u8)).cast();
        SUCCESS
    }
    fn cuEventDestroy_v2(event: Handle) {
        if event.is_null() { return INVALID_HANDLE; }
        drop(Box::from_raw(event.cast::<u8>()));
        with(|state| { state.events.remove(&(event as usize)); Ok(()) })
    }
    fn cuEventRecord(event: Handle, handle: Handle) {
        with(|state| {
            let stream = state.stream(handle)?;
            if let Some(recording) = state.captures.streams.get(&stream) {
                state.captures.events.insert(event as usize, *recording);
            } else {
                state.captures.events.remove(&(event as usize));
                state.streams.record(event as usize, stream);
                state.events.insert(event as usize, Instant::now());
            }
            Ok(())
        })
    }
    fn cuEventSynchronize(event: Handle) {
        with(|state| {
            state.count(|counts| counts.synchronizations += 1);
            state.streams.synchronize_event(event as usize);
            state.complete_copies();
            Ok(())
        })
    }
    fn cuEventQuery(event: Handle) {
        with(|state| {
            state.streams.synchronize_event(event as usize);
            state.complete_copies();
            Ok(())
        })
    }
    fn cuEventElapsedTime(milliseconds: *mut f32, start: Handle, end: Handle) {
        with(|state| {
            let time = |event: Handle| state.events.get(&(event as usize)).ok_or(INVALID_VALUE);
            let elapsed = time(end)?.saturating_duration_since(*time(start)?);
            *milliseconds = elapsed.as_secs_f32() * 1e3;
            Ok(())
        })
    }
}
