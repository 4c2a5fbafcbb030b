#!/bin/bash
# Run tests on 64-bit ARM, emulated, on a Debian or Ubuntu machine of another kind.
#
# usage: sudo scripts/test_aarch64.sh FOLDER [CPU:ISAS[:PATHS]]...
#
# FOLDER gets qemu, an arm64 Debian with Python, and aarch64 wheels (600 MB, a minute or two), once.
# CPU: a name of qemu's; ISAS: instruction sets that tests take, with commas between; PATHS: test
# files, likewise. Without any: neon and generic on a Cortex-A53, neondot on an A76, neoni8mm on
# `max`, and the model in the box on each. In a namespace of its own: binfmt_misc of the machine is
# left as it is (Linux 6.7 on). Needs root for debootstrap.
#
# Emulated, all tests would take hours: every CPU takes those of the kernels that are its own, and of
# sessions; of the rest each takes a part.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '4s/# //p' "$0" >&2; exit 2; }
folder=$(mkdir -p "$1" && cd "$1" && pwd); shift
repository=$(cd "$(dirname "$0")/.." && pwd)
root=$folder/root site=usr/local/lib/python3.11/dist-packages
qemu=$folder/qemu/usr/bin/qemu-aarch64-static

files() { # FOLDER NAME...: test files, with commas before them
    local folder=$1 name; shift
    for name in "$@"; do printf ',tests/%s/test_%s.py' "$folder" "$name"; done
}
SESSION=,tests/running/test_session.py::test
EVERYWHERE=$(files kernels isa kernels attention cache_types ops recurrent team)
EVERYWHERE+=$(files running logprobs prefixes recurrent_sessions scheduler)
EVERYWHERE+=${SESSION}_logits_do_not_depend_on_the_number_of_threads[Q4_K-int8]
EVERYWHERE+=${SESSION}_a_sequence_does_not_depend_on_others_beside_it[Q4_K-int8]
EVERYWHERE+=${SESSION}_prompts_and_single_tokens_give_the_same_logits[Q4_K-int8]
# The emulator gives no memory back for MADV_REMOVE.
not_here="--deselect tests/models/test_caches.py::test_released_positions_take_no_memory"
[ $# -ge 1 ] || set -- \
    "cortex-a53:neon,generic:$EVERYWHERE" \
    "cortex-a76:neondot:$EVERYWHERE$(files kernels experts split_attention program quants work)" \
    "max:neoni8mm:$EVERYWHERE$(files models models caches)"

if [ ! -x "$qemu" ]; then
    (cd "$folder" && apt-get download qemu-user-static && dpkg-deb -x qemu-user-static_*.deb qemu)
fi
if [ ! -e "$folder/ready" ]; then
    rm -rf "$root"
    debootstrap --arch=arm64 --foreign --variant=minbase --include=python3 bookworm "$root"
    # The second stage would run in the emulator, and nothing here needs what it sets up.
    for package in "$root"/var/cache/apt/archives/*.deb; do dpkg-deb -x "$package" "$root"; done
    platforms=(--platform manylinux_2_34_aarch64 --platform manylinux_2_31_aarch64
               --platform manylinux_2_28_aarch64 --platform manylinux_2_17_aarch64
               --platform manylinux2014_aarch64)
    pip install --quiet --target "$root/$site" "${platforms[@]}" --only-binary=:all: \
        --implementation cp --python-version 3.11 numpy llvmlite gguf sentencepiece tokenizers \
        jinja2 tqdm pytest pytest-xdist hypothesis threadpoolctl "llguidance>=1.9" msgspec jsonschema
    mkdir -p "$root/linnet" "$root/fixtures" "$root/cache"
    touch "$folder/ready"
fi

inside() { # CPU ISAS COMMAND...: run it there
    unshare --user --map-root-user --mount --pid --kill-child -- bash -ec '
        root=$1 qemu=$2 repository=$3 cpu=$4 isas=$5; shift 5
        mount -t proc proc /proc
        mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
        kind="\\x7fELF\\x02\\x01\\x01" zeros="\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00"
        any="\\xff\\xff\\xff\\xff\\xff\\xff\\xff" rest="\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff"
        what="$kind$zeros\\x02\\x00\\xb7\\x00:$any\\x00$rest\\xfe\\xff\\xff\\xff"
        printf "%s" ":aarch64:M::$what:$qemu:F" > /proc/sys/fs/binfmt_misc/register
        mount --rbind /dev "$root/dev"
        mount --rbind /sys "$root/sys"
        mount -t proc proc "$root/proc"
        mount --bind "$repository" "$root/linnet"
        [ -z "${LINNET_FIXTURES:-}" ] || mount --bind "$LINNET_FIXTURES" "$root/fixtures"
        exec chroot "$root" /usr/bin/env -i PATH=/usr/bin:/bin HOME=/root TERM=dumb \
            QEMU_CPU="$cpu" LINNET_TEST_ISAS="$isas" LINNET_FIXTURES="${LINNET_FIXTURES:+/fixtures}" \
            LINNET_CACHE_DIR=/cache PYTHONPATH=/linnet PYTHONDONTWRITEBYTECODE=1 \
            sh -c "cd /linnet && exec \"\$@\"" sh "$@"
        ' inside "$root" "$qemu" "$repository" "$@"
}

failed=0
for run in "$@"; do
    IFS=: read -r cpu isas paths <<< "$run"
    [ -n "$paths" ] || paths=$EVERYWHERE
    echo "== $cpu, $isas"
    IFS=, read -ra chosen <<< "${paths#,}"
    inside "$cpu" "$isas" python3 -m pytest -n 2 -rs $not_here -p no:cacheprovider -p no:warnings "${chosen[@]}" \
        || failed=1
    isa=${isas%%,*}
    demo=(-m linnet generate --isa "$isa" -t 2 --temp 0 -n 24 -p "def fibonacci(n):")
    inside "$cpu" "$isas" python3 "${demo[@]}" > "$folder/$cpu.txt" 2> "$folder/$cpu.log" \
        || failed=1
    echo "the model in the box, $isa:" && cat "$folder/$cpu.txt"
done
exit $failed
