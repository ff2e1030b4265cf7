#!/usr/bin/env bash
# SVHN, all of its training images.
#   ./scripts/svhn.sh [folder of the data] [folder of the runs] [train.py flags ...]
# We have not run it to its end, and give no number.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/recipe.sh
. scripts/recipe.sh

seeds="0"
small_images
recipe SVHN "$@"
