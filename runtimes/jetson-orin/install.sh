#!/bin/sh
# Install EdgeKit's runtime beside JetPack's own CUDA and TensorRT, and one bundle: sh runtimes/jetson-orin/install.sh BUNDLE [PREFIX]
# Writes only below PREFIX (/opt/edgekit); prints how to start the service. Run it again to update.
set -eu

if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    echo "usage: sh $0 BUNDLE [PREFIX]" >&2
    exit 2
fi
exec sh "$(dirname "$0")/../on-jetson.sh" jetson-orin "36 39" "$1" "${2:-/opt/edgekit}"
