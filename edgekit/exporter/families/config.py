"""Read one value of a checkpoint's config, with a message that names the key when it is absent or of another kind."""

from collections.abc import Mapping
from typing import Any, TypeVar

from edgekit.errors import CheckpointError

_T = TypeVar("_T", int, float, bool, str, list[int])


def value(config: Mapping[str, Any], key: str, kind: type[_T], default: _T | None = None) -> _T:
    """Return ``config[key]`` as ``kind`` (an int may stand for a float). Raises CheckpointError naming the key."""
    found = config.get(key, default)
    if kind is float and isinstance(found, int) and not isinstance(found, bool):
        found = float(found)
    if found is None or not isinstance(found, kind) or (kind is int and isinstance(found, bool)):
        raise CheckpointError(
            f"config.json: '{key}' is {found!r}, must be {kind.__name__}; use the published config.json"
        )
    return found


def check_parts(config: Mapping[str, Any], whole: str, parts: str) -> None:
    """Return if ``config[whole]`` divides evenly into ``config[parts]`` parts; raises CheckpointError naming both."""
    check_share(whole, value(config, whole, int), parts, value(config, parts, int))


def check_share(whole: str, size: int, parts: str, count: int) -> None:
    """Return if a size divides evenly into so many parts; raises CheckpointError with the keys of both."""
    if count < 1 or size % count:
        raise CheckpointError(
            f"config.json: '{whole}' is {size}, must divide evenly by '{parts}', {count}; use the published config.json"
        )


def rotary_base(config: Mapping[str, Any]) -> float:
    """Return the base of rotary positions: ``rope_theta``, which transformers 5 writes into ``rope_parameters``."""
    inner = config.get("rope_parameters") or {}
    return value(inner if inner.get("rope_theta") is not None else config, "rope_theta", float)


def section(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return a nested object of a config."""
    found = config.get(key)
    if not isinstance(found, Mapping):
        raise CheckpointError(
            f"config.json: '{key}' is {type(found).__name__}, must be an object; use the published config.json"
        )
    return found
