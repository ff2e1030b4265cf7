#!/usr/bin/env bash
# Sourced by the other scripts: a Python environment that has what requirements files name.
# An active virtual or conda environment is used as it is; else .venv is made beside the code.
prepare_environment() { # requirements file
  if [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ]; then
    if [ ! -x .venv/bin/python ] || [ ! -f .venv/bin/activate ]; then # the second comes last
      local python
      python=$(find_python) || { echo "error: Python 3.11 or newer with its venv module is needed" >&2; exit 2; }
      echo "making .venv with $("$python" --version)" >&2
      rm -rf .venv
      "$python" -m venv .venv
    fi
    # shellcheck disable=SC1091
    . .venv/bin/activate
  fi
  if ! python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "error: the active environment has $(python --version): Python 3.11 or newer is needed" >&2
    exit 2
  fi
  local install=(python -m pip install --disable-pip-version-check)
  python -c 'import pip' 2>/dev/null || install=(uv pip install) # uv makes environments without pip
  if ! "${install[@]}" --quiet -r "$1" >&2; then
    echo "error: $1 cannot be installed: check the network, or install it yourself" >&2
    exit 2
  fi
}

find_python() {
  local name
  for name in python3 python3.14 python3.13 python3.12 python3.11 python; do
    if "$name" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$name"
      return
    fi
  done
  return 1
}
