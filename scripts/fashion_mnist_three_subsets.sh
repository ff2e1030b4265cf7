#!/usr/bin/env bash
# The README's first Fashion-MNIST table, by the paper's weights: three subsets, the mean over them.
#   ./scripts/fashion_mnist_three_subsets.sh [folder of the data] [folder of the runs] [train.py flags ...]
# SEEDS names the subsets. About 22 minutes a subset on one core.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/recipe.sh
. scripts/recipe.sh

seeds="0 1 2"
small_images
train+=(--lr=5e-3 --weight-reconst=0.1)
START=trained
recipe FashionMNIST_LT "${1:-/usr/share/datasets/fashion-mnist}" "${@:2}"
