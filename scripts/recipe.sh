#!/usr/bin/env bash
# Sourced by the scripts of the data sets, which set `seeds`, and the flags `train` and `retrain`, by themselves or by
# one of the next three functions; then they call `recipe`.

# shellcheck source=scripts/commands.sh
. scripts/commands.sh

# `train` and `retrain` of small images with the long tails of the DGC paper, and of the like. The squared error is a
# mean over few pixels: at the default weight of it the decoder would learn nothing.
small_images() {
  train=(--arch=resnet18_vae3 --new-size=32 --crop-size=32 --epochs=20 --batch-size=100 --lr=2e-2 --T-max=20
    --clip-grad=5 --gmm-assign=label --weight-reconst=100 --workers=0)
  retrain=(--epochs=10 --batch-size=100 --T-max=10 --workers=0)
}

# `train` and `retrain` of CIFAR with ResNet-32, by the schedule of LDAM-DRW; the rate is lower than theirs, as the
# classification term has the weight 10.
cifar() {
  train=(--arch=resnet32_vae3 --new-size=32 --crop-size=32 --epochs=200 --batch-size=128 --lr=3e-2 --wd=2e-4
    --milestones 160 180 --gamma=0.01 --lr-warmup-epochs=5 --clip-grad=5 --gmm-assign=label --weight-reconst=100)
  retrain=(--epochs=30 --batch-size=128 --milestones 10 20)
}

# `train` and `retrain` of large images on GPUS GPUs with WORKERS loading processes a node; each script adds its model
# and schedule.
large_images() {
  train=(--multiprocessing-distributed --ngpus="${GPUS:-1}" --workers="${WORKERS:-8}")
  retrain=(--epochs=30 --batch-size=512 --T-max=30 --workers="${WORKERS:-8}")
}

# Train, re-train the classifier both ways, and print a table; all may be given again after an interruption, and go on
# where they were. The environment variable SEEDS names the subsets and runs. Re-training starts from the adjusted
# classifier, the better start in all but a few trials of a DGCMM. On few images a rate of 1e-3 kept what the adjustment
# gave, and 1e-2 lost some of it (results/fashion_mnist_lt/LOG.md). START=trained is the paper's start, at the paper's
# rate, and the only one after --loss=ldam-drw.
#   recipe NAME [folder of the data] [folder of the runs] [train.py flags ...]
# A folder that is no absolute path is one of the repository. Re-training takes the first GPU that it sees
# (CUDA_VISIBLE_DEVICES), whatever --gpu says.
recipe() {
  local name=$1 data=${2:-./datasets/$1} runs=${3:-./logs/$1} start=${START:-adjusted} rate=1e-3 seed script
  offer_help "$@"
  require_folders "${@:2:2}"
  case $start in
  adjusted) ;;
  trained) rate=1e-2 ;;
  *)
    echo "error: START is adjusted or trained, not $start" >&2
    exit 2
    ;;
  esac
  if [[ $start == adjusted && " ${*:4} " == *" --loss"[\ =]"ldam-drw "* ]]; then
    echo "error: --loss=ldam-drw leaves no bias to adjust: set START=trained" >&2
    exit 2
  fi
  shift $(($# < 3 ? $# : 3))
  local folders=()
  for seed in ${SEEDS:-$seeds}; do
    folders+=("$runs/subset$seed")
    run python train.py "$name" --datadir="$data" --logdir="$runs/subset$seed" --subset-seed="$seed" --seed="$seed" \
      --resume=auto "${train[@]}" "$@"
    for script in augment_ftl.py augment.py; do
      run python "$script" "$name" --datadir="$data" --logdir="$runs/subset$seed" --seed="$seed" --resume=auto \
        --start="$start" --lr="$rate" "${retrain[@]}"
    done
  done
  run python scripts/compare.py "${folders[@]}"
}
