#!/usr/bin/env bash
# CIFAR-10 with an exponential long tail (--imbalance-factor, 100) and ResNet-32, by the schedule of LDAM-DRW.
#   ./scripts/cifar10_lt.sh [folder of the data] [folder of the runs] [train.py flags ...]
# We have not run it to its end, and give no number.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/recipe.sh
. scripts/recipe.sh

seeds="0 1 2"
train=(--arch=resnet32_vae3 --new-size=32 --crop-size=32 --epochs=200 --batch-size=128 --lr=0.1 --wd=2e-4
  --milestones 160 180 --gamma=0.01 --gmm-assign=label)
retrain=(--epochs=30 --batch-size=128 --lr=1e-2 --milestones 10 20)
recipe CIFAR10_LT "$@"
