"""EdgeKit: deploy audio LLMs on one edge device. docs/python.md shows all of it, docs/events.md the events.
Everything here is imported when it is first used. What it raises on purpose is an edgekit.EdgeKitError.

model = edgekit.load("bundles/mine")                      # speak=True to hear the answers too
transcript = model.transcribe("talk.wav")                 # or bytes, an open file, an array, a list of any of these
print(transcript.text)
for segment in transcript.segments:
    print(segment.start_s, segment.end_s, segment.text)

with model.stream(sample_rate_hz=48_000) as stream:       # options: the fields of edgekit.StreamOptions, by name
    for samples in microphone:                            # (n,) or (n, channels), float32 or int16
        for event in stream.push(samples):                # taken at once; reading does the work
            if isinstance(event, edgekit.Text) and event.final:
                print(event.text)
    if stream.converses:
        for event in stream.ask("And in French?"):        # a turn in text
            print(edgekit.events.to_json(event))
    for event in stream.finish():
        print(event.kind)
"""

from edgekit.versions import VERSION

TYPE_CHECKING = False  # checkers know the name; typing takes longer to load than all else here
if TYPE_CHECKING:
    from edgekit import errors
    from edgekit.bundle.manifest import Sampling
    from edgekit.errors import (
        AudioError,
        BackendError,
        BundleFileError,
        BundleFormatError,
        CensusError,
        CheckpointError,
        DeviceError,
        EdgeKitError,
        KeyFileError,
        ListenError,
        MissingPackageError,
        OutputError,
        ProfileError,
        QualityError,
        RecipeError,
        RefusedError,
        RegistryError,
        SettingsError,
        SignatureError,
        UsageError,
        VerifyError,
    )
    from edgekit.runtime import events
    from edgekit.runtime.events import (
        Audio,
        AudioCut,
        AudioEnded,
        Event,
        Forgot,
        Interrupted,
        Lag,
        LevelChanged,
        Provisional,
        Segment,
        SpeechStarted,
        SpeechStopped,
        Text,
        TextCut,
        Thought,
        Withdrawn,
        Word,
    )
    from edgekit.runtime.model import Model, Transcript, load
    from edgekit.runtime.options import StreamOptions
    from edgekit.runtime.policy import Budget
    from edgekit.runtime.stream import Stream

__version__ = VERSION

_NAMES = {
    "bundle.manifest": ("Sampling",),
    "errors": (
        "errors", "AudioError", "BackendError", "BundleFileError", "BundleFormatError", "CensusError",
        "CheckpointError", "DeviceError", "EdgeKitError", "KeyFileError", "ListenError", "MissingPackageError",
        "OutputError", "ProfileError", "QualityError", "RecipeError", "RefusedError", "RegistryError",
        "SettingsError", "SignatureError", "UsageError", "VerifyError",
    ),
    "runtime.events": (
        "events", "Audio", "AudioCut", "AudioEnded", "Event", "Forgot", "Interrupted", "Lag", "LevelChanged",
        "Provisional", "Segment", "SpeechStarted", "SpeechStopped", "Text", "TextCut", "Thought", "Withdrawn", "Word",
    ),
    "runtime.model": ("Model", "Transcript", "load"),
    "runtime.options": ("StreamOptions",),
    "runtime.policy": ("Budget",),
    "runtime.stream": ("Stream",),
}  # fmt: skip
_HOMES = {name: f"edgekit.{home}" for home, names in _NAMES.items() for name in names}
__all__ = [
    "Audio",
    "AudioCut",
    "AudioEnded",
    "AudioError",
    "BackendError",
    "Budget",
    "BundleFileError",
    "BundleFormatError",
    "CensusError",
    "CheckpointError",
    "DeviceError",
    "EdgeKitError",
    "Event",
    "Forgot",
    "Interrupted",
    "KeyFileError",
    "Lag",
    "LevelChanged",
    "ListenError",
    "MissingPackageError",
    "Model",
    "OutputError",
    "ProfileError",
    "Provisional",
    "QualityError",
    "RecipeError",
    "RefusedError",
    "RegistryError",
    "Sampling",
    "Segment",
    "SettingsError",
    "SignatureError",
    "SpeechStarted",
    "SpeechStopped",
    "Stream",
    "StreamOptions",
    "Text",
    "TextCut",
    "Thought",
    "Transcript",
    "UsageError",
    "VerifyError",
    "Withdrawn",
    "Word",
    "__version__",
    "errors",
    "events",
    "load",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that ``import edgekit`` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'edgekit' has no attribute '{name}'")
    from importlib import import_module

    home = _HOMES[name]
    whole = home.endswith(f".{name}")  # a module
    result: object = import_module(home) if whole else getattr(import_module(home), name)
    globals()[name] = result
    return result


def __dir__() -> list[str]:
    """Return the public names, also those that nobody has used yet."""
    return __all__
