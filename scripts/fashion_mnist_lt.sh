#!/usr/bin/env bash
# The README's Fashion-MNIST table: train on long-tailed subsets, re-train both ways, print the mean over the subsets.
#   ./scripts/fashion_mnist_lt.sh [folder of the data] [folder of the runs] [train.py flags ...]
# SEEDS names the subsets. About 16 minutes a subset on one core.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/recipe.sh
. scripts/recipe.sh

seeds="0 1 2"
train=(--arch=resnet18_vae3 --new-size=32 --crop-size=32 --epochs=20 --batch-size=100 --lr=5e-3 --T-max=20
  --gmm-assign=label --workers=0)
retrain=(--epochs=10 --batch-size=100 --lr=1e-2 --T-max=10 --workers=0)
data=${1:-/usr/share/datasets/fashion-mnist}
recipe FashionMNIST_LT "$data" "${@:2}"
