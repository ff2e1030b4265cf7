#!/usr/bin/env bash
# Places-LT with ResNet-152 from ImageNet weights, by the schedule of MiSLAS (Zhong et al., CVPR 2021) and the transform
# of classifier-balancing (Kang et al., ICLR 2020); their rate is 0.1, for a classification
# term of weight 1, not 10.
#   ./scripts/places_lt.sh [folder of the data] [folder of the runs] [train.py flags ...]
# The environment variables GPUS and WORKERS name the GPUs and the loading processes of this machine.
# We have not run it to its end, and give no number.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/recipe.sh
. scripts/recipe.sh

seeds="0"
large_images
train+=(--arch=resnet152_vae3 --pretrained --epochs=90 --batch-size=256 --lr=3e-2 --wd=5e-4 --T-max=90
  --train-transform=resized-crop-jitter)
recipe Places_LT "$@"
