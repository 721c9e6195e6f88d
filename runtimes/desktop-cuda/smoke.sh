#!/bin/sh
# Prove on this device that its GPU answers and that a bundle runs: sh runtimes/desktop-cuda/smoke.sh BUNDLE RECORDING
# Needs `edgekit` on PATH, or named by EDGEKIT. Exits 0 only if the doctor finds a GPU and a CUDA provider that work, the
# bundle verifies on it (nothing falls back unasked) and some text comes out.
set -eu

if [ $# -ne 2 ]; then
    echo "usage: sh $0 BUNDLE RECORDING" >&2
    exit 2
fi
found=$("${EDGEKIT:-edgekit}" doctor) || true
printf '%s\n' "$found" >&2
printf '%s\n' "$found" | grep -q '^ok       GPU: ' || { echo "GPU: none that works, see above" >&2; exit 1; }
printf '%s\n' "$found" | grep -q '^ok       onnxruntime cuda: ' || {
    echo "onnxruntime cuda: it does not compute, see above" >&2
    exit 1
}
exec sh "$(dirname "$0")/../cpu/smoke.sh" "$@"
