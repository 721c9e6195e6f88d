#!/bin/sh
# Prove on this device that a bundle runs: sh runtimes/cpu/smoke.sh BUNDLE RECORDING
# Needs `edgekit` on PATH, or named by EDGEKIT. Exits 0 only if the bundle verifies and some text comes out.
set -eu

if [ $# -ne 2 ]; then
    echo "usage: sh $0 BUNDLE RECORDING" >&2
    exit 2
fi
edgekit=${EDGEKIT:-edgekit}

"$edgekit" verify "$1"
text=$("$edgekit" run "$1" "$2")
if [ -z "$text" ]; then
    echo "$2: no text came out of $1" >&2
    exit 1
fi
printf '%s\n' "$text"
