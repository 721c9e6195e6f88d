#!/bin/sh
# Ask the package index whether every pinned package has a wheel for each device: sh runtimes/resolve.sh UV
# UV is the program uv, which `make lint` installs as .venv-lint/bin/uv. Downloads next to nothing and installs nothing.
# Needs the network, so no test runs it.
set -eu

if [ $# -ne 1 ]; then
    echo "usage: sh $0 UV" >&2
    exit 2
fi
uv=$1
root=$(cd "$(dirname "$0")/.." && pwd)
nowhere=$(mktemp -d)
trap 'rm -rf "$nowhere"' EXIT
failed=0

# What tensorrt-rtx and tensorrt-rtx-cu13 publish is source of pure Python; everything else must be a wheel.
check() {
    lock=$1 python=$2 platform=$3
    case $lock in
        rtx) wheels="--only-binary tensorrt-rtx-cu13-bindings --only-binary tensorrt-rtx-cu13-libs" ;;
        *) wheels="--only-binary :all:" ;;
    esac
    # shellcheck disable=SC2086 # several options are several words
    if said=$("$uv" pip install --no-config --dry-run --no-deps --target "$nowhere" --python-version "$python" \
        --python-platform "$platform" $wheels --require-hashes -r "$root/requirements/$lock.txt" 2>&1); then
        echo "ok      $lock.txt, Python $python, $platform"
    else
        echo "FAILED  $lock.txt, Python $python, $platform: $(printf '%s' "$said" | tr '\n' ' ')"
        failed=1
    fi
}

for platform in x86_64-manylinux_2_28 aarch64-manylinux_2_28; do
    for python in 3.11 3.12 3.13; do
        check cpu "$python" "$platform"
        check serve "$python" "$platform"
    done
done
check jetpack6 3.10 aarch64-manylinux_2_28
for python in 3.11 3.12 3.13; do check cuda "$python" x86_64-manylinux_2_28; done
for python in 3.11 3.12 3.13; do check rtx "$python" x86_64-manylinux_2_28; done
exit $failed
