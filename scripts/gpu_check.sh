#!/usr/bin/env bash
# Checks a CUDA machine that has neither a Rust toolchain nor a registry: pack here, copy the clone with .gpu, run there.
#
#   bash scripts/gpu_check.sh pack          builds vft and the parity tests with CUDA into .gpu (ignored by git, under 64 MiB)
#   bash scripts/gpu_check.sh run [OUT]     there: selftest, parity with PEFT's traces, the smoke run; logs into OUT (.gpu/out)
set -euo pipefail
cd "$(dirname "$0")/.."

pack() {
  mkdir -p .gpu
  cargo build --release --locked --features cuda
  local target="${CARGO_TARGET_DIR:-target}" test
  test=$(cargo test --release --locked --features cuda --test parity --no-run --message-format=json 2>/dev/null |
    grep -o '"executable":"[^"]*parity-[^"]*"' | tail -1 | cut -d'"' -f4)
  cp "$target/release/vft" .gpu/vft
  cp "$test" .gpu/parity
  strip .gpu/vft .gpu/parity
  local size
  size=$(du -sm .gpu | cut -f1)
  echo "packed $size MiB into .gpu"
  [ "$size" -lt 64 ] || { echo "error: more than 64 MiB" >&2; exit 1; }
}

# cuBLAS: where the loader looks already, else the CUDA toolkit's, else the one that came with Python's torch.
find_cublas() {
  ldconfig -p 2>/dev/null | grep -q 'libcublas\.so\.13' && return
  local dir
  for dir in /usr/local/cuda/lib64 /usr/local/cuda/targets/x86_64-linux/lib \
    "$(python3 -c 'import os, nvidia.cu13 as n; print(os.path.join(list(n.__path__)[0], "lib"))' 2>/dev/null)" \
    "$(python3 -c 'import os, nvidia.cublas as n; print(os.path.join(list(n.__path__)[0], "lib"))' 2>/dev/null)"; do
    if [ -e "$dir/libcublas.so.13" ]; then
      export LD_LIBRARY_PATH="$dir${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
      return
    fi
  done
}

run() {
  local out="${1:-.gpu/out}" failed=0
  mkdir -p "$out"
  find_cublas
  nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,clocks.mem,power.draw --format=csv | tee "$out/device.csv" || true
  check() {
    local name=$1
    shift
    if "$@" > "$out/$name.log" 2>&1; then echo "$name: ok"; else echo "$name: FAILED, exit $?"; failed=1; fi
    tail -n 200 "$out/$name.log"
  }
  check selftest .gpu/vft selftest --device cuda
  check parity env VFT_TEST_DEVICE=cuda VFT_TEST_ROOT="$PWD" .gpu/parity --test-threads 4
  rm -rf "$out/smoke"
  check smoke .gpu/vft finetune --config configs/smoke.yml --device cuda --out_dir "$out/smoke"
  check smoke-f16-nf4 .gpu/vft finetune --config configs/smoke.yml --device cuda --precision 16-true --quantize bnb.nf4-dq \
    --out_dir "$out/smoke-f16-nf4"
  check answer .gpu/vft generate --base configs/smoke/model --adapter "$out/smoke/final" --device cuda --precision 32-true \
    --prompt $'từ đầu tiên\nđường sông'
  exit "$failed"
}

case "${1:-}" in
  pack) pack ;;
  run) shift; run "$@" ;;
  *) grep '^#  ' "$0" | cut -c3-; exit 2 ;;
esac
