#!/bin/sh
# Install EdgeKit's runtime and one bundle: sh runtimes/cpu/install.sh BUNDLE [PREFIX]
# Writes only below PREFIX (/opt/edgekit); prints how to start the service. Run it again to update.
set -eu

if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    echo "usage: sh $0 BUNDLE [PREFIX]" >&2
    exit 2
fi
exec sh "$(dirname "$0")/../place.sh" cpu serve "$1" "${2:-/opt/edgekit}"
