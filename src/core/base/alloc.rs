//! The program's allocator. It aligns large allocations to cache lines and counts the allocations of limited threads
//! ([`charge`]). It also sets glibc's options. `unsafe` is allowed here; each block has its proof.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};

use super::resource_limits::charge;

/// The system's allocator with large allocations aligned to cache lines. Without the alignment an allocation starts
/// 16 bytes after a cache line, every second vector register that is read or written spans two lines, and a training
/// step takes up to 10 % longer.
struct CacheLineAllocator;

#[global_allocator]
static ALLOCATOR: CacheLineAllocator = CacheLineAllocator;

impl CacheLineAllocator {
    const LINE_BYTES: usize = 64;
    /// Allocations of at least this many bytes are aligned.
    const ALIGNED_FROM: usize = 2048;

    fn aligned(layout: Layout) -> Layout {
        if layout.size() < Self::ALIGNED_FROM { layout } else { layout.align_to(Self::LINE_BYTES).unwrap_or(layout) }
    }
}

// SAFETY: all memory comes from the system's allocator and returns to it with the layout it was requested with. That
// layout depends on the caller's layout only: the same size, and at least the same alignment. `charge` allocates
// nothing; it either returns or never returns.
unsafe impl GlobalAlloc for CacheLineAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        charge(layout.size());
        // SAFETY: the caller guarantees a size above 0, and `aligned` does not change it.
        unsafe { System.alloc(Self::aligned(layout)) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        charge(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(Self::aligned(layout)) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller guarantees that `memory` was allocated here with `layout`, so by the system with the
        // aligned layout.
        unsafe { System.dealloc(memory, Self::aligned(layout)) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        charge(size);
        let old = Self::aligned(layout);
        // SAFETY: the caller guarantees `memory` and `layout`, and that `size` is valid for this alignment. The
        // copied range lies within both allocations.
        unsafe {
            let new = Self::aligned(Layout::from_size_align_unchecked(size, layout.align()));
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

/// Sets glibc's allocator to keep freed memory. By default it returns every large buffer to the kernel and requests
/// it again page by page. Buffers above 256 KiB are still returned; otherwise every training run in a process leaves
/// gaps that the next one does not fill, up to 50 % more memory.
pub fn keep_freed_memory() {
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
                // SAFETY: `mallopt` only sets a number of the allocator and rejects invalid values.
                unsafe { mallopt(parameter, value) };
            }
        });
    }
}
