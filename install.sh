#!/bin/sh
# Get what fastctr needs, build it into .venv, and run a first container:
#
#     sh install.sh
#
# The Makefile calls it too, with what it wants to have: `sh install.sh test`, `bench`, `lint` or `ci` get
# the needs of that besides, and `build` none; then nothing is run. Done already, it takes a moment.
# PYTHON names another interpreter, VENV another place than .venv.
set -eu
cd "$(dirname "$0")"
want=${1:-run}
venv=${VENV:-.venv}

say() { printf '%s\n' "fastctr: $*"; }
fail() { printf '%s\n' "fastctr: $*" >&2; exit 1; }

# ---- packages of the system ---------------------------------------------------------------

build_packages="gcc libc6-dev make libseccomp-dev"
test_packages="busybox-static procps strace uidmap bubblewrap crun runc golang-github-containers-common
    iproute2 skopeo umoci podman docker.io docker-registry erofs-utils libarchive-tools zstd xz-utils bzip2 openssl"
bench_packages="busybox-static strace bubblewrap crun runc golang-github-containers-common
    umoci skopeo podman docker.io docker-registry debootstrap e2fsprogs"
ci_packages="gcc-aarch64-linux-gnu libc6-dev-arm64-cross"

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# The first python3 on the path, else any that is new enough.
find_python() {
    for python in ${PYTHON:-python3 /usr/bin/python3 python3.11 python3.12 python3.13 python3.14}; do
        python=$(command -v "$python" 2>/dev/null) || continue
        new_enough "$python" && return 0
    done
    python=
    return 1
}

lacks_headers() {
    ! "$1" -c 'import os, sysconfig as s; open(os.path.join(s.get_path("include"), "Python.h"))' 2>/dev/null
}

lacks_venv() { ! "$1" -c 'import ensurepip, venv' 2>/dev/null; }

# What of the given packages is not installed; without dpkg, whether what they are for is there.
missing_packages() {
    if command -v dpkg-query >/dev/null 2>&1; then
        for package; do
            dpkg-query -W -f '${Status}\n' "$package" 2>/dev/null | grep -q '^install ok installed' ||
                printf '%s ' "$package"
        done
    else
        command -v cc >/dev/null 2>&1 || printf 'gcc '
        command -v make >/dev/null 2>&1 || printf 'make '
        printf '#include <seccomp.h>\n' | cc -E - >/dev/null 2>&1 || printf 'libseccomp-devel '
    fi
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# The archive's lists may be older than the archive.
apt_install() {
    say "installing $*"
    as_root apt-get -o DPkg::Lock::Timeout=300 -qq update || say "apt-get update failed; going on with the lists there are"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 -qq -y \
        install --no-install-recommends "$@" >/dev/null
}

get_packages() {
    [ -n "$*" ] || return 0
    command -v apt-get >/dev/null 2>&1 || fail "these are missing, and there is no apt-get to install them with: $*"
    [ "$(id -u)" = 0 ] || command -v sudo >/dev/null 2>&1 ||
        fail "these are missing; as root: apt-get install $*"
    apt_install "$@" || fail "apt-get could not install $*"
}

packages=$build_packages
case $want in
run | build | lint) ;;
test) packages="$packages $test_packages" ;;
bench) packages="$packages $bench_packages" ;;
ci) packages="$packages $test_packages $bench_packages"
    [ "$(uname -m)" = aarch64 ] || packages="$packages $ci_packages" ;;
*) fail "what is \"$want\"? One of run, build, test, bench, lint, ci" ;;
esac
if find_python; then
    # Another interpreter than Debian's brings its own headers.
    ! lacks_headers "$python" || packages="$packages python3-dev"
    ! lacks_venv "$python" || packages="$packages python3-venv"
else
    packages="$packages python3 python3-dev python3-venv"
fi
# shellcheck disable=SC2046,SC2086
get_packages $(missing_packages $packages)
find_python || fail "no Python 3.11 or newer: set PYTHON to one"
! lacks_headers "$python" || fail "$python has no Python.h: install its development files, or set PYTHON"
! lacks_venv "$python" || fail "$python has no venv: install it, or set PYTHON"

# ---- the package in its environment -------------------------------------------------------

if ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then
    say "making $venv with $("$python" --version)"
    rm -rf "$venv"
    "$python" -m venv "$venv"
fi
pip() { "$venv/bin/python" -m pip --disable-pip-version-check -qq "$@"; }

# with NAME [PACKAGE]...: install them once, and again when pyproject.toml has changed.
with() {
    stamp=$venv/.fastctr-$1
    shift
    [ "$stamp" -nt pyproject.toml ] || { pip install "$@" && touch "$stamp"; }
}

with tools 'setuptools>=77' 'cython>=3.0'
# What images need, by the names pyproject.toml has them under.
"$venv/bin/python" -c 'import tomllib
print("\n".join(tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"]))' >"$venv/needs.txt"
with needs -r "$venv/needs.txt"
stamp=$venv/.fastctr-built
if [ ! -e "$stamp" ] || [ -n "$(find csrc src setup.py pyproject.toml -newer "$stamp" -type f \
    ! -name '*.pyc' ! -name '*.so' ! -name _core.c ! -name 'fctr-*' ! -path '*.egg-info*')" ]; then
    say "building"
    # What an older build left there would be taken for this one's.
    rm -rf build/lib* build/temp* build/bdist*
    touch "$stamp.new"
    pip install --no-build-isolation --no-deps --force-reinstall .
    mv "$stamp.new" "$stamp"
fi
case $want in
test) with test '.[test]' --no-build-isolation ;;
bench) with test '.[test]' --no-build-isolation ;;
lint) with lint '.[dev,test]' --no-build-isolation ;;
ci) with test '.[test]' --no-build-isolation && with lint '.[dev,test]' --no-build-isolation ;;
esac
[ "$want" = run ] || exit 0

# ---- a first container --------------------------------------------------------------------

hello='echo "Hello from a container: I am process $$ of $(ls /proc | grep -c "^[0-9]") on $(hostname)."'
set --
[ "$(id -u)" != 0 ] || set -- -m 64m --pids-limit 32    # for a user only in a delegated group: docs/security.md
say "$venv/bin/fastctr run ${*:+$* }host sh -c 'echo …'"
"$venv/bin/fastctr" run "$@" host sh -c "$hello"
