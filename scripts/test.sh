#!/usr/bin/env bash
# Prepare the environment and run all tests and checks of style; arguments go to pytest.
#   ./scripts/test.sh [pytest arguments ...]
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/environment.sh
. scripts/environment.sh
prepare_environment tests/requirements.txt

ruff check .
ruff format --check .
# two tests at a time, each on one core, whatever the environment says of other programs
OMP_NUM_THREADS=1 python -m pytest -n 2 --dist worksteal "$@"
