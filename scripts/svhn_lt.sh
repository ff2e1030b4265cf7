#!/usr/bin/env bash
# SVHN with the long tail of the DGC paper, by `small_images` of recipe.sh.
#   ./scripts/svhn_lt.sh [folder of the data] [folder of the runs] [train.py flags ...]
# We have not run it to its end, and give no number.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/recipe.sh
. scripts/recipe.sh

seeds="0 1 2 3 4"
small_images
recipe SVHN_LT "$@"
