#!/usr/bin/env bash
# ChestX-ray14 as published: train on it, then re-train the classifier by feature transfer (Case 1) and from the
# posterior (Case 2). The data lies in ./datasets/ChestXray, which may be a link. Started again, it goes on where it was.
#   ./scripts/chestxray.sh [train.py flags ...]    such as --ngpus=1 --batch-size=60
# --datadir, --logdir, --arch, --h-dim and --z-dim stay: the re-training names them too.
# With INIT=CHECKPOINT in the environment the encoder starts from that one, ./scripts/imagenet.sh's for example, and not
# from torchvision's weights.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/commands.sh
. scripts/commands.sh
offer_help "$@"

start=(--pretrained)
if [ -n "${INIT:-}" ]; then
  start=(--init="$INIT")
fi
run python train.py ChestXray --datadir=./datasets/ChestXray --logdir=./logs/ChestXray/TAG --arch=resnet_vae3 \
  --epoch=100 --batch-size=180 --lr=5e-3 --wd=1e-4 --worker=8 --T-max=20 --h-dim=2048 --z-dim=2048 --ngpus=3 \
  --dist-url="tcp://127.0.0.1:53419" --dist-backend="nccl" --multiprocessing-distributed --world-size=1 --rank=0 \
  --weight-cls=10 --weight-reconst=0.1 --weight-gmm=0.001 "${start[@]}" --resume=auto "$@"
run python augment_ftl.py ChestXray --datadir=./datasets/ChestXray --logdir=./logs/ChestXray/TAG --arch=resnet_vae3 \
  --epoch=100 --batch-size=100 --lr=1e-2 --wd=1e-4 --print-freq=100 --worker=8 --gpu=0 --lr-step=30 \
  --h-dim=2048 --z-dim=2048 --resume=./logs/ChestXray/TAG/checkpoint.pth
run python augment.py ChestXray --datadir=./datasets/ChestXray --logdir=./logs/ChestXray/TAG --arch=resnet_vae3 \
  --epoch=100 --batch-size=100 --lr=1e-2 --wd=1e-4 --print-freq=100 --worker=8 --gpu=0 --lr-step=30 \
  --h-dim=2048 --z-dim=2048 --resume=./logs/ChestXray/TAG/checkpoint.pth
# the three results, and whether the decoder has learned anything at this --weight-reconst
run python scripts/compare.py --markdown --metrics=acsa,f_ma,g_ma,many,median ./logs/ChestXray/TAG
