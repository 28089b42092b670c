// Sampling from logits, as `infer/sample.rs` does it, with one block per sequence. The weights exp((logit - largest) / temperature)
// have the same bits as on the CPU. Their sums are integers, so they do not depend on the order of the threads.
//
// From the same logits and the same uniform number, the same token is sampled, unless the uniform number falls so close to the border
// between two tokens that a rounding decides:
// - the CPU sums all weights in f32, in chunks (relative error about 1e-7), where the sum is only a factor of the uniform number or of
//   top_p; its cumulative sums are f64 (about 1e-16);
// - here, each weight is rounded down to a multiple of 2^-44, and a weight below that is never sampled.

#pragma once
#include "common.cuh"

typedef unsigned long long Fixed;

#define SAMPLE_THREADS 1024
// Bits of a weight that are compared in a pass over the row: a bin per thread. A weight is at most 1, so it has 30 bits.
#define DIGIT 10
#define WEIGHT_BITS 30
// The weight 1. Sums of fewer than 2^20 weights fit into 64 bits.
#define ONE 17592186044416.0f

__device__ __forceinline__ Fixed to_fixed(float weight) { return __float2ull_rz(weight * ONE); }

// `exp` of `kernels/math.rs` for arguments of at most 0, to the last bit. 0 for NaN.
__device__ __forceinline__ float cpu_exp(float x) {
    if (!(x >= -87)) return 0;
    const float magic = 12582912.0f, shifted = __fmaf_rn(x, 1.44269504f, magic), n = __fsub_rn(shifted, magic);
    const float r = __fmaf_rn(n, 2.1219444e-4f, __fmaf_rn(n, -0.6933594f, x));
    float p = 1.9875691e-4f;
    p = __fmaf_rn(p, r, 1.3981999e-3f);
    p = __fmaf_rn(p, r, 8.333452e-3f);
    p = __fmaf_rn(p, r, 4.1665796e-2f);
    p = __fmaf_rn(p, r, 1.6666665e-1f);
    p = __fmaf_rn(p, r, 0.5f);
    const float y = __fadd_rn(__fmaf_rn(__fmul_rn(p, r), r, r), 1.0f);
    return __fmul_rn(y, __uint_as_float((__float_as_uint(shifted) << 23) + (127u << 23)));
}

// The order of the most likely tokens: by logit, then by the lower index. NaN comes last.
__device__ __forceinline__ Fixed rank(float logit, int index) {
    // Both zeros are equal.
    const unsigned bits = __float_as_uint(logit == 0 ? 0.0f : logit);
    const unsigned ordered = logit != logit ? 0 : bits >> 31 ? ~bits : bits | 0x80000000u;
    return (Fixed)ordered << 32 | ~(unsigned)index;
}

__device__ __forceinline__ float ranked_logit(Fixed rank) {
    const unsigned ordered = rank >> 32;
    return __uint_as_float(ordered >> 31 ? ordered & 0x7fffffffu : ~ordered);
}

__device__ __forceinline__ Fixed warp_max(Fixed x) {
    for (int mask = WARP / 2; mask > 0; mask /= 2) {
        const Fixed other = __shfl_xor_sync(ALL, x, mask);
        if (other > x) x = other;
    }
    return x;
}

__device__ __forceinline__ Fixed block_max(Fixed x, Fixed *scratch) {
    x = warp_max(x);
    __syncthreads();
    if (threadIdx.x % WARP == 0) scratch[threadIdx.x / WARP] = x;
    __syncthreads();
    return warp_max(scratch[threadIdx.x % WARP]);
}

// Shared memory of a block.
struct SampleScratch {
    Fixed warps[WARP];
    // The halves of a sum per bin: the GPU adds 32 bits faster than 64.
    unsigned low[SAMPLE_THREADS], high[SAMPLE_THREADS];
    unsigned bin;
    Fixed before;
};

// The first tokens in the order of descending weights and, for equal ones, of ascending indices: all tokens above `weight`, and `ties`
// tokens of this weight.
struct Prefix {
    unsigned weight; // The bits of a float.
    Fixed before;    // The sum of the values above.
    Fixed ties;
};

// The shortest prefix of which the sum of the values reaches `goal`, which is at least 1 and at most the sum of all. The value of a
// token is 1 with COUNT, else its weight.
template <bool COUNT>
__device__ __forceinline__ Prefix shortest_prefix(const float *weights, int vocab, Fixed goal, SampleScratch &scratch) {
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    Prefix prefix = {0, 0, 0};
    for (int shift = WEIGHT_BITS - DIGIT; shift >= 0; shift -= DIGIT) {
        scratch.low[threadIdx.x] = 0, scratch.high[threadIdx.x] = 0;
        __syncthreads();
        for (int i = threadIdx.x; i < vocab; i += SAMPLE_THREADS) {
            const unsigned bits = __float_as_uint(weights[i]);
            if (bits >> (shift + DIGIT) != prefix.weight >> (shift + DIGIT)) continue;
            const Fixed value = COUNT ? 1 : to_fixed(weights[i]);
            if (value == 0) continue;
            const unsigned bin = bits >> shift & (SAMPLE_THREADS - 1), low = (unsigned)value;
            const unsigned before = atomicAdd(&scratch.low[bin], low);
            const unsigned high = (unsigned)(value >> 32) + (before + low < before ? 1 : 0);
            if (high) atomicAdd(&scratch.high[bin], high);
        }
        __syncthreads();
        // The sums of the bins from the largest weights down to this thread's bin.
        const unsigned bin = SAMPLE_THREADS - 1 - threadIdx.x;
        const Fixed own = (Fixed)scratch.high[bin] << 32 | scratch.low[bin];
        Fixed through = own;
        for (int distance = 1; distance < WARP; distance *= 2) {
            const Fixed other = __shfl_up_sync(ALL, through, distance);
            if (lane >= distance) through += other;
        }
        if (lane == WARP - 1) scratch.warps[warp] = through;
        __syncthreads();
        through += prefix.before;
        for (int w = 0; w < warp; w++) through += scratch.warps[w];
        if (through >= goal && through - own < goal) scratch.bin = bin, scratch.before = through - own;
        __syncthreads();
        prefix.weight |= scratch.bin << shift, prefix.before = scratch.before;
    }
    const Fixed value = COUNT ? 1 : to_fixed(__uint_as_float(prefix.weight));
    prefix.ties = (goal - prefix.before + value - 1) / value;
    return prefix;
}

// The first index at which the sum of `value` over the indices up to it reaches `goal`, which is at least 1 and at most the sum of all.
template <class Value>
__device__ __forceinline__ int index_reaching(Value value, int vocab, Fixed goal, SampleScratch &scratch) {
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, warps = SAMPLE_THREADS / WARP;
    int start = 0, end = vocab;
    while (end - start > 1) {
        const int size = (end - start + warps - 1) / warps;
        Fixed sum = 0;
        for (int i = start + warp * size + lane; i < min(start + (warp + 1) * size, end); i += WARP) sum += value(i);
        sum = warp_sum(sum);
        __syncthreads();
        if (lane == 0) scratch.warps[warp] = sum;
        __syncthreads();
        int part = 0;
        while (part < warps - 1 && scratch.warps[part] < goal) goal -= scratch.warps[part], part++;
        start += part * size;
        end = min(start + size, end);
    }
    return start;
}

// The integer that a sum must reach to exceed `share` of `total`; at most `total`.
__device__ __forceinline__ Fixed exceeding(double share, Fixed total) {
    return min((Fixed)(share * (double)total) + 1, total);
}

// As `exceeding`, to reach it.
__device__ __forceinline__ Fixed reaching(double share, Fixed total) {
    return min(max((Fixed)ceil(share * (double)total), (Fixed)1), total);
}

// A token by its weight. `largest` is the largest logit. Overwrites the logits with the weights.
__device__ __forceinline__ int draw(
    float *logits, int vocab, float largest, double uniform, float factor, int top_k, double top_p, SampleScratch &scratch
) {
    const float shift = __fmul_rn(largest, factor);
    float *const weights = logits;
    Fixed total = 0;
    for (int i = threadIdx.x; i < vocab; i += SAMPLE_THREADS) {
        const float weight = cpu_exp(__fsub_rn(__fmul_rn(logits[i], factor), shift));
        weights[i] = weight;
        total += to_fixed(weight);
    }
    total = block_sum(total, scratch.warps);
    if (total == 0) return 0;
    if (top_k == 0 && top_p >= 1) {
        return index_reaching([=](int i) { return to_fixed(weights[i]); }, vocab, exceeding(uniform, total), scratch);
    }
    if (top_k > 0) {
        const Prefix kept = shortest_prefix<true>(weights, vocab, top_k, scratch);
        total = 0;
        for (int i = threadIdx.x; i < vocab; i += SAMPLE_THREADS) {
            if (__float_as_uint(weights[i]) > kept.weight) total += to_fixed(weights[i]);
        }
        total = block_sum(total, scratch.warps) + kept.ties * to_fixed(__uint_as_float(kept.weight));
    }
    if (top_p < 1) {
        const Prefix kept = shortest_prefix<false>(weights, vocab, reaching(top_p, total), scratch);
        total = kept.before + kept.ties * to_fixed(__uint_as_float(kept.weight));
    }
    const Prefix taken = shortest_prefix<false>(weights, vocab, exceeding(uniform, total), scratch);
    const auto equal = [=](int i) { return (Fixed)(__float_as_uint(weights[i]) == taken.weight ? 1 : 0); };
    return index_reaching(equal, vocab, taken.ties, scratch);
}

// Samples a token for each row of logits (n, vocab), which is overwritten. Row i belongs to the sequence in slot `slots[i]`. The token
// is stored in `tokens` by slot and in `sampled` by row. `used` has a bit per slot and token: logits of used tokens are multiplied by
// `penalty` or, if positive, divided by it; none: no penalty. `image_token` is not sampled; -1: none. `factor` is 1 / temperature; 0:
// the most likely token. `top_k` 0: all tokens; it is below the vocabulary's size.
extern "C" __global__ void __launch_bounds__(SAMPLE_THREADS) sample(
    float *logits, const double *uniforms, const int *slots, unsigned *used, int *tokens, int *sampled, int vocab, int image_token,
    float penalty, float factor, int top_k, double top_p
) {
    __shared__ SampleScratch scratch;
    const int slot = slots[blockIdx.x];
    logits += (size_t)blockIdx.x * vocab;
    unsigned *const mask = used ? used + (size_t)slot * ((vocab + 31) / 32) : nullptr;
    Fixed first = 0;
    for (int i = threadIdx.x; i < vocab; i += SAMPLE_THREADS) {
        float logit = logits[i];
        const bool penalized = mask && mask[i / 32] >> i % 32 & 1;
        if (penalized) logit = logit < 0 ? __fmul_rn(logit, penalty) : __fdiv_rn(logit, penalty);
        if (i == image_token) logit = -INFINITE;
        if (penalized || i == image_token) logits[i] = logit;
        first = max(first, rank(logit, i));
    }
    first = block_max(first, scratch.warps);
    int token = (int)~(unsigned)first;
    if (factor > 0) token = draw(logits, vocab, ranked_logit(first), uniforms[blockIdx.x], factor, top_k, top_p, scratch);
    if (threadIdx.x > 0) return;
    tokens[slot] = token, sampled[blockIdx.x] = token;
    if (mask) mask[token / 32] |= 1u << token % 32;
}

// Copies row `rows[i]` of the masks of prompts to that of slot `slots[i]`. A block has a sequence.
KERNEL start_masks(const unsigned *prompts, const int *rows, const int *slots, unsigned *used, int words) {
    prompts += (size_t)rows[blockIdx.x] * words, used += (size_t)slots[blockIdx.x] * words;
    for (int i = threadIdx.x; i < words; i += blockDim.x) used[i] = prompts[i];
}
