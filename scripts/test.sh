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
# each test on one core; three at a time on two cores, because tests often wait
OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} python -m pytest -n 3 --dist worksteal "$@"
