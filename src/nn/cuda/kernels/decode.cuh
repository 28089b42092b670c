// Attention of one new token per sequence over its cache of keys and values.

#pragma once
#include "common.cuh"

// A sequence: where its keys and values lie in the cache, as rows of `kv_heads width` numbers. The samples of a prompt share
// the prompt's part.
struct CachedSequence {
    int prompt, prompt_length;
    int own, own_length;
};

// Most query heads that read a key head.
#define MAX_GROUP 16
#define DECODE_WARPS 8

// Queries (sequences, heads width) -> (sequences, heads width). A block has a query head of a sequence, and a warp every
// eighth group of 32 positions; each lane scores one position. With a window, only the last positions count.
template <int WIDTHS>
__device__ __forceinline__ void decode_attention(
    const T *q, const T *cache_k, const T *cache_v, const CachedSequence *sequences, T *out, int heads, int group, int width, float factor,
    int window
) {
    __shared__ float query[WIDTHS * WARP], tops[DECODE_WARPS], totals[DECODE_WARPS], parts[DECODE_WARPS][WIDTHS * WARP];
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int head = blockIdx.y, kv_head = head / group;
    const size_t row = (size_t)(heads / group) * width;
    const CachedSequence sequence = sequences[blockIdx.x];
    const int length = sequence.prompt_length + sequence.own_length, first = window ? max(0, length - window) : 0;
    const size_t token = ((size_t)blockIdx.x * heads + head) * width;
    for (int i = threadIdx.x; i < width; i += blockDim.x) query[i] = to_float(q[token + i]) * factor;
    __syncthreads();
    float largest = -INFINITE, total = 0, sums[WIDTHS];
    for (int c = 0; c < WIDTHS; c++) sums[c] = 0;
    for (int start = first / WARP * WARP + warp * WARP; start < length; start += DECODE_WARPS * WARP) {
        const int position = start + lane;
        const bool inside = position >= first && position < length;
        const int at = position < sequence.prompt_length ? sequence.prompt + position
                                                         : sequence.own + position - sequence.prompt_length;
        const size_t place = position < length ? at * row + (size_t)kv_head * width : 0;
        float score = 0;
        if (inside) {
            if (width % 4 == 0) {
                for (int i = 0; i < width; i += 4) {
                    float key[4];
                    load4(cache_k + place + i, key);
                    for (int j = 0; j < 4; j++) score += query[i + j] * key[j];
                }
            } else {
                for (int i = 0; i < width; i++) score += query[i] * to_float(cache_k[place + i]);
            }
        } else {
            score = -INFINITE;
        }
        const float most = fmaxf(largest, warp_max(score));
        const float shrink = largest == -INFINITE ? 0 : expf(largest - most);
        const float weight = inside ? expf(score - most) : 0;
        total = total * shrink + warp_sum(weight);
        largest = most;
        for (int c = 0; c < WIDTHS; c++) sums[c] *= shrink;
        for (int j = 0; j < WARP && start + j < length; j++) {
            const float w = __shfl_sync(ALL, weight, j);
            const size_t from = __shfl_sync(ALL, (unsigned long long)place, j);
#pragma unroll
            for (int c = 0; c < WIDTHS; c++) {
                const int column = lane + c * WARP;
                if (column < width) sums[c] += w * to_float(cache_v[from + column]);
            }
        }
    }
    if (lane == 0) tops[warp] = largest, totals[warp] = total;
    for (int c = 0; c < WIDTHS; c++) parts[warp][lane + c * WARP] = sums[c];
    __syncthreads();
    float most = -INFINITE, sum = 0;
    for (int w = 0; w < DECODE_WARPS; w++) most = fmaxf(most, tops[w]);
    for (int w = 0; w < DECODE_WARPS; w++) sum += totals[w] > 0 ? totals[w] * expf(tops[w] - most) : 0;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        float value = 0;
        for (int w = 0; w < DECODE_WARPS; w++) value += totals[w] > 0 ? parts[w][i] * expf(tops[w] - most) : 0;
        out[token + i] = from_float<T>(value / sum);
    }
}

#define DECODE(WIDTHS) \
    KERNEL decode_attention_##WIDTHS( \
        const T *q, const T *cache_k, const T *cache_v, const CachedSequence *sequences, T *out, int heads, int group, int width, \
        float factor, int window \
    ) { \
        decode_attention<WIDTHS>(q, cache_k, cache_v, sequences, out, heads, group, width, factor, window); \
    }

DECODE(1)
DECODE(2)
DECODE(4)
DECODE(8)
