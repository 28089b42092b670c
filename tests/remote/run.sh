#!/usr/bin/env bash
# Results that stores share through a real S3 server (Ceph's gateway): the scenarios of tests/e2e/remote.rs, transfers that are cut,
# a damaged object, several writers, and conditional puts. Needs root for Debian's packages, python3, and PyPI for the AWS command line.
#
#   tests/remote/run.sh [PROGRAM]        default: target/release/ablate
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(cd "$here/../.." && pwd)
ablate=$(realpath "${1:-$repository/target/release/ablate}")
export CEPH_ROOT=${CEPH_ROOT:-$repository/target/ceph}
work=$(mktemp -d)

stop() {
    "$here/ceph_down.sh" || true
    chmod -R u+w "$work"
    rm -rf "$work"
}
trap stop EXIT

say() { echo "test-remote: $*" >&2; }
fail() {
    echo "test-remote: FAILED: $*" >&2
    exit 1
}

# has TEXT PART...: fails unless the text has each part.
has() {
    local text=$1 part
    shift
    for part in "$@"; do
        case $text in *"$part"*) ;; *) fail "\`$part\` is not in: $text" ;; esac
    done
}

"$here/ceph_up.sh"
# shellcheck source=/dev/null
source "$CEPH_ROOT/env"
packages=$repository/target/awscli
[ -x "$packages/bin/aws" ] || python3 -m pip install --quiet --target "$packages" awscli==1.44.49 2> "$work/pip.log" ||
    python3 -m pip install --quiet --target "$packages" awscli
aws() { PYTHONPATH=$packages python3 "$packages/bin/aws" "$@"; }
aws s3 mb s3://lab > /dev/null
unset ABLATE_REMOTE ABLATE_STORE

# A project with a store of its own: NAME
project() {
    mkdir -p "$work/$1"
    cp "$repository"/experiments/{reasoner,smoke}.toml "$work/$1"
    cat > "$work/$1/big.toml" << 'TOML'
name = "big"
[stage.big]
kind = "command"
run = "head -c 314572800 /dev/zero | openssl enc -aes-128-ctr -pass pass:1 -nosalt -pbkdf2 2>/dev/null > big.bin"
outputs = { "big.bin" = "file" }
TOML
}
for name in a b c d; do project $name; done
on() {
    local name=$1
    shift
    (cd "$work/$name" && "$ablate" "$@" 2>&1)
}

say "one store trains and pushes, the other pulls and finds everything fresh"
on a run smoke.toml > /dev/null
has "$(on a push smoke.toml --remote s3://lab/team/x)" "sent 93 results"
has "$(on a push smoke.toml --remote s3://lab/team/x)" "sent 0 results (0 objects, 0 B)"
has "$(on b plan smoke.toml --remote s3://lab/team/x)" "would fetch 93 results"
on b pull smoke.toml --remote s3://lab/team/x > /dev/null
has "$(on b plan smoke.toml)" "0 must run, 0 may run, 93 fresh"
has "$(on b verify)" " 0 problems"
has "$(on c run smoke.toml --remote s3://lab/team/x)" "93 fetched"
grep -q works "$work"/a/cache/derived/remote-conditional-* || fail "Ceph's conditional put does not count as working"

say "a damaged object is refused"
# The largest object: its bytes are replaced by another client.
object=$(aws s3 ls --recursive s3://lab/team/x/objects | sort -k3 -n | tail -1 | awk '{print $4}')
size=$(aws s3 ls --recursive s3://lab/team/x/objects | sort -k3 -n | tail -1 | awk '{print $3}')
head -c "$size" /dev/zero > "$work/evil"
aws s3 cp --quiet "$work/evil" "s3://lab/$object"
text=$(on d pull smoke.toml --remote s3://lab/team/x || true)
has "$text" "is damaged" "It was not used" "${object##*/}"
has "$(on d verify)" " 0 problems"
on d run smoke.toml --remote s3://lab/team/x > /dev/null
has "$(on d verify)" " 0 problems"
aws s3 cp --quiet "s3://lab/$object" "$work/repaired"
cmp -s "$work/evil" "$work/repaired" && fail "the run did not repair the damaged object"

# kill_when CONDITION NAME ARGUMENT...: runs a command on a project, and kills it with SIGKILL as soon as the condition holds. Fails if the
# command ends before.
kill_when() {
    local condition=$1 name=$2 pid
    shift 2
    (cd "$work/$name" && exec "$ablate" "$@" > "$work/killed.log" 2>&1) &
    pid=$!
    until $condition; do
        kill -0 $pid 2> /dev/null || fail "\`$*\` ended before it was killed: $(cat "$work/killed.log")"
        sleep 0.02
    done
    kill -KILL $pid
    wait $pid 2> /dev/null || true
}

# The number of parts that the interrupted upload of store `a` has sent: the others are `null` in its state.
parts_sent() {
    local missing
    missing=$(cat "$work"/a/cache/transfers/*.upload 2> /dev/null | grep -o null | wc -l)
    [ "$missing" = 0 ] && echo 0 || echo $((19 - missing))
}
some_parts_sent() { [ "$(parts_sent)" -ge 2 ]; }

# The bytes that the interrupted download of store `b` has received.
bytes_received() { cat "$work"/b/cache/transfers/*.part 2> /dev/null | wc -c; }
some_bytes_received() { [ "$(bytes_received)" -gt $((32 << 20)) ]; }

say "a push that is killed continues"
on a run big.toml > /dev/null
kill_when some_parts_sent a push big.toml --remote s3://lab/big
parts=$(parts_sent)
say "  $parts of 19 parts were there"
[ "$parts" -lt 19 ] || fail "the push was killed too late"
uploads() { aws s3api list-multipart-uploads --bucket lab --query 'length(Uploads || `[]`)'; }
[ "$(uploads)" = 1 ] || fail "the server has $(uploads) uploads"
on a push big.toml --remote s3://lab/big > /dev/null
[ "$(uploads)" = 0 ] || fail "the push began a second upload instead of continuing the first"

say "a pull that is killed continues"
kill_when some_bytes_received b pull big.toml --remote s3://lab/big
say "  $(($(bytes_received) >> 20)) of 300 MiB were there"
on b pull big.toml --remote s3://lab/big > /dev/null
has "$(on b verify)" " 0 problems"
has "$(on b plan big.toml)" "1 fresh"

say "the gateway is killed and started again during a push and a pull"
for command in push pull; do
    name=a
    [ $command = push ] || name=c
    (cd "$work/$name" && exec "$ablate" $command big.toml --remote s3://lab/again > "$work/$command.log" 2>&1) &
    pid=$!
    sleep 0.3
    "$here/ceph_down.sh" gateway
    sleep 1
    "$here/ceph_up.sh" 2> /dev/null
    wait $pid || fail "$command: $(cat "$work/$command.log")"
done
has "$(on c verify)" " 0 problems"

say "eight writers at the same time lose nothing"
for writer in 1 2 3 4 5 6 7 8; do
    cp -a "$work/a" "$work/writer-$writer"
done
pids=()
for writer in 1 2 3 4 5 6 7 8; do
    (cd "$work/writer-$writer" && exec "$ablate" push smoke.toml --remote s3://lab/writers > "$work/writer-$writer.log" 2>&1) &
    pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid" || fail "a writer: $(cat "$work"/writer-*.log)"; done
project e
on e pull smoke.toml --remote s3://lab/writers > /dev/null
has "$(on e plan smoke.toml)" "93 fresh"
has "$(on e gc --remote s3://lab/writers)" "removed 0 experiments, 0 results, 0 objects"

say "wrong credentials, buckets and addresses are explained"
has "$(AWS_SECRET_ACCESS_KEY=wrong on a push smoke.toml --remote s3://lab/x || true)" "the secret key is wrong"
has "$(AWS_ACCESS_KEY_ID=wrong on a push smoke.toml --remote s3://lab/x || true)" "does not know the access key"
has "$(on a push smoke.toml --remote s3://nothing-here/x || true)" "the bucket does not exist"
has "$(AWS_ENDPOINT_URL=http://127.0.0.1:1 on a push smoke.toml --remote s3://lab/x || true)" "cannot be reached"

grep -rqaF "$AWS_SECRET_ACCESS_KEY" "$work" && fail "the secret key is in a file: $(grep -rlaF "$AWS_SECRET_ACCESS_KEY" "$work")"
say "passed in $SECONDS s"
