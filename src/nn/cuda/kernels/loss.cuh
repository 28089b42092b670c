// Log-probabilities of targets from a chunk of logits, their sums, and their gradients.

#pragma once
#include "common.cuh"

// For each row of logits (n, v): the log-probability of its target, and the logarithm of the sum of exponentials. A block
// has a row.
KERNEL log_softmax(const float *logits, const int *targets, float *log_probs, float *lse, int v) {
    __shared__ float scratch[WARP];
    logits += (size_t)blockIdx.x * v;
    float largest = -INFINITE;
    for (int i = threadIdx.x; i < v; i += blockDim.x) largest = fmaxf(largest, logits[i]);
    largest = block_max(largest, scratch);
    float sum = 0;
    for (int i = threadIdx.x; i < v; i += blockDim.x) sum += expf(logits[i] - largest);
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) {
        const float log_sum = largest + logf(sum);
        lse[blockIdx.x] = log_sum;
        log_probs[blockIdx.x] = logits[targets[blockIdx.x]] - log_sum;
    }
}

// The gradient by the logits: (1[target] - softmax) times the gradient of the log-probability.
KERNEL log_softmax_backward(const float *logits, const int *targets, const float *lse, const float *dy, T *dlogits, int v) {
    const size_t start = (size_t)blockIdx.x * v;
    const float slope = dy[blockIdx.x], log_sum = lse[blockIdx.x];
    const int target = targets[blockIdx.x];
    for (int i = threadIdx.x; i < v; i += blockDim.x) {
        dlogits[start + i] = from_float<T>(slope * ((i == target ? 1.0f : 0.0f) - expf(logits[start + i] - log_sum)));
    }
}

// For each group of targets, which follow each other, the sum of factor x log-probability, and the sum of log-probabilities.
KERNEL sum_groups(const float *log_probs, const float *factors, const int *ends, double2 *sums) {
    __shared__ double scratch[WARP];
    const int start = blockIdx.x ? ends[blockIdx.x - 1] : 0, end = ends[blockIdx.x];
    double weighted = 0, plain = 0;
    for (int i = start + threadIdx.x; i < end; i += blockDim.x) {
        weighted += (double)factors[i] * log_probs[i];
        plain += log_probs[i];
    }
    weighted = block_sum(weighted, scratch);
    __syncthreads();
    plain = block_sum(plain, scratch);
    if (threadIdx.x == 0) sums[blockIdx.x] = make_double2(weighted, plain);
}

// The gradient by each log-probability, from those by the two sums of its group.
KERNEL spread_groups(const double2 *slopes, const float *factors, const int *ends, float *dy) {
    const int start = blockIdx.x ? ends[blockIdx.x - 1] : 0, end = ends[blockIdx.x];
    for (int i = start + threadIdx.x; i < end; i += blockDim.x) {
        dy[i] = (float)(slopes[blockIdx.x].x * factors[i] + slopes[blockIdx.x].y);
    }
}
