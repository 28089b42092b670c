// Attention within rows of different lengths, with an online softmax (Milakov and Gimelshein 2018), as in FlashAttention (Dao
// 2023): no matrix of scores is stored. Queries are (n, heads width), keys and values (n, kv_heads width).
//
// A block of four warps has 16 positions of a row (a tile); a warp has four of them. It goes through the other positions of the row by
// 32, one per lane. WIDTHS is the width of a head divided by 32, rounded up.

#pragma once
#include "common.cuh"

#define TILE 16
#define PER_WARP 4

// The keys of a query: from x to y, y excluded.
struct Keys {
    int x, y;
};

// Whether a query attends to a key of its row: within its range or, without ranges, all or those up to itself.
__device__ __forceinline__ bool attends(const Keys *ranges, int causal, int query, int key) {
    return ranges ? ranges[query].x <= key && key < ranges[query].y : !causal || key <= query;
}

// A tile: the start and the length of its row in tokens, and its first position in the row.
struct Tile {
    int start, length, first;
};

// Rows `first..` of a head into shared memory, as `count` rows of `stride` numbers; zeros beyond `length`.
__device__ __forceinline__ void load_rows(
    float *to, const T *from, int first, int length, int count, int head_width, int stride, size_t token_width
) {
    for (int i = threadIdx.x; i < count * head_width; i += blockDim.x) {
        const int row = i / head_width, column = i % head_width;
        to[row * stride + column] = first + row < length ? to_float(from[(first + row) * token_width + column]) : 0;
    }
}

// The products of this warp's rows of `a` with the lane's row of `b`.
__device__ __forceinline__ void products(const float *a, const float *b, int width, int stride, float (&out)[PER_WARP]) {
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    for (int r = 0; r < PER_WARP; r++) out[r] = 0;
    for (int i = 0; i < width; i++) {
        const float other = b[lane * stride + i];
        for (int r = 0; r < PER_WARP; r++) out[r] += a[(warp * PER_WARP + r) * stride + i] * other;
    }
}

// sums[r] += the rows of `values`, weighted by each lane's weight[r].
template <int WIDTHS>
__device__ __forceinline__ void add_weighted(
    float (&sums)[PER_WARP][WIDTHS], const float (&weight)[PER_WARP], const float *values, int width, int stride
) {
    const int lane = threadIdx.x % WARP;
    for (int j = 0; j < WARP; j++) {
        float w[PER_WARP];
        for (int r = 0; r < PER_WARP; r++) w[r] = __shfl_sync(ALL, weight[r], j);
#pragma unroll
        for (int c = 0; c < WIDTHS; c++) {
            const int column = lane + c * WARP;
            const float value = column < width ? values[j * stride + column] : 0;
            for (int r = 0; r < PER_WARP; r++) sums[r][c] += w[r] * value;
        }
    }
}

template <int WIDTHS>
__device__ __forceinline__ void attention_forward(
    const T *q, const T *k, const T *v, T *out, float *lse, const Tile *tiles, int heads, int group, int width, int causal, float factor,
    const Keys *ranges
) {
    extern __shared__ float shared[];
    const int stride = width | 1, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int head = blockIdx.y, kv_head = head / group, kv_heads = heads / group;
    const Tile tile = tiles[blockIdx.x];
    // Of this row.
    if (ranges) ranges += tile.start;
    const size_t query_width = (size_t)heads * width, key_width = (size_t)kv_heads * width;
    q += tile.start * query_width + head * width, out += tile.start * query_width + head * width;
    k += tile.start * key_width + kv_head * width, v += tile.start * key_width + kv_head * width;
    float *const queries = shared, *const keys = queries + TILE * stride, *const values = keys + WARP * stride;
    load_rows(queries, q, tile.first, tile.length, TILE, width, stride, query_width);
    float largest[PER_WARP], total[PER_WARP], sums[PER_WARP][WIDTHS];
    for (int r = 0; r < PER_WARP; r++) {
        largest[r] = -INFINITE, total[r] = 0;
        for (int c = 0; c < WIDTHS; c++) sums[r][c] = 0;
    }
    const int first = tile.first + warp * PER_WARP;
    // Ranges begin and end in the order of the queries.
    const int last = min(tile.length, tile.first + TILE) - 1;
    const int begin = ranges ? ranges[tile.first].x / WARP * WARP : 0;
    const int end = ranges ? ranges[last].y : causal ? last + 1 : tile.length;
    for (int start = begin; start < end; start += WARP) {
        __syncthreads();
        load_rows(keys, k, start, tile.length, WARP, width, stride, key_width);
        load_rows(values, v, start, tile.length, WARP, width, stride, key_width);
        __syncthreads();
        float score[PER_WARP];
        products(queries, keys, width, stride, score);
        for (int r = 0; r < PER_WARP; r++) {
            const bool seen = start + lane < tile.length && first + r <= last && attends(ranges, causal, first + r, start + lane);
            const float s = seen ? score[r] * factor : -INFINITE;
            const float most = fmaxf(largest[r], warp_max(s));
            // Without any position so far, both are minus infinity.
            const float shrink = largest[r] == -INFINITE ? 0 : expf(largest[r] - most);
            score[r] = seen ? expf(s - most) : 0;
            total[r] = total[r] * shrink + warp_sum(score[r]);
            largest[r] = most;
            for (int c = 0; c < WIDTHS; c++) sums[r][c] *= shrink;
        }
        add_weighted<WIDTHS>(sums, score, values, width, stride);
    }
    for (int r = 0; r < PER_WARP; r++) {
        const int position = first + r;
        if (position >= tile.length) continue;
#pragma unroll
        for (int c = 0; c < WIDTHS; c++) {
            const int column = lane + c * WARP;
            if (column < width) out[position * query_width + column] = from_float<T>(sums[r][c] / total[r]);
        }
        if (lse && lane == 0) lse[(size_t)(tile.start + position) * heads + head] = largest[r] + logf(total[r]);
    }
}

// The gradient by the queries. Stores sum(out dout) of every query and head in `delta`.
template <int WIDTHS>
__device__ __forceinline__ void attention_backward_queries(
    const T *q, const T *k, const T *v, const T *out, const float *lse, const T *dout, T *dq, float *delta, const Tile *tiles,
    int heads, int group, int width, int causal, float factor, const Keys *ranges
) {
    extern __shared__ float shared[];
    const int stride = width | 1, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int head = blockIdx.y, kv_head = head / group, kv_heads = heads / group;
    const Tile tile = tiles[blockIdx.x];
    // Of this row.
    if (ranges) ranges += tile.start;
    const size_t query_width = (size_t)heads * width, key_width = (size_t)kv_heads * width;
    const size_t at = tile.start * query_width + head * width;
    q += at, out += at, dout += at, dq += at;
    k += tile.start * key_width + kv_head * width, v += tile.start * key_width + kv_head * width;
    float *const queries = shared, *const gradients = queries + TILE * stride;
    float *const keys = gradients + TILE * stride, *const values = keys + WARP * stride;
    load_rows(queries, q, tile.first, tile.length, TILE, width, stride, query_width);
    load_rows(gradients, dout, tile.first, tile.length, TILE, width, stride, query_width);
    const int first = tile.first + warp * PER_WARP;
    float sums[PER_WARP][WIDTHS], along[PER_WARP], denominator[PER_WARP];
    for (int r = 0; r < PER_WARP; r++) {
        for (int c = 0; c < WIDTHS; c++) sums[r][c] = 0;
        const int position = first + r;
        float sum = 0;
        if (position < tile.length) {
            for (int i = lane; i < width; i += WARP) {
                sum += to_float(out[position * query_width + i]) * to_float(dout[position * query_width + i]);
            }
        }
        along[r] = warp_sum(sum);
        const size_t index = (size_t)(tile.start + position) * heads + head;
        denominator[r] = position < tile.length ? lse[index] : 0;
        if (position < tile.length && lane == 0) delta[index] = along[r];
    }
    // Ranges begin and end in the order of the queries.
    const int last = min(tile.length, tile.first + TILE) - 1;
    const int begin = ranges ? ranges[tile.first].x / WARP * WARP : 0;
    const int end = ranges ? ranges[last].y : causal ? last + 1 : tile.length;
    for (int start = begin; start < end; start += WARP) {
        __syncthreads();
        load_rows(keys, k, start, tile.length, WARP, width, stride, key_width);
        load_rows(values, v, start, tile.length, WARP, width, stride, key_width);
        __syncthreads();
        float score[PER_WARP], slope[PER_WARP];
        products(queries, keys, width, stride, score);
        products(gradients, values, width, stride, slope);
        for (int r = 0; r < PER_WARP; r++) {
            const bool seen = first + r <= last && start + lane < tile.length && attends(ranges, causal, first + r, start + lane);
            slope[r] = seen ? expf(score[r] * factor - denominator[r]) * (slope[r] - along[r]) * factor : 0;
        }
        add_weighted<WIDTHS>(sums, slope, keys, width, stride);
    }
    for (int r = 0; r < PER_WARP; r++) {
        if (first + r >= tile.length) continue;
#pragma unroll
        for (int c = 0; c < WIDTHS; c++) {
            const int column = lane + c * WARP;
            if (column < width) dq[(first + r) * query_width + column] = from_float<T>(sums[r][c]);
        }
    }
}

// The gradients by keys and values: a tile of keys goes through the queries of all heads that read it.
template <int WIDTHS>
__device__ __forceinline__ void attention_backward_keys(
    const T *q, const T *k, const T *v, const float *lse, const T *dout, const float *delta, T *dk, T *dv, const Tile *tiles,
    int heads, int group, int width, int causal, float factor, const Keys *ranges
) {
    extern __shared__ float shared[];
    const int stride = width | 1, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int kv_head = blockIdx.y, kv_heads = heads / group;
    const Tile tile = tiles[blockIdx.x];
    // Of this row.
    if (ranges) ranges += tile.start;
    const size_t query_width = (size_t)heads * width, key_width = (size_t)kv_heads * width;
    const size_t at = tile.start * key_width + kv_head * width;
    k += at, v += at, dk += at, dv += at;
    float *const keys = shared, *const values = keys + TILE * stride;
    float *const queries = values + TILE * stride, *const gradients = queries + WARP * stride;
    load_rows(keys, k, tile.first, tile.length, TILE, width, stride, key_width);
    load_rows(values, v, tile.first, tile.length, TILE, width, stride, key_width);
    const int first = tile.first + warp * PER_WARP;
    float key_sums[PER_WARP][WIDTHS], value_sums[PER_WARP][WIDTHS];
    for (int r = 0; r < PER_WARP; r++) {
        for (int c = 0; c < WIDTHS; c++) key_sums[r][c] = value_sums[r][c] = 0;
    }
    for (int head = kv_head * group; head < (kv_head + 1) * group; head++) {
        const size_t column = tile.start * query_width + head * width;
        for (int start = causal && !ranges ? tile.first / WARP * WARP : 0; start < tile.length; start += WARP) {
            if (ranges && ranges[min(start + WARP, tile.length) - 1].y <= tile.first) continue;
            if (ranges && ranges[start].x >= tile.first + TILE) break;
            __syncthreads();
            load_rows(queries, q + column, start, tile.length, WARP, width, stride, query_width);
            load_rows(gradients, dout + column, start, tile.length, WARP, width, stride, query_width);
            __syncthreads();
            const size_t index = (size_t)(tile.start + start + lane) * heads + head;
            const bool inside = start + lane < tile.length;
            const float denominator = inside ? lse[index] : 0, along = inside ? delta[index] : 0;
            float weight[PER_WARP], slope[PER_WARP];
            products(keys, queries, width, stride, weight);
            products(values, gradients, width, stride, slope);
            for (int r = 0; r < PER_WARP; r++) {
                const bool seen = inside && first + r < tile.length && attends(ranges, causal, start + lane, first + r);
                weight[r] = seen ? expf(weight[r] * factor - denominator) : 0;
                slope[r] = weight[r] * (slope[r] - along) * factor;
            }
            add_weighted<WIDTHS>(value_sums, weight, gradients, width, stride);
            add_weighted<WIDTHS>(key_sums, slope, queries, width, stride);
        }
    }
    for (int r = 0; r < PER_WARP; r++) {
        if (first + r >= tile.length) continue;
#pragma unroll
        for (int c = 0; c < WIDTHS; c++) {
            const int i = lane + c * WARP;
            if (i >= width) continue;
            dk[(first + r) * key_width + i] = from_float<T>(key_sums[r][c]);
            dv[(first + r) * key_width + i] = from_float<T>(value_sums[r][c]);
        }
    }
}

#define ATTENTION(WIDTHS) \
    KERNEL __launch_bounds__(128) attention_forward_##WIDTHS( \
        const T *q, const T *k, const T *v, T *out, float *lse, const Tile *tiles, int heads, int group, int width, int causal, \
        float factor, const Keys *ranges \
    ) { \
        attention_forward<WIDTHS>(q, k, v, out, lse, tiles, heads, group, width, causal, factor, ranges); \
    } \
    KERNEL attention_backward_queries_##WIDTHS( \
        const T *q, const T *k, const T *v, const T *out, const float *lse, const T *dout, T *dq, float *delta, const Tile *tiles, \
        int heads, int group, int width, int causal, float factor, const Keys *ranges \
    ) { \
        attention_backward_queries<WIDTHS>(q, k, v, out, lse, dout, dq, delta, tiles, heads, group, width, causal, factor, ranges); \
    } \
    KERNEL __launch_bounds__(128) attention_backward_keys_##WIDTHS( \
        const T *q, const T *k, const T *v, const float *lse, const T *dout, const float *delta, T *dk, T *dv, const Tile *tiles, \
        int heads, int group, int width, int causal, float factor, const Keys *ranges \
    ) { \
        attention_backward_keys<WIDTHS>(q, k, v, lse, dout, delta, dk, dv, tiles, heads, group, width, causal, factor, ranges); \
    }

ATTENTION(1)
ATTENTION(2)
ATTENTION(4)
ATTENTION(8)
