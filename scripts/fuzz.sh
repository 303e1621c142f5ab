#!/usr/bin/env bash
# Fuzzes vft's readers with libFuzzer, on the stable compiler.
#
#   bash scripts/fuzz.sh                      # every target, 1,000,000 inputs each
#   RUNS=50000 bash scripts/fuzz.sh template  # some of them, fewer inputs
#
# An input that crashes, takes more than 512 MiB or 10 seconds ends its target; it lies in $OUT/crashes and belongs, with the mended cause, into
# fuzz/found/<target>. The flags are those of `cargo fuzz --sanitizer none`: coverage, no sanitizer, so no nightly compiler.
set -euo pipefail
cd "$(dirname "$0")/.."
RUNS=${RUNS:-1000000}
SEED=${SEED:-1}
OUT=${OUT:-${CARGO_TARGET_DIR:-target}/fuzz}
HOST=$(rustc -vV | sed -n 's/^host: //p')
mkdir -p "$OUT/crashes" "$OUT/logs"
OUT=$(realpath "$OUT")
sancov=(-Cpasses=sancov-module)
for option in level=4 trace-compares inline-8bit-counters pc-table; do
  sancov+=("-Cllvm-args=-sanitizer-coverage-$option")
done
RUSTFLAGS="${sancov[*]} -Cllvm-args=-simplifycfg-branch-fold-threshold=0" CARGO_TARGET_DIR=$OUT \
  cargo build --release --target "$HOST" --manifest-path fuzz/Cargo.toml --bins

targets=("$@")
[ $# -gt 0 ] || mapfile -t targets < <(cd fuzz/fuzz_targets && ls | sed 's/\.rs$//')
failed=0
for target in "${targets[@]}"; do
  corpus=$OUT/corpus/$target
  mkdir -p "$corpus"
  found=fuzz/found/$target
  # Words of the seeds: comparisons of strings are calls that the fuzzer does not see into.
  grep -rhaoE '[A-Za-z_][A-Za-z0-9_.-]{2,30}' fuzz/seeds/"$target" | sort -u | sed 's/.*/"&"/' >"$OUT/$target.dict"
  dirs=("$corpus" "fuzz/seeds/$target")
  [ ! -d "$found" ] || dirs+=("$found")
  echo "== $target"
  "$OUT/$HOST/release/$target" "${dirs[@]}" -runs="$RUNS" -seed="$SEED" -max_len=8192 -timeout=10 -rss_limit_mb=512 \
    -dict="$OUT/$target.dict" -artifact_prefix="$OUT/crashes/$target-" -print_final_stats=1 >"$OUT/logs/$target.log" 2>&1 || failed=1
  grep -E '^stat::|ERROR|SUMMARY|panicked|Test unit' "$OUT/logs/$target.log" || true
done
rm -rf /dev/shm/vft-fuzz-*
exit "$failed"
