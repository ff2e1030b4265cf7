#!/usr/bin/env bash
# The README's Fashion-MNIST table: train on long-tailed subsets, re-train both ways, print the mean over the subsets.
#   ./scripts/fashion_mnist_lt.sh [folder of the IDX files] [folder of the runs] [train.py flags ...]
# The environment variable SEEDS names the subsets, default "0 1 2". About 16 minutes a subset on one core.
set -euo pipefail
cd "$(dirname "$0")/.."
data=${1:-/usr/share/datasets/fashion-mnist}
runs=${2:-./logs/FashionMNIST_LT}
shift $(($# < 2 ? $# : 2))

folders=()
for seed in ${SEEDS:-0 1 2}; do
  run=$runs/subset$seed
  python train.py FashionMNIST_LT --datadir="$data" --logdir="$run" --arch=resnet18_vae3 --new-size=32 --crop-size=32 \
    --subset-seed="$seed" --seed="$seed" --epochs=20 --batch-size=100 --lr=5e-3 --T-max=20 \
    --gmm-assign=label --workers=0 --resume=auto "$@"
  for script in augment_ftl.py augment.py; do
    python "$script" FashionMNIST_LT --datadir="$data" --logdir="$run" --resume=auto --seed="$seed" \
      --epochs=10 --batch-size=100 --lr=1e-2 --T-max=10 --workers=0
  done
  folders+=("$run")
done
python scripts/table.py "${folders[@]}"
