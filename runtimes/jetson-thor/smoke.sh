#!/bin/sh
# Prove on this device that its GPU answers and that a bundle runs: sh runtimes/jetson-thor/smoke.sh BUNDLE RECORDING
# Needs `edgekit` on PATH, or named by EDGEKIT. Exits 0 only if the doctor finds a GPU that works, plans of the bundle are
# there or can be built, the bundle verifies on them and some text comes out.
set -eu

if [ $# -ne 2 ]; then
    echo "usage: sh $0 BUNDLE RECORDING" >&2
    exit 2
fi
found=$("${EDGEKIT:-edgekit}" doctor) || true
printf '%s\n' "$found" >&2
printf '%s\n' "$found" | grep -q '^ok       GPU: ' || { echo "GPU: none that works, see above" >&2; exit 1; }
"${EDGEKIT:-edgekit}" build "$1" --target jetson-thor >&2
exec sh "$(dirname "$0")/../cpu/smoke.sh" "$@"
