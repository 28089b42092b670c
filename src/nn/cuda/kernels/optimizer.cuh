// AdamW (Loshchilov and Hutter 2019) and the global norm of the gradients, over all parameters in one launch each.

#pragma once
#include "common.cuh"

// A trainable parameter. `weights` is what products read; `master` is the same or, for bf16, its float original.
struct Parameter {
    void *weights;
    float *master, *gradient, *first, *second;
    long long count;
    // Learning rate and decay, relative to the step's.
    float rate, decay;
    // Whether `weights` are T; else they are the master weights.
    int rounded;
    int unused;
};

// A block's part of a parameter.
struct Piece {
    int parameter;
    int unused;
    long long start;
};

#define PIECE (1 << 15)

KERNEL sum_of_squares(const Parameter *parameters, const Piece *pieces, double *partial) {
    __shared__ double scratch[WARP];
    const Piece piece = pieces[blockIdx.x];
    const Parameter &parameter = parameters[piece.parameter];
    const long long end = min(piece.start + PIECE, parameter.count);
    double sum = 0;
    for (long long i = piece.start + threadIdx.x; i < end; i += blockDim.x) {
        const float g = parameter.gradient[i];
        sum += (double)g * g;
    }
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// One block.
KERNEL total(const double *partial, double *sum, int count) {
    __shared__ double scratch[WARP];
    double own = 0;
    for (int i = threadIdx.x; i < count; i += blockDim.x) own += partial[i];
    own = block_sum(own, scratch);
    if (threadIdx.x == 0) *sum = own;
}

// `scale` clips the gradients. `rate` is divided by the first moment's bias correction, `correction` is that of the second
// moment; `decayed` is the step's learning rate.
KERNEL adamw(
    const Parameter *parameters, const Piece *pieces, float scale, float beta1, float beta2, float rate, float decayed,
    float correction, float eps
) {
    const Piece piece = pieces[blockIdx.x];
    const Parameter &parameter = parameters[piece.parameter];
    const long long end = min(piece.start + PIECE, parameter.count);
    const float own_rate = rate * parameter.rate, keep = 1 - decayed * parameter.rate * parameter.decay;
    T *const rounded = parameter.rounded ? (T *)parameter.weights : nullptr;
    for (long long i = piece.start + threadIdx.x; i < end; i += blockDim.x) {
        const float g = parameter.gradient[i] * scale;
        const float m = parameter.first[i] * beta1 + g * (1 - beta1);
        const float v = parameter.second[i] * beta2 + g * g * (1 - beta2);
        const float w = parameter.master[i] * keep - own_rate * m / (sqrtf(v * correction) + eps);
        parameter.first[i] = m, parameter.second[i] = v, parameter.master[i] = w;
        if (rounded) rounded[i] = from_float<T>(w);
    }
}
