#!/usr/bin/env bash
# CelebA's five colours of hair with the long tail of the DGC paper, at 64x64, by `small_images` of recipe.sh.
#   ./scripts/celeba.sh [folder of the data] [folder of the runs] [train.py flags ...]
# We have not run it to its end, and give no number.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/recipe.sh
. scripts/recipe.sh

seeds="0 1 2 3 4"
small_images
train+=(--new-size=64 --crop-size=64 --cache-size=64 --workers=4)
recipe CelebA "$@"
