// The kernels of dfdx's `reshape` of a permuted tensor: they copy numbers in row-major order from one strided layout to
// another. `info` has the sizes and strides of the input's axes, then those of the output's.

static __device__ unsigned offset(unsigned index, size_t axes, const size_t *sizes, const size_t *strides) {
    unsigned at = 0;
    for (size_t axis = axes; axis-- > 0;) {
        const unsigned size = sizes[axis];
        at += index % size * (unsigned)strides[axis];
        index /= size;
    }
    return at;
}

#define EACH(i) (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < count; i += blockDim.x * gridDim.x)

extern "C" __global__ void reshape_fwd(
    const size_t count,
    const size_t in_axes,
    const size_t out_axes,
    const size_t *info,
    const float *in,
    float *out
) {
    const size_t *out_info = info + 2 * in_axes;
    for EACH (i) {
        out[offset(i, out_axes, out_info, out_info + out_axes)] = in[offset(i, in_axes, info, info + in_axes)];
    }
}

extern "C" __global__ void reshape_bwd(
    const size_t count,
    const size_t in_axes,
    const size_t out_axes,
    const size_t *info,
    float *in_gradient,
    const float *out_gradient
) {
    const size_t *out_info = info + 2 * in_axes;
    for EACH (i) {
        // A broadcast axis has stride 0, so several may add to one.
        atomicAdd(
            in_gradient + offset(i, in_axes, info, info + in_axes),
            out_gradient[offset(i, out_axes, out_info, out_info + out_axes)]
        );
    }
}
