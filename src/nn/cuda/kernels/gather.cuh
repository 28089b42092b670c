// Copies of rows and columns by index, and their gradients.

#pragma once
#include "common.cuh"

// For each position `scale` times the row of a table (source >= 0), the newline (-1) or the feature row -2 - source. Position i has source i or, with
// `at`, source at[i]. A block has a position.
KERNEL embed(
    const T *table, const T *features, const float *newline, const int *sources, const int *at, float *y, float scale, int width
) {
    const int source = sources[at ? at[blockIdx.x] : blockIdx.x];
    y += (size_t)blockIdx.x * width;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        y[i] = source >= 0 ? to_float(table[(size_t)source * width + i]) * scale
            : source == -1 ? newline[i]
                           : to_float(features[(size_t)(-2 - source) * width + i]);
    }
}

// For each segment `factor` times the sum of some rows of dy, in order, added to a row of `y` or stored in it. `ends` has the end of
// each segment in `positions`.
template <class Y>
__device__ __forceinline__ void sum_segments(
    const float *dy, const int *positions, const int *ends, const int *rows, Y *y, int width, int accumulate, float factor
) {
    const int segment = blockIdx.x, start = segment ? ends[segment - 1] : 0, end = ends[segment];
    y += (size_t)rows[segment] * width;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        float sum = accumulate ? to_float(y[i]) : 0;
        for (int at = start; at < end; at++) sum += dy[(size_t)positions[at] * width + i] * factor;
        y[i] = from_float<Y>(sum);
    }
}

// Into gradients of weights, and of image features.
KERNEL add_segments(
    const float *dy, const int *positions, const int *ends, const int *rows, float *y, int width, int accumulate, float factor
) {
    sum_segments(dy, positions, ends, rows, y, width, accumulate, factor);
}

KERNEL add_segments_inner(
    const float *dy, const int *positions, const int *ends, const int *rows, T *y, int width, int accumulate, float factor
) {
    sum_segments(dy, positions, ends, rows, y, width, accumulate, factor);
}

// y[i] is `factor` times the sum of rows i count, ..., (i + 1) count - 1 of x. A block has a row of y.
KERNEL sum_consecutive_rows(const T *x, T *y, int count, float factor, int width) {
    x += (size_t)blockIdx.x * count * width, y += (size_t)blockIdx.x * width;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        float sum = 0;
        for (int row = 0; row < count; row++) sum += to_float(x[(size_t)row * width + i]);
        y[i] = from_float<T>(sum * factor);
    }
}

// Its gradient: row i is `factor` times row i / count of dy. A block has a row of dx.
KERNEL repeat_rows(const T *dy, T *dx, int count, float factor, int width) {
    dy += (size_t)(blockIdx.x / count) * width, dx += (size_t)blockIdx.x * width;
    for (int i = threadIdx.x; i < width; i += blockDim.x) dx[i] = from_float<T>(to_float(dy[i]) * factor);
}

// y = x and, for a position with a source, the feature row at[position]. A block has a position.
KERNEL add_features(const float *x, const T *features, const int *at, float *y, int width) {
    const int row = at[blockIdx.x];
    x += (size_t)blockIdx.x * width, y += (size_t)blockIdx.x * width;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        y[i] = row < 0 ? x[i] : x[i] + to_float(features[(size_t)row * width + i]);
    }
}

// y[i] is the sum of four rows of a table, each times a weight. A block has a row of y.
KERNEL embedding_bag(const T *table, const int *rows, const float *weights, float *y, int width) {
    rows += 4 * blockIdx.x, weights += 4 * blockIdx.x, y += (size_t)blockIdx.x * width;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        float sum = 0;
        for (int j = 0; j < 4; j++) sum += to_float(table[(size_t)rows[j] * width + i]) * weights[j];
        y[i] = sum;
    }
}

// The gradient of `embedding_bag`: to row rows[segment] of y adds the sum of some rows of dy, each times a weight, in order.
KERNEL add_weighted_segments(
    const float *dy, const int *positions, const float *weights, const int *ends, const int *rows, float *y, int width
) {
    const int segment = blockIdx.x, start = segment ? ends[segment - 1] : 0, end = ends[segment];
    y += (size_t)rows[segment] * width;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        float sum = y[i];
        for (int at = start; at < end; at++) sum += dy[(size_t)positions[at] * width + i] * weights[at];
        y[i] = sum;
    }
}

#define SELECT(NAME, X) \
    /* y[i] = x[indices[i]] */ \
    KERNEL select_rows##NAME(const X *x, const int *indices, X *y, int width) { \
        const X *const from = x + (size_t)indices[blockIdx.x] * width; \
        X *const to = y + (size_t)blockIdx.x * width; \
        for (int i = threadIdx.x; i < width; i += blockDim.x) to[i] = from[i]; \
    } \
    /* dx[i] (+)= dy[inverse[i]], or 0 if that is negative */ \
    KERNEL unselect_rows##NAME(const X *dy, const int *inverse, X *dx, int width, int accumulate) { \
        const int from = inverse[blockIdx.x]; \
        X *const to = dx + (size_t)blockIdx.x * width; \
        for (int i = threadIdx.x; i < width; i += blockDim.x) { \
            const float before = accumulate ? to_float(to[i]) : 0; \
            to[i] = from_float<X>(from < 0 ? before : before + to_float(dy[(size_t)from * width + i])); \
        } \
    }

SELECT(, float)
SELECT(_inner, T)

// Columns of `width` numbers from one matrix to another, whose rows have `from_stride` and `to_stride` numbers.
#define COPY_COLUMNS(NAME, X) \
    KERNEL NAME(const X *from, X *to, int from_stride, int to_stride, int width) { \
        from += (size_t)blockIdx.x * from_stride, to += (size_t)blockIdx.x * to_stride; \
        for (int i = threadIdx.x; i < width; i += blockDim.x) to[i] = from[i]; \
    }

COPY_COLUMNS(copy_columns, float)
COPY_COLUMNS(copy_columns_inner, T)
