//! Runtime choice of the instruction set, for loops that the compiler vectorizes.

#![allow(unsafe_code)]

/// Whether the machine has AVX2 and FMA, for which the fast paths are compiled.
#[inline]
pub(crate) fn has_fma() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// Whether the machine has AVX-512F, for which the innermost kernel is compiled too.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) fn has_avx512() -> bool {
    std::arch::is_x86_feature_detected!("avx512f")
}

/// Prefetches numbers that are read soon. The hardware prefetcher is too late for short runs that lie far apart.
#[inline]
pub(crate) fn prefetch(numbers: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    for line in numbers.chunks(64 / size_of::<f32>()) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch has no visible effect, and every x86-64 has the instruction.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = numbers;
}

/// Compiles a function twice, for AVX2 and FMA and for the baseline, and chooses at run time. Both give the same bits.
macro_rules! simd {
    ($(#[$attribute:meta])* pub(crate) fn $name:ident($($argument:ident : $type:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$attribute])*
        pub(crate) fn $name($($argument: $type),*) $(-> $result)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn body($($argument: $type),*) $(-> $result)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn fast($($argument: $type),*) $(-> $result)? { body($($argument),*) }
                if $crate::kernels::simd::has_fma() {
                    #[allow(unsafe_code)]
                    // SAFETY: `has_fma` has checked the instructions that `fast` is compiled for.
                    return unsafe { fast($($argument),*) };
                }
            }
            body($($argument),*)
        }
    };
}
pub(crate) use simd;
