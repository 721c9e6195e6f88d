#!/usr/bin/env bash
# Make a folder in which Python for 64-bit ARM runs on an x86 machine, under qemu's user mode, without hardware and without
# root rights in it:
#   tests/arm/root.sh FOLDER
#   CPU=cortex-a76 PYTHONPATH=. FOLDER/python -m edgekit verify BUNDLE
# CPU: a model that qemu knows, such as cortex-a76 (Raspberry Pi 5; the nearest to the A78AE of a Jetson Orin; usual),
# neoverse-n1, or max (SVE, int8 matrix products). Its packages are those of requirements/test.txt, which holds every pin of
# requirements/cpu.txt, by their hashes; Python is Debian's. Numbers are real, speed says nothing: some ten times slower.
# Child processes of the emulated Python do not start.
# Needs apt-get, dpkg and pip with what they download from. qemu 7.2 (Debian 12) crashes in onnxruntime 1.28 and later;
# where qemu here is older than 10, the next release's package is unpacked beside it.
set -euo pipefail

[ $# -eq 1 ] || { echo "usage: $0 FOLDER" >&2; exit 2; }
pins=$(cd "$(dirname "$0")/../.." && pwd)/requirements/test.txt
for tool in apt-get dpkg "${PYTHON:=python3}"; do
    command -v "$tool" >/dev/null || { echo "$0: no $tool here, which the packages for ARM come by" >&2; exit 1; }
done
folder=$(mkdir -p "$1" && cd "$1" && pwd)
lists=$folder/lists debs=$folder/debs keys=/usr/share/keyrings/debian-archive-keyring.gpg
rm -rf "$folder/root" "$folder/site" "$folder/qemu" "$folder/python"
mkdir -p "$lists/arm/partial" "$lists/next/partial" "$debs" "$folder/qemu" "$folder/root" "$folder/site" "$folder/wheels"

arm=(-oAPT::Architecture=arm64 -oAPT::Architectures=arm64 -oDir::State::Lists="$lists/arm" -oAPT::Sandbox::User=root)
apt-get -qq "${arm[@]}" update
(cd "$debs" && apt-get -qq "${arm[@]}" download libc6 libgcc-s1 libstdc++6 zlib1g libexpat1 libffi8 libssl3 libcrypt1 \
    libbz2-1.0 liblzma5 libsqlite3-0 libreadline8 libtinfo6 libncursesw6 libuuid1 libdb5.3 libgomp1 \
    python3.11-minimal python3.11 libpython3.11-minimal libpython3.11-stdlib)
for deb in "$debs"/*.deb; do dpkg -x "$deb" "$folder/root"; done

qemu=$(command -v qemu-aarch64 || command -v qemu-aarch64-static || true)
if [ -z "$qemu" ] || ! "$qemu" --version | grep -qE 'version (1[0-9]|[2-9][0-9])\.'; then
    mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | grep -oE 'https?://[^ ]+/debian/?( |$)' | head -n 1 || true)
    echo "deb [signed-by=$keys] ${mirror:-http://deb.debian.org/debian} trixie main" >"$lists/next.list"
    next=(-oDir::Etc::SourceList="$lists/next.list" -oDir::Etc::SourceParts=/dev/null -oDir::State::Lists="$lists/next"
        -oAPT::Sandbox::User=root)
    apt-get -qq "${next[@]}" update
    (cd "$folder/qemu" && apt-get -qq "${next[@]}" download qemu-user && dpkg -x qemu-user_*.deb .)
    qemu=$folder/qemu/usr/bin/qemu-aarch64
fi

platforms=(--platform manylinux2014_aarch64 --platform any)
for glibc in 17 24 26 27 28 31 34 35; do platforms+=(--platform "manylinux_2_${glibc}_aarch64"); done
"$PYTHON" -m pip download -qq --disable-pip-version-check --no-input --no-deps --only-binary=:all: --require-hashes \
    --python-version 3.11 --implementation cp --abi cp311 --abi abi3 --abi none "${platforms[@]}" \
    -d "$folder/wheels" -r "$pins"
for wheel in "$folder"/wheels/*.whl; do "$PYTHON" -m zipfile -e "$wheel" "$folder/site"; done

cat >"$folder/python" <<END
#!/usr/bin/env bash
export PYTHONPATH="\${PYTHONPATH:+\$PYTHONPATH:}$folder/site" PYTHONHOME="$folder/root/usr" PYTHONDONTWRITEBYTECODE=1
export EDGEKIT_EMULATED=1
exec "$qemu" -cpu "\${CPU:-cortex-a76}" -L "$folder/root" "$folder/root/usr/bin/python3.11" "\$@"
END
chmod +x "$folder/python"
"$folder/python" -c 'import onnxruntime, platform; print(platform.machine(), platform.python_version(), "onnxruntime", onnxruntime.__version__)'
