#!/usr/bin/env bash
# Sourced by the scripts of the data sets, which set `train`, `retrain` and `seeds`: train, re-train the classifier both
# ways, and print a table; all may be given again after an interruption, and go on where they were.
#   recipe NAME [folder of the data] [folder of the runs] [train.py flags ...]
# The environment variable SEEDS names the subsets and runs.
recipe() {
  local name=$1 data=${2:-./datasets/$1} runs=${3:-./logs/$1} seed script
  shift $(($# < 3 ? $# : 3))
  local folders=()
  for seed in ${SEEDS:-$seeds}; do
    folders+=("$runs/subset$seed")
    python train.py "$name" --datadir="$data" --logdir="$runs/subset$seed" --subset-seed="$seed" --seed="$seed" \
      --resume=auto "${train[@]}" "$@"
    for script in augment_ftl.py augment.py; do
      python "$script" "$name" --datadir="$data" --logdir="$runs/subset$seed" --seed="$seed" --resume=auto \
        "${retrain[@]}"
    done
  done
  python scripts/table.py "${folders[@]}"
}
