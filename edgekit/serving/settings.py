"""Settings: everything about a server that a configuration may say, as plain data with its ranges.

A file's tables are the tables here, and every flag of `listen` and `serve` has a key (``configuration.py``). What is
None is as the bundle, the command or the machine has it.
"""

from dataclasses import replace
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, structs

from edgekit.bundle import GateKind, Manifest
from edgekit.bundle.ranges import LONGEST_CONTEXT, Label, Name
from edgekit.runtime.answer.prompt import DICTATION
from edgekit.runtime.assemble import fitting
from edgekit.runtime.options import StreamOptions, Times
from edgekit.serving.limits import Limits

PATH, CREDENTIAL = "path", "credential"  # what a field's type says beside its range
FilePath = Annotated[Name, Meta(extra={PATH: True})]
"""A path; in a file it is relative to the file's folder."""
TokenFile = Annotated[Name, Meta(extra={PATH: True, CREDENTIAL: "edgekit-token"})]
CertFile = Annotated[Name, Meta(extra={PATH: True, CREDENTIAL: "edgekit-cert"})]
KeyFile = Annotated[Name, Meta(extra={PATH: True, CREDENTIAL: "edgekit-key"})]
"""Files that a service of its own user may not read: systemd hands them to it (LoadCredential), and these go first."""
Text = Annotated[str, Meta(max_length=8000)]
Port = Annotated[int, Meta(ge=0, le=65535)]
Count = Annotated[int, Meta(ge=1, le=LONGEST_CONTEXT)]
Echo = Literal["cancel", "off"]

LOADING = (
    "bundle", "threads", "backend", "allow_fallback", "context_tokens", "plans", "trust", "require_signature", "speak",
)  # fmt: skip
"""The settings that a model is loaded with: where one of them changes, another is loaded."""
PROVISIONAL_MS = 200  # pipecat's rule, and what its figures are measured with
_SAMPLING = ("temperature", "top_k", "top_p", "repetition_penalty")


class StreamSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What holds for every stream that does not say otherwise, as StreamOptions has it."""

    gate: GateKind | None = None
    level: Name | None = None
    language: Name | None = None
    task: Name | None = None
    times: Times | None = None
    partials: bool | Literal["agreed", "committed"] | None = None  # None: where the bundle can
    provisional_ms: Annotated[int, Meta(ge=0, le=60_000)] | None = None  # of silence until a text may be shown early;
    # None: 200, where the gate takes longer; 0: none is
    system: Text | None = None
    prompt: Text | None = None
    tools: FilePath | None = None  # a text file with their schemas
    turns: Annotated[int, Meta(ge=0, le=LONGEST_CONTEXT)] | Literal["all"] | None = None
    think: bool | Count | None = None
    max_tokens: Count | None = None
    voice: Name | None = None
    temperature: Annotated[float, Meta(ge=0, le=1000)] | None = None
    top_k: Count | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=1000)] | None = None
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None


class HttpSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """HTTP, websockets and the page. ``token``: what is in ``token_file``; no key of the file."""

    on: bool | None = None  # None: for `serve`, not for `listen`
    host: Name = "127.0.0.1"
    port: Port = 8017
    page: bool = True
    token_file: TokenFile | None = None
    cert: CertFile | None = None
    key: KeyFile | None = None
    hosts: tuple[Name, ...] = ()  # further names under which it is reached
    origins: tuple[Name, ...] = ()  # further pages that may use it
    token: str | None = None


class WyomingSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Wyoming, as Home Assistant speaks it. ``networks``: from where it may be reached beside this machine."""

    on: bool = False
    host: Name = "127.0.0.1"
    port: Port = 10300
    zeroconf: bool = True  # announced, where others can reach it
    name: Label = ""  # how it is announced; empty: the bundle's name
    networks: tuple[Name, ...] = ()
    languages: tuple[Name, ...] = ()  # of a bundle that does not say its own


class MicrophoneSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The sound devices of `listen`, by name or number; None: the system's default."""

    device: Name | None = None
    speaker: Name | None = None
    echo: Echo | None = None


class RecordSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where what is said is kept; None: nowhere."""

    dir: FilePath | None = None
    keep_days: Annotated[float, Meta(gt=0, le=36_500)] = 30.0
    max_mb: Annotated[float, Meta(gt=0, le=1e9)] = 1000.0


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole of it."""

    bundle: FilePath | None = None  # None: of EDGEKIT_BUNDLE, else the newest under ./bundles
    threads: Annotated[int, Meta(ge=1, le=4096)] | None = None
    backend: Name | None = None
    allow_fallback: bool = False
    context_tokens: Count | None = None
    plans: FilePath | None = None
    trust: tuple[FilePath, ...] = ()
    require_signature: bool = False
    speak: bool = False  # load what speaks
    stream: StreamSettings = StreamSettings()
    limits: Limits = Limits()
    http: HttpSettings = HttpSettings()
    wyoming: WyomingSettings = WyomingSettings()
    microphone: MicrophoneSettings = MicrophoneSettings()
    record: RecordSettings = RecordSettings()

    @property
    def loading(self) -> dict[str, Any]:
        """What a model is loaded with, by name."""
        return {name: getattr(self, name) for name in LOADING}


UNWRITTEN = ("http.token",)
"""Fields that are no keys: a secret stands in a file of its own."""
BOUND = ("body_bytes", "message_bytes", "header_bytes", "connections")
"""The limits that ports are opened with."""
LATER = ("http", "wyoming", "microphone", "record", *(f"limits.{name}" for name in BOUND))
"""Tables, and keys, that a running server does not read again."""


def stream_fields(settings: StreamSettings, tools: str | None = None) -> dict[str, Any]:
    """Return the fields of StreamOptions that hold for every stream which can do them; ``tools``: that file's text.

    What is early, a stream does where it can: with its other options, some of which it says itself.
    """
    given = {name: value for name, value in structs.asdict(settings).items() if value is not None}
    sampling = {name: given.pop(name) for name in _SAMPLING if name in given}
    fields = {name: value for name, value in given.items() if name != "tools"}
    if settings.provisional_ms == 0:
        fields["provisional_ms"] = None
    if sampling:
        fields["sampling"] = sampling
    if tools is not None:
        fields["tools"] = tools
    return {"partials": True, "provisional_ms": PROVISIONAL_MS, **fields}


def check_stream(settings: StreamSettings, manifest: Manifest, options: StreamOptions) -> StreamOptions:
    """Return the options of a stream that says none, to be looked at: with what was said of what is early.

    But for partials that other streams of this bundle can have, those that ask it to write down what it hears.
    """
    offered = fitting(manifest, options)
    said: dict[str, Any] = {}
    if (
        settings.partials
        and not fitting(manifest, replace(options, prompt=DICTATION, think=False, speak=False)).partials
    ):
        said["partials"] = options.partials
    if settings.provisional_ms:
        said["provisional_ms"] = options.provisional_ms
    return replace(offered, **said)
