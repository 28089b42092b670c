// Attention as in attention.cuh, for bf16 and heads whose width is a multiple of 16 up to 128, with tensor cores.
//
// A block of four warps has 64 positions of a row; a warp has 16 of them and goes through the other positions by 64 or 32.
// STEPS is the width of a head divided by 16. Fragments have the layout of `mma.m16n8k16` in PTX: with g = lane / 4 and
// t = lane % 4, a thread has of a 16 x 16 factor the rows g and g + 8 and the columns 2t, 2t + 1, 2t + 8, 2t + 9, and of the
// 16 x 8 result the columns 2t and 2t + 1 of both rows.

#pragma once
#include "attention.cuh"

#define WIDE_TILE 64
#define LOG2E 1.44269504f

// c += a b
__device__ __forceinline__ void mma(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Of a 16 x 16 matrix in shared memory, the second factors of two products: rows are summed over, columns 0 to 7 and 8 to 15.
__device__ __forceinline__ void load_transposed(unsigned (&b)[4], const bf16 *matrix, int stride) {
    const int lane = threadIdx.x % WARP;
    const bf16 *const row = matrix + (lane % 16) * stride + lane / 16 * 8;
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
                 : "r"((unsigned)__cvta_generic_to_shared(row)));
}

__device__ __forceinline__ unsigned pair_at(const bf16 *at) { return *reinterpret_cast<const unsigned *>(at); }

__device__ __forceinline__ unsigned pack(float low, float high) {
    unsigned pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

__device__ __forceinline__ float low(unsigned pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high(unsigned pair) { return __uint_as_float(pair & 0xffff0000u); }

__device__ __forceinline__ void store_pair(bf16 *at, float a, float b) { *reinterpret_cast<unsigned *>(at) = pack(a, b); }

// Rows `first..` of a head into shared memory: `ROWS` rows of `STRIDE` numbers, 16 bytes at a time; zeros beyond `length`.
template <int ROWS, int STEPS>
__device__ __forceinline__ void load_tile(bf16 *to, const bf16 *from, int first, int length, size_t token_width) {
    constexpr int PARTS = STEPS * 2, STRIDE = STEPS * 16 + 8;
    for (int i = threadIdx.x; i < ROWS * PARTS; i += blockDim.x) {
        const int row = i / PARTS, part = i % PARTS;
        const bf16 *const at = from + (first + row) * token_width + part * 8;
        const uint4 values = first + row < length ? *reinterpret_cast<const uint4 *>(at) : make_uint4(0, 0, 0, 0);
        *reinterpret_cast<uint4 *>(to + row * STRIDE + part * 8) = values;
    }
}

// The fragments of 16 rows of a matrix in global memory, from row `first` on; zeros beyond `length`.
template <int STEPS>
__device__ __forceinline__ void load_fragments(
    unsigned (&to)[STEPS][4], const bf16 *from, int first, int length, size_t token_width
) {
    const int g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
    for (int part = 0; part < 4; part++) {
        const int row = first + g + part % 2 * 8;
        const bf16 *const at = from + row * token_width + 2 * t + part / 2 * 8;
#pragma unroll
        for (int step = 0; step < STEPS; step++) to[step][part] = row < length ? pair_at(at + step * 16) : 0;
    }
}

// sums += a b^T for 16 rows `a` and the rows of `b` in shared memory, eight per product.
template <int STEPS, int COUNT>
__device__ __forceinline__ void multiply_rows(float (&sums)[COUNT][4], const unsigned (&a)[STEPS][4], const bf16 *b) {
    constexpr int STRIDE = STEPS * 16 + 8;
    const int g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
#pragma unroll
        for (int j = 0; j < COUNT; j++) {
            const bf16 *const at = b + (j * 8 + g) * STRIDE + step * 16 + 2 * t;
            mma(sums[j], a[step], pair_at(at), pair_at(at + 8));
        }
    }
}

// sums += weights b for weights (16, 8 COUNT), and as many rows of `b` in shared memory.
template <int STEPS, int COUNT>
__device__ __forceinline__ void add_rows(float (&sums)[2 * STEPS][4], const float (&weights)[COUNT][4], const bf16 *b) {
    constexpr int STRIDE = STEPS * 16 + 8;
#pragma unroll
    for (int j = 0; j < COUNT; j += 2) {
        const unsigned a[4] = {
            pack(weights[j][0], weights[j][1]), pack(weights[j][2], weights[j][3]), pack(weights[j + 1][0], weights[j + 1][1]),
            pack(weights[j + 1][2], weights[j + 1][3])
        };
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            unsigned factors[4];
            load_transposed(factors, b + j * 8 * STRIDE + step * 16, STRIDE);
            mma(sums[2 * step], a, factors[0], factors[1]);
            mma(sums[2 * step + 1], a, factors[2], factors[3]);
        }
    }
}

// The sum over the four threads that have a row.
__device__ __forceinline__ float row_sum(float x) {
    x += __shfl_xor_sync(ALL, x, 1);
    return x + __shfl_xor_sync(ALL, x, 2);
}

template <int STEPS>
__device__ __forceinline__ void wide_attention_forward(
    const bf16 *q, const bf16 *k, const bf16 *v, bf16 *out, float *lse, const Tile *tiles, int heads, int group, int causal, float factor
) {
    constexpr int WIDTH = STEPS * 16, STRIDE = WIDTH + 8, KEYS = 64;
    extern __shared__ __align__(16) bf16 tiles_in_shared[];
    bf16 *const keys = tiles_in_shared, *const values = keys + KEYS * STRIDE;
    const int warp = threadIdx.x / WARP, g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
    const int head = blockIdx.y, kv_head = head / group, kv_heads = heads / group;
    const Tile tile = tiles[blockIdx.x];
    const size_t query_width = (size_t)heads * WIDTH, key_width = (size_t)kv_heads * WIDTH;
    q += tile.start * query_width + head * WIDTH, out += tile.start * query_width + head * WIDTH;
    k += tile.start * key_width + kv_head * WIDTH, v += tile.start * key_width + kv_head * WIDTH;
    const int first = tile.first + warp * 16;
    unsigned queries[STEPS][4];
    load_fragments(queries, q, first, tile.length, query_width);
    float sums[2 * STEPS][4], largest[2] = {-INFINITE, -INFINITE}, total[2] = {0, 0};
    for (int n = 0; n < 2 * STEPS; n++) {
        for (int e = 0; e < 4; e++) sums[n][e] = 0;
    }
    const int end = causal ? min(tile.length, tile.first + WIDE_TILE) : tile.length;
    for (int start = 0; start < end; start += KEYS) {
        __syncthreads();
        load_tile<KEYS, STEPS>(keys, k, start, tile.length, key_width);
        load_tile<KEYS, STEPS>(values, v, start, tile.length, key_width);
        __syncthreads();
        if (causal && start > first + 15) continue;
        float scores[KEYS / 8][4] = {};
        multiply_rows(scores, queries, keys);
        float most[2] = {largest[0], largest[1]};
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++) {
            for (int e = 0; e < 4; e++) {
                const int key = start + j * 8 + 2 * t + e % 2;
                const bool seen = key < tile.length && (!causal || key <= first + g + e / 2 * 8);
                scores[j][e] = seen ? scores[j][e] * (factor * LOG2E) : -INFINITE;
                most[e / 2] = fmaxf(most[e / 2], scores[j][e]);
            }
        }
        float shrink[2];
        for (int r = 0; r < 2; r++) {
            most[r] = fmaxf(most[r], __shfl_xor_sync(ALL, most[r], 1));
            most[r] = fmaxf(most[r], __shfl_xor_sync(ALL, most[r], 2));
            shrink[r] = largest[r] == -INFINITE ? 0 : exp2f(largest[r] - most[r]);
            total[r] *= shrink[r];
            largest[r] = most[r];
        }
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++) {
            for (int e = 0; e < 4; e++) {
                scores[j][e] = scores[j][e] == -INFINITE ? 0 : exp2f(scores[j][e] - most[e / 2]);
                total[e / 2] += scores[j][e];
            }
        }
#pragma unroll
        for (int n = 0; n < 2 * STEPS; n++) {
            for (int e = 0; e < 4; e++) sums[n][e] *= shrink[e / 2];
        }
        add_rows<STEPS>(sums, scores, values);
    }
    for (int r = 0; r < 2; r++) {
        const int position = first + g + r * 8;
        const float sum = row_sum(total[r]);
        if (position >= tile.length) continue;
#pragma unroll
        for (int n = 0; n < 2 * STEPS; n++) {
            store_pair(out + position * query_width + n * 8 + 2 * t, sums[n][2 * r] / sum, sums[n][2 * r + 1] / sum);
        }
        if (lse && t == 0) lse[(size_t)(tile.start + position) * heads + head] = largest[r] / LOG2E + logf(sum);
    }
}

template <int STEPS>
__device__ __forceinline__ void wide_attention_backward_queries(
    const bf16 *q, const bf16 *k, const bf16 *v, const bf16 *out, const float *lse, const bf16 *dout, bf16 *dq, float *delta,
    const Tile *tiles, int heads, int group, int causal, float factor
) {
    constexpr int WIDTH = STEPS * 16, STRIDE = WIDTH + 8, KEYS = 32;
    extern __shared__ __align__(16) bf16 tiles_in_shared[];
    bf16 *const keys = tiles_in_shared, *const values = keys + KEYS * STRIDE;
    const int warp = threadIdx.x / WARP, g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
    const int head = blockIdx.y, kv_head = head / group, kv_heads = heads / group;
    const Tile tile = tiles[blockIdx.x];
    const size_t query_width = (size_t)heads * WIDTH, key_width = (size_t)kv_heads * WIDTH;
    const size_t column = tile.start * query_width + head * WIDTH;
    q += column, out += column, dout += column, dq += column;
    k += tile.start * key_width + kv_head * WIDTH, v += tile.start * key_width + kv_head * WIDTH;
    const int first = tile.first + warp * 16;
    unsigned queries[STEPS][4], gradients[STEPS][4];
    load_fragments(queries, q, first, tile.length, query_width);
    load_fragments(gradients, dout, first, tile.length, query_width);
    float along[2], denominator[2];
    for (int r = 0; r < 2; r++) {
        const int position = first + g + r * 8;
        float sum = 0;
        if (position < tile.length) {
#pragma unroll
            for (int step = 0; step < STEPS; step++) {
                for (int half = 0; half < 2; half++) {
                    const unsigned pair = pair_at(out + position * query_width + step * 16 + half * 8 + 2 * t);
                    const unsigned gradient = gradients[step][half * 2 + r];
                    sum += low(pair) * low(gradient) + high(pair) * high(gradient);
                }
            }
        }
        along[r] = row_sum(sum);
        const size_t index = (size_t)(tile.start + position) * heads + head;
        denominator[r] = position < tile.length ? lse[index] * LOG2E : 0;
        if (position < tile.length && t == 0) delta[index] = along[r];
    }
    float sums[2 * STEPS][4];
    for (int n = 0; n < 2 * STEPS; n++) {
        for (int e = 0; e < 4; e++) sums[n][e] = 0;
    }
    const int end = causal ? min(tile.length, tile.first + WIDE_TILE) : tile.length;
    for (int start = 0; start < end; start += KEYS) {
        __syncthreads();
        load_tile<KEYS, STEPS>(keys, k, start, tile.length, key_width);
        load_tile<KEYS, STEPS>(values, v, start, tile.length, key_width);
        __syncthreads();
        if (causal && start > first + 15) continue;
        float scores[KEYS / 8][4] = {}, slopes[KEYS / 8][4] = {};
        multiply_rows(scores, queries, keys);
        multiply_rows(slopes, gradients, values);
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++) {
            for (int e = 0; e < 4; e++) {
                const int key = start + j * 8 + 2 * t + e % 2, position = first + g + e / 2 * 8;
                const bool seen = position < tile.length && key < tile.length && (!causal || key <= position);
                const float weight = exp2f(scores[j][e] * (factor * LOG2E) - denominator[e / 2]);
                slopes[j][e] = seen ? weight * (slopes[j][e] - along[e / 2]) * factor : 0;
            }
        }
        add_rows<STEPS>(sums, slopes, keys);
    }
    for (int r = 0; r < 2; r++) {
        const int position = first + g + r * 8;
        if (position >= tile.length) continue;
#pragma unroll
        for (int n = 0; n < 2 * STEPS; n++) {
            store_pair(dq + position * query_width + n * 8 + 2 * t, sums[n][2 * r], sums[n][2 * r + 1]);
        }
    }
}

// sums += a b^T, with both factors in shared memory; `a` has 16 rows.
template <int STEPS, int COUNT>
__device__ __forceinline__ void multiply_shared(float (&sums)[COUNT][4], const bf16 *a, const bf16 *b) {
    constexpr int STRIDE = STEPS * 16 + 8;
    const int g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
        const bf16 *const row = a + g * STRIDE + step * 16 + 2 * t;
        const unsigned fragment[4] = {
            pair_at(row), pair_at(row + 8 * STRIDE), pair_at(row + 8), pair_at(row + 8 * STRIDE + 8)
        };
#pragma unroll
        for (int j = 0; j < COUNT; j++) {
            const bf16 *const at = b + (j * 8 + g) * STRIDE + step * 16 + 2 * t;
            mma(sums[j], fragment, pair_at(at), pair_at(at + 8));
        }
    }
}

template <int STEPS>
__device__ __forceinline__ void wide_attention_backward_keys(
    const bf16 *q, const bf16 *k, const bf16 *v, const float *lse, const bf16 *dout, const float *delta, bf16 *dk, bf16 *dv,
    const Tile *tiles, int heads, int group, int causal, float factor
) {
    constexpr int WIDTH = STEPS * 16, STRIDE = WIDTH + 8, QUERIES = 32;
    extern __shared__ __align__(16) bf16 tiles_in_shared[];
    __shared__ float denominators[QUERIES], alongs[QUERIES];
    bf16 *const keys = tiles_in_shared, *const values = keys + WIDE_TILE * STRIDE;
    bf16 *const queries = values + WIDE_TILE * STRIDE, *const gradients = queries + QUERIES * STRIDE;
    const int warp = threadIdx.x / WARP, g = threadIdx.x % WARP / 4, t = threadIdx.x % 4;
    const int kv_head = blockIdx.y, kv_heads = heads / group;
    const Tile tile = tiles[blockIdx.x];
    const size_t query_width = (size_t)heads * WIDTH, key_width = (size_t)kv_heads * WIDTH;
    const size_t own = tile.start * key_width + kv_head * WIDTH;
    k += own, v += own, dk += own, dv += own;
    load_tile<WIDE_TILE, STEPS>(keys, k, tile.first, tile.length, key_width);
    load_tile<WIDE_TILE, STEPS>(values, v, tile.first, tile.length, key_width);
    const int first = tile.first + warp * 16;
    float key_sums[2 * STEPS][4], value_sums[2 * STEPS][4];
    for (int n = 0; n < 2 * STEPS; n++) {
        for (int e = 0; e < 4; e++) key_sums[n][e] = value_sums[n][e] = 0;
    }
    for (int head = kv_head * group; head < (kv_head + 1) * group; head++) {
        const size_t column = tile.start * query_width + head * WIDTH;
        for (int start = causal ? tile.first / QUERIES * QUERIES : 0; start < tile.length; start += QUERIES) {
            __syncthreads();
            load_tile<QUERIES, STEPS>(queries, q + column, start, tile.length, query_width);
            load_tile<QUERIES, STEPS>(gradients, dout + column, start, tile.length, query_width);
            if (threadIdx.x < QUERIES) {
                const size_t index = (size_t)(tile.start + start + threadIdx.x) * heads + head;
                const bool inside = start + threadIdx.x < tile.length;
                denominators[threadIdx.x] = inside ? lse[index] * LOG2E : 0;
                alongs[threadIdx.x] = inside ? delta[index] : 0;
            }
            __syncthreads();
            if (causal && start + QUERIES <= first) continue;
            float weights[QUERIES / 8][4] = {}, slopes[QUERIES / 8][4] = {};
            multiply_shared<STEPS>(weights, keys + warp * 16 * STRIDE, queries);
            multiply_shared<STEPS>(slopes, values + warp * 16 * STRIDE, gradients);
#pragma unroll
            for (int j = 0; j < QUERIES / 8; j++) {
                for (int e = 0; e < 4; e++) {
                    const int at = j * 8 + 2 * t + e % 2, key = first + g + e / 2 * 8;
                    const bool seen = start + at < tile.length && key < tile.length && (!causal || key <= start + at);
                    weights[j][e] = seen ? exp2f(weights[j][e] * (factor * LOG2E) - denominators[at]) : 0;
                    slopes[j][e] = weights[j][e] * (slopes[j][e] - alongs[at]) * factor;
                }
            }
            add_rows<STEPS>(value_sums, weights, gradients);
            add_rows<STEPS>(key_sums, slopes, queries);
        }
    }
    for (int r = 0; r < 2; r++) {
        const int position = first + g + r * 8;
        if (position >= tile.length) continue;
#pragma unroll
        for (int n = 0; n < 2 * STEPS; n++) {
            const size_t at = position * key_width + n * 8 + 2 * t;
            store_pair(dk + at, key_sums[n][2 * r], key_sums[n][2 * r + 1]);
            store_pair(dv + at, value_sums[n][2 * r], value_sums[n][2 * r + 1]);
        }
    }
}

// The parameters of attention.cuh's kernels; the width is that of the name.
#define WIDE_ATTENTION(WIDTH) \
    KERNEL __launch_bounds__(128, 2) wide_attention_forward_##WIDTH( \
        const bf16 *q, const bf16 *k, const bf16 *v, bf16 *out, float *lse, const Tile *tiles, int heads, int group, int width, \
        int causal, float factor \
    ) { \
        wide_attention_forward<WIDTH / 16>(q, k, v, out, lse, tiles, heads, group, causal, factor); \
    } \
    KERNEL __launch_bounds__(128, 2) wide_attention_backward_queries_##WIDTH( \
        const bf16 *q, const bf16 *k, const bf16 *v, const bf16 *out, const float *lse, const bf16 *dout, bf16 *dq, float *delta, \
        const Tile *tiles, int heads, int group, int width, int causal, float factor \
    ) { \
        wide_attention_backward_queries<WIDTH / 16>(q, k, v, out, lse, dout, dq, delta, tiles, heads, group, causal, factor); \
    } \
    KERNEL __launch_bounds__(128, 2) wide_attention_backward_keys_##WIDTH( \
        const bf16 *q, const bf16 *k, const bf16 *v, const float *lse, const bf16 *dout, const float *delta, bf16 *dk, bf16 *dv, \
        const Tile *tiles, int heads, int group, int width, int causal, float factor \
    ) { \
        wide_attention_backward_keys<WIDTH / 16>(q, k, v, lse, dout, delta, dk, dv, tiles, heads, group, causal, factor); \
    }

WIDE_ATTENTION(16)
WIDE_ATTENTION(32)
WIDE_ATTENTION(48)
WIDE_ATTENTION(64)
WIDE_ATTENTION(80)
WIDE_ATTENTION(96)
WIDE_ATTENTION(112)
WIDE_ATTENTION(128)
