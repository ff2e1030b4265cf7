#!/usr/bin/env bash
# One training on several nodes with torchrun. Run this same script on every node, with the same arguments.
#   NODES=2 GPUS=4 MASTER=node0.cluster:29500 ./scripts/multi_node.sh ChestXray --datadir=... [train.py flags ...]
# What to change: NODES, the number of nodes; GPUS, processes per node; MASTER, a host that every node reaches and a port
# that is free there. --batch-size and --workers are each node's. The code and the data must be on every node, --logdir
# on the first, which reads --resume too. --resume=auto makes the same line start the run and continue it after an
# interruption; a --resume of yours takes its place.
set -euo pipefail
cd "$(dirname "$0")/.."
if [[ -z ${NODES:-} || -z ${GPUS:-} || -z ${MASTER:-} ]]; then
  echo "error: set NODES to the number of nodes, GPUS to the processes of each, MASTER to HOST:PORT of the first" >&2
  exit 2
fi

exec torchrun --nnodes="$NODES" --nproc-per-node="$GPUS" --rdzv-backend=c10d --rdzv-endpoint="$MASTER" --rdzv-id=dgcmm \
  train.py --resume=auto "$@"
