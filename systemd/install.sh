#!/usr/bin/env bash
# Installs edge-detector as a service, from this checkout: see usage() below, and the README's "Install on a Pi".
#
# Each run builds a virtual environment of its own in /opt/edge-detector/releases, tries it, and only then turns the link
# /opt/edge-detector/venv to it. What fails before leaves the former release running; what fails after is turned back.
set -euo pipefail
umask 022
exec 3>&1 # past what is silenced

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
home=/opt/edge-detector
config=/etc/edge-detector
state=/var/lib/edge-detector
cache=/var/cache/edge-detector
units=/usr/local/lib/systemd/system # `systemctl edit` writes to /etc/systemd/system, so that upgrades keep it
udev=/usr/local/lib/udev/rules.d
sysusers=/usr/local/lib/sysusers.d
tmpfiles=/usr/local/lib/tmpfiles.d
doc=/usr/local/share/doc/edge-detector
link=/usr/local/bin/edge-detector
service=edge-detector.service
python=${PYTHON:-/usr/bin/python3}
needed_mb=1200 # an environment takes 500 to 700, what pip downloads for it 200
start_s=90     # so long a service may take to become ready before this stops looking

usage() {
    cat <<USAGE
Usage: sudo systemd/install.sh [--with stream] [--no-start] [--dry-run]
       sudo systemd/install.sh --uninstall [--purge] [--dry-run]

Installs edge-detector from this checkout as a service that starts at boot. Run it again, with a newer checkout, to upgrade:
settings and data stay.

  --with stream   also what H.264 needs: recordings, WebRTC, RTSP (an upgrade keeps it)
  --no-start      start it at the next boot, not now
  --uninstall     remove program and service; settings ($config) and data ($state) stay
  --purge         with --uninstall: remove those too
  --dry-run       only say what would be done

PYTHON names another interpreter than $python; PIP_INDEX_URL and all other PIP_* variables go to pip.
USAGE
}

say() { printf '%s\n' "$*"; }
warn() { printf 'install.sh: warning: %s\n' "$*" >&2; }
die() {
    printf 'install.sh: error: %s\n' "$*" >&2
    exit 1
}

run() {
    if $dry_run; then
        printf '    would run: %s\n' "$*" >&3
    else
        "$@"
    fi
}

booted() { [ -d /run/systemd/system ]; }

# The unit for several instances: edge-detector@front reads front.yaml and has folders of its own.
instance_unit() {
    sed -e 's|^Description=.*|& %i|' \
        -e '/^ExecStart=/s|/edge-detector\.yaml|/%i.yaml|' \
        -e '/^StateDirectory=\|^RuntimeDirectory=/s|$|/%i|' \
        -e 's|/var/lib/edge-detector$|&/%i|' "$1"
}

of_os() { sed -n "s/^$1=\"\{0,1\}\([^\"]*\)\"\{0,1\}$/\1/p" /etc/os-release 2>/dev/null || true; }

check_system() {
    local id version architecture systemd free_mb
    id=$(of_os ID)
    version=$(of_os VERSION_ID)
    if ! command -v apt-get systemctl >/dev/null; then
        die "this needs apt and systemd, as Debian has them: on ${id:-this system} use pip install . and what starts services there"
    fi
    case $id:${version%%.*} in
        debian:12 | debian:13 | raspbian:12 | raspbian:13) ;;
        debian:* | raspbian:*) die "$id $version: Debian or Raspberry Pi OS 12 (Bookworm) or 13 (Trixie) is needed" ;;
        *) warn "$id $version was never tried; Debian and Raspberry Pi OS 12 and 13 were" ;;
    esac
    systemd=$(systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')
    [ "$systemd" -ge 252 ] || die "systemd $systemd is too old, 252 is needed: upgrade to Debian 12 or later"
    [ "$(id -u)" = 0 ] || $dry_run || die "needs root: sudo systemd/install.sh"

    case $(readlink -f "$python") in
        /home/* | /root/*) die "$python lies in a home folder, which the service cannot see: leave PYTHON unset" ;;
    esac
    [ -x "$python" ] || run_apt python3-minimal
    [ -x "$python" ] || { $dry_run && return; } || die "$python is not there: sudo apt install python3"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        die "$("$python" --version) is too old, 3.10 is needed: upgrade the system, or name a newer one with PYTHON=..."
    architecture=$(dpkg --print-architecture)
    case $architecture in
        amd64 | arm64) ;;
        armhf)
            "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' ||
                die "on a 32-bit system only Python 3.11 (Bookworm) works: install the 64-bit Raspberry Pi OS"
            [ "$(uname -m)" != aarch64 ] ||
                die "a 32-bit system on a 64-bit kernel: put arm_64bit=0 into /boot/firmware/config.txt and reboot, or install the 64-bit Raspberry Pi OS"
            ;;
        *) die "there is no TensorFlow Lite for $architecture: amd64, arm64 or armhf is needed" ;;
    esac
    free_mb=$(df --output=avail -m "$(existing "$home")" | tail -n 1)
    [ "$free_mb" -ge $needed_mb ] ||
        die "$free_mb MB are free below $home, $needed_mb are needed: sudo apt clean, or remove what you do not need"
}

existing() { # the nearest folder upwards that is there
    local folder=$1
    while [ ! -d "$folder" ]; do folder=$(dirname "$folder"); done
    printf '%s\n' "$folder"
}

run_apt() {
    local missing=() package
    for package in "$@"; do
        dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "Installing ${missing[*]} (apt) ..."
    run apt-get -qq update || warn "apt-get update failed: is there a network? Going on with what is known"
    DEBIAN_FRONTEND=noninteractive DEBCONF_NOWARNINGS=yes run apt-get -qq -y --no-install-recommends -o=Dpkg::Use-Pty=0 install "${missing[@]}" >/dev/null ||
        die "apt could not install ${missing[*]}: see above; then run this again"
}

install_packages() {
    local packages=(python3-venv procps) # procps: kill, for systemctl reload
    [ "$python" = /usr/bin/python3 ] || packages=(procps)
    # Only Raspberry Pi's own archive has it. It brings libcamera.
    if [ -n "$(apt-cache --names-only search '^python3-picamera2$' 2>/dev/null)" ]; then packages+=(python3-picamera2); fi
    # What the wheels for 32-bit ARM take from the system.
    if [ "$(dpkg --print-architecture)" = armhf ]; then packages+=(libopenblas0 libavcodec59 libavformat59 libswscale6); fi
    run_apt "${packages[@]}"
}

version() { sed -n 's/^__version__ = "\(.*\)"/\1/p' "$checkout/edge_detector/__init__.py"; }

# Fills $release: an environment that is where it will stay, because environments cannot be moved.
build() {
    say "Building edge-detector $(version) in $release, several minutes on a Pi ..."
    if $dry_run; then
        say "    would run: $python -m venv $release, pip install .${extras:+[$extras]} and one inference with it"
        return
    fi
    local options=() constraints
    mkdir -p "$home/releases"
    trap 'rm -rf "$release" "$work"' EXIT
    constraints=$work/constraints
    : >"$constraints"
    if "$python" -c 'import libcamera' 2>/dev/null; then
        options+=(--system-site-packages)
        # What apt built against its numpy has to find that one.
        "$python" -c 'import numpy; print(f"numpy=={numpy.__version__}")' >"$constraints" 2>/dev/null || true
    fi
    "$python" -m venv "${options[@]}" "$release" || die "$python cannot make an environment: sudo apt install python3-venv"
    # Of a copy, because building leaves files in the tree, which would be root's.
    mkdir "$work/source"
    (cd "$checkout" && cp -r setup.cfg pyproject.toml README.md LICENSE edge_detector "$work/source" &&
        mkdir "$work/source/models" && cp models/*.py models/*.md models/*.tflite "$work/source/models")
    TMPDIR=$work PIP_CACHE_DIR=${PIP_CACHE_DIR:-$cache/pip} "$release/bin/python" -m pip --disable-pip-version-check install --quiet \
        --progress-bar off --constraint "$constraints" "$work/source${extras:+[$extras]}" ||
        die "pip could not install it: is there a network? Run this again when there is$kept"
    say "$extras" >"$release/extras"
    mkdir "$release/systemd"
    cp "$checkout"/systemd/{edge-detector.service,edge-detector.sysusers,edge-detector.tmpfiles,99-edgetpu.rules} "$release/systemd"
    cp "$checkout"/systemd/edge-detector.yaml "$checkout"/README.md "$release/systemd"
    instance_unit "$checkout/systemd/edge-detector.service" >"$release/systemd/edge-detector@.service"
    (cd / && "$release/bin/python" - 2>"$work/error" <<'TRY') || die "the new release does not work here: $(tail -n 1 "$work/error")$kept"
from edge_detector.detector import Detector
from edge_detector.sources import open_source

detector = Detector.open("ssd_resnet50_fpn_person_320_int8")
detector.detect(open_source("synthetic://").read(timeout_s=10.0))
TRY
}

# Makes a release the one that runs. Nothing here takes long or needs a network.
activate() {
    local from=$1/systemd
    run install -D -m 644 -t "$units" "$from/edge-detector.service" "$from/edge-detector@.service"
    run install -D -m 644 "$from/99-edgetpu.rules" "$udev/99-edgetpu.rules"
    run install -D -m 644 -t "$doc" "$from/edge-detector.yaml" "$from/README.md"
    if [ ! -e "$link" ] || [ "$(readlink "$link")" = "$home/venv/bin/edge-detector" ]; then
        run ln -sfn "$home/venv/bin/edge-detector" "$link"
    else
        warn "$link is of somebody else and stays: type $home/venv/bin/edge-detector"
    fi
    run ln -sfn "$1" "$home/venv.new"
    run mv -T "$home/venv.new" "$home/venv"
    if booted; then run systemctl daemon-reload; fi
}

make_user_and_folders() {
    run install -D -m 644 "$checkout/systemd/edge-detector.sysusers" "$sysusers/edge-detector.conf"
    run install -D -m 644 "$checkout/systemd/edge-detector.tmpfiles" "$tmpfiles/edge-detector.conf"
    run systemd-sysusers "$sysusers/edge-detector.conf"
    run systemd-tmpfiles --create "$tmpfiles/edge-detector.conf"
    if [ -e "$config/edge-detector.yaml" ]; then
        say "Keeping $config/edge-detector.yaml"
    else
        run install -m 640 -g edge-detector "$checkout/systemd/service.yaml" "$config/edge-detector.yaml"
    fi
}

# The services that are up, or were meant to be.
wanted_services() {
    booted || return 0
    systemctl list-units --all --plain --no-legend --state=active,activating,reloading,failed \
        "$service" 'edge-detector@*.service' | awk '{ print $1 }'
}

# The new release has to understand the settings of all that run, with their secrets, before it takes over.
check_settings() {
    local unit name
    booted && "$release/bin/edge-detector" check --help >/dev/null 2>&1 || return 0
    for unit in "$@"; do
        name=${unit%.service}
        name=$config/${name#*@}.yaml
        systemd-run --quiet --pipe --wait --collect --property=User=edge-detector --property=WorkingDirectory=$state \
            --property=LoadCredential=EDGE_DETECTOR:$config/secrets --property=EnvironmentFile=-$config/environment \
            "$release/bin/edge-detector" check "$name" >"$work/check" 2>&1 ||
            { cat "$work/check" >&2 && die "$name: see above. Correct it and run this again$kept"; }
    done
}

# Waits until a service runs or has failed; says which.
state_of() {
    local unit=$1 waited=0 state
    while :; do
        state=$(systemctl show --property=ActiveState --value "$unit")
        case $state in active | failed | inactive) break ;; esac
        [ $waited -lt $start_s ] || break
        sleep 1
        waited=$((waited + 1))
    done
    printf '%s\n' "$state"
}

restart() {
    local unit state failed=0
    systemctl reset-failed "$@" 2>/dev/null || true
    systemctl restart --no-block "$@"
    sleep 1
    for unit in "$@"; do
        state=$(state_of "$unit")
        say "$unit: $state $(systemctl show --property=StatusText --value "$unit")"
        [ "$state" = failed ] || continue
        failed=1
        journalctl --quiet --no-pager --output=cat --lines=3 "_SYSTEMD_UNIT=$unit" |
            sed 's/^/    /' | tail -n 3 >&2 || true
    done
    return $failed
}

enable_and_start() {
    local services=("$@")
    if [ -z "$former" ]; then
        run systemctl --quiet enable "$service"
        services=("$service" "${services[@]/$service/}")
    fi
    booted || { say "systemd does not run here: it starts at the next boot" && return; }
    run udevadm control --reload 2>/dev/null || true
    run udevadm trigger --subsystem-match=usb --subsystem-match=apex 2>/dev/null || true
    # shellcheck disable=SC2206 # empty ones go
    services=(${services[@]})
    if $no_start; then
        say "Not started, as you wished; it starts at the next boot"
        return
    fi
    [ ${#services[@]} -gt 0 ] || return 0
    if $dry_run; then
        say "    would run: systemctl restart ${services[*]}"
        return
    fi
    say "Starting ${services[*]} ..."
    restart "${services[@]}" && return
    if [ -n "$former" ]; then
        activate "$former"
        restart "${services[@]}" || true
        rm -rf "$release"
        die "the new release did not start, so the former one runs again. Its last words are above"
    fi
    die "it is installed, but did not start; its last words are above. Correct $config/edge-detector.yaml, then: sudo systemctl restart edge-detector"
}

say_next() {
    local address machine
    machine=$(uname -n)
    address=$(sed -n "s/^http: *[\"']*\([^\"' ]*\).*/\1/p" "$config/edge-detector.yaml" 2>/dev/null || true)
    address=${address:-127.0.0.1:8080}
    say ''
    say 'Done. What you can do next:'
    case $address in
        127.* | localhost*)
            say "  see it               http://$address/ on this machine; from yours: ssh -L 8080:$address $machine,"
            say '                       then http://127.0.0.1:8080/'
            ;;
        null) ;;
        *) say "  see it               http://${address/#0.0.0.0:/$machine:}/" ;;
    esac
    say "  change settings      sudo nano $config/edge-detector.yaml && sudo systemctl reload edge-detector"
    say '  watch what it does   journalctl -u edge-detector -f'
    say '  is all well?         sudo edge-detector doctor'
    if booted && ! grep -qw memory /sys/fs/cgroup/cgroup.controllers 2>/dev/null; then
        say '  limit its memory     add cgroup_enable=memory to the one line of /boot/firmware/cmdline.txt and reboot; until then it is not'
    fi
}

install_all() {
    local former release extras=$extras kept='' services=()
    check_system
    former=$(readlink "$home/venv" 2>/dev/null || true)
    [ -z "$former" ] || kept='; the former release was not touched'
    [ -n "$extras" ] || extras=$(cat "$former/extras" 2>/dev/null || true)
    release=$home/releases/$(version)-$(date -u +%Y%m%dT%H%M%S)
    install_packages
    build
    make_user_and_folders
    mapfile -t services < <(wanted_services)
    $dry_run || check_settings "${services[@]:-$service}"
    trap 'rm -rf "$work"' EXIT
    run sync -f "$home" # a power cut after this leaves a whole release
    activate "$release"
    enable_and_start "${services[@]}"
    $no_start || remove_all_but "$release" # else the former may run on, and would miss what it has not loaded yet
    $dry_run || say_next
}

remove_all_but() {
    local old
    for old in "$home"/releases/*/; do
        [ "${old%/}" = "$1" ] || [ ! -d "$old" ] || run rm -rf "${old%/}"
    done
}

uninstall() {
    [ "$(id -u)" = 0 ] || $dry_run || die "needs root: sudo systemd/install.sh --uninstall"
    local name
    if booted; then
        mapfile -t services < <(systemctl list-units --all --plain --no-legend "$service" 'edge-detector@*.service' | awk '{ print $1 }')
        [ ${#services[@]} = 0 ] || run systemctl --quiet stop "${services[@]}" || true
    fi
    for name in /etc/systemd/system/*.wants/edge-detector{,@*}.service; do
        [ ! -L "$name" ] || run systemctl --quiet disable "$(basename "$name")"
    done
    run rm -rf "$home" "$cache" "$doc"
    run rm -f "$units/edge-detector.service" "$units/edge-detector@.service" "$udev/99-edgetpu.rules"
    run rm -f "$sysusers/edge-detector.conf" "$tmpfiles/edge-detector.conf"
    [ "$(readlink "$link" 2>/dev/null)" != "$home/venv/bin/edge-detector" ] || run rm -f "$link"
    if booted; then
        run systemctl daemon-reload
        run systemctl reset-failed "$service" 'edge-detector@*.service' 2>/dev/null || true
    fi
    if $purge; then
        run rm -rf "$config" "$state" /etc/systemd/system/edge-detector{,@}.service.d
        if id edge-detector >/dev/null 2>&1; then run userdel edge-detector; fi
        say "Removed, with settings and data. Packages of the system stay"
    else
        say "Removed. Settings ($config), data ($state) and the user edge-detector stay; --uninstall --purge removes them too"
    fi
}

main() {
    dry_run=false no_start=false purge=false extras=''
    local action=install_all
    while [ $# -gt 0 ]; do
        case $1 in
            --with)
                [ "${2:-}" = stream ] || die "--with: give stream"
                extras=$2
                shift
                ;;
            --no-start) no_start=true ;;
            --dry-run) dry_run=true ;;
            --uninstall) action=uninstall ;;
            --purge) purge=true ;;
            -h | --help) usage && exit ;;
            *) die "$1: unknown option, see --help" ;;
        esac
        shift
    done
    ! $purge || [ $action = uninstall ] || die "--purge: only with --uninstall"
    work=$(mktemp -d /var/tmp/edge-detector.XXXXXX) # on the disk: /tmp is in memory from Debian 13 on
    trap 'rm -rf "$work"' EXIT
    $action
}

# Tests read the functions without running anything. `exit`: who changes this file meanwhile changes nothing.
if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    main "$@"
    exit
fi
