#!/bin/sh
# Install EdgeKit's runtime with TensorRT for RTX, and one bundle: sh runtimes/desktop-rtx/install.sh BUNDLE [PREFIX]
# Writes only below PREFIX (/opt/edgekit); prints how to start the service. Run it again to update.
set -eu

if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    echo "usage: sh $0 BUNDLE [PREFIX]" >&2
    exit 2
fi
nvidia-smi >/dev/null 2>&1 || {
    echo "nvidia-smi: not there or failing, a loaded NVIDIA driver is needed; \`edgekit doctor\` says what to type" >&2
    exit 1
}
# These two are published as source of pure Python; pip builds them with setuptools.
exec sh "$(dirname "$0")/../place.sh" desktop-rtx rtx "$1" "${2:-/opt/edgekit}" --no-binary=tensorrt-rtx,tensorrt-rtx-cu13
