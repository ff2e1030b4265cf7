#!/usr/bin/env bash
# kill -9 and SIGTERM at random moments of training and augmentation on Digits_LT, in chains: killed and continued ten
# times, a run must end bit for bit as one that nobody interrupted. One and two processes, with and without loading ones.
#   ./scripts/soak.sh [chains of each signal, default 10] [kills of a chain, default 10] [random seed, default 0]
# About two minutes a chain on two cores; needs the packages of requirements.txt.
set -euo pipefail
cd "$(dirname "$0")/.."
OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} PYTHONPATH=. exec python scripts/soak.py "$@"
