#!/bin/sh
# The part that every target's install.sh shares; it checks the device, then calls this:
# sh runtimes/place.sh TARGET LOCK BUNDLE PREFIX [PIP-OPTION...]
# Makes PREFIX/venv from requirements/LOCK.txt (PYTHON and VENV_OPTIONS say how), installs EdgeKit, and puts the bundle in
# place once it has run here, with the plans that TensorRT runs of it built here. Writes only below PREFIX. Whatever stops
# it, the bundle in PREFIX/bundle is whole, the old one or the new one; run it again. Where the machine has a trust store
# (keys in /etc/edgekit/trust) the bundle must be signed by one of them, now and at every start.
set -eu
umask 022 # the service's user reads what is written here

if [ $# -lt 4 ]; then
    echo "usage: sh $0 TARGET LOCK BUNDLE PREFIX [PIP-OPTION...]" >&2
    exit 2
fi
target=$1 lock=$2 bundle=$3 prefix=$4
shift 4
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}

[ -f "$bundle/manifest.json" ] || { echo "$bundle: no manifest.json there, so it is no bundle" >&2; exit 1; }
[ -f "$root/requirements/$lock.txt" ] || { echo "$root: not a checkout of EdgeKit; run this script from one" >&2; exit 1; }
if [ "$lock" = jetpack6 ]; then oldest="3, 10"; else oldest="3, 11"; fi
"$python" -c "import sys; sys.exit(sys.version_info < ($oldest))" || {
    echo "$python: the pinned packages need Python $oldest or later; name another with PYTHON=" >&2
    exit 1
}
case $prefix in
    *[!A-Za-z0-9/._-]*)
        echo "$prefix: a unit takes letters, digits and / . _ - of a path without ado; name another PREFIX" >&2
        exit 1
        ;;
esac
# What ProtectHome and PrivateTmp of the unit hide: of PREFIX, and of the interpreter behind a virtual environment's links.
hidden="/home /root /run/user /tmp /var/tmp"
"$python" -c '
import os, sys
prefix, hidden = sys.argv[1], sys.argv[2].split()
other = "name another with PYTHON=, such as /usr/bin/python3"
needed = [(prefix, "name another PREFIX, such as /opt/edgekit")]
needed += [(path, other) for path in (getattr(sys, "_base_executable", sys.executable), sys.base_prefix)]
for path, step in needed:
    real = os.path.realpath(path)
    for folder in hidden:
        if os.path.commonpath([real, os.path.realpath(folder)]) == os.path.realpath(folder):
            sys.exit(f"{path}: lies in {folder}, which the service does not see; {step}")
' "$prefix" "$hidden"

mkdir -p "$prefix"
prefix=$(cd "$prefix" && pwd)
# shellcheck disable=SC2086 # several options are several words
"$python" -m venv ${VENV_OPTIONS:-} "$prefix/venv"
pip() { "$prefix/venv/bin/python" -m pip --quiet --disable-pip-version-check --no-input install "$@"; }
pip --only-binary=:all: --require-hashes "$@" -r "$root/requirements/$lock.txt"
pip --no-deps --no-build-isolation --force-reinstall "$root"

# The service sees this trust store and no other. From here on "$@" is what a signature is required with.
trust=/etc/edgekit/trust
set --
for key in "$trust"/*.pub "$trust"/*.pem; do
    if [ -e "$key" ]; then set -- --trust "$trust"; fi
done
# What seals the plans that are built here; the unit hands it to the service (LoadCredential, systemd 247 or later).
export EDGEKIT_PLAN_KEY="$prefix/plan.key"

# The bundle that is in use stays until the new one is whole and has run here.
if [ -e "$prefix/bundle.old" ] && [ ! -e "$prefix/bundle" ]; then
    mv "$prefix/bundle.old" "$prefix/bundle" # an installer of before was stopped between two steps
fi
rm -rf "$prefix/bundle.new" "$prefix/bundle.old" "$prefix/bundle.new.plans"
cp -R "$bundle" "$prefix/bundle.new"
chmod -R a+rX "$prefix/bundle.new"
if grep -q '"dialect": "standard"' "$prefix/bundle.new/manifest.json"; then
    "$prefix/venv/bin/edgekit" build "$prefix/bundle.new" --target "$target" "$@"
fi
"$prefix/venv/bin/edgekit" verify "$prefix/bundle.new" "$@"
# First the new plans beside those in use, whose names differ; then the bundle; then the new plans alone.
for plan in "$prefix/bundle.new.plans/"*; do
    if [ -e "$plan" ]; then
        mkdir -p "$prefix/bundle.plans"
        ln -f "$plan" "$prefix/bundle.plans/" 2>/dev/null || cp "$plan" "$prefix/bundle.plans/"
    fi
done
take() (cd "$prefix" && venv/bin/python -m edgekit.atomic "$1" "$2")
take bundle.new bundle
if [ -e "$prefix/bundle.new.plans" ]; then take bundle.new.plans bundle.plans; else rm -rf "$prefix/bundle.plans"; fi
unit=$prefix/edgekit.service
sed "s|/opt/edgekit|$prefix|g" "$root/runtimes/$target/edgekit.service" >"$unit.new"
if [ $# -gt 0 ]; then sed -i 's|^ExecStart=.*|& --require-signature|' "$unit.new"; fi
if [ -e "$EDGEKIT_PLAN_KEY" ]; then sed -i "/^ExecStart=/a LoadCredential=edgekit-plan-key:$EDGEKIT_PLAN_KEY" "$unit.new"; fi
mv "$unit.new" "$unit"

echo "installed in $prefix; to listen from now on, as root:"
echo "  apt install libportaudio2"
echo "  systemctl enable --now $prefix/edgekit.service"
if [ -e "$EDGEKIT_PLAN_KEY" ]; then
    echo "to build or run its plans by hand, as root: EDGEKIT_PLAN_KEY=$EDGEKIT_PLAN_KEY edgekit ..."
fi
