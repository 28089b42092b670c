#!/usr/bin/env bash
# Starts an S3 server on this machine for tests: Ceph's gateway (radosgw) with one monitor and one storage daemon, from Debian's
# packages, as plain processes on 127.0.0.1. Needs root. Installs the packages if they are missing (68 MB).
#
#   tests/remote/ceph_up.sh && source target/ceph/env
#   tests/remote/ceph_down.sh
#
# CEPH_ROOT: its folder (default: target/ceph). CEPH_PORT: the port of S3 (default: 17480); the monitor uses the next one.
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
root=${CEPH_ROOT:-$repository/target/ceph}
port=${CEPH_PORT:-17480}
monitor=127.0.0.1:$((port + 1))
disk_gib=${CEPH_DISK_GIB:-20}

fail() {
    echo "ceph_up: $*" >&2
    exit 1
}

# Whether the process of a pid file is alive. A process that was killed may stay a zombie.
is_alive() {
    local pid state
    [ -s "$1" ] && pid=$(cat "$1") && state=$(cut -d' ' -f3 "/proc/$pid/stat" 2>/dev/null) && [ -n "$state" ] && [ "$state" != Z ]
}

# wait_for SECONDS WHAT COMMAND...: runs the command until it succeeds.
wait_for() {
    local end=$((SECONDS + $1)) what=$2
    shift 2
    while [ $SECONDS -lt "$end" ]; do
        timeout 15 "$@" > /dev/null 2>&1 && return 0
        sleep 0.2
    done
    fail "$what did not start; see $root/log"
}

install_packages() {
    local missing=() package policy=/usr/sbin/policy-rc.d made=0
    for package in radosgw ceph-mon ceph-osd; do
        [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    # Debian would start the services of the packages.
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' > $policy
        chmod 755 $policy
        made=1
    fi
    export DEBIAN_FRONTEND=noninteractive
    if ! apt-get install -y --no-install-recommends "${missing[@]}" > "$root/log/apt.log" 2>&1; then
        { apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; } >> "$root/log/apt.log" 2>&1 ||
            fail "the packages ${missing[*]} cannot be installed: $(tail -3 "$root/log/apt.log")"
    fi
    [ $made = 0 ] || rm -f $policy
}

write_config() {
    [ -s "$root/fsid" ] || cat /proc/sys/kernel/random/uuid > "$root/fsid"
    cat > "$root/ceph.conf" << CONF
[global]
fsid = $(cat "$root/fsid")
mon host = v1:$monitor
mon initial members = a
public addr = 127.0.0.1
cluster addr = 127.0.0.1
public network = 127.0.0.0/8
auth cluster required = none
auth service required = none
auth client required = none
keyring = $root/keyring
run dir = $root/pid
admin socket = $root/pid/\$name.asok
log file = $root/log/\$name.log
mon cluster log file = $root/log/cluster.log
pid file = $root/pid/\$name.pid
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon warn on pool no redundancy = false
osd crush chooseleaf type = 0
mon max pg per osd = 1000
ms bind ipv4 = true
ms bind ipv6 = false
ms bind msgr2 = false
# A disk that is nearly full is fine for a test.
mon data avail crit = 1
mon data avail warn = 2
[mon.a]
mon data = $root/mon
[osd.0]
osd data = $root/osd
osd objectstore = bluestore
# A sparse file.
bluestore block size = $((disk_gib << 30))
bluestore block create = true
osd memory target = 939524096
[client.rgw]
rgw data = $root/rgw
rgw frontends = beast endpoint=127.0.0.1:$port
rgw thread pool size = 32
rgw enable usage log = false
# Frees the space of removed objects immediately, instead of after two hours.
rgw gc obj min wait = 2
rgw gc processor period = 5
rgw gc processor max time = 5
CONF
}

start_monitor() {
    if [ ! -e "$root/mon/kv_backend" ]; then
        ceph-authtool --create-keyring "$root/keyring" --gen-key -n mon. --cap mon 'allow *' > /dev/null
        ceph-authtool "$root/keyring" --gen-key -n client.admin --cap mon 'allow *' --cap osd 'allow *' > /dev/null
        monmaptool --create --clobber --fsid "$(cat "$root/fsid")" --addv a "v1:$monitor" "$root/monmap" > /dev/null
        ceph-mon -c "$CEPH_CONF" --mkfs -i a --monmap "$root/monmap" --keyring "$root/keyring" > "$root/log/mon-mkfs.out" 2>&1
    fi
    ceph-mon -c "$CEPH_CONF" -i a > "$root/log/mon.out" 2>&1
    wait_for 30 "the monitor" ceph -c "$CEPH_CONF" -s
}

start_storage() {
    if [ ! -e "$root/osd/ready" ]; then
        cat /proc/sys/kernel/random/uuid > "$root/osd-uuid"
        # A monitor that has just started may refuse commands ('EPERM').
        wait_for 30 "the monitor" ceph -c "$CEPH_CONF" osd new "$(cat "$root/osd-uuid")"
        ceph-osd -c "$CEPH_CONF" -i 0 --mkfs --osd-uuid "$(cat "$root/osd-uuid")" > "$root/log/osd-mkfs.out" 2>&1
        ceph -c "$CEPH_CONF" osd crush add osd.0 1.0 root=default host=localhost > /dev/null 2>&1
    fi
    # Its first command may reach the monitor too early ('wrong fsid'), and then it ends.
    for _ in 1 2 3 4 5 6; do
        ceph-osd -c "$CEPH_CONF" -i 0 >> "$root/log/osd.out" 2>&1 && break
        sleep 0.5
    done
    wait_for 60 "the storage daemon" sh -c "ceph -c '$CEPH_CONF' osd stat | grep -q '1 up'"
}

start_gateway() {
    radosgw -c "$CEPH_CONF" -n client.rgw > "$root/log/rgw.out" 2>&1
    wait_for 120 "the gateway" curl -s -o /dev/null "http://127.0.0.1:$port/"
}

mkdir -p "$root"/{mon,osd,rgw,log,pid}
install_packages
export CEPH_CONF=$root/ceph.conf
write_config
is_alive "$root/pid/mon.a.pid" || start_monitor
is_alive "$root/pid/osd.0.pid" || start_storage
is_alive "$root/pid/client.rgw.pid" || start_gateway
secret=only-for-this-test-$(cut -c1-8 "$root/fsid")
radosgw-admin -c "$CEPH_CONF" user info --uid=test > /dev/null 2>&1 ||
    radosgw-admin -c "$CEPH_CONF" user create --uid=test --display-name=test --access-key=testaccess --secret-key="$secret" > /dev/null
cat > "$root/env" << ENV
export AWS_ACCESS_KEY_ID=testaccess AWS_SECRET_ACCESS_KEY=$secret AWS_DEFAULT_REGION=us-east-1
export AWS_ENDPOINT_URL=http://127.0.0.1:$port CEPH_CONF=$CEPH_CONF
ENV
echo "ceph_up: S3 at http://127.0.0.1:$port; source $root/env" >&2
