#!/usr/bin/env bash
# The README's Fashion-MNIST table: train on long-tailed subsets, re-train both ways, print the mean over the subsets.
#   ./scripts/fashion_mnist_lt.sh [folder of the data] [folder of the runs] [train.py flags ...]
# SEEDS names the subsets. About 16 minutes a subset on one core.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/recipe.sh
. scripts/recipe.sh

seeds="0 1 2"
small_images
data=${1:-/usr/share/datasets/fashion-mnist}
recipe FashionMNIST_LT "$data" "${@:2}"
