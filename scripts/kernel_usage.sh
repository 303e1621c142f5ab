#!/usr/bin/env bash
# Registers, shared memory and spills of every kernel for one card:
#
#   source ~/.cache/vft/cuda-13.0/env.sh && bash scripts/kernel_usage.sh [sm_80]
set -euo pipefail
cd "$(dirname "$0")/.."
arch="${1:-sm_80}" nvcc="${NVCC:-nvcc}"
command -v "$nvcc" > /dev/null || { echo "error: no nvcc: bash scripts/cuda-toolkit.sh, then source its env.sh" >&2; exit 2; }
said=$("$nvcc" -cubin -O3 -std=c++17 -Xptxas -v -arch="$arch" -o /dev/null src/kernels/kernels.cu 2>&1) ||
  { echo "$said" >&2; exit 1; }
sed -n "s/.*Compiling entry function '\([^']*\)'.*/\1/p; s/.*\(Used .*\)/  \1/p; s/ *\([0-9]* bytes stack frame.*\)/  \1/p" <<< "$said" |
  awk '/^[^ ]/ { name = $0; next } /stack frame/ { stack = $0; next } { printf "%-32s%s;%s\n", name, $0, stack }' | sort
