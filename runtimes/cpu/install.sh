#!/bin/sh
# Install EdgeKit's runtime and one bundle: sh runtimes/cpu/install.sh BUNDLE [PREFIX]
# Writes only below PREFIX (/opt/edgekit); prints how to start the service. Run it again to update.
set -eu

if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    echo "usage: sh $0 BUNDLE [PREFIX]" >&2
    exit 2
fi
bundle=$1
prefix=${2:-/opt/edgekit}
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
python=${PYTHON:-python3}

[ -f "$bundle/manifest.json" ] || { echo "$bundle: no manifest.json there, so it is no bundle" >&2; exit 1; }
[ -f "$root/requirements/cpu.txt" ] || { echo "$root: not a checkout of EdgeKit; run this script from one" >&2; exit 1; }
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "$python: the pinned packages need Python 3.11 or later; name another with PYTHON=" >&2
    exit 1
}

mkdir -p "$prefix"
prefix=$(cd "$prefix" && pwd)
"$python" -m venv "$prefix/venv"
pip() { "$prefix/venv/bin/python" -m pip --quiet --disable-pip-version-check --no-input install "$@"; }
pip --only-binary=:all: --require-hashes -r "$root/requirements/cpu.txt"
pip --no-deps --no-build-isolation --force-reinstall "$root"

# The bundle that is in use stays until the new one is whole and has run here.
rm -rf "$prefix/bundle.new" "$prefix/bundle.old"
cp -R "$bundle" "$prefix/bundle.new"
"$prefix/venv/bin/edgekit" verify "$prefix/bundle.new"
if [ -e "$prefix/bundle" ]; then mv "$prefix/bundle" "$prefix/bundle.old"; fi
mv "$prefix/bundle.new" "$prefix/bundle"
rm -rf "$prefix/bundle.old"
sed "s|/opt/edgekit|$prefix|g" "$here/edgekit.service" >"$prefix/edgekit.service"

echo "installed in $prefix; to listen from now on, as root:"
echo "  apt install libportaudio2"
echo "  systemctl enable --now $prefix/edgekit.service"
