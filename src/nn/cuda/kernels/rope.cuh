// Rotary positions (Su et al. 2021), and the write to the cache of keys and values.

#pragma once
#include "common.cuh"

// Rotates every head of queries (n, heads width) and keys (n, kv_heads width) in place, by the angle of the token's position
// or, for gradients, by its negative (`sign`). A block has a token. With a cache, keys and values are also written to the
// token's place in it; places are rows of `kv_heads width` numbers, and none is negative. Biases, if there are any, are added before;
// those of queries and keys need `cos`.
KERNEL rope(
    T *q, T *k, T *v, const int *positions, const float *cos, const float *sin, float sign, int heads, int kv_heads, int width,
    T *cache_k, T *cache_v, const int *places, const float *q_bias, const float *k_bias, const float *v_bias
) {
    const size_t token = blockIdx.x;
    const int half = width / 2, angles = cos ? (heads + kv_heads) * half : 0;
    for (int i = threadIdx.x; i < angles; i += blockDim.x) {
        const int head = i / half, j = i % half;
        T *const x = head < heads ? q + (token * heads + head) * width : k + (token * kv_heads + head - heads) * width;
        const size_t angle = (size_t)positions[token] * half + j;
        const float c = cos[angle], s = sin[angle] * sign;
        float a = to_float(x[j]), b = to_float(x[j + half]);
        const float *const bias = head < heads ? q_bias : k_bias;
        if (bias) {
            const int start = (head < heads ? head : head - heads) * width + j;
            a += bias[start], b += bias[start + half];
        }
        x[j] = from_float<T>(a * c - b * s);
        x[j + half] = from_float<T>(b * c + a * s);
    }
    const int size = kv_heads * width;
    for (int i = threadIdx.x; i < (v_bias ? size : 0); i += blockDim.x) {
        v[token * size + i] = from_float<T>(to_float(v[token * size + i]) + v_bias[i]);
    }
    const long long place = places ? places[token] : -1;
    if (place < 0) return;
    __syncthreads();
    for (int i = threadIdx.x; i < size; i += blockDim.x) {
        cache_k[place * size + i] = k[token * size + i];
        cache_v[place * size + i] = v[token * size + i];
    }
}
