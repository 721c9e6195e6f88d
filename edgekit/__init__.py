"""EdgeKit: deploy audio LLMs on one edge device.

model = edgekit.load("bundles/mine")                      # speak=True to hear the answers too
print(model.transcribe("talk.wav").text)

with model.stream(sample_rate_hz=48_000) as stream:       # options: the fields of edgekit.StreamOptions, by name
    for samples in microphone:                            # (n,) or (n, channels), float32 or int16
        for event in stream.push(samples):                # taken at once; reading does the work
            if isinstance(event, edgekit.events.Text) and event.final:
                print(event.text)
    for event in stream.ask("And in French?"):            # a turn in text, where the model converses
        print(edgekit.events.to_json(event))
    for event in stream.finish():
        print(event.kind)
"""

from typing import TYPE_CHECKING

from edgekit.versions import VERSION

if TYPE_CHECKING:
    from edgekit.runtime import events as events
    from edgekit.runtime.model import Model as Model
    from edgekit.runtime.model import Transcript as Transcript
    from edgekit.runtime.model import load as load
    from edgekit.runtime.options import StreamOptions as StreamOptions
    from edgekit.runtime.stream import Stream as Stream

__version__ = VERSION

_HOMES = {
    "Model": "edgekit.runtime.model",
    "Stream": "edgekit.runtime.stream",
    "StreamOptions": "edgekit.runtime.options",
    "Transcript": "edgekit.runtime.model",
    "events": "edgekit.runtime",
    "load": "edgekit.runtime.model",
}
__all__ = ["Model", "Stream", "StreamOptions", "Transcript", "__version__", "events", "load"]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that ``import edgekit`` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'edgekit' has no attribute '{name}'")
    from importlib import import_module

    home = _HOMES[name]
    result: object = import_module(f"{home}.{name}") if name == "events" else getattr(import_module(home), name)
    return result
