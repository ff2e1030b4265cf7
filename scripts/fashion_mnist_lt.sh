#!/usr/bin/env bash
# The Fashion-MNIST tables: settings chosen on validation images, then all rows on five subsets, then the tables.
#   ./scripts/fashion_mnist_lt.sh [folder of the data] [folder of the runs] [flags of scripts/protocol.py ...]
# STAGES names some of those of scripts/protocol.py; JOBS trainings run at a time (2 on two cores, 12 on a GPU with 16);
# RESULTS is the folder of their small files and of the tables, by default that of the published ones. Of --quick runs no
# tables are made.
# The same command goes on where it was. docs/experiments.md says what a stage costs.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/commands.sh
. scripts/commands.sh
offer_help "$@"
require_folders "${@:1:2}"

if [[ " ${*:3}" == *" --results"* ]]; then
  echo "error: --results: name the folder by RESULTS, which the tables are made from too" >&2
  exit 2
fi
data=${1:-/usr/share/datasets/fashion-mnist}
runs=${2:-./logs/fashion_mnist_lt}
results=${RESULTS:-results/fashion_mnist_lt}
read -ra stages <<<"${STAGES:-tune table}"
status=0
run python scripts/protocol.py "${stages[@]}" --data="$data" --runs="$runs" --results="$results" --jobs="${JOBS:-2}" \
  "${@:3}" || status=$?
# after 1, a run that failed, the tables take the others; more is wrong input or a signal
if ((status <= 1)) && [[ -d $results && ! " ${*:3} " =~ " --list "|" --quick " ]]; then
  run python scripts/claim.py --results="$results"
fi
exit "$status"
