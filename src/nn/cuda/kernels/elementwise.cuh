// Operations on single elements, and sums over rows.

#pragma once
#include "common.cuh"

// The header of a loop over `count` elements, or fours of them, by all threads of a grid.
#define EACH(i, count) (long long i = thread_index(); i < (count); i += (long long)gridDim.x * blockDim.x)

#define ADD(NAME, A, B) \
    KERNEL NAME(const A *a, const B *b, float *y, long long count) { \
        for EACH (i, count) y[i] = to_float(a[i]) + to_float(b[i]); \
    }

ADD(add, float, float)
ADD(add_inner, float, T)
ADD(add_inner_both, T, T)

// y += x
KERNEL accumulate(float *y, const float *x, long long count) {
    for EACH (i, count) y[i] += x[i];
}

KERNEL accumulate_inner(T *y, const T *x, long long count) {
    for EACH (i, count) y[i] = from_float<T>(to_float(y[i]) + to_float(x[i]));
}

KERNEL to_inner(const float *x, T *y, long long count) {
    const long long fours = count / 4;
    for EACH (i, fours) {
        float a[4];
        load4(x + 4 * i, a);
        store4(y + 4 * i, a);
    }
    for (long long i = 4 * fours + thread_index(); i < count; i += (long long)gridDim.x * blockDim.x) {
        y[i] = from_float<T>(x[i]);
    }
}

KERNEL to_stream(const T *x, float *y, long long count) {
    for EACH (i, count) y[i] = to_float(x[i]);
}

// Adds a bias to every row. An f32 result may be `x` itself.
KERNEL add_bias(const float *x, const float *bias, T *y, long long count, int width) {
    for EACH (i, count) y[i] = from_float<T>(x[i] + bias[i % width]);
}

__device__ __forceinline__ float sigmoid(float x) { return 1 / (1 + expf(-x)); }

// silu(gate) * up (Shazeer 2020), four elements per thread.
KERNEL swiglu_forward(const T *gate, const T *up, T *y, long long count) {
    const long long fours = count / 4;
    for EACH (i, fours) {
        float g[4], u[4];
        load4(gate + 4 * i, g), load4(up + 4 * i, u);
        for (int j = 0; j < 4; j++) g[j] = g[j] * sigmoid(g[j]) * u[j];
        store4(y + 4 * i, g);
    }
    for (long long i = 4 * fours + thread_index(); i < count; i += (long long)gridDim.x * blockDim.x) {
        const float g = to_float(gate[i]);
        y[i] = from_float<T>(g * sigmoid(g) * to_float(up[i]));
    }
}

__device__ __forceinline__ void swiglu_gradient(float g, float u, float dy, float &dgate, float &dup) {
    const float s = sigmoid(g);
    dgate = dy * u * s * (1 + g * (1 - s));
    dup = dy * g * s;
}

KERNEL swiglu_backward(const T *gate, const T *up, const T *dy, T *dgate, T *dup, long long count) {
    const long long fours = count / 4;
    for EACH (i, fours) {
        float g[4], u[4], d[4];
        load4(gate + 4 * i, g), load4(up + 4 * i, u), load4(dy + 4 * i, d);
        for (int j = 0; j < 4; j++) swiglu_gradient(g[j], u[j], d[j], g[j], u[j]);
        store4(dgate + 4 * i, g), store4(dup + 4 * i, u);
    }
    for (long long i = 4 * fours + thread_index(); i < count; i += (long long)gridDim.x * blockDim.x) {
        float g, u;
        swiglu_gradient(to_float(gate[i]), to_float(up[i]), to_float(dy[i]), g, u);
        dgate[i] = from_float<T>(g), dup[i] = from_float<T>(u);
    }
}

enum Activation { GELU, GELU_TANH, QUICK_GELU };

__device__ __forceinline__ float activation(int kind, float x) {
    if (kind == GELU) return 0.5f * x * (1 + erff(x * 0.70710678f));
    if (kind == QUICK_GELU) return x * sigmoid(1.702f * x);
    return 0.5f * x * (1 + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
}

__device__ __forceinline__ float activation_slope(int kind, float x) {
    if (kind == GELU) return 0.5f * (1 + erff(x * 0.70710678f)) + x * 0.39894228f * expf(-0.5f * x * x);
    if (kind == QUICK_GELU) {
        const float s = sigmoid(1.702f * x);
        return s + 1.702f * x * s * (1 - s);
    }
    const float t = tanhf(0.79788456f * (x + 0.044715f * x * x * x));
    return 0.5f * (1 + t) + 0.5f * x * (1 - t * t) * 0.79788456f * (1 + 3 * 0.044715f * x * x);
}

// gelu(gate) * up with the tanh approximation (Shazeer 2020).
KERNEL geglu_forward(const T *gate, const T *up, T *y, long long count) {
    for EACH (i, count) y[i] = from_float<T>(activation(GELU_TANH, to_float(gate[i])) * to_float(up[i]));
}

KERNEL geglu_backward(const T *gate, const T *up, const T *dy, T *dgate, T *dup, long long count) {
    for EACH (i, count) {
        const float g = to_float(gate[i]), d = to_float(dy[i]);
        dgate[i] = from_float<T>(d * to_float(up[i]) * activation_slope(GELU_TANH, g));
        dup[i] = from_float<T>(d * activation(GELU_TANH, g));
    }
}

KERNEL activate_forward(const T *x, T *y, long long count, int kind) {
    for EACH (i, count) y[i] = from_float<T>(activation(kind, to_float(x[i])));
}

KERNEL activate_backward(const T *x, const T *dy, T *dx, long long count, int kind) {
    for EACH (i, count) dx[i] = from_float<T>(to_float(dy[i]) * activation_slope(kind, to_float(x[i])));
}

// Every row times a vector.
KERNEL scale_columns(const T *x, const float *scale, T *y, long long count, int width) {
    for EACH (i, count) y[i] = from_float<T>(to_float(x[i]) * scale[i % width]);
}

// Sums over rows in two kernels. The first: block (x, y) sums rows y, y + gridDim.y, ... of 32 columns -> (gridDim.y, width).
// With `factors`, each number is multiplied by one of them.
KERNEL column_sums(const T *x, const T *factors, float *partial, int rows, int width) {
    __shared__ float sums[8][WARP + 1];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, column = blockIdx.x * WARP + lane;
    float sum = 0;
    if (column < width) {
        for (int row = blockIdx.y * 8 + warp; row < rows; row += gridDim.y * 8) {
            const size_t at = (size_t)row * width + column;
            sum += factors ? to_float(x[at]) * to_float(factors[at]) : to_float(x[at]);
        }
    }
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && column < width) {
        for (int other = 1; other < 8; other++) sum += sums[other][lane];
        partial[(size_t)blockIdx.y * width + column] = sum;
    }
}

// The second: y (+)= the sum of `rows` rows of `stride` numbers, in order.
KERNEL sum_rows(const float *partial, float *y, int rows, int width, int stride, int accumulate) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= width) return;
    float sum = accumulate ? y[column] : 0;
    for (int row = 0; row < rows; row++) sum += partial[(size_t)row * stride + column];
    y[column] = sum;
}

// x times 0 or 1 / (1 - dropout), decided by the word of a ChaCha8 stream (as rand_chacha's): of the segment's key, the word
// that the segment begins with, plus the element's index in the segment. A segment is a range of rows, in order.
struct DropoutSegment {
    unsigned key[8];
    unsigned long long word;
    long long start, end;
};

__device__ __forceinline__ void quarter(unsigned &a, unsigned &b, unsigned &c, unsigned &d) {
    a += b, d ^= a, d = __funnelshift_l(d, d, 16);
    c += d, b ^= c, b = __funnelshift_l(b, b, 12);
    a += b, d ^= a, d = __funnelshift_l(d, d, 8);
    c += d, b ^= c, b = __funnelshift_l(b, b, 7);
}

// Thread (x, y) computes block x of the stream of segment y: 16 words.
KERNEL dropout(const T *x, T *y, const DropoutSegment *segments, unsigned long long below, float kept) {
    const DropoutSegment &segment = segments[blockIdx.y];
    const unsigned long long block = segment.word / 16 + thread_index();
    const long long first = (long long)(block * 16 - segment.word) + segment.start;
    if (first >= segment.end) return;
    unsigned in[16] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574}, s[16];
    for (int i = 0; i < 8; i++) in[4 + i] = segment.key[i];
    in[12] = (unsigned)block, in[13] = (unsigned)(block >> 32), in[14] = 0, in[15] = 0;
    for (int i = 0; i < 16; i++) s[i] = in[i];
    for (int round = 0; round < 4; round++) {
        quarter(s[0], s[4], s[8], s[12]), quarter(s[1], s[5], s[9], s[13]);
        quarter(s[2], s[6], s[10], s[14]), quarter(s[3], s[7], s[11], s[15]);
        quarter(s[0], s[5], s[10], s[15]), quarter(s[1], s[6], s[11], s[12]);
        quarter(s[2], s[7], s[8], s[13]), quarter(s[3], s[4], s[9], s[14]);
    }
    for (int i = 0; i < 16; i++) {
        const long long at = first + i;
        if (at < segment.start || at >= segment.end) continue;
        // The probability is compared as a number of 2^-32.
        y[at] = from_float<T>(s[i] + in[i] < below ? 0 : to_float(x[at]) * kept);
    }
}
