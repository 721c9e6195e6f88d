"""Measure what only a fresh process shows: import, load, and the highest resident memory of doing one job.

``python -m edgekit.profiler.fresh`` is that process; it takes a JSON job as its argument and prints JSON.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from edgekit.bundle import GateKind
from edgekit.errors import ProfileError

_IMPORT_TIMER = "import time; t = time.perf_counter(); import edgekit.cli; print((time.perf_counter() - t) * 1000)"
_TIMEOUT_S = 600


class Job(msgspec.Struct, frozen=True):
    """What the process does: load a bundle, transcribe a float32 sample file (.npy)."""

    bundle: str
    samples: str
    threads: int
    gate: GateKind | None
    level: str | None
    backend: str | None = None
    context_tokens: int | None = None
    plans: str | None = None
    trust: str | None = None


class Fresh(msgspec.Struct, frozen=True):
    """What it took: seconds to load, MiB resident after loading and at most."""

    load_s: float
    loaded_mib: float
    peak_mib: float


def measure_import() -> float:
    """Return the milliseconds of ``import edgekit.cli`` in a fresh process, interpreter start excluded."""
    return float(_run(["-c", _IMPORT_TIMER]))


def measure_fresh(job: Job) -> Fresh:
    """Return what a fresh process takes for a Job; raises ProfileError with its own words if it fails."""
    text = _run(["-m", "edgekit.profiler.fresh", msgspec.json.encode(job).decode()])
    return msgspec.json.decode(text, type=Fresh)


def resident_mib(*, peak: bool) -> float:
    """Return this process's resident memory in MiB, now or at most.

    Read from /proc where there is one: a child's ru_maxrss starts at its parent's size there, VmHWM at its own.
    """
    status = Path("/proc/self/status")
    if status.exists():
        key = "VmHWM:" if peak else "VmRSS:"
        (line,) = (line for line in status.read_text(encoding="ascii").splitlines() if line.startswith(key))
        return int(line.split()[1]) / 1024
    import resource

    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def _run(arguments: list[str]) -> str:
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ProfileError(
            f"fresh process: exit code {done.returncode} ({reason}); run the bundle with `edgekit run` first"
        )
    return done.stdout


def _measured(text: str) -> Fresh:
    import numpy as np

    import edgekit

    job = msgspec.json.decode(text, type=Job)
    samples = np.load(job.samples)
    begun = time.perf_counter()
    model = edgekit.load(
        job.bundle, threads=job.threads, backend=job.backend, context_tokens=job.context_tokens, plans=job.plans,
        trust=job.trust,
    )  # fmt: skip
    load_s = time.perf_counter() - begun
    loaded_mib = resident_mib(peak=False)
    rate_hz = model.manifest.front_end.sample_rate_hz
    # as a stream hears it: a profile is of streams
    model.transcribe(samples, sample_rate_hz=rate_hz, gate=job.gate, level=job.level, floor="running")
    return Fresh(load_s, loaded_mib, resident_mib(peak=True))


if __name__ == "__main__":
    sys.stdout.write(msgspec.json.encode(_measured(sys.argv[1])).decode() + "\n")
