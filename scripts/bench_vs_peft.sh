#!/usr/bin/env bash
# vft against transformers + PEFT on this machine's CPU: scripts/bench_vs_peft.sh [TABLE ...] [--rounds 3]
# Tables: compare products parts checkpointing growth plan decode start losses (all when none is named). Makes its own Python environment in the user's
# cache (torch, transformers, peft, bitsandbytes), builds the release binary and prints Markdown.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${XDG_CACHE_HOME:-$HOME/.cache}/vft
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$cache/target}
if [ ! -x "$cache/py/bin/python" ]; then
  python3 -m venv "$cache/py"
  "$cache/py/bin/pip" install -q torch transformers peft bitsandbytes
fi
cargo build --release --locked >&2
limits() { cargo bench --locked --bench limits 2>/dev/null | grep '^{'; }
"$cache/py/bin/pip" list 2>/dev/null | grep -iE "^(torch|transformers|peft|bitsandbytes) "; rustc --version
limits # builds it, and shows the machine before
bench() { cargo bench --locked --bench "$1" --no-run 2>&1 | sed -n 's/.*Executable.*(\(.*\)).*/\1/p'; }
products=$(bench products) parts=$(bench parts)
peak=$(for _ in 1 2 3; do limits; done | sort -t: -k3,3n | tail -n 1) # what disturbs it makes it smaller
"$cache/py/bin/python" scripts/bench_vs_peft.py "$CARGO_TARGET_DIR/release/vft" "$@" --products "$products" --parts "$parts" --limits "$peak"
limits
