//! How the functions under NVIDIA's names are defined.

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr::null_mut;

use crate::state::{State, state};
use crate::status::{INVALID_CONTEXT, SUCCESS};

pub(crate) type Handle = *mut c_void;
pub(crate) type Address = u64;

/// Defines functions that return a status.
macro_rules! driver {
    ($(fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block)*) => { $(
        /// As NVIDIA documents it.
        ///
        /// # Safety
        /// Pointers must be as NVIDIA's function needs them.
        #[unsafe(no_mangle)]
        #[allow(clippy::too_many_arguments, clippy::not_unsafe_ptr_arg_deref, reason = "the signatures are NVIDIA's")]
        pub(crate) unsafe extern "C" fn $name($($argument: $type),*) -> std::ffi::c_uint {
            // SAFETY: the caller is responsible for the arguments.
            #[allow(unused_unsafe, reason = "some functions only return a number")]
            unsafe { $body }
        }
    )* };
}

thread_local! {
    /// The current context of the thread: that of a device.
    static CONTEXT: Cell<Handle> = const { Cell::new(null_mut()) };
}

const FIRST_CONTEXT: usize = 0x1000;

pub(crate) fn context_of(device: i32) -> Handle {
    (FIRST_CONTEXT + device as usize) as Handle
}

pub(crate) fn current_context() -> Handle {
    CONTEXT.get()
}

pub(crate) fn set_context(context: Handle) {
    CONTEXT.set(context);
}

/// The device of the current context.
pub(crate) fn current_device() -> Result<usize, u32> {
    (CONTEXT.get() as usize).checked_sub(FIRST_CONTEXT).ok_or(INVALID_CONTEXT)
}

/// Runs a function unless the context is lost, and returns its status.
pub(crate) fn with(work: impl FnOnce(&mut State) -> Result<(), u32>) -> u32 {
    let mut state = state();
    match state.broken {
        Some(status) => status,
        None => work(&mut state).err().unwrap_or(SUCCESS),
    }
}
