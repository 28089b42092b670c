#!/usr/bin/env bash
# Builds the emulated libcuda.so.1 and libcublas.so.12 and prints the folder that contains them.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-target}
cargo build --release --quiet -p emulated-cuda -p emulated-cublas >&2
folder=$target/emulated-gpu
mkdir -p "$folder"
# By rename: a program that has the old file open keeps it.
for pair in libcuda.so:libcuda.so.1 libcublas.so:libcublas.so.12; do
  copy=$(mktemp "$folder/${pair#*:}.XXXXXX")
  cp "$target/release/${pair%:*}" "$copy"
  chmod 755 "$copy"
  mv "$copy" "$folder/${pair#*:}"
done
cd "$folder" && pwd
