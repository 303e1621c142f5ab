#!/usr/bin/env bash
# A CUDA 13.0 toolkit to compile and link with, from Python wheels: no GPU, no driver, no root, no NVIDIA repository.
# With cuBLAS, so that on a machine with a driver what was built also runs.
# Needs python3 with venv, gcc and g++ 12 to 15, binutils, 1 GB of disk.
#
#   bash scripts/cuda-toolkit.sh [PREFIX]            (PREFIX: ~/.cache/vft/cuda-13.0)
#   source PREFIX/env.sh && cargo build --release --features cuda
set -euo pipefail
case "${1:-}" in -*) grep '^#  ' "$0" | cut -c3-; exit 2 ;; esac
PREFIX=$(realpath -m -- "${1:-${XDG_CACHE_HOME:-$HOME/.cache}/vft/cuda-13.0}")
WHEELS=(
  nvidia-cuda-nvcc==13.0.88      # nvcc, cudafe++, ptxas, fatbinary
  nvidia-nvvm==13.0.88           # cicc and libdevice
  nvidia-cuda-crt==13.0.88       # include/crt
  nvidia-cuda-runtime==13.0.88   # cuda.h, cuda_runtime.h, libcudart
  nvidia-cuda-cccl==13.0.85      # nv/target, which cuda_fp16.h and cuda_bf16.h include
  nvidia-cublas==13.0.2.14       # libcublas, libcublasLt
)
# The toolkit is complete when this says what it was made of: an interrupted run is taken up again, a complete one is kept.
DONE="$PREFIX/made-of"
if [ -f "$DONE" ] && [ "$(cat "$DONE")" = "$PREFIX ${WHEELS[*]}" ] && [ -x "$PREFIX/cuda/bin/nvcc" ]; then
  echo "complete: source $PREFIX/env.sh"
  exit 0
fi

mkdir -p "$PREFIX"
[ -x "$PREFIX/venv/bin/pip" ] || python3 -m venv "$PREFIX/venv"
"$PREFIX/venv/bin/pip" install -q --no-deps --disable-pip-version-check "${WHEELS[@]}"
SITE=$("$PREFIX/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
CUDA="$SITE/nvidia/cu13"
ln -sfn "$CUDA" "$PREFIX/cuda"
# The wheels carry lib/; nvcc.profile looks into lib64/. They carry names with versions; a linker looks for names without.
ln -sfn lib "$CUDA/lib64"
for name in cudart cublas cublasLt; do
  ln -sfn "lib$name.so.13" "$CUDA/lib/lib$name.so"
done
# libcuda is the driver's and in no wheel: a stub to link with, of every function that cuda.h names. As NVIDIA's stub it answers
# CUDA_ERROR_STUB_LIBRARY.
mkdir -p "$CUDA/lib/stubs"
grep -oE '\bcu[A-Z][A-Za-z0-9]+(_[A-Za-z0-9_]+)?\b' "$CUDA/include/cuda.h" | sort -u | sed 's/.*/int &(void) { return 34; }/' |
  gcc -x c -shared -fPIC -Wl,-soname,libcuda.so.1 -o "$CUDA/lib/stubs/libcuda.so" -

cat > "$PREFIX/env.sh" <<ENV
export CUDA_HOME="$PREFIX/cuda" CUDA_PATH="$PREFIX/cuda"
export PATH="$PREFIX/cuda/bin:\$PATH"
export NVCC="$PREFIX/cuda/bin/nvcc"
export LD_LIBRARY_PATH="$PREFIX/cuda/lib\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}"
ENV

# It works when it compiles a kernel of each half type for the oldest and the newest card, and links with driver and cuBLAS.
cat > "$PREFIX/probe.cu" <<'CU'
#include <cuda_bf16.h>
#include <cuda_fp16.h>
extern "C" __global__ void probe(__nv_bfloat16 *x, __half *y) { x[0] = __float2bfloat16(__half2float(y[0])); }
CU
for arch in 75 90; do
  "$CUDA/bin/nvcc" -cubin -arch="sm_$arch" -std=c++17 -o "$PREFIX/probe.cubin" "$PREFIX/probe.cu"
done
cat > "$PREFIX/probe.cpp" <<'CPP'
#include <cublas_v2.h>
#include <cuda.h>
#include <cuda_runtime.h>
int main() {
  cublasHandle_t handle;
  return cuInit(0) || cudaFree(nullptr) || cublasCreate(&handle);
}
CPP
g++ -I "$CUDA/include" -o "$PREFIX/probe" "$PREFIX/probe.cpp" -L "$CUDA/lib" -L "$CUDA/lib/stubs" -lcuda -lcudart -lcublas \
  -Wl,-rpath-link,"$CUDA/lib"
echo "$PREFIX ${WHEELS[*]}" > "$DONE"
echo "complete: source $PREFIX/env.sh"
