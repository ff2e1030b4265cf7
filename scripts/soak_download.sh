#!/usr/bin/env bash
# kill -9 in the download, the unpacking and the building of the cache of ChestX-ray14, each at random moments: the same
# command again must end in a complete folder. Small archives made on the spot, from a server on this machine.
#   ./scripts/soak_download.sh [rounds of each phase, default 20] [random seed, default 0]
# About 10 seconds a round; needs the packages of the tests.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHONPATH=.:tests exec python scripts/soak_download.py "$@"
