"""What a library says of itself, asked in a process of its own: loading one may print, hang or crash.

``python -m edgekit.runtime.backends.probing MODULE:FUNCTION ARGUMENT`` is that process; it prints one JSON object.
"""

import json
import os
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from edgekit.runtime.backends.examining import Answer

_TIMEOUT_S = 120  # TensorRT's provider compiles the graph first


def ask(probe: str, argument: str = "") -> Answer:
    """Return what a probe says; a crash, an exception or silence becomes the Answer's ``error``.

    probe: a function by its import path, ``package.module:function``; it takes the argument and returns a dict that
    JSON takes, with ``error`` where it has nothing else to say.
    """
    root = str(Path(__file__).resolve().parents[3])
    path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "edgekit.runtime.backends.probing", probe, argument],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
            # from 3.11 on, a folder here that is called like a library is not taken for it
            env={**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"},
        )
    except subprocess.TimeoutExpired:
        return Answer(error=f"no answer within {_TIMEOUT_S} s")
    lines = done.stderr.strip().splitlines() or ["no message"]
    if done.returncode < 0:
        return Answer(error=f"crashed ({signal.Signals(-done.returncode).name})", printed=done.stderr)
    if done.returncode:
        return Answer(error=" ".join(lines[-1].split()), printed=done.stderr)
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return Answer(said, said.pop("error", ""), done.stderr)


if __name__ == "__main__":
    module, _, function = sys.argv[1].partition(":")
    said = getattr(import_module(module), function)(sys.argv[2])
    sys.stdout.write(json.dumps(said) + "\n")
