"""onnxruntime, imported here alone, with what it tells its maker turned off before its first session."""

import os
from typing import Any

TELEMETRY = "ORT_DISABLE_TELEMETRY"
"""Its variable: 1 before it is loaded, since loading it already writes an id of the device below the user's cache."""
_WANTED = "0"  # what a user sets who wants to send


def switch_off() -> None:
    """Set the variable, unless the user set it to 0."""
    if os.environ.get(TELEMETRY) != _WANTED:
        os.environ[TELEMETRY] = "1"


def load_onnxruntime() -> Any:  # noqa: ANN401 - a module without types
    """Return the onnxruntime module. Raises ImportError as its import does."""
    switch_off()
    import onnxruntime

    # Of a process that loaded it before EdgeKit the variable came too late: then this ends what it would send.
    if os.environ.get(TELEMETRY) != _WANTED and hasattr(onnxruntime, "disable_telemetry_events"):
        onnxruntime.disable_telemetry_events()
    return onnxruntime
