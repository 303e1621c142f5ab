#!/usr/bin/env bash
# A CUDA 13.0 toolkit to compile and link with, from Python wheels: no GPU, no driver, no root, no NVIDIA repository.
# Needs python3 with venv, gcc and g++ 12 to 15, binutils, 1.3 GB of disk.
#
#   bash scripts/cuda-toolkit.sh [PREFIX]            (PREFIX: ~/.cache/vft/cuda-13.0)
#   source PREFIX/env.sh && cargo build --release --features cuda
set -euo pipefail
PREFIX=$(realpath -m "${1:-${XDG_CACHE_HOME:-$HOME/.cache}/vft/cuda-13.0}")
WHEELS=(
  nvidia-cuda-nvcc==13.0.88      # nvcc, cudafe++, ptxas, fatbinary
  nvidia-nvvm==13.0.88           # cicc and libdevice
  nvidia-cuda-crt==13.0.88       # include/crt
  nvidia-cuda-runtime==13.0.88   # cuda.h, cuda_runtime.h
  nvidia-cuda-cccl==13.0.85      # nv/target, which cuda_fp16.h and cuda_bf16.h include
)
# The toolkit is complete when this says what it was made of: an interrupted run is taken up again, a complete one is kept.
DONE="$PREFIX/made-of"
if [ -f "$DONE" ] && [ "$(cat "$DONE")" = "${WHEELS[*]}" ]; then
  echo "complete: source $PREFIX/env.sh"
  exit 0
fi

mkdir -p "$PREFIX"
[ -x "$PREFIX/venv/bin/pip" ] || python3 -m venv "$PREFIX/venv"
"$PREFIX/venv/bin/pip" install -q --no-deps --disable-pip-version-check "${WHEELS[@]}"
SITE=$("$PREFIX/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
CUDA="$SITE/nvidia/cu13"
ln -sfn "$CUDA" "$PREFIX/cuda"
# The wheels carry lib/; nvcc.profile looks into lib64/.
ln -sfn lib "$CUDA/lib64"

cat > "$PREFIX/env.sh" <<ENV
export CUDA_HOME="$PREFIX/cuda" CUDA_PATH="$PREFIX/cuda"
export PATH="$PREFIX/cuda/bin:\$PATH"
export NVCC="$PREFIX/cuda/bin/nvcc"
ENV

# It works when it compiles a kernel of each half type for the oldest and the newest card.
cat > "$PREFIX/probe.cu" <<'CU'
#include <cuda_bf16.h>
#include <cuda_fp16.h>
extern "C" __global__ void probe(__nv_bfloat16 *x, __half *y) { x[0] = __float2bfloat16(__half2float(y[0])); }
CU
for arch in 75 90; do
  "$CUDA/bin/nvcc" -cubin -arch="sm_$arch" -std=c++17 -o "$PREFIX/probe.cubin" "$PREFIX/probe.cu"
done
echo "${WHEELS[*]}" > "$DONE"
echo "complete: source $PREFIX/env.sh"
