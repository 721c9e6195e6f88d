"""The side file that says when, where and with what a bundle was made; never part of the bundle's bytes."""

import platform
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edgekit.exporter.pack import PROVENANCE, write_json

_PACKAGES = ("edgekit-audio", "numpy", "onnx", "onnxruntime", "tokenizers")


def write_provenance(folder: Path) -> None:
    """Write ``provenance.json``: time in UTC, machine and package versions."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    write_json(
        folder / PROVENANCE,
        {
            "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "machine": platform.machine(),
            "system": platform.system(),
            "python": platform.python_version(),
            "packages": versions,
        },
    )
