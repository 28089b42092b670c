//! Arithmetic on plain slices for the CPU. Knows no tensor, no tape and no model.
//!
//! What is promised: **the same bits whatever the number of threads, the batch an element sits in, or the machine**, as
//! long as the machine is an x86-64 with AVX2 and FMA, or any other with a fused multiply-add. It holds because
//! - an element of a matrix product is one chain of fused multiply-adds over the depth, in order ([`matmul`]);
//! - sums over a row go into [`LANES`] partial sums that are folded in a fixed order, however wide the registers are;
//! - `exp` and `erf` are polynomials of ours, and Rust never contracts `a * b + c` by itself;
//! - logarithms, sines and cosines are taken in `f64` from the platform and rounded to `f32`, which leaves its last
//!   bits no say but in the rarest case. This is the one place where another C library could show.
//!
//! Loops are vectorised by the compiler under `#[target_feature]`; the instruction set is chosen at run time.

pub(crate) mod attention;
pub(crate) mod elementwise;
pub(crate) mod head;
pub(crate) mod layer_norm;
pub(crate) mod math;
pub(crate) mod matmul;
pub(crate) mod rotary;

/// Partial sums per row sum.
pub(crate) const LANES: usize = 16;

/// Whether the machine has the instructions that the fast paths are compiled for.
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

/// Compiles a function twice, for AVX2 and for every machine, and chooses at run time. Both give the same bits.
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
                if $crate::nn::kernels::has_fma() {
                    // SAFETY: the instructions that `fast` is compiled for have just been seen to be there.
                    return unsafe { fast($($argument),*) };
                }
            }
            body($($argument),*)
        }
    };
}
pub(crate) use simd;
