#!/usr/bin/env bash
# Every trainer and the prediction on one GPU, in one command: see "On a GPU" in benchmarks/README.md.
# A machine with Python and PyTorch is enough; PYTHON names another Python than python3.
set -euo pipefail
repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
PYTHONPATH="$repository${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python3}" -m benchmarks.gpu_check "$@"
