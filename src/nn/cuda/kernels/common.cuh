// Types, conversions and sums over threads. Every kernel computes in `float`.

#pragma once

#define WARP 32
#define ALL 0xffffffffu
#define INFINITE __int_as_float(0x7f800000)
#define KERNEL extern "C" __global__ void

// The upper half of a float.
struct bf16 {
    unsigned short bits;
};

// The type of activations: of the inputs and outputs of matrix products.
#ifdef BF16
typedef bf16 T;
#else
typedef float T;
#endif

// Four numbers that are loaded or stored together.
template <class N> struct alignas(4 * sizeof(N)) Four {
    N at[4];
};

__device__ __forceinline__ float to_float(float x) { return x; }

__device__ __forceinline__ float to_float(bf16 x) { return __uint_as_float((unsigned)x.bits << 16); }

template <class N> __device__ __forceinline__ N from_float(float x);

template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }

#ifdef BF16
// To the nearest, ties to even.
template <> __device__ __forceinline__ bf16 from_float<bf16>(float x) {
    bf16 rounded;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(rounded.bits) : "f"(x));
    return rounded;
}
#endif

template <class N> __device__ __forceinline__ void load4(const N *from, float (&to)[4]) {
    const Four<N> four = *reinterpret_cast<const Four<N> *>(from);
    for (int i = 0; i < 4; i++) to[i] = to_float(four.at[i]);
}

template <class N> __device__ __forceinline__ void store4(N *to, const float (&from)[4]) {
    Four<N> four;
    for (int i = 0; i < 4; i++) four.at[i] = from_float<N>(from[i]);
    *reinterpret_cast<Four<N> *>(to) = four;
}

__device__ __forceinline__ float warp_max(float x) {
    for (int mask = WARP / 2; mask > 0; mask /= 2) x = fmaxf(x, __shfl_xor_sync(ALL, x, mask));
    return x;
}

template <class N> __device__ __forceinline__ N warp_sum(N x) {
    for (int mask = WARP / 2; mask > 0; mask /= 2) x += __shfl_xor_sync(ALL, x, mask);
    return x;
}

// The sum over all threads of a block, in every thread. Blocks have whole warps, `scratch` a number per warp.
template <class N> __device__ __forceinline__ N block_sum(N x, N *scratch) {
    x = warp_sum(x);
    if (blockDim.x == WARP) return x;
    __syncthreads();
    if (threadIdx.x % WARP == 0) scratch[threadIdx.x / WARP] = x;
    __syncthreads();
    return warp_sum(threadIdx.x % WARP < blockDim.x / WARP ? scratch[threadIdx.x % WARP] : N(0));
}

__device__ __forceinline__ float block_max(float x, float *scratch) {
    x = warp_max(x);
    if (blockDim.x == WARP) return x;
    __syncthreads();
    if (threadIdx.x % WARP == 0) scratch[threadIdx.x / WARP] = x;
    __syncthreads();
    return warp_max(threadIdx.x % WARP < blockDim.x / WARP ? scratch[threadIdx.x % WARP] : -INFINITE);
}

// The index of this thread in a one-dimensional grid.
__device__ __forceinline__ long long thread_index() { return (long long)blockIdx.x * blockDim.x + threadIdx.x; }
