#!/usr/bin/env bash
# Checks a CUDA machine that has neither a Rust toolchain nor a registry: pack here, copy the clone with .gpu, run there.
#
#   bash scripts/gpu_check.sh pack          builds vft and its CUDA tests into .gpu (ignored by git; with the clone under 64 MiB)
#   bash scripts/gpu_check.sh run [OUT]     there: selftest, the tests, smoke runs, compute-sanitizer; logs into OUT (.gpu/out);
#                                           LIMIT: seconds that one of them may take (240)
set -euo pipefail
cd "$(dirname "$0")/.."
tests=(parity optim checkpointing cuda)

pack() {
  mkdir -p .gpu
  rm -rf .gpu/wheels
  cargo build --release --locked --features cuda
  cp "${CARGO_TARGET_DIR:-target}/release/vft" .gpu/vft
  local built test
  built=$(cargo test --release --locked --features cuda "${tests[@]/#/--test=}" --no-run --message-format=json)
  for test in "${tests[@]}"; do
    cp "$(grep -o "\"executable\":\"[^\"]*/$test-[^\"]*\"" <<< "$built" | tail -1 | cut -d'"' -f4)" ".gpu/$test"
  done
  strip .gpu/vft "${tests[@]/#/.gpu/}"
  fits
}

# What travels: the clone and .gpu.
fits() {
  local bytes
  bytes=$({ git ls-files -co --exclude-standard -z; find .gpu -type f -print0; } | du -cb --files0-from=- | tail -1 | cut -f1)
  echo "the clone and .gpu: $((bytes >> 20)) MiB"
  [ "$bytes" -lt $((64 << 20)) ] || { echo "error: more than 64 MiB" >&2; exit 1; }
}

# cuBLAS: where the loader looks already, else the CUDA toolkit's, else the one that came with Python's torch.
find_cublas() {
  case "$(ldconfig -p 2>/dev/null)" in *libcublas.so.13*) return ;; esac
  local dir
  for dir in /usr/local/cuda/lib64 /usr/local/cuda/targets/x86_64-linux/lib \
    "$(python3 -c 'import os, nvidia.cu13 as n; print(os.path.join(list(n.__path__)[0], "lib"))' 2>/dev/null)" \
    "$(python3 -c 'import os, nvidia.cublas as n; print(os.path.join(list(n.__path__)[0], "lib"))' 2>/dev/null)"; do
    if [ -e "$dir/libcublas.so.13" ]; then
      export LD_LIBRARY_PATH="$dir${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
      return
    fi
  done
  echo "note: no libcublas.so.13 in the usual places" >&2
}

run() {
  local out="${1:-.gpu/out}" runs failed=0 test tool
  [ -x .gpu/vft ] || { echo "error: nothing is packed in .gpu; where there is a toolchain: bash scripts/gpu_check.sh pack" >&2; exit 2; }
  mkdir -p "$out"
  runs=$(mktemp -d)
  # shellcheck disable=SC2064  # the folder of now
  trap "rm -rf '$runs'" EXIT
  find_cublas
  nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,clocks.mem,power.draw --format=csv | tee "$out/device.csv" || true
  # The whole of what it said goes into a log, what must be looked at onto the screen.
  check() {
    local log="$out/$1.log" name=$2 said code=0
    shift 2
    said=$(timeout "${LIMIT:-240}" "$@" 2>&1) || code=$?
    printf '== %s: exit %s\n%s\n' "$name" "$code" "$said" >> "$log"
    if [ "$code" = 0 ]; then
      echo "$name: ok"
      grep -E '^verdict|^test result' <<< "$said" || true
    else
      echo "$name: FAILED, exit $code"
      failed=1
      { grep -E 'WRONG|panicked|FAILED|^error' <<< "$said" || true; tail -n 15 <<< "$said"; } | head -n 60
    fi
  }
  rm -f "$out"/*.log
  check selftest selftest .gpu/vft selftest --device cuda
  export VFT_TEST_DEVICE=cuda VFT_TEST_ROOT="$PWD" VFT_TEST_BIN="$PWD/.gpu/vft"
  for test in "${tests[@]}"; do
    check tests "$test" ".gpu/$test" --test-threads 4 --skip played
  done
  check smoke smoke .gpu/vft finetune --config configs/smoke.yml --device cuda --out_dir "$runs/smoke"
  check smoke "smoke, f16 and NF4" .gpu/vft finetune --config configs/smoke.yml --device cuda --precision 16-true --quantize bnb.nf4-dq \
    --out_dir "$runs/smoke-f16-nf4"
  check smoke answer .gpu/vft generate --base configs/smoke/model --adapter "$runs/smoke/final" --device cuda --precision 32-true \
    --prompt $'từ đầu tiên\nđường sông'
  # What a device that is played cannot show: threads of a warp that race, memory that nothing wrote.
  if command -v compute-sanitizer > /dev/null; then
    for tool in memcheck racecheck initcheck synccheck; do
      local code=0
      timeout 120 compute-sanitizer --tool "$tool" --error-exitcode 99 .gpu/vft selftest --device cuda --quick --precision bf16-true \
        > "$out/$tool.txt" 2>&1 || code=$?
      { echo "== $tool: exit $code"; cat "$out/$tool.txt"; } >> "$out/sanitizer.log"
      rm "$out/$tool.txt"
      case $code in
        0) echo "$tool: ok" ;;
        99) echo "$tool: FAILED"; failed=1; grep -m 20 '=====' "$out/sanitizer.log" || true ;;
        *) echo "$tool: did not run (exit $code)" ;;
      esac
    done
  fi
  exit "$failed"
}

case "${1:-}" in
  pack) pack ;;
  fits) fits ;;
  run) shift; run "$@" ;;
  *) grep '^#  ' "$0" | cut -c3-; exit 2 ;;
esac
