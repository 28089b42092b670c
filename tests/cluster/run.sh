#!/usr/bin/env bash
# Starts two Slurm clusters on this machine, runs the tests of the executor for Slurm, and stops the clusters: `just test-cluster`.
# Needs root, python3, Debian's packages slurm-wlm and munge, which up.sh installs, and PyPI the first time. All its output is in
# target/. The tests that kill daemons have a cluster of their own.
#
#   tests/cluster/run.sh PROGRAM [TEST...]
set -euo pipefail
ABLATE=$(realpath "$1")
shift
cd "$(dirname "$0")/../.."
RECIPES_VENV=$(realpath --no-symlinks "$(bash tests/recipes/venv.sh)")
export ABLATE RECIPES_VENV CLUSTER_WORK=$PWD/target/cluster-tests
mkdir -p "$CLUSTER_WORK"

stop() { for name in jobs daemons; do tests/cluster/down.sh "$CLUSTER_WORK/$name"; done; }
trap stop EXIT
# Ports of this checkout, so that two on one machine do not meet.
port=$((20000 + $(printf %s "$CLUSTER_WORK" | cksum | cut -d' ' -f1) % 250 * 40))
tests/cluster/up.sh "$CLUSTER_WORK/jobs" $port
tests/cluster/up.sh "$CLUSTER_WORK/daemons" $((port + 20))
python3 tests/cluster/run.py "$@"
