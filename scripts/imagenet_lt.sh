#!/usr/bin/env bash
# ImageNet-LT with ResNet-50, by the schedule and the transform of classifier-balancing (Kang et al., ICLR 2020);
# their rate is 0.2, for a classification term of weight 1, not 10.
#   ./scripts/imagenet_lt.sh [folder of the data] [folder of the runs] [train.py flags ...]
# The environment variables GPUS and WORKERS name the GPUs and the loading processes of this machine.
# We have not run it to its end, and give no number.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/recipe.sh
. scripts/recipe.sh

seeds="0"
large_images
train+=(--arch=resnet_vae3 --epochs=90 --batch-size=512 --lr=6e-2 --wd=5e-4 --T-max=90
  --train-transform=resized-crop-jitter)
recipe ImageNet_LT "$@"
