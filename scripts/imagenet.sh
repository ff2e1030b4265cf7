#!/usr/bin/env bash
# ImageNet with ResNet-50: the checkpoint from which chestxray.sh can start, by INIT=./logs/ImageNet/subset0/checkpoint.pth.
#   ./scripts/imagenet.sh [folder of the data] [folder of the runs] [train.py flags ...]
# The environment variables GPUS and WORKERS name the GPUs and the loading processes of this machine.
# We have not run it to its end, and give no number.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/recipe.sh
. scripts/recipe.sh

seeds="0"
large_images
train+=(--arch=resnet_vae3 --z-dim=2048 --epochs=60 --batch-size=256 --lr=1e-2 --wd=1e-4 --T-max=60
  --weight-cls=10 --weight-reconst=1.0 --weight-gmm=0.01)
recipe ImageNet "$@"
