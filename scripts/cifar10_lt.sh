#!/usr/bin/env bash
# CIFAR-10 with an exponential long tail (--imbalance-factor, 100) and ResNet-32, by the schedule of LDAM-DRW.
#   ./scripts/cifar10_lt.sh [folder of the data] [folder of the runs] [train.py flags ...]
# We have not run it to its end, and give no number.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/recipe.sh
. scripts/recipe.sh

seeds="0 1 2"
cifar
recipe CIFAR10_LT "$@"
