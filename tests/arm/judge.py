"""Verify bundles that were made here on emulated 64-bit ARM: good ones pass, each sabotage is refused.

    .venv/bin/python tests/arm/judge.py .venv-arm [--cpu cortex-a76] [--cpu max] [--short] [--random]

The first argument is a folder that root.sh made. Good ones are edgekit-tiny in INT8 and in float32, and random weights;
sabotages are those of tests/exporter/sabotages.py, of edgekit-tiny the ones that were once not seen, of random weights
all. --short: edgekit-tiny in INT8, which takes minutes, and random weights with those once not seen; --random: random
weights alone.
"""

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from edgekit.exporter.export import ExportOptions, export  # noqa: E402 - of this checkout
from tests.exporter.sabotages import SABOTAGES, spoil  # noqa: E402
from tests.reference import checkpoints  # noqa: E402

TINY = ROOT / "models" / "edgekit-tiny" / "edgekit_tiny" / "checkpoint"
JUDGED = ROOT / "tests" / "exporter" / "judged.toml"
ONCE_UNSEEN = (
    "a word that a check clip says and another are swapped in the tokenizer",
    "two experts are swapped",
    "the scales of a bank of experts are 5 % off",
)


def make(folder: Path, *, tiny: bool, whole: bool) -> dict[str, str]:
    """Write the bundles into a folder; return the name of each to what it is."""
    made = {"good-random": "random weights, INT8"}
    random = checkpoints.write(folder / "checkpoint", "whisper-experts-128")
    export(random, folder / "good-random", ExportOptions(recipe=JUDGED, precision="int8", accept_loss="random weights"))
    for number, name in enumerate(SABOTAGES if whole else ONCE_UNSEEN):
        spoil(folder / "good-random", folder / f"spoilt-random-{number:02}", name)
        made[f"spoilt-random-{number:02}"] = f"random weights, {name}"
    if tiny:
        export(TINY, folder / "good-tiny-int8")
        made["good-tiny-int8"] = "edgekit-tiny, INT8"
    if tiny and whole:
        export(TINY, folder / "good-tiny-float", ExportOptions(precision="float32"))
        made["good-tiny-float"] = "edgekit-tiny, float32"
        for number, name in enumerate(ONCE_UNSEEN):
            spoil(folder / "good-tiny-int8", folder / f"spoilt-tiny-{number}", name)
            made[f"spoilt-tiny-{number}"] = f"edgekit-tiny, {name}"
    return made


def verified(python: list[str], folder: Path, cpu: str) -> Iterator[dict[str, Any]]:
    """Yield what each.py prints of every bundle in a folder."""
    environment = os.environ | {"CPU": cpu, "PYTHONPATH": str(ROOT)}
    command = [*python, str(ROOT / "tests" / "arm" / "each.py"), str(folder)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield json.loads(line)
    if process.returncode:
        raise SystemExit(f"{cpu}: {' '.join(command)} ended with {process.returncode}")


def main() -> None:
    """Print a line for each bundle and processor; exit 1 if one is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("root", type=Path)
    parser.add_argument("--cpu", action="append", default=[])
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--random", action="store_true")
    asked = parser.parse_args()
    wrong = 0
    with TemporaryDirectory() as name:
        folder = Path(name)
        made = make(folder, tiny=not asked.random, whole=not asked.short)
        for cpu in (None, *(asked.cpu or ["cortex-a76"])):
            python = [sys.executable] if cpu is None else [str(asked.root.resolve() / "python")]
            seen = 0
            for facts in verified(python, folder, cpu or ""):
                seen += 1
                bundle, checks = facts["bundle"], facts["checks"]
                failed = [check for check, (_, _, passed) in checks.items() if not passed]
                right = bool(failed) == bundle.startswith("spoilt")
                wrong += not right
                nearest = max((error / allowed for error, allowed, _ in checks.values() if allowed), default=math.nan)
                told = f"refused: {failed[0]}" if failed else f"passes, at most {nearest:.2f} of what is allowed"
                print(f"{'ok    ' if right else 'WRONG '} {cpu or 'this machine'}: {made[bundle]}: {told}", flush=True)
            wrong += seen != len(made)
    sys.exit(bool(wrong))


main()
