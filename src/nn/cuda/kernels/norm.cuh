// RMSNorm (Zhang and Sennrich 2019) and LayerNorm (Ba et al. 2016), fused with the addition before them. A block has a row.

#pragma once
#include "common.cuh"

// sum = x + delta (without `delta`: sum is x, and not stored); y = (sum - mean) / deviation * (weight + offset) + bias. RMSNorm
// has no mean and no bias. `moments` receives mean and inverse deviation of every row. `width` is a row of y; a row of x may be cut
// into several of them.
template <class X, bool CENTERED>
__device__ __forceinline__ void norm_forward(
    const X *x, const T *delta, X *sum, const float *weight, const float *bias, T *y, float2 *moments, int width, float eps, float offset
) {
    __shared__ float scratch[WARP];
    const size_t start = (size_t)blockIdx.x * width;
    x += start, y += start;
    const bool vector = width % 4 == 0;
    if (delta) {
        delta += start, sum += start;
        if (vector) {
            for (int i = threadIdx.x * 4; i < width; i += blockDim.x * 4) {
                float a[4], b[4];
                load4(x + i, a), load4(delta + i, b);
                for (int j = 0; j < 4; j++) a[j] += b[j];
                store4(sum + i, a);
            }
        } else {
            for (int i = threadIdx.x; i < width; i += blockDim.x) {
                sum[i] = from_float<X>(to_float(x[i]) + to_float(delta[i]));
            }
        }
        // Below, every thread reads the numbers that it has stored.
        x = sum;
    }
    float total = 0, mean = 0;
    if (CENTERED) {
        if (vector) {
            for (int i = threadIdx.x * 4; i < width; i += blockDim.x * 4) {
                float a[4];
                load4(x + i, a);
                total += a[0] + a[1] + a[2] + a[3];
            }
        } else {
            for (int i = threadIdx.x; i < width; i += blockDim.x) total += to_float(x[i]);
        }
        mean = block_sum(total, scratch) / width;
    }
    float square = 0;
    if (vector) {
        for (int i = threadIdx.x * 4; i < width; i += blockDim.x * 4) {
            float a[4];
            load4(x + i, a);
            for (int j = 0; j < 4; j++) square += (a[j] - mean) * (a[j] - mean);
        }
    } else {
        for (int i = threadIdx.x; i < width; i += blockDim.x) {
            const float a = to_float(x[i]) - mean;
            square += a * a;
        }
    }
    const float inverse = 1 / sqrtf(block_sum(square, scratch) / width + eps);
    if (moments && threadIdx.x == 0) moments[blockIdx.x] = make_float2(mean, inverse);
    if (vector) {
        for (int i = threadIdx.x * 4; i < width; i += blockDim.x * 4) {
            float a[4], w[4], b[4] = {0, 0, 0, 0};
            load4(x + i, a), load4(weight + i, w);
            if (CENTERED) load4(bias + i, b);
            for (int j = 0; j < 4; j++) a[j] = (a[j] - mean) * inverse * (w[j] + offset) + b[j];
            store4(y + i, a);
        }
    } else {
        for (int i = threadIdx.x; i < width; i += blockDim.x) {
            const float a = (to_float(x[i]) - mean) * inverse * (weight[i] + offset);
            y[i] = from_float<T>(CENTERED ? a + bias[i] : a);
        }
    }
}

// The gradient by x, added to `dx` or stored in it, and per block the sums of the gradients by weight and bias over its rows
// in `partial`: (blocks, width), with a bias (blocks, 2 width). No `partial` for a frozen weight. With n = (x - mean) inverse
// and g = (weight + offset) dy: dx = inverse (g - mean(g) - n mean(g n)); RMSNorm has no mean(g).
template <class X, bool CENTERED>
__device__ __forceinline__ void norm_backward(
    const X *x, const float *weight, const float2 *moments, const T *dy, X *dx, int accumulate, float *partial, int rows, int width,
    float offset
) {
    __shared__ float scratch[WARP];
    extern __shared__ float sums[];
    const int kept = !partial ? 0 : CENTERED ? 2 * width : width;
    for (int i = threadIdx.x; i < kept; i += blockDim.x) sums[i] = 0;
    // Another thread clears the sums of the bias than adds to them.
    __syncthreads();
    for (int row = blockIdx.x; row < rows; row += gridDim.x) {
        const size_t start = (size_t)row * width;
        const float mean = moments[row].x, inverse = moments[row].y;
        float plain = 0, along = 0;
        for (int i = threadIdx.x; i < width; i += blockDim.x) {
            const float g = to_float(dy[start + i]), n = (to_float(x[start + i]) - mean) * inverse;
            // A thread always has the same columns.
            if (partial) sums[i] += g * n;
            if (partial && CENTERED) sums[width + i] += g;
            plain += g * (weight[i] + offset);
            along += g * (weight[i] + offset) * n;
        }
        along = block_sum(along, scratch) / width;
        plain = CENTERED ? block_sum(plain, scratch) / width : 0;
        for (int i = threadIdx.x; i < width; i += blockDim.x) {
            const float g = to_float(dy[start + i]) * (weight[i] + offset), n = (to_float(x[start + i]) - mean) * inverse;
            const float before = accumulate ? to_float(dx[start + i]) : 0;
            dx[start + i] = from_float<X>(before + inverse * (g - plain - n * along));
        }
    }
    for (int i = threadIdx.x; i < kept; i += blockDim.x) partial[(size_t)blockIdx.x * kept + i] = sums[i];
}

#define NORM(NAME, X, CENTERED) \
    KERNEL NAME##_forward( \
        const X *x, const T *delta, X *sum, const float *weight, const float *bias, T *y, float2 *moments, int width, float eps, \
        float offset \
    ) { \
        norm_forward<X, CENTERED>(x, delta, sum, weight, bias, y, moments, width, eps, offset); \
    } \
    KERNEL NAME##_backward( \
        const X *x, const float *weight, const float2 *moments, const T *dy, X *dx, int accumulate, float *partial, int rows, int width, \
        float offset \
    ) { \
        norm_backward<X, CENTERED>(x, weight, moments, dy, dx, accumulate, partial, rows, width, offset); \
    }

// Of the residual stream, and of activations (the norms of queries and keys).
NORM(rms_norm, float, false)
NORM(layer_norm, float, true)
NORM(rms_norm_inner, T, false)
NORM(layer_norm_inner, T, true)
