#!/bin/sh
# The part that the installers of Jetson targets share; they call it:
# sh runtimes/on-jetson.sh TARGET "L4T-MAJOR..." BUNDLE PREFIX
# Takes the board's own CUDA and TensorRT as they are, through a virtual environment that sees the system's packages.
set -eu

if [ $# -ne 4 ]; then
    echo "usage: sh $0 TARGET 'L4T-MAJOR...' BUNDLE PREFIX" >&2
    exit 2
fi
target=$1 majors=$2 bundle=$3 prefix=$4
python=${PYTHON:-python3}
release=/etc/nv_tegra_release

[ -r "$release" ] || { echo "$release: not there, so this is no Jetson; runtimes/cpu/install.sh installs elsewhere" >&2; exit 1; }
major=$(sed -n 's/^# R\([0-9]*\).*/\1/p' "$release")
case " $majors " in
    *" $major "*) ;;
    *) echo "$release: Jetson Linux '$major', $target is made for $majors; flash another JetPack or choose another target" >&2; exit 1 ;;
esac
"$python" -c 'import tensorrt' || {
    echo "tensorrt: $python does not load JetPack's own; apt install nvidia-jetpack, and leave PYTHON the system's" >&2
    exit 1
}
if "$python" -c 'import sys; sys.exit(sys.version_info >= (3, 11))'; then lock=jetpack6; else lock=cpu; fi
export VENV_OPTIONS=--system-site-packages
exec sh "$(dirname "$0")/place.sh" "$target" "$lock" "$bundle" "$prefix"
