"""EdgeKit: deploy audio LLMs on one edge device.

``edgekit.load(bundle)`` opens a bundle and returns a Model; ``model.transcribe(path)`` and ``model.stream()`` use it.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgekit.runtime.model import Model as Model
    from edgekit.runtime.model import Transcript as Transcript
    from edgekit.runtime.model import load as load
    from edgekit.runtime.options import StreamOptions as StreamOptions
    from edgekit.runtime.stream import Stream as Stream

__version__ = "0.1.0"

_HOMES = {
    "Model": "edgekit.runtime.model",
    "Stream": "edgekit.runtime.stream",
    "StreamOptions": "edgekit.runtime.options",
    "Transcript": "edgekit.runtime.model",
    "load": "edgekit.runtime.model",
}
__all__ = ["Model", "Stream", "StreamOptions", "Transcript", "__version__", "load"]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that ``import edgekit`` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'edgekit' has no attribute '{name}'")
    from importlib import import_module

    found: object = getattr(import_module(_HOMES[name]), name)
    return found
