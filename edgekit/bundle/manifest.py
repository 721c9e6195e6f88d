"""The manifest: what a bundle promises, as typed plain data.

Knows the shape of ``manifest.json`` (format version 3) and nothing about files or backends; ``docs/bundle-format.md``
describes every field. Unknown fields and wrong types are refused with the JSON path at fault. Earlier versions are
brought up to this one by ``history.py``.
"""

from typing import Annotated, Any, Literal

import msgspec

from edgekit.bundle.dialects import DIALECTS
from edgekit.bundle.ranges import (
    Bytes,
    Few,
    Finite,
    Frames,
    Index,
    Label,
    Mark,
    Milliseconds,
    Name,
    Positive,
    Rate,
    Repeats,
    Sha256,
    Share,
    Size,
    SomeFrames,
    SomeTokens,
    Text,
    Token,
    Version,
)
from edgekit.bundle.speaking import Speech
from edgekit.rates import DEFAULT_HZ
from edgekit.reprs import line

MANIFEST, TOKENIZER = "manifest.json", "tokenizer.json"
"""Files of every bundle that no field of a manifest names."""
FORMAT_VERSION = 3
NEEDS = "0.1.0"
"""Lowest EdgeKit that reads what this one writes: raised to the next release with each field that is added."""

Precision = Literal["float32", "int8", "int4"]
GridMode = Literal["exact", "chunked"]
GateKind = Literal["speech", "sound", "off"]
Floor = Literal["running", "clip"]
StateKind = Literal["none", "in-place", "carried"]
Role = Literal["system", "user", "assistant"]


class Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Frozen record that refuses unknown fields; its repr is a line, without what is as by default."""

    def __repr__(self) -> str:
        every = [(one, getattr(self, one.name)) for one in msgspec.structs.fields(self)]
        return line(self, **{one.name: value for one, value in every if one.required or value not in (one.default, {})})


class TensorSpec(Struct, frozen=True):
    """One input or output of a Component.

    ``shape`` holds sizes and names of free sizes. ``state`` tensors come in pairs, ``past.X`` in and ``present.X`` out:
    ``in-place`` pairs share one buffer for the life of a stream, ``carried`` ones are handed back at the next call.
    """

    name: Name
    dtype: Name
    shape: tuple[Size | Name, ...]
    state: StateKind = "none"


class Component(Struct, frozen=True):
    """One graph with a fixed signature and its external data file."""

    graph: Name
    data: Name | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    precision: Precision


class Requirements(Struct, frozen=True):
    """Lowest versions that can load the graphs; ``onnxruntime`` is absent where TensorRT alone runs them."""

    opset: Few
    onnxruntime: Version | None = None
    tensorrt: Version | None = None


class TensorRef(Struct, frozen=True):
    """A tensor inside a bundle file: raw little-endian rows at ``offset``."""

    file: Name
    offset: Bytes
    dtype: Name
    shape: tuple[Size, ...]


class Embedding(Struct, frozen=True):
    """The token table, looked up by the host.

    ``weight`` is float32 or float16 (vocab, width), or unsigned 8-bit / packed 4-bit codes (vocab, blocks, bytes per
    block) with ``scales`` (vocab, blocks) and zero point 128 or 8; signed codes (int8, 4-bit ones packed alike) have
    none. Tied tables point into the head's own bytes.
    """

    weight: TensorRef
    scales: TensorRef | None
    width: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
    block_size: Annotated[int, msgspec.Meta(ge=0, le=1 << 20)] = 0
    bits: Annotated[int, msgspec.Meta(ge=4, le=32)] = 32


class FrontEnd(Struct, frozen=True):
    """Whisper-style log-mel: STFT with a periodic Hann window, Slaney mel filters, log10, floor, (x + 4) / 4.

    The floor is ``dynamic_range`` (log10 units) below a maximum. ``floor`` says which one the checkpoint was trained
    with: the whole ``clip``'s, as published extractors take it, or the ``running`` one of what was heard so far. A
    stream cannot know the former and takes the latter unless it is asked to wait. ``right_pad_samples`` zeros
    follow the last sample; ``edge`` says what the STFT sees beyond them. Samples that are less than a hop at the end of
    an utterance are filled up with silence to a frame, or, with ``whole_hops``, make no frame of their own.
    """

    mel_bins: Few
    sample_rate_hz: Rate = DEFAULT_HZ
    n_fft: Annotated[int, msgspec.Meta(ge=2, le=1 << 18)] = 400
    hop_samples: Annotated[int, msgspec.Meta(ge=1, le=1 << 17)] = 160
    dynamic_range: Annotated[float, msgspec.Meta(gt=0, le=1000)] = 8.0
    floor: Floor = "running"
    right_pad_samples: Annotated[int, msgspec.Meta(ge=0, le=1 << 24)] = 0
    edge: Literal["zero", "reflect"] = "zero"
    whole_hops: bool = False


class Grid(Struct, frozen=True):
    """The internal rhythm of a stream, in mel frames (hops of the front end); every split of the input lands on it.

    An encoder call takes ``left_frames + chunk_frames + right_frames`` mel frames and makes ``positions(chunk_frames)``
    positions. ``segment_frames``: the encoder's convolutions start anew after so many frames. An utterance is ended by
    ``tail_frames`` of silence, then filled to a multiple of ``pad_to_frames``; it is split when it reaches
    ``max_frames``.
    """

    mode: GridMode
    chunk_frames: SomeFrames
    max_frames: SomeFrames
    max_positions: SomeFrames
    left_frames: Frames = 2
    right_frames: Frames = 1
    frames_per_position: SomeFrames = 2
    segment_frames: SomeFrames | None = None
    tail_frames: Frames = 0
    pad_to_frames: SomeFrames = 1
    masks_last_position: bool = False

    def positions(self, frames: int) -> int:
        """Return the positions that so many frames of one call become; each segment's last may be of fewer frames."""
        segment = self.segment_frames or max(1, frames)
        whole, rest = divmod(frames, segment)
        return whole * -(-segment // self.frames_per_position) - (-rest // self.frames_per_position)

    def kept_frames(self, positions: int, total: int, *, last: bool) -> int:
        """Return the frames that an encoder call of so many positions is for, ``total`` after it.

        An encoder that takes ``valid`` pools pairs of positions. A ``last`` one, masked, after 4n + 1 others would make
        a frame of padding: what a graph gives of it is to be cut.
        """
        if not self.masks_last_position:
            return positions
        return positions // 2 - (last and total % 4 == 2)


class Sampling(Struct, frozen=True):
    """How a token is chosen from logits. Temperature 0 takes the likeliest one that the penalty and the phrases leave.

    ``repetition_penalty`` divides the positive logits of tokens already chosen and multiplies the negative ones (Keskar
    et al. 2019, CTRL); no phrase of ``no_repeat_ngram_size`` tokens comes twice, 0: any may; then come temperature,
    ``top_k`` and ``top_p`` (nucleus), in this order, as in transformers. All of it is of one answer.
    """

    temperature: Finite = 0.0
    top_k: SomeTokens | None = None
    top_p: Finite | None = None
    repetition_penalty: Positive = 1.0
    no_repeat_ngram_size: Token = 0


class Question(Struct, frozen=True):
    """What a model is asked to do with sound: texts for ``{system}`` and ``{prompt}``; None leaves the usual one."""

    system: Text | None = None
    prompt: Text | None = None


class Thinking(Struct, frozen=True):
    """A thought that a reply may begin with, between the texts ``open`` and ``close``; ``then`` leads to the answer.

    ``none`` is what begins a reply without a thought. ``usual``: whether the model thinks if nobody says otherwise.
    """

    open: Mark
    close: Mark
    then: Text = ""
    none: Text = ""
    usual: bool = False


class Timestamps(Struct, frozen=True):
    """Tokens that are times in an answer, one after another: ``first`` is 0 s, each next one ``step_s`` later.

    ``latest_start`` of them at most are before the first word. Whisper's, in which an answer is of 30 s.
    """

    first: Token
    count: SomeTokens = 1501
    step_s: Positive = 0.02
    latest_start: Token = 50


class TokenProtocol(Struct, frozen=True):
    """What surrounds the audio in the backbone's input, and when decoding ends.

    ``cross``: tokens attend to the utterance through a cross-KV; decoding starts from ``start``, one of ``languages``
    and ``tasks`` where the model has them, then ``start_tail``; ``language`` and ``task`` are those unless another is
    asked for, None: the likeliest language, and to transcribe. ``prefix``: audio embeddings stand in the token stream.
    A conversation begins with ``opening`` (``{system}`` and ``{tools}`` are filled in, the latter with the text
    ``tools`` around the schemas). A turn is sound between ``before`` and ``after`` (``{prompt}`` is filled in) with
    ``between`` separating its pieces, or ``turn`` with a ``{role}`` of ``roles`` and its ``{text}``. Then comes
    ``reply``; the answer follows, begun by ``speak`` where it is to be spoken by the same tokens, and closed by
    ``again`` once there is another turn. ``questions`` are known by name.

    An answer ends at a ``stop`` token, after ``max_tokens`` or ``max_tokens_per_s`` of sound, when the conversation has
    ``max_length`` positions, the answer's included, or when a phrase was said ``max_repeats`` times in a row.

    ``timestamps``: of a model that writes times where ``start_tail`` is left out. ``alignment``: layer and head of each
    cross-attention that follows the words; of such layers the backbone writes ``queries``. ``no_speech``: the token
    that is likely after ``start`` where nobody speaks.
    """

    attention: Literal["cross", "prefix"]
    stop: tuple[Token, ...]
    max_tokens: SomeTokens
    context_tokens: SomeTokens
    start: tuple[Token, ...] = ()
    start_tail: tuple[Token, ...] = ()
    languages: dict[Name, Token] = {}
    tasks: dict[Name, Token] = {}
    language: Name | None = None
    task: Name | None = None
    opening: Text = ""
    before: Text = ""
    between: Text = ""
    after: Text = ""
    turn: Text = ""
    reply: Text = ""
    speak: Text = ""
    again: Text = ""
    system: Text = ""
    prompt: Text = ""
    tools: Text = ""
    questions: dict[Name, Question] = {}
    roles: dict[Name, Text] = {}
    thinking: Thinking | None = None
    sampling: Sampling = Sampling()
    suppress: tuple[Token, ...] = ()
    begin_suppress: tuple[Token, ...] = ()
    vocabulary_limit: SomeTokens | None = None
    max_tokens_per_s: Positive | None = None
    max_repeats: Repeats | None = None
    max_length: SomeTokens | None = None
    timestamps: Timestamps | None = None
    alignment: tuple[tuple[Index, Index], ...] = ()
    no_speech: Token | None = None

    def ids(self) -> frozenset[int]:
        """Return every token that the protocol names."""
        lists = [self.start, self.start_tail, self.stop, self.suppress, self.begin_suppress]
        if self.timestamps is not None:
            lists.append((self.timestamps.first, self.timestamps.first + self.timestamps.count - 1))
        if self.no_speech is not None:
            lists.append((self.no_speech,))
        return frozenset().union(*lists, self.languages.values(), self.tasks.values())


class ComputeLevel(Struct, frozen=True):
    """An operating point, cheapest first in the manifest; ``skip`` does nothing.

    ``max_lag_ms`` is the backlog up to which the Policy may choose it; ``None`` means at any backlog.
    ``word_error_rate`` is what the recipe's author measured on people's speech, words wrong / words said; it is told,
    never used to choose.
    """

    name: Name
    experts_per_token: Few | None = None
    max_lag_ms: Annotated[float, msgspec.Meta(gt=0, le=1e9)] | None = None
    word_error_rate: Share | None = None


class GateSettings(Struct, frozen=True):
    """When sound counts: Gate thresholds, probabilities for ``speech``, decibels over the floor for ``sound``."""

    kind: GateKind = "speech"
    start: Share = 0.5
    stop: Share = 0.35
    min_sound_ms: Milliseconds = 64
    min_silence_ms: Milliseconds = 480
    pre_roll_ms: Milliseconds = 320


class CensusRow(Struct, frozen=True):
    """One weight tensor as the written graph holds it."""

    component: Name
    tensor: Name
    dtype: Name
    shape: tuple[Bytes, ...]
    op: Name
    bytes: Bytes
    float32_bytes: Bytes
    group: Name


class FileEntry(Struct, frozen=True):
    """Path inside the bundle, size and hash of one file."""

    path: Name
    bytes: Bytes
    sha256: Sha256


class Manifest(Struct, frozen=True):
    """The bundle's table of contents; see ``docs/bundle-format.md``.

    ``needs``: lowest EdgeKit that reads it, for an older one to name. ``dummy_seed``: of the noise that stands for
    weights; None in a bundle of real ones. ``speech``: how answers are spoken; None in a bundle that only writes.
    """

    format_version: int
    name: Name
    family: Name
    dialect: Name
    requires: Requirements
    precision: dict[Name, Precision]
    components: dict[Name, Component]
    embedding: Embedding
    front_end: FrontEnd
    grid: Grid
    protocol: TokenProtocol
    levels: tuple[ComputeLevel, ...]
    gate: GateSettings
    recipe: dict[str, Any]
    census: tuple[CensusRow, ...]
    verification: dict[str, Any]
    files: tuple[FileEntry, ...]
    license: Label = ""
    source: Label = ""
    dummy_seed: Annotated[int, msgspec.Meta(ge=0)] | None = None
    speech: Speech | None = None
    needs: Label = NEEDS

    def __post_init__(self) -> None:
        """Raise RegistryError for a dialect that is not registered; when decoded, msgspec tells it with the file."""
        DIALECTS.get(self.dialect)

    @property
    def precision_line(self) -> str:
        """``int8``, or ``int8, head float32``: the precision of most groups, then the groups that have another."""
        kinds = list(self.precision.values())
        most = max(kinds, key=kinds.count, default="float32")
        return ", ".join([most, *(f"{group} {kind}" for group, kind in self.precision.items() if kind != most)])

    def __repr__(self) -> str:
        return line(
            self, name=self.name, family=self.family, dialect=self.dialect, precision=self.precision_line,
            components=" ".join(self.components), format_version=self.format_version,
        )  # fmt: skip

    def tables(self) -> dict[str, Embedding]:
        """Return every token table: ``embedding``, and those of ``speech`` by the names of its fields."""
        fields: dict[str, Any] = msgspec.structs.asdict(self.speech) if isinstance(self.speech, msgspec.Struct) else {}
        return {"embedding": self.embedding} | {name: one for name, one in fields.items() if isinstance(one, Embedding)}
