#!/usr/bin/env bash
# vft against PEFT + bitsandbytes and Unsloth on a GPU machine that has no registry: pack here, copy the clone with .gpu, run there.
#
#   bash scripts/bench_gpu.sh pack                  builds vft with CUDA and fetches the peers' wheels into .gpu (with the clone under 64 MiB)
#   bash scripts/bench_gpu.sh run [ARGUMENTS]       there: the table; `run --help` lists the arguments. A first look of some minutes:
#                                                   run --layers 8 --steps 20 --turns 1 --dir /tmp/bench
set -euo pipefail
cd "$(dirname "$0")/.."
case "${1:-}" in
  pack)
    mkdir -p .gpu
    rm -rf .gpu/wheels .gpu/parity .gpu/optim .gpu/checkpointing .gpu/cuda
    cargo build --release --locked --features cuda
    cp "${CARGO_TARGET_DIR:-target}/release/vft" .gpu/vft
    strip .gpu/vft
    python3 scripts/bench_gpu.py pack .gpu/wheels
    bash scripts/gpu_check.sh fits
    ;;
  run)
    shift
    case " $* " in *' --help '* | *' -h '*) exec python3 scripts/bench_gpu.py run --help ;; esac
    [ -d .gpu/wheels ] || { echo "error: no wheels are packed in .gpu; where there is a registry: bash scripts/bench_gpu.sh pack" >&2; exit 2; }
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" .gpu/wheels/*.whl
    libs=$(python3 -c 'import os, nvidia.cu13 as n; print(os.path.join(list(n.__path__)[0], "lib"))' 2>/dev/null || echo /usr/local/cuda/lib64)
    PYTHONPATH="$site" LD_LIBRARY_PATH="$libs${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" python3 scripts/bench_gpu.py run .gpu/vft "$@"
    ;;
  *) grep '^#  ' "$0" | cut -c3-; exit 2 ;;
esac
