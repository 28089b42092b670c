//! The program's allocator: large memory begins at a cache line, and work on foreign data is counted ([`charge`]).
//! Its settings of glibc are here too. `unsafe` is allowed here, each block with its proof.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};

use super::confined::charge;

/// The system's allocator, but that large memory begins with a cache line. By itself it begins 16 bytes behind one, and
/// then every second register that is read or written lies in two: a training step takes up to a tenth longer.
struct Lines;

#[global_allocator]
static ALLOCATOR: Lines = Lines;

impl Lines {
    const LINE: usize = 64;
    /// Bytes from which memory is large.
    const LARGE: usize = 2048;

    fn of(layout: Layout) -> Layout {
        if layout.size() < Self::LARGE { layout } else { layout.align_to(Self::LINE).unwrap_or(layout) }
    }
}

// SAFETY: all memory comes from the system's allocator and goes back to it with the layout that it was asked for with, which
// depends on the caller's layout only; its size is the caller's, and its alignment at least that. `charge` asks for no
// memory: it comes back, or its thread stays in it for ever.
unsafe impl GlobalAlloc for Lines {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        charge(layout.size());
        // SAFETY: the caller vouches for a size above 0, which stays.
        unsafe { System.alloc(Self::of(layout)) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        charge(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(Self::of(layout)) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller vouches that `memory` came from here with `layout`, so from there with that of the line.
        unsafe { System.dealloc(memory, Self::of(layout)) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        charge(size);
        let old = Self::of(layout);
        // SAFETY: the caller vouches for `memory` and `layout`, and that `size` is one that this alignment can have. What
        // is copied lies in both.
        unsafe {
            let new = Self::of(Layout::from_size_align_unchecked(size, layout.align()));
            if old.align() == new.align() {
                return System.realloc(memory, old, size);
            }
            let moved = System.alloc(new);
            if !moved.is_null() {
                moved.copy_from_nonoverlapping(memory, layout.size().min(size));
                System.dealloc(memory, old);
            }
            moved
        }
    }
}

/// Tells glibc to keep freed memory. By itself it hands every large buffer back to the kernel and asks for it anew, page by
/// page. What is much larger than a small model's buffers still goes back: else every training in a process leaves holes that
/// the next one does not fill, up to half as much memory again.
pub fn keep_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        unsafe extern "C" {
            fn mallopt(parameter: i32, value: i32) -> i32;
        }
        // From malloc.h.
        const TRIM_THRESHOLD: i32 = -1;
        const MMAP_THRESHOLD: i32 = -3;
        const ARENA_MAX: i32 = -8;
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| {
            for (parameter, value) in [(TRIM_THRESHOLD, i32::MAX), (MMAP_THRESHOLD, 1 << 18), (ARENA_MAX, 1)] {
                // SAFETY: `mallopt` only sets a number of the allocator; values that it does not like it refuses.
                unsafe { mallopt(parameter, value) };
            }
        });
    }
}
