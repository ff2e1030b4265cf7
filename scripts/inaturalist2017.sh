#!/usr/bin/env bash
# iNaturalist 2017's super-categories with ResNet-50, by the schedule that MiSLAS has for iNaturalist 2018;
# their rate is 0.1, for a classification term of weight 1, not 10.
#   ./scripts/inaturalist2017.sh [folder of the data] [folder of the runs] [train.py flags ...]
# The environment variables GPUS and WORKERS name the GPUs and the loading processes of this machine.
# We have not run it to its end, and give no number.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/recipe.sh
. scripts/recipe.sh

seeds="0"
large_images
train+=(--arch=resnet_vae3 --epochs=200 --batch-size=256 --lr=3e-2 --wd=1e-4 --T-max=200)
recipe iNaturalist2017 "$@"
