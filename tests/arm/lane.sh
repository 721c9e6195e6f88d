#!/usr/bin/env bash
# The short part of `make test-arm`: edgekit-tiny is verified and some of the runtime's tests run on emulated 64-bit ARM.
# Where the packages for it cannot be had the lane is skipped, with the reason.
set -euo pipefail
cd "$(dirname "$0")/../.."

if ! told=$(make -s .venv-arm/stamp 2>&1); then
    echo "skipped: 64-bit ARM, whose packages cannot be had here: ${told##*$'\n'}"
    exit 0
fi
.venv/bin/python tests/arm/judge.py .venv-arm --short
PYTHONPATH=. .venv-arm/python -m pytest -q -p no:cacheprovider \
    tests/runtime/answer/test_embedding.py tests/runtime/answer/test_sampler.py tests/runtime/backends/test_ort_call.py
