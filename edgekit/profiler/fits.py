"""Write what a comparison fitted of memory into the file that the runtime reads, with where it is from."""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from edgekit.atomic import write_whole
from edgekit.errors import ProfileError
from edgekit.profiler.comparison import Comparison
from edgekit.runtime.memory import PRECISIONS, SCHEMA_VERSION, BuildingFit, LoadingFit

COMMAND = "make bench-memory"
_HEAD = """\
# What libraries take in memory beside a bundle's own bytes. `make bench-memory` measures it and writes this file;
# edgekit/runtime/memory.py says what each number means and reads it.
"""
_PARTS: Mapping[str, tuple[type[LoadingFit | BuildingFit], str]] = {
    "loading": (LoadingFit, "weights"),
    "building": (BuildingFit, "peaks"),
}


def write_fit(
    path: Path,
    part: Literal["loading", "building"],
    comparison: Comparison,
    report: Path,
    numbers: Mapping[str, object],
) -> None:
    """Put the numbers of a comparison, by precision, in the place of one part of the file; the other part stays.

    report: the comparison's own file below profiles/. Raises ProfileError for numbers that cannot be, such as of too
    few precisions, OutputError where the file cannot be written.
    """
    device, software = comparison.device, comparison.software
    kind, place = _PARTS[part]
    source = {
        "device": device.slug,
        "cpu": device.cpu,
        "date": comparison.date,
        "command": COMMAND,
        "report": f"profiles/{report.parent.name}/{report.name}",
        "versions": {"edgekit": software.edgekit, "onnxruntime": software.onnxruntime, **software.others},
    }
    in_order = {name: numbers[name] for name in PRECISIONS if name in numbers}
    try:
        made = msgspec.convert({"source": source, place: in_order}, kind)
    except msgspec.ValidationError as error:
        raise ProfileError(f"{path}: {error}; measure every shape and precision") from error
    parts = {**_sound_parts(path), part: made}
    fits = {"schema_version": SCHEMA_VERSION, **{name: parts[name] for name in _PARTS if name in parts}}
    write_whole(path, (_HEAD + "\n".join(_table("", msgspec.to_builtins(fits))) + "\n").encode())


def _sound_parts(path: Path) -> dict[str, LoadingFit | BuildingFit]:
    """Return the parts of the file that are whole; of one that is missing or broken there is none, it is made anew."""
    try:
        content = msgspec.toml.decode(path.read_bytes())
    except (OSError, msgspec.MsgspecError, ValueError):
        return {}
    found = {}
    for name, (kind, _) in _PARTS.items():
        with suppress(msgspec.ValidationError):
            found[name] = msgspec.convert(content.get(name), kind)
    return found


def _table(name: str, content: Mapping[str, object]) -> Iterator[str]:
    """Yield the lines of a table and of those within it; JSON's numbers and texts are TOML's too."""
    values = {key: value for key, value in content.items() if not isinstance(value, Mapping)}
    if name and (values or not content):
        yield f"\n[{name}]"
    for key, value in values.items():
        yield f"{key} = {json.dumps(value, ensure_ascii=False)}"
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _table(f"{name}.{key}" if name else key, value)
