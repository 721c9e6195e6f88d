"""The side file that says when, where and with what a bundle was made; never part of the bundle's bytes."""

import platform
from datetime import datetime, timezone
from pathlib import Path

from edgekit.exporter.pack import PROVENANCE, write_json
from edgekit.versions import installed

_PACKAGES = ("edgekit-audio", "numpy", "onnx", "onnxruntime", "tokenizers")


def write_provenance(folder: Path) -> None:
    """Write ``provenance.json``: time in UTC, machine and package versions."""
    write_json(
        folder / PROVENANCE,
        {
            "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "machine": platform.machine(),
            "system": platform.system(),
            "python": platform.python_version(),
            "packages": {package: installed(package) or "not installed" for package in _PACKAGES},
        },
    )
