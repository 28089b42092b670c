// All kernels of a precision. Compiled twice: with `-DBF16`, activations and weights of matrices are bf16, else float.

#include "common.cuh"

#include "attention.cuh"
#ifdef BF16
#include "attention_bf16.cuh"
#endif
#include "decode.cuh"
#include "elementwise.cuh"
#include "gather.cuh"
#include "loss.cuh"
#include "norm.cuh"
#include "optimizer.cuh"
#include "rope.cuh"
#include "sample.cuh"
