#!/usr/bin/env bash
# Runs a command in an environment that builds ablate for NVIDIA GPUs:
#
#   src/nn/cuda/with-toolkit.sh cargo build --release --features cuda
#
# It uses the CUDA compiler (nvcc, 11.8 or newer) in CUDA_PATH, PATH or /usr/local/cuda. If there is none, it downloads one
# from PyPI (105 MB, once) into target/cuda-toolkit or ABLATE_CUDA_TOOLKIT. It needs g++, and for the download python3 with
# pip on x86-64 Linux. It needs neither root nor a GPU.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[ $# -gt 0 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
dir=${ABLATE_CUDA_TOOLKIT:-$here/../../../target/cuda-toolkit}
mkdir -p "$dir/bin" "$dir/include"
dir=$(cd "$dir" && pwd)

# In a nested call, the environment is already set.
case ":$PATH:" in *":$dir/bin:"*) [ -x "$dir/bin/nvcc" ] && exec "$@" ;; esac

command -v g++ >/dev/null || { echo "with-toolkit: nvcc needs g++: install it" >&2; exit 1; }

# The first installed compiler that is new enough.
installed() {
  local nvcc version major minor
  for nvcc in "${CUDA_PATH:+$CUDA_PATH/bin/nvcc}" "${CUDA_HOME:+$CUDA_HOME/bin/nvcc}" "$(command -v nvcc)" /usr/local/cuda/bin/nvcc; do
    [ -x "$nvcc" ] && [ "$nvcc" != "$dir/bin/nvcc" ] || continue
    version=$("$nvcc" --version 2>/dev/null | sed -n 's/.*release \([0-9]*\)\.\([0-9]*\).*/\1 \2/p') || true
    read -r major minor <<<"${version:-0 0}"
    if [ "$major" -gt 11 ] || { [ "$major" -eq 11 ] && [ "$minor" -ge 8 ]; }; then
      echo "$nvcc"
      return
    fi
    echo "with-toolkit: $nvcc is from CUDA $major.$minor, but 11.8 is needed" >&2
  done
}

# Downloads the compiler of CUDA 13.0. The wheels of older versions lack nvcc.
fetch() {
  [ "$(cat "$dir/fetched" 2>/dev/null)" = 13.0.88 ] && return
  [ "$(uname -sm)" = "Linux x86_64" ] || { echo "with-toolkit: no nvcc found, and no download for $(uname -sm): install the CUDA toolkit" >&2; exit 1; }
  local wheels
  wheels=$(mktemp -d "$dir/wheels-XXXXXX")
  # shellcheck disable=SC2064 # expanded now, on purpose
  trap "rm -rf '$wheels'" EXIT
  python3 -m pip --version >/dev/null || { echo "with-toolkit: no nvcc found, and no python3 with pip for the download" >&2; exit 1; }
  cat >"$wheels/requirements.txt" <<'R'
nvidia-cuda-nvcc==13.0.88 --hash=sha256:56fe502eb77625a12f25172caa3cdddb4e4c8ba2c8c17dba44b164761b380f03
nvidia-cuda-crt==13.0.88 --hash=sha256:2c8043c7c9e02492716426e9919fc78d2c5b3b2a7a768a88e952676b08aa55a4
nvidia-nvvm==13.0.88 --hash=sha256:c5f41ffeb6466944a026dfa5317d7d85355c119bbec279205d22f1869d1054e0
nvidia-cuda-runtime==13.0.96 --hash=sha256:7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548
nvidia-cuda-cccl==13.0.85 --hash=sha256:e0da7ad981f3a8aff08241b5bfc1af868742a63e2762f53a5171c492ef242649
R
  echo "with-toolkit: downloading the CUDA 13.0 compiler into $dir (105 MB, once)" >&2
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
    --python-version 3.12 --implementation cp \
    --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux_2_27_x86_64 \
    --dest "$wheels" --requirement "$wheels/requirements.txt" >&2
  for wheel in "$wheels"/*.whl; do python3 -m zipfile -e "$wheel" "$dir"; done
  # Python does not restore the permissions in a zip file.
  chmod +x "$dir"/nvidia/cu13/bin/* "$dir"/nvidia/cu13/nvvm/bin/*
  rm -rf "$wheels"
  trap - EXIT
  echo 13.0.88 >"$dir/fetched"
}

nvcc=$(installed)
if [ -z "$nvcc" ]; then
  fetch
  nvcc=$dir/nvidia/cu13/bin/nvcc
fi

# dfdx's build script gets the compute capability from nvidia-smi, and checks that include/cuda.h exists. 7.5 is the oldest
# one that CUDA 11, 12 and 13 all support. The result also runs on newer GPUs.
cat >"$dir/bin/nvidia-smi" <<'S'
#!/bin/sh
printf 'compute_cap\n7.5\n'
S
: >"$dir/include/cuda.h"

# Below 8.0, dfdx defines two functions that newer toolkits also define.
cat >"$dir/include/dfdx_names.h" <<'S'
#include "cuda_fp16.h"
#if __CUDA_ARCH__ < 800
#define __hmax_nan dfdx_hmax_nan
#define __hmin_nan dfdx_hmin_nan
#endif
S

# A wrapper of nvcc for the build scripts. It sets the PTX version to 7.0, which suffices for these kernels and which drivers
# since 450 load. CUDA 13.0 would write 9.0, which needs driver 580.
cat >"$dir/bin/nvcc" <<S
#!/bin/sh
case " \$* " in
*" --ptx "*) ;;
*) exec "$nvcc" "\$@" ;;
esac
out=. before= last=
for argument in "\$@"; do
  [ "\$before" = --output-directory ] && out=\$argument
  before=\$argument last=\$argument
done
"$nvcc" -allow-unsupported-compiler -include "$dir/include/dfdx_names.h" "\$@" || exit
sed -i 's/^\.version .*/.version 7.0/' "\$out/\$(basename "\$last" .cu).ptx"
S
chmod +x "$dir/bin/nvcc" "$dir/bin/nvidia-smi"

export PATH="$dir/bin:$PATH" CUDA_PATH="$dir" CUDA_COMPUTE_CAP=75
exec "$@"
