#!/usr/bin/env bash
# MNIST with the long tail of the DGC paper, by the recipe of Fashion-MNIST.
#   ./scripts/mnist_lt.sh [folder of the data] [folder of the runs] [train.py flags ...]
# We have not run it to its end, and give no number.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/recipe.sh
. scripts/recipe.sh

seeds="0 1 2 3 4"
train=(--arch=resnet18_vae3 --new-size=32 --crop-size=32 --epochs=20 --batch-size=100 --lr=5e-3 --T-max=20
  --gmm-assign=label --workers=0)
retrain=(--epochs=10 --batch-size=100 --lr=1e-2 --T-max=10 --workers=0)
recipe MNIST_LT "$@"
