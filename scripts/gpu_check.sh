#!/usr/bin/env bash
# What a machine with a GPU can say of this project, in about five minutes: the tests that need one, the benchmark, the
# published commands on random images, where a step's time goes. Prints a table in Markdown at the end and leaves
# all output under ./results/gpu/CARD. Installs nothing; what is missing is named.
#   ./scripts/gpu_check.sh [--out FOLDER] [--only PART ...]      parts: tests benchmark commands profile compile
# The interpreter is PYTHON, else the active environment's, else the first of python3 and python that has torch.
set -euo pipefail
cd "$(dirname "$0")/.."

find_python() {
  local name names=(python3 python)
  if [[ -n ${PYTHON:-} ]]; then names=("$PYTHON"); fi
  for name in "${names[@]}"; do
    if "$name" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("torch") is None)' 2>/dev/null; then
      echo "$name"
      return
    fi
  done
  return 1
}
python=$(find_python) || { echo "error: ${PYTHON:-python3} has no torch: name another interpreter in PYTHON" >&2; exit 2; }
exec "$python" scripts/gpu_check.py "$@"
