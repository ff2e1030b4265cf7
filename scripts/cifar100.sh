#!/usr/bin/env bash
# CIFAR-100 with ResNet-32, by the schedule of LDAM-DRW.
#   ./scripts/cifar100.sh [folder of the data] [folder of the runs] [train.py flags ...]
# We have not run it to its end, and give no number.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/recipe.sh
. scripts/recipe.sh

seeds="0"
cifar
recipe CIFAR100 "$@"
