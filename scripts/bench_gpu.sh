#!/usr/bin/env bash
# vft against PEFT + bitsandbytes and Unsloth on a GPU machine that has no registry: pack here, copy the clone with .gpu, run there.
#
#   bash scripts/bench_gpu.sh pack                  builds vft with CUDA and fetches the peers' wheels into .gpu (about 42 MiB)
#   bash scripts/bench_gpu.sh run [ARGUMENTS]       there: the table; arguments as `python scripts/bench_gpu.py run --help` lists them
set -euo pipefail
cd "$(dirname "$0")/.."
case "${1:-}" in
  pack)
    bash scripts/gpu_check.sh pack
    python3 scripts/bench_gpu.py pack .gpu/wheels
    ;;
  run)
    shift
    site=$(mktemp -d)
    python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" .gpu/wheels/*.whl
    libs=$(python3 -c 'import os, nvidia.cu13 as n; print(os.path.join(list(n.__path__)[0], "lib"))' 2>/dev/null || echo /usr/local/cuda/lib64)
    PYTHONPATH="$site" LD_LIBRARY_PATH="$libs${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" python3 scripts/bench_gpu.py run .gpu/vft "$@"
    ;;
  *) grep '^#  ' "$0" | cut -c3-; exit 2 ;;
esac
