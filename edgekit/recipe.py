"""Recipe and Target: what to make and what for, parsed from TOML into typed values.

A recipe is data: precision per group of weights, block sizes, streaming grid, check clips and limits. It knows
nothing of graphs; the exporter reads it and writes the resolved form into the manifest.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import msgspec

from edgekit.bundle.dialects import DIALECTS, Activations
from edgekit.bundle.manifest import ComputeLevel, GateKind, GateSettings, GridMode, Precision, Struct
from edgekit.errors import BundleFormatError, RecipeError
from edgekit.plainfiles import read_plain
from edgekit.reprs import cut, exact
from edgekit.resources import resource

LARGEST_FILE, LONGEST_LINE = 64 << 10, 2000  # bytes, and characters of a line: TOML is read for hours of a long one
_HIDDEN = r"\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"  # and what turns a line about
_NAME = rf"^[^/\\{_HIDDEN}]*\Z"
_LINE = rf"^[^{_HIDDEN}]*\Z"
_LANGUAGE, _VERSION = r"^[a-z]{2,3}(-[A-Za-z0-9]{1,8})*\Z", r"^[0-9]+(\.[0-9]+)*\Z"
_IN_WORDS = {
    _LINE: "of one line", _NAME: "that is a file's name without its folder", _LANGUAGE: "such as en",
    _VERSION: "of numbers with dots between them",
}  # fmt: skip
Line = Annotated[str, msgspec.Meta(max_length=500, pattern=_LINE)]
Word = Annotated[str, msgspec.Meta(min_length=1, max_length=100, pattern=_LINE)]
Tensor = Annotated[str, msgspec.Meta(min_length=1, max_length=1000, pattern=_LINE)]
Clip = Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=_NAME)]
Language = Annotated[str, msgspec.Meta(pattern=_LANGUAGE)]
Version = Annotated[str, msgspec.Meta(max_length=30, pattern=_VERSION)]
Block = Literal[32, 64, 128]
ChunkMs = Annotated[int, msgspec.Meta(ge=1, le=600_000)]
TailMs = Annotated[int, msgspec.Meta(ge=0, le=600_000)]
Mib = Annotated[int, msgspec.Meta(ge=0, le=1 << 24)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Error = Annotated[float, msgspec.Meta(ge=0, le=1000)]
Tokens = Annotated[int, msgspec.Meta(ge=1, le=1 << 24)]
Repeats = Annotated[int, msgspec.Meta(le=1 << 20)]
Speed = Annotated[float, msgspec.Meta(gt=0, le=10_000)]

EncoderActivations = Literal["dynamic", "static", "float"]
EncoderFiner = Literal["measured", "none"] | tuple[Tensor, ...]
Group = Word
"""The name of a group of weights that have one precision. Parts of a family name theirs."""
GROUPS: tuple[Group, ...] = ("encoder", "backbone", "experts", "head", "decoder")
"""Groups that any recipe may name, whether a checkpoint has them or not; a family may have others."""
DEFAULT_PRECISION: Precision = "int8"


def flag(group: Group, kind: str) -> str:
    """Return what the command line takes to give a group a precision."""
    return f"--{group} {kind}" if group in GROUPS else f"--precision {group}={kind}"


class QuantizeSettings(Struct, frozen=True):
    """Block sizes along the input dimension (32, 64 or 128; the largest that divides it is used, at most this).

    A dialect may have blocks of its own instead, or one scale for each output channel: ``docs/bundle-format.md`` says
    which. ``encoder_activations``, of an encoder in INT8: scaled anew at each call, by fixed scales found on the clips
    of ``calibrate``, or not rounded; the target's dialect decides it. ``encoder_finer``: of dynamic ones, the weights
    whose inputs are smoothed and get a scale for each row: those that an export measures on the same clips, none, or
    these. A resolved recipe names them. ``activations``, the target's: what is multiplied by a weight or a
    cache; norms, sums, softmax and routers stay float32.
    """

    backbone_block: Block = 128
    experts_block: Block = 64
    head_block: Block = 128
    encoder_activations: EncoderActivations = "dynamic"
    encoder_finer: EncoderFiner = "measured"
    activations: Activations = "float32"

    def finer(self, name: str) -> bool:
        """Return whether a weight of the encoder is one of those that ``encoder_finer`` names."""
        return not isinstance(self.encoder_finer, str) and name in self.encoder_finer


class GridSettings(Struct, frozen=True):
    """Streaming grid asked for; ``chunk_ms`` and ``tail_ms`` apply to ``chunked`` only and default to the family's."""

    mode: GridMode | None = None
    chunk_ms: ChunkMs | None = None
    tail_ms: TailMs | None = None


class Limits(Struct, frozen=True):
    """What the quality gate allows. What a user loses decides: words, and the tokens that they are made of.

    ``transcript_error_rate``: words wrong / words that a person said, of the best of the recordings that are asked for
    (CheckSettings); of float bundles too. The others are of a quantised bundle and its float twin on the check clips.
    ``word_error_rate``: words changed / words of the twin, of each language and of all together; it is exceeded where
    chance does not explain it in so few words (``exporter/checks/words.py``), and 1 is no limit. ``token_mismatch``:
    share of greedy tokens that differ when the twin's tokens are forced.

    Errors inside are wide: they tell a broken graph, not a lost word. ``logit_error``: root mean square of the
    difference of logits / that of the twin's. ``frame_error``: the same ratio for encoder frames. ``weight_error``: the
    same ratio for the weights of the worst group in INT8 against the checkpoint's, measured at any size;
    ``int4_weight_error``: of the worst in INT4.

    Of a bundle that speaks, with the twin's codes forced: ``code_mismatch``: share of the likeliest codes that differ,
    all codebooks together. ``mel_error_db``: root mean square of the difference of log-mel, of the frames that a
    vocoder is given, else of the sound.
    """

    transcript_error_rate: Error = 0.75
    word_error_rate: Error = 0.02
    token_mismatch: Share = 0.05
    logit_error: Error = 0.3
    frame_error: Error = 0.3
    weight_error: Error = 0.04  # tables of tiny.en with one scale a row: 0.031; INT4 is 0.08 and more
    int4_weight_error: Error = 0.15
    code_mismatch: Share = 0.1
    mel_error_db: Error = 1.0


class CalibrateSettings(Struct, frozen=True):
    """Recordings whose sound decides how an encoder is rounded; ``clips`` as in CheckSettings.

    None of them is a check clip: what a bundle was fitted to cannot judge it.
    """

    clips: tuple[Clip, ...] = ("librivox-*.flac",)


class CheckSettings(Struct, frozen=True):
    """What an export hears, of the recordings under ``export/clips``, and the largest bundles that it still runs.

    ``clips``: names of recordings, in which ``*`` and ``?`` stand for any characters, for the quality gate: heard in
    the languages that the checkpoint's own tokens name, or else in ``languages``; the others are left out.
    ``transcripts``: recordings whose words are known. Every export asks once whether words come out that a person said;
    none are named where nobody could expect it, as of random weights.

    A float twin beyond ``twin_limit_mib`` is not made: the weights are compared with the checkpoint one by one. A
    bundle beyond ``run_limit_mib`` is not asked for words.
    """

    clips: tuple[Clip, ...] = ()
    languages: tuple[Language, ...] = ("en",)
    transcripts: tuple[Clip, ...] = ()
    twin_limit_mib: Mib = 512
    run_limit_mib: Mib = 2048


class Int4Form(Struct, frozen=True):
    """What a model becomes where INT4 is asked for, if that is not INT4 of everything.

    ``keeps``: the groups that then have a finer precision, but for those that are named one by one, and ``because``
    why. ``quantize`` and ``limits``: fields of the recipe's own that are others wherever a group is INT4.
    """

    keeps: dict[Group, Precision] = msgspec.field(default_factory=dict)
    because: Line = ""
    quantize: dict[Word, Block] = msgspec.field(default_factory=dict)
    limits: dict[Word, Error] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ValueError, which msgspec tells with the file, for a field that the recipe has not."""
        blocks = tuple(f"{group}_block" for group in ("backbone", "experts", "head"))
        for table, named, known in (
            ("quantize", self.quantize, blocks), ("limits", self.limits, Limits.__struct_fields__),
        ):  # fmt: skip
            if unknown := [name for name in named if name not in known]:
                raise ValueError(f"int4.{table}.{unknown[0]} is no field; choose one of: {', '.join(known)}")
        if beyond := [name for name in ("token_mismatch", "code_mismatch") if self.limits.get(name, 0) > 1]:
            raise ValueError(f"int4.limits.{beyond[0]} is {self.limits[beyond[0]]}, must be from 0 to 1")


class Recipe(Struct, frozen=True):
    """Everything that decides what an export makes, beside the checkpoint itself.

    An empty ``name`` takes the checkpoint folder's. ``precision``: of each group of weights that it names; ``kind``
    also knows the others. ``max_repeats``: None as the family has it, 0 looks for no loop.
    """

    name: Line = ""
    license: Line = ""
    precision: dict[Group, Precision] = msgspec.field(default_factory=dict)
    quantize: QuantizeSettings = QuantizeSettings()
    grid: GridSettings = GridSettings()
    gate: GateSettings = GateSettings()
    limits: Limits = Limits()
    calibrate: CalibrateSettings = CalibrateSettings()
    check: CheckSettings = CheckSettings()
    int4: Int4Form = Int4Form()
    levels: tuple[ComputeLevel, ...] = ()
    context_tokens: Tokens | None = None
    max_tokens_per_s: Speed | None = None
    max_repeats: Repeats | None = None

    def __post_init__(self) -> None:
        """Raise ValueError, which msgspec tells with the file, for what contradicts itself."""
        if self.max_repeats is not None and (self.max_repeats < 0 or self.max_repeats == 1):
            raise ValueError(f"max_repeats is {self.max_repeats}, must be 0 for no limit, or 2 or more")
        _check_once("levels", (level.name for level in self.levels))
        if self.gate.stop > self.gate.start:
            raise ValueError(f"gate.stop is {self.gate.stop}, must be no more than gate.start, {self.gate.start}")

    def kind(self, group: Group) -> Precision:
        """Return the precision of a group."""
        return self.precision.get(group, DEFAULT_PRECISION)

    def with_int4(self) -> "Recipe":
        """Return the recipe with the block sizes and limits that it has where a group is INT4."""
        return msgspec.structs.replace(
            self,
            quantize=msgspec.structs.replace(self.quantize, **self.int4.quantize),
            limits=msgspec.structs.replace(self.limits, **self.int4.limits),
        )


class Stack(Struct, frozen=True):
    """Software that a device class comes with: a JetPack, or a set of packages; each is proved by ``source``.

    ``l4t``: beginnings of the Jetson Linux releases that it is, such as 36.4; ``tensorrt`` and ``cuda`` are what to
    expect there, never what is installed.
    """

    name: Word
    source: Line
    l4t: tuple[Version, ...] = ()
    python: Line = ""
    cuda: Line = ""
    tensorrt: Line = ""


class Target(Struct, frozen=True):
    """A device class: which dialect to export and what the device has.

    ``compute_capability`` names the GPUs, none for a CPU; ``unified_memory``: GPU and CPU share one pool.
    ``activations``: what its graphs multiply in, see QuantizeSettings.
    """

    name: Word
    description: Line
    dialect: Word
    backends: Annotated[tuple[Word, ...], msgspec.Meta(min_length=1, max_length=100)]
    min_memory_mib: Mib
    tested: bool
    note: Line = ""
    compute_capability: tuple[Version, ...] = ()
    unified_memory: bool = False
    activations: Activations = "float32"
    stacks: tuple[Stack, ...] = ()

    def __post_init__(self) -> None:
        """Raise ValueError, which msgspec tells with the file, for an unknown dialect or activations it has not."""
        offered = DIALECTS.get(self.dialect).activations
        if self.activations not in offered:
            raise ValueError(
                f"activations '{self.activations}': dialect '{self.dialect}' has {' and '.join(offered)} only"
            )
        for field, names in (
            ("backends", self.backends), ("compute_capability", self.compute_capability),
            ("stacks", (stack.name for stack in self.stacks)),
        ):  # fmt: skip
            _check_once(field, names)


_T = TypeVar("_T", Recipe, Target)
_CHOICES = {
    "mode": GridMode, "kind": GateKind, "encoder_activations": EncoderActivations, "activations": Activations,
    "block": Block, "quantize": Block,
}  # fmt: skip
_CHOICE = re.compile(r"Invalid enum value .+ - at `\$(?P<place>[^`]*)`", re.DOTALL)
_PLACE = re.compile(r"Expected (?P<rule>.+) - at `\$(?P<place>[^`]*)`", re.DOTALL)


def load_recipe(path: Path) -> Recipe:
    """Return the Recipe in a TOML file. Raises RecipeError with file, field and rule."""
    return _load(path, Recipe)


def load_target(name: str) -> Target:
    """Return the Target called ``name`` under ``runtimes``, or in a TOML file.

    Raises RecipeError naming the known ones.
    """
    if name.endswith(".toml"):
        return _load(Path(name), Target)
    if name not in (known := target_names()):
        raise RecipeError(f"target '{cut(name)}' is not known; choose one of: {', '.join(known)}")
    return _load(resource("runtimes") / name / "target.toml", Target)


def stored_recipe(fields: Mapping[str, Any], where: object) -> Recipe:
    """Return the Recipe that a manifest holds; raises BundleFormatError, which names the bundle ``where`` it is."""
    try:
        return _converted(fields, Recipe, f"{where}: recipe in the manifest")
    except RecipeError as error:
        raise BundleFormatError(f"{error}; export it again") from error


def target_names() -> list[str]:
    """Return the names of the Targets under ``runtimes``, sorted."""
    return sorted(file.parent.name for file in resource("runtimes").glob("*/target.toml"))


def _load(path: Path, kind: type[_T]) -> _T:
    try:
        content = tables(read_plain(path, LARGEST_FILE).decode("utf-8"))
    except FileNotFoundError as error:
        raise RecipeError(f"{path}: no such file; `ls {resource('export')}` shows the recipes that ship") from error
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror}; give a TOML file") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not UTF-8 at byte {error.start}, TOML is; save it as UTF-8") from error
    except RecursionError as error:
        raise RecipeError(f"{path}: lists or tables too deep within each other; correct it") from error
    except (msgspec.MsgspecError, ValueError) as error:
        raise RecipeError(f"{path}: {error}") from error
    return _converted(content, kind, str(path))


def _converted(content: Mapping[str, object], kind: type[_T], where: str) -> _T:
    try:
        _check_kinds("precision", content.get("precision"))
        form = content.get("int4")
        _check_kinds("int4.keeps", form.get("keeps") if isinstance(form, dict) else None)
        return msgspec.convert(content, kind)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
        raise RecipeError(f"{where}: {_with_value(str(error), content)}") from error


def tables(text: str) -> dict[str, object]:
    """Return the tables of a TOML text; raises ValueError for a line that is too long, and for what is no TOML."""
    for number, line in enumerate(text.split("\n"), start=1):
        if len(line) > LONGEST_LINE:
            raise ValueError(f"line {number} has {len(line)} characters, must have at most {LONGEST_LINE}; break it")
    try:
        tables: dict[str, object] = msgspec.toml.decode(text)
    except msgspec.DecodeError as error:  # no ValueError in msgspec 0.19
        raise ValueError(str(error)) from error
    return tables


def _with_value(message: str, content: object) -> str:
    """Return what msgspec tells of a field, with the value that it leaves out: ``grid.chunk_ms is -5, must be ...``."""
    message = message.replace("Number out of range", "Expected `a number of 64 bits`")
    match = _PLACE.fullmatch(message) or _CHOICE.fullmatch(message)
    if match is None:
        return message
    value: object = content
    for index, name in re.findall(r"\[(\d+)\]|\.([^.\[\]]+)", match["place"]):
        if isinstance(value, list) and index and int(index) < len(value):
            value = value[int(index)]
        elif isinstance(value, dict) and name in value:
            value = value[name]
        else:
            return message
    if match.re is _CHOICE:
        named = re.findall(r"\w+", match["place"])[-1]
        known = next((kind for ending, kind in _CHOICES.items() if named.endswith(ending)), Literal["measured", "none"])
        rule = f"one of: {', '.join(map(str, get_args(known)))}"
    else:
        rule = match["rule"].replace("`", "")
        rule = next(
            (rule.replace(f"matching regex {key!r}", told) for key, told in _IN_WORDS.items() if repr(key) in rule),
            rule,
        )
    return f"{match['place'].removeprefix('.')} is {exact(value)}, must be {rule}; correct it"


def _check_once(field: str, names: Iterable[str]) -> None:
    """Raise ValueError for a name that comes twice."""
    name, count = next(iter(Counter(names).most_common(1)), ("", 0))
    if count > 1:
        raise ValueError(f"{field} names '{name}' {count} times, must once; take one out or rename it")


def _check_kinds(table: str, precision: object) -> None:
    """Raise ValueError naming the group whose precision is none; msgspec tells of a mapping only that one is wrong."""
    for group, kind in precision.items() if isinstance(precision, dict) else ():
        if kind not in get_args(Precision):
            raise ValueError(f"{table}.{group} is {exact(kind)}, must be one of: {', '.join(get_args(Precision))}")
