#!/usr/bin/env bash
# The program on ARM, without an ARM machine: makes Debian trees, installs the checkout in them as the README says, and
# runs tests and the shipped models there under qemu-user. Run as root: tests/hardware/emulated.sh [SUITE[:ARCH] ...]
#   tests/hardware/emulated.sh                      # bookworm and trixie, 64 bit (Raspberry Pi OS of 2023 and 2025)
#   tests/hardware/emulated.sh bookworm:armhf       # 32 bit, with tflite-runtime
# TREES keeps trees and downloads (2 GB per tree), so that the second run is quick. CPUS are the processors emulated, which
# choose the kernels of int8 inference: cortex-a72 is the Raspberry Pi 4, cortex-a76 the 5. They give the same bytes, and so
# does "max,sme=off" of qemu 7.2. With "max", which has SME as no Raspberry Pi does, LiteRT 2.3.0 finds garbage: whether
# qemu's SME or its kernels for it are wrong is not known.
set -euo pipefail
cd "$(dirname "$0")/../.."
TREES=${TREES:-/var/tmp/edge_detector_arm}
CPUS=${CPUS:-cortex-a72 cortex-a76}
MIRROR=${MIRROR:-} # Debian's own unless given
[ $# -gt 0 ] || set -- bookworm trixie

say() { printf '\n=== %s (%d min)\n' "$*" $((SECONDS / 60)); }

die() {
    echo "emulated.sh: $*" >&2
    exit 1
}

[ "$(id -u)" = 0 ] || die "needs root: debootstrap and chroot"
for tool in debootstrap qemu-aarch64-static unshare; do
    command -v "$tool" >/dev/null || die "no $tool: apt install debootstrap qemu-user-static util-linux"
done

# qemu answers for programs of the architecture; the flag F in Debian's line lets it do so inside a chroot.
register() {
    local binfmt=/proc/sys/fs/binfmt_misc
    mountpoint -q $binfmt || mount -t binfmt_misc binfmt_misc $binfmt
    [ -e "$binfmt/qemu-$1" ] || cat "/usr/lib/binfmt.d/qemu-$1.conf" >$binfmt/register
}

# What /proc/cpuinfo says on that processor. XNNPACK chooses its kernels by it, and qemu shows the PC's own.
cpuinfo() { # CPU
    local features="fp asimd evtstrm crc32 cpuid" part=0xd08 revision="0x0 3"
    if [ "$1" != cortex-a72 ]; then
        features="fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
        part=0xd0b revision="0x4 1"
    fi
    for number in 0 1; do
        printf 'processor\t: %s\nBogoMIPS\t: 108.00\nFeatures\t: %s\nCPU implementer\t: 0x41\n' "$number" "$features"
        printf 'CPU architecture: 8\nCPU variant\t: %s\nCPU part\t: %s\nCPU revision\t: %s\n\n' \
            "${revision% *}" "$part" "${revision#* }"
    done
}

# Runs a command in a tree, on the processor $CPU. Mounts and processes end with it: they have namespaces of their own.
inside() {
    local tree=$1
    shift
    mkdir -p "$tree/sys/devices/system/cpu"
    echo 0-1 | tee "$tree/sys/devices/system/cpu/possible" >"$tree/sys/devices/system/cpu/present"
    cpuinfo "${CPU:-cortex-a76}" >"$tree/root/cpuinfo"
    nice -n "${NICE:-10}" unshare --mount --pid --fork --kill-child bash -c '
        tree=$1; shift
        mount -t proc proc "$tree/proc"
        mount --bind "$tree/root/cpuinfo" "$tree/proc/cpuinfo"
        mount -t tmpfs tmpfs "$tree/dev/shm"
        mkdir -p "$tree/root/.cache" && mount --bind "$0" "$tree/root/.cache"
        exec chroot "$tree" "$@"' "$TREES/cache" "$tree" \
        env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
        QEMU_CPU="${CPU:-cortex-a76}" PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_ONLY_BINARY=:all: PIP_NO_COMPILE=1 \
        ${PIP_CERT:+PIP_CERT=/root/ca.crt} "$@"
}

make_tree() { # SUITE ARCH TREE
    if [ ! -e "$3/.made" ]; then
        say "$1 $2: debootstrap"
        mkdir -p "$TREES/cache" "$TREES/debs-$2"
        rm -rf "$3"
        nice debootstrap --arch="$2" --variant=minbase --cache-dir="$TREES/debs-$2" \
            --include=ca-certificates,make,python3-venv "$1" "$3" ${MIRROR:+"$MIRROR"} >"$3.log" 2>&1 ||
            die "debootstrap failed: see $3.log"
        touch "$3/.made"
    fi
    [ -z "${PIP_CERT:-}" ] || cp "$PIP_CERT" "$3/root/ca.crt"
    cp /etc/resolv.conf "$3/etc/resolv.conf"
    mkdir -p "$3/root/edge_detector"
    git ls-files -z --cached --others --exclude-standard | tar --create --null --files-from=- --ignore-failed-read |
        tar --extract --directory "$3/root/edge_detector"
}

# Tests of what computes, and of what touches processors, files and clocks. Left out, with the reason:
#   browser, web, WebRTC, RTSP, MQTT: need Chromium, GStreamer, mosquitto in the tree, and more speed than qemu has
#   tests/unit/tools: training and conversion are done on a PC
#   test_edgetpu, test_failover: need gcc in the tree
#   test_motion_gate, test_follower: minutes of video
#   640 pixels: a minute per picture; the same code and kernels as 320
CORE="tests/unit/preprocess tests/unit/postprocess tests/unit/tracking tests/unit/test_config.py tests/unit/test_object_config.py
    tests/unit/test_detector.py tests/unit/test_jpeg.py tests/unit/test_labels.py tests/unit/test_loader.py
    tests/unit/test_manifest_rules.py tests/unit/test_model_file.py tests/unit/test_registry.py tests/unit/test_tflite_schema.py
    tests/unit/backends/test_tflite.py tests/unit/backends/test_replay.py tests/unit/publishers/test_jsonl.py
    tests/unit/publishers/test_schema.py tests/unit/publishers/test_udp.py tests/unit/publishers/test_snapshots.py
    tests/unit/publishers/test_event_store.py tests/integration/test_shipped_models.py"
MODEL=ssd_resnet50_fpn_person_320_int8

failed=0
for target in "$@"; do
    suite=${target%%:*} arch=arm64 processor=aarch64
    [ "$target" = "$suite" ] || arch=${target#*:}
    [ "$arch" = arm64 ] || processor=arm
    tree=$TREES/$suite-$arch
    register $processor
    make_tree "$suite" "$arch" "$tree"
    say "$suite $arch: make .venv/.dev, from wheels only"
    inside "$tree" make --no-print-directory -C /root/edge_detector .venv/.dev || die "the installation failed"
    say "$suite $arch: core tests"
    rm -rf "$tree/root/reports" && mkdir -p "$tree/root/reports"
    # shellcheck disable=SC2086 # CORE is a list
    inside "$tree" timeout 1800 sh -c "cd /root/edge_detector && exec .venv/bin/python -m pytest -q -p no:cacheprovider $(echo $CORE) \
        -k 'not 640 and not motion_gate and not follower' --junitxml=/root/reports/core.xml" || failed=1
    for cpu in $CPUS; do
        say "$suite $arch on $cpu: the shipped model's boxes"
        CPU=$cpu inside "$tree" env EDGE_DETECTOR_ACCEPTANCE_MODELS=$MODEL EDGE_DETECTOR_ACCEPTANCE_REPEATS=1 \
            /root/edge_detector/.venv/bin/python /root/edge_detector/tests/hardware/acceptance.py \
            --output "/root/reports/$cpu" -- -q -p no:cacheprovider -k installation || failed=1
    done
done

say "summary"
for target in "$@"; do
    suite=${target%%:*} arch=arm64
    [ "$target" = "$suite" ] || arch=${target#*:}
    python3 tests/hardware/emulated_summary.py "$suite $arch" "$TREES/$suite-$arch/root/reports"
done
[ $failed = 0 ] || die "something failed: see above"
