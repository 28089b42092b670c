#!/usr/bin/env bash
# Runs the tests that need a GPU on the emulated one: `just test-gpu`. On a machine with a GPU, `tests/emulated-gpu/run.sh real` runs
# them on it; the checks of counts are skipped there.
set -euo pipefail
cd "$(dirname "$0")/../.."
cuda=src/nn/cuda/with-toolkit.sh

if [ "${1:-}" != real ]; then
  cargo test --release -p emulated-ptx -p emulated-cuda -p emulated-cublas
  ABLATE_CUDA_PATH=$(tests/emulated-gpu/build.sh | tail -1)
  export ABLATE_CUDA_PATH
fi
# The counts are those of a process, so its tests run one after the other.
$cuda cargo test --release --features cuda -- --ignored --test-threads=1 gpu_
if [ "${1:-}" != real ]; then
  # A missing barrier can go unnoticed while all warps of a block run together.
  for order in first last; do
    EMULATED_GPU_WARPS=$order $cuda cargo test --release --features cuda -- \
      --ignored --test-threads=1 gpu_attention gpu_logits gpu_fine_tuning gpu_sampling
  done
fi
