#!/usr/bin/env bash
# Cancels all jobs of the cluster that up.sh started, stops its daemons by their recorded pids, and removes its state (not its logs).
#
#   tests/cluster/down.sh [FOLDER]
set -uo pipefail
cd "$(dirname "$0")/../.."
folder=$(realpath "${1:-target/cluster}")
[ -s "$folder/sockets" ] || { echo "down.sh: no cluster in $folder"; exit 0; }
export SLURM_CONF=$folder/etc/slurm.conf
sockets=$(cat "$folder/sockets")

running() { # PID: not a zombie, which an init may keep for some seconds
    local state
    state=$(cut -d' ' -f3 "/proc/$1/stat" 2>/dev/null) && [ -n "$state" ] && [ "$state" != Z ]
}
stop() { # NAME of a daemon, PIDFILE
    local pid
    [ -s "$2" ] || return 0
    pid=$(cat "$2")
    # A pid may have been given to another process since.
    if grep -qx "$1" "/proc/$pid/comm" 2>/dev/null; then
        kill "$pid"
        for _ in $(seq 200); do running "$pid" || break; sleep 0.05; done
        if running "$pid"; then kill -9 "$pid"; fi
    fi
    rm -f "$2"
}

# Jobs first: they outlive slurmd.
if timeout 10 scancel --full --user root 2>/dev/null; then
    for _ in $(seq 100); do [ -n "$(timeout 5 squeue -h 2>/dev/null)" ] || break; sleep 0.1; done
fi
for file in "$folder"/pid/slurmd-*; do stop slurmd "$file"; done
stop slurmctld "$folder/pid/slurmctld"
stop munged "$folder/pid/munged"
# Jobs of nodes that did not answer: what writes into the logs of this cluster's nodes.
for process in /proc/[0-9]*; do
    grep -qx slurmstepd "$process/comm" 2>/dev/null || continue
    if ls -l "$process/fd" 2>/dev/null | grep -qF "$folder/log/slurmd-"; then kill -9 "${process#/proc/}"; fi
done
rm -rf "$sockets" "$folder/state" "$folder/sockets" "$folder/env"
