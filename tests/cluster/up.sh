#!/usr/bin/env bash
# Starts Debian's Slurm on this machine as plain processes, without systemd and cgroups, on loopback addresses only. Needs root.
#
#   tests/cluster/up.sh [FOLDER] [PORT]        # default: target/cluster 26800; then: source FOLDER/env
#   tests/cluster/down.sh [FOLDER]
#
# FOLDER has configuration, logs, pids and state. PORT and the next ones are used. A second call changes nothing. Nodes n1 to n3
# are the partitions `main` and `short` (at most one minute), n4 is `low` and `high`: a job in `high` preempts one in `low`. No job
# starts in `closed`. Memory above the job's request ends the job.
set -euo pipefail
cd "$(dirname "$0")/../.."
mkdir -p "${1:-target/cluster}"
folder=$(realpath "${1:-target/cluster}")
port=${2:-26800}
cpus=4
memory=8000

fail() { echo "up.sh: $*" >&2; exit 1; }
alive() { # PIDFILE: not a zombie, which an init may keep for some seconds
    local state
    [ -s "$1" ] && state=$(cut -d' ' -f3 "/proc/$(cat "$1")/stat" 2>/dev/null) && [ -n "$state" ] && [ "$state" != Z ]
}
wait_for() { # COMMAND...
    for _ in $(seq 300); do timeout 10 "$@" >/dev/null 2>&1 && return 0; sleep 0.1; done
    fail "no success within 30 seconds: $*"
}
[ "$(id -u)" = 0 ] || fail "Slurm's daemons need root"

if ! command -v slurmctld >/dev/null || ! command -v slurmd >/dev/null || ! command -v munged >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    policy=/usr/sbin/policy-rc.d # 101: the packages must not start their services
    [ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' > $policy; chmod 755 $policy; trap 'rm -f $policy' EXIT; }
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends munge slurm-wlm > "$folder/apt.log" 2>&1 || { tail "$folder/apt.log" >&2; exit 1; }
fi

# Commands would reach the other cluster, and its down.sh would cancel our jobs.
if ! alive "$folder/pid/slurmctld" && (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
    fail "port $port is in use"
fi

# A socket's path has at most 107 bytes, and munged wants a folder that only root can write to.
sockets=/run/ablate-cluster-$port
mkdir -p "$folder"/{etc,log,pid,state,munge} "$sockets/spool"
chmod 755 "$sockets" && chmod 700 "$folder/munge"
echo "$sockets" > "$folder/sockets"
[ -s "$folder/munge/key" ] || (umask 377 && head -c 1024 /dev/urandom > "$folder/munge/key")

cat > "$folder/etc/slurm.conf" <<END
ClusterName=test
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$port
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
# A job that is requeued waits until its credential has expired.
AuthInfo=socket=$sockets/munge,cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$folder/state
SlurmdSpoolDir=$sockets/spool/%n
SlurmctldPidFile=$folder/pid/slurmctld
SlurmdPidFile=$folder/pid/slurmd-%n
SlurmctldLogFile=$folder/log/slurmctld
SlurmdLogFile=$folder/log/slurmd-%n
# The nodes are processes: their CPUs need not exist.
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill,UsePss
MpiDefault=none
MailProg=/bin/true
SchedulerParameters=sched_interval=2,bf_interval=2,sched_min_interval=0,batch_sched_delay=0
# A request that its partition does not allow is refused, instead of waiting for ever.
EnforcePartLimits=ALL
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=500
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
# Ids differ between two clusters of one machine.
FirstJobId=$((port * 100))
MaxArraySize=10001
MaxJobCount=20000
# Jobs that ended are forgotten soon, and nodes that do not answer count as lost soon.
MinJobAge=10
SlurmdTimeout=15
MessageTimeout=5
KillWait=10
END
for index in 1 2 3 4; do
    echo "NodeName=n$index NodeAddr=127.0.0.1 Port=$((port + index)) CPUs=$cpus RealMemory=$memory State=UNKNOWN"
done >> "$folder/etc/slurm.conf"
cat >> "$folder/etc/slurm.conf" <<END
PartitionName=main Nodes=n[1-3] Default=YES PreemptMode=OFF
PartitionName=short Nodes=n[1-3] MaxTime=1 PreemptMode=OFF
PartitionName=low Nodes=n4 PriorityTier=1 GraceTime=0
PartitionName=high Nodes=n4 PriorityTier=10 PreemptMode=OFF
PartitionName=closed Nodes=n[1-3] State=DOWN
END
# Without it, slurmd looks for a mounted cgroup, and ends if there is none.
echo "CgroupPlugin=cgroup/v1" > "$folder/etc/cgroup.conf"
export SLURM_CONF=$folder/etc/slurm.conf
echo "export SLURM_CONF=$SLURM_CONF" > "$folder/env"

# Slurm finds not even 127.0.0.1 where the only address is that of the loopback interface. Nothing is sent to this one.
if ! ip -4 -o addr show 2>/dev/null | grep -qv ' 127\.'; then
    ip link set lo up && ip addr add 192.0.2.1/32 dev lo 2>/dev/null || true
fi

if ! alive "$folder/pid/munged"; then
    rm -f "$sockets/munge" "$sockets/munge.lock" "$folder/pid/munged"
    munged --force --key-file="$folder/munge/key" --socket="$sockets/munge" --pid-file="$folder/pid/munged" \
        --log-file="$folder/munge/log" --seed-file="$folder/munge/seed" 2> "$folder/log/munged" || { cat "$folder/log/munged" >&2; exit 1; }
    wait_for sh -c "munge -S $sockets/munge -n | unmunge -S $sockets/munge"
fi
if ! alive "$folder/pid/slurmctld"; then
    slurmctld 2> "$folder/log/start" || { cat "$folder/log/start" >&2; exit 1; }
    wait_for scontrol ping
fi
for index in 1 2 3 4; do
    alive "$folder/pid/slurmd-n$index" && continue
    mkdir -p "$sockets/spool/n$index"
    slurmd -N "n$index" 2> "$folder/log/start" || { cat "$folder/log/start" >&2; exit 1; }
done
# A node that has not answered since slurmctld started has a `*`. Nodes that were lost before come back.
ready() {
    [ "$(sinfo -h -N -p main,low -o '%N %t' | grep -cE ' (idle|mix|alloc|comp)$')" -ge 4 ] && return 0
    scontrol update nodename=n[1-4] state=resume || true
    return 1
}
export -f ready
wait_for bash -c ready
echo "a Slurm cluster is up: source $folder/env"
