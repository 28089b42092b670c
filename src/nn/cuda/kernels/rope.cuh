// Rotary positions (Su et al. 2021), and the write to the cache of keys and values.

#pragma once
#include "common.cuh"

// Rotates every head of queries (n, heads width) and keys (n, kv_heads width) in place, by the angle of the token's position
// or, for gradients, by its negative (`sign`). A block has a token. With a cache, keys and values are also written to the
// token's place in it; places are rows of `kv_heads width` numbers, and none is negative. With a bias, which needs `cos` for queries and
// keys, what is rotated is the sum of a product and the bias instead, and rounded once; f32 products may be the results themselves.
KERNEL rope(
    T *q, T *k, T *v, const int *positions, const float *cos, const float *sin, float sign, int heads, int kv_heads, int width,
    T *cache_k, T *cache_v, const int *places, const float *q_bias, const float *k_bias, const float *v_bias,
    const float *q_product, const float *k_product, const float *v_product
) {
    const size_t token = blockIdx.x;
    const int half = width / 2, angles = cos ? (heads + kv_heads) * half : 0;
    for (int i = threadIdx.x; i < angles; i += blockDim.x) {
        const int j = i % half;
        const bool query = i / half < heads;
        const int head = i / half - (query ? 0 : heads);
        const size_t row = (token * (query ? heads : kv_heads) + head) * width;
        T *const x = (query ? q : k) + row;
        const size_t angle = (size_t)positions[token] * half + j;
        const float c = cos[angle], s = sin[angle] * sign;
        const float *const bias = query ? q_bias : k_bias;
        float a, b;
        if (bias) {
            const float *const product = (query ? q_product : k_product) + row;
            a = product[j] + bias[head * width + j];
            b = product[j + half] + bias[head * width + j + half];
        } else {
            a = to_float(x[j]), b = to_float(x[j + half]);
        }
        x[j] = from_float<T>(a * c - b * s);
        x[j + half] = from_float<T>(b * c + a * s);
    }
    const int size = kv_heads * width;
    for (int i = threadIdx.x; i < (v_bias ? size : 0); i += blockDim.x) {
        v[token * size + i] = from_float<T>(v_product[token * size + i] + v_bias[i]);
    }
    const long long place = places ? places[token] : -1;
    if (place < 0) return;
    __syncthreads();
    for (int i = threadIdx.x; i < size; i += blockDim.x) {
        cache_k[place * size + i] = k[token * size + i];
        cache_v[place * size + i] = v[token * size + i];
    }
}
