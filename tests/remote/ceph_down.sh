#!/usr/bin/env bash
# Stops what ceph_up.sh started, by its process ids, and removes its folder. `--keep` keeps the folder, `gateway` stops only the
# gateway (with SIGKILL).
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
root=${CEPH_ROOT:-$repository/target/ceph}

is_gone() {
    local state
    state=$(cut -d' ' -f3 "/proc/$1/stat" 2>/dev/null || true)
    [ -z "$state" ] || [ "$state" = Z ]
}

# stop PID_FILE PROGRAM SIGNAL
stop() {
    local file=$root/pid/$1.pid pid
    [ -s "$file" ] || return 0
    pid=$(cat "$file")
    # Another process may have the id by now.
    if grep -q "$2" "/proc/$pid/comm" 2>/dev/null; then
        kill -"$3" "$pid"
        for _ in $(seq 200); do
            is_gone "$pid" && break
            sleep 0.05
        done
        is_gone "$pid" || kill -KILL "$pid"
    fi
    rm -f "$file"
}

[ -d "$root" ] || exit 0
if [ "${1:-}" = gateway ]; then
    stop client.rgw radosgw KILL
    exit 0
fi
stop client.rgw radosgw TERM
stop osd.0 ceph-osd TERM
stop mon.a ceph-mon TERM
[ "${1:-}" = --keep ] || rm -rf "$root"
