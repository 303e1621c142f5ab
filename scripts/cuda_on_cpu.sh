#!/usr/bin/env bash
# Runs a command with a CUDA device that is played by the CPU: the kernels of src/kernels, compiled for it, behind the driver's
# and cuBLAS' names. For tests of everything CUDA on machines without a card; slow.
#
#   source ~/.cache/vft/cuda-13.0/env.sh                       (nvcc, to build with the feature cuda)
#   bash scripts/cuda_on_cpu.sh cargo test --features cuda --test cuda --test parity
set -euo pipefail
case "${1:-}" in '' | -*) grep '^#  ' "$0" | cut -c3-; exit 2 ;; esac
root=$(cd "$(dirname "$0")/.." && pwd)
libs="${CARGO_TARGET_DIR:-$root/target}/cuda_on_cpu"
mkdir -p "$libs"
newest=$(ls -t "$root"/src/kernels/* "$root"/tests/cuda_on_cpu/* | head -1)
if [ ! -e "$libs/libcuda.so.1" ] || [ "$newest" -nt "$libs/libcuda.so.1" ]; then
  [ "$(uname -m)" = x86_64 ] && tls=-mtls-dialect=gnu2 # thread-local variables without a call each
  # Jumps between stacks are what coroutines do; the fortified longjmp takes them for an attack.
  "${CXX:-g++}" -x c++ -std=c++17 -O2 -fPIC -shared -U_FORTIFY_SOURCE -fno-stack-protector -fno-exceptions -fno-rtti \
    ${tls:-} -ffp-contract=off -I "$root/tests/cuda_on_cpu" -I "$root/src/kernels" \
    -o "$libs/libcuda.so.1.new" "$root/tests/cuda_on_cpu/driver.cpp"
  # What is played must be there in earnest: a name that only this library has would be found missing on the first card.
  names() { nm -D --defined-only "$@" | awk '$3 ~ /^cu[A-Zb]/ { sub(/@.*/, "", $3); print $3 }' | sort -u; }
  if [ -n "${CUDA_HOME:-}" ]; then
    names "$CUDA_HOME"/lib64/stubs/libcuda.so "$CUDA_HOME"/lib64/libcublas.so > "$libs/names"
    unknown=$(names "$libs/libcuda.so.1.new" | comm -23 - "$libs/names")
    [ -z "$unknown" ] || { echo "cuda_on_cpu: neither libcuda nor libcublas has: $unknown" >&2; exit 1; }
    "${CXX:-g++}" -std=c++17 -fsyntax-only -I "$CUDA_HOME/include" "$root/tests/cuda_on_cpu/headers.cpp"
  fi
  mv "$libs/libcuda.so.1.new" "$libs/libcuda.so.1"
fi
ln -sf libcuda.so.1 "$libs/libcublas.so.13"
export LD_LIBRARY_PATH="$libs${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export VFT_TEST_DEVICE=cuda VFT_CUDA_ON_CPU="$libs"
exec "$@"
