"""token2wav: a flow and a vocoder make sound of Step-Audio 2's speech codes.

They lie in a folder of their own beside the weights. Their sizes are read from the tensors and written into the config
that a bundle stores, which then tells all of them; what such a config leaves out is as released.
"""

import dataclasses
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from edgekit.bundle import Sampling
from edgekit.bundle.speech import FlowSpeech
from edgekit.errors import CheckpointError
from edgekit.exporter.families.base import Locate
from edgekit.exporter.families.config import LARGEST_VOCABULARY, LARGEST_WIDTH, MOST_HEADS, MOST_LAYERS
from edgekit.exporter.families.step_audio.conformer import ConformerShape
from edgekit.exporter.families.step_audio.dit import DitShape
from edgekit.exporter.families.step_audio.flow import GUIDANCE, LARGEST_GUIDANCE, RELEASED, Flow, FlowShape
from edgekit.exporter.families.step_audio.flow import ROOT as FLOW_ROOT
from edgekit.exporter.families.step_audio.hift import SAMPLE_RATE_HZ, SAMPLES_PER_FRAME, HiFT, open_hift
from edgekit.exporter.sources.checkpoint import Beside, SideBySide, Tensors
from edgekit.exporter.sources.folded import FoldedTensors
from edgekit.exporter.sources.pickled import open_pickled
from edgekit.exporter.sources.stored import LARGEST_CONFIG, StoredTensors, read_file, read_object
from edgekit.exporter.voice import prepare_voice
from edgekit.reprs import exact
from edgekit.runtime.speak.voice import FRAMES_PER_CODE, Voice

_LOG = logging.getLogger(__name__)
EXTENSION, SECTION, THINKS = "edgekit", "token2wav", "thinks"
FOLDER, FLOW, VOCODER, SETTINGS = "token2wav", "flow.pt", "hift.pt", "flow.yaml"
RECORDINGS = "assets/*.wav"
TEMPLATE = "chat_template.jinja"
FILES = (f"{FOLDER}/*", RECORDINGS, TEMPLATE)
CHUNK_CODES = 25  # a second, as the published stream has it
STEPS = 10
_SIZES = {"codes": (1, LARGEST_VOCABULARY), "heads": (1, MOST_HEADS), "layers": (1, MOST_LAYERS), "lookahead": (0, 64)}
SAMPLING = Sampling(temperature=0.7, top_p=0.9, repetition_penalty=1.05)  # of the published examples

_Shape = TypeVar("_Shape", ConformerShape, DitShape, HiFT)


@dataclass(frozen=True, slots=True)
class Token2Wav:
    """Flow and vocoder bound to their sizes."""

    flow: Flow
    vocoder: HiFT

    def __post_init__(self) -> None:
        """Raise CheckpointError if one makes what the other does not read."""
        made, read = self.flow.shape.dit.mel_bins, self.vocoder.mel_bins
        if made != read:
            raise CheckpointError(
                f"token2wav: the flow makes {made} mel bins, the vocoder reads {read}; use the published files of one "
                "checkpoint"
            )

    @classmethod
    def told(cls, section: object) -> "Token2Wav":
        """Return those of a config's section. Raises CheckpointError for sizes that cannot be or do not fit."""
        if not isinstance(section, Mapping):
            raise _wrong(SECTION, "must be an object")
        if odd := sorted(section.keys() - {"conformer", "dit", "vocoder", "guidance"}):
            raise _wrong(f"{SECTION}.{odd[0]}", "is not known")
        guidance = section.get("guidance", GUIDANCE)
        if isinstance(guidance, bool) or not isinstance(guidance, (int, float)) or not 0 < guidance <= LARGEST_GUIDANCE:
            raise _wrong(f"{SECTION}.guidance", f"must be a number above 0, up to {LARGEST_GUIDANCE}")
        conformer = _shape(section, "conformer", RELEASED.conformer)
        dit = _shape(section, "dit", RELEASED.dit)
        if conformer.heads < 1 or conformer.width % conformer.heads:
            raise _wrong(f"{SECTION}.conformer", f"width {conformer.width} is not divided by heads {conformer.heads}")
        return cls(Flow(FlowShape(conformer, dit), float(guidance)), _shape(section, "vocoder", HiFT()))

    @classmethod
    def of(cls, tensors: Tensors, settings: str | None) -> "Token2Wav":
        """Return those whose tensors a source holds; ``settings`` is the text of flow.yaml, None where it is absent."""
        return cls(Flow.read(tensors, settings), HiFT.of(tensors))

    def section(self) -> dict[str, Any]:
        """Return the section of a config that tells all sizes, as plain data."""
        shape = self.flow.shape
        parts = {"conformer": shape.conformer, "dit": shape.dit, "vocoder": self.vocoder}
        plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(parts | {"guidance": self.flow.guidance}))
        return plain

    @property
    def codes(self) -> int:
        """How many speech codes there are."""
        return self.flow.shape.conformer.codes

    def speech(self, first_code: int, start: int, end: int) -> FlowSpeech:
        """Return how answers are spoken, ``first_code``, ``start`` and ``end`` being tokens; voices come later."""
        return FlowSpeech(
            sample_rate_hz=SAMPLE_RATE_HZ,
            samples_per_code=SAMPLES_PER_FRAME * FRAMES_PER_CODE,
            first_code=first_code,
            codes=self.codes,
            start=start,
            end=end,
            chunk_codes=CHUNK_CODES,
            lookahead_codes=self.flow.shape.conformer.lookahead,
            steps=STEPS,
            guidance=self.flow.guidance,
            voices={},
            sampling=SAMPLING,
        )


def beside(found: StoredTensors, locate: Locate) -> Beside:
    """Return a Step-Audio 2 checkpoint with its token2wav, where it has one and a recording to take a voice from.

    Where it has no recording, token2wav is left out and a warning logged. Raises CheckpointError if a half of it is
    missing.
    """
    del locate  # it lies in the same checkpoint
    folder = found.folder / FOLDER
    tensors: Tensors = found
    told: dict[str, Any] = {THINKS: True} if _begins_with_a_thought(found.folder) else {}
    recordings = {path.stem: path for path in sorted(found.folder.glob(RECORDINGS))}
    halves = [name for name in (FLOW, VOCODER) if (folder / name).exists()]
    if len(halves) == 1:
        missing = VOCODER if halves == [FLOW] else FLOW
        raise CheckpointError(
            f"{folder / missing}: missing, {halves[0]} is there; fetch the whole {FOLDER} folder, or remove it for a "
            "bundle that only writes"
        )
    if halves and not recordings:
        _LOG.warning("%s: no %s to take a voice from; the bundle will write and not speak", found.folder, RECORDINGS)
    elif halves:
        flow = FoldedTensors(open_pickled(folder / FLOW), "", FLOW_ROOT)
        vocoder = open_hift(folder / VOCODER)
        settings = folder / SETTINGS
        text = read_file(settings, LARGEST_CONFIG).decode("utf-8", "replace") if settings.exists() else None
        tensors = SideBySide(found, flow, vocoder)
        told[SECTION] = Token2Wav.of(tensors, text).section()
    extension = found.config.get(EXTENSION)
    if told and not isinstance(extension, Mapping | None):
        raise CheckpointError(f"config.json: '{EXTENSION}' is {exact(extension)}, must be an object; take it out")
    config = found.config | ({EXTENSION: {**(extension or {}), **told}} if told else {})
    return Beside(tensors, config, recordings if SECTION in told else {}, folder)


def voices(found: Beside) -> dict[str, Voice]:
    """Return the voices of a checkpoint's recordings by name; raises what prepare_voice does."""
    return {name: prepare_voice(found.hearing, path) for name, path in found.recordings.items()}


def _begins_with_a_thought(folder: Path) -> bool:
    """Return whether a checkpoint's own chat template leads to a reply that begins within a thought."""
    template = folder / TEMPLATE
    if template.exists():
        text = read_file(template, LARGEST_CONFIG).decode("utf-8", "replace")
    else:
        settings = folder / "tokenizer_config.json"
        found = read_object(settings).get("chat_template") if settings.exists() else None
        text = found if isinstance(found, str) else str(found or "")
    lead = text.rpartition("add_generation_prompt")[2]
    return re.search(r"<think>(?!(?:\\+n|\s)*</think>)", lead) is not None


def _shape(section: Mapping[str, Any], part: str, released: _Shape) -> _Shape:
    given = section.get(part, {})
    whole = dataclasses.asdict(released)
    if not isinstance(given, Mapping):
        raise _wrong(f"{SECTION}.{part}", "must be an object")
    if odd := sorted(given.keys() - whole.keys()):
        raise _wrong(f"{SECTION}.{part}", f"has no '{odd[0]}'")
    for name, size in given.items():
        for one in size if isinstance(size, list | tuple) else (size,):
            least, most = _SIZES.get(name, (1, LARGEST_WIDTH))
            if type(one) is int and not least <= one <= most:
                raise _wrong(f"{SECTION}.{part}.{name}", f"is {exact(one)}, must be from {least} to {most}")
    try:
        return msgspec.convert({**whole, **given}, type(released))
    except (msgspec.ValidationError, OverflowError) as error:
        raise _wrong(f"{SECTION}.{part}", str(error)) from error


def _wrong(place: str, rule: str) -> CheckpointError:
    return CheckpointError(f"config.json: {EXTENSION}.{place}: {rule}; write it as docs/bundle-format.md has it")
