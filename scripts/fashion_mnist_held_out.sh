#!/usr/bin/env bash
# The held-out comparison of docs/experiments.md: assignment and weight of the mixture, plain and generative, measured on
# held-out training images.
#   ./scripts/fashion_mnist_held_out.sh [folder of the IDX files] [folder of the runs]
# About 6 minutes a run on one core.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/commands.sh
. scripts/commands.sh
offer_help "$@"
require_only_folders 2 "$@"

data=${1:-/usr/share/datasets/fashion-mnist}
runs=${2:-./logs/FashionMNIST_LT_held_out}

run_one() { # name, flags of train.py ...
  local run=$runs/$1
  shift
  run python train.py FashionMNIST_LT --datadir="$data" --logdir="$run" --arch=resnet18_vae3 --new-size=32 \
    --crop-size=32 --epochs=8 --batch-size=100 --lr=5e-3 --T-max=8 --val-fraction=0.1 --workers=0 --resume=auto "$@"
  run python augment.py FashionMNIST_LT --datadir="$data" --logdir="$run" --resume=auto \
    --epochs=10 --batch-size=100 --lr=1e-2 --T-max=10 --workers=0
  grep -h ",val," "$run"/metrics.csv "$run"/metrics_aug.csv | cut -d, -f1-4 # epoch, split, acc, acsa
}

run_one plain-posterior --gmm-assign=posterior
run_one plain-label --gmm-assign=label
run_one plain-label-gmm0.01 --gmm-assign=label --weight-gmm=0.01
run_one generative-posterior --generative --gmm-assign=posterior
run_one generative-label --generative --gmm-assign=label
run_one generative-label-gmm0.01 --generative --gmm-assign=label --weight-gmm=0.01
