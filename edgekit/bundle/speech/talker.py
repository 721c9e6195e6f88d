"""``talker``: speech by a second language model, as Qwen3-Omni has it."""

from typing import Annotated

import msgspec

from edgekit.bundle.faults import Faults, beyond, fault
from edgekit.bundle.manifest import Embedding, Manifest, Role, Sampling, Struct
from edgekit.bundle.ranges import Few, Label, Name, Rate, SomeFrames, SomeTokens, Token
from edgekit.bundle.speaking import Speech


class TalkerSpeech(Struct, Speech, frozen=True, tag_field="kind", tag="talker"):
    """Speech by a second language model that reads along with the answer: Qwen3-Omni.

    Components ``talker_adapter``, ``talker``, ``code_predictor`` and ``decoder``; the backbone also writes ``hidden``,
    what the talker hears of sound. A frame is ``codebooks`` codes: the first by ``talker``, the others by
    ``code_predictor``, whose tables stand one after another in ``code_table``, ``codebook_size`` rows each. Text ids:
    ``turn_start``, the ``roles`` after it, ``tts_*``; codec ids: ``codec_*`` and ``speakers``, of whom ``speaker``
    speaks unless another is asked for; empty: the first by name.
    """

    sample_rate_hz: Rate
    samples_per_frame: Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
    codebooks: Few
    codebook_size: SomeTokens
    codec_table: Embedding
    code_table: Embedding
    speakers: dict[Name, Token]
    turn_start: Token
    roles: dict[Role, Token]
    tts_pad: Token
    tts_bos: Token
    tts_eos: Token
    codec_pad: Token
    codec_bos: Token
    codec_eos: Token
    codec_nothink: Token
    codec_think_bos: Token
    codec_think_eos: Token
    codec_suppress: tuple[Token, ...]
    talker_sampling: Sampling
    code_sampling: Sampling
    max_frames: SomeFrames
    context_frames: SomeTokens
    speaker: Label = ""

    def components(self) -> dict[str, tuple[str, ...]]:
        """Return what speaks."""
        context = ("context",)
        return {"talker_adapter": (), "talker": context, "code_predictor": context, "decoder": ()}

    def faults(self, manifest: Manifest) -> Faults:
        """Yield tokens and codes that the tables do not have, and speakers that there are not."""
        text, codec = manifest.embedding.weight.shape[0], self.codec_table.weight.shape[0]
        for name in ("turn_start", "tts_pad", "tts_bos", "tts_eos"):
            yield from beyond(f"speech.{name}", getattr(self, name), text)
        for role, token in self.roles.items():
            yield from beyond(f"speech.roles.{role}", token, text)
        for name in ("pad", "bos", "eos", "nothink", "think_bos", "think_eos"):
            yield from beyond(f"speech.codec_{name}", getattr(self, f"codec_{name}"), codec, "codec_table")
        for token in (*self.speakers.values(), *self.codec_suppress):
            yield from beyond("speech", token, codec, "codec_table")
        if not self.speakers or (self.speaker and self.speaker not in self.speakers):
            known = ", ".join(sorted(self.speakers)) or "nobody"
            yield fault("speech.speaker", f"is '{self.speaker}', speakers names {known}")
        wanted = (self.codebooks - 1) * self.codebook_size, self.codec_table.width
        if (self.code_table.weight.shape[0], self.code_table.width) != wanted:
            yield fault(
                "speech.code_table",
                f"has {self.code_table.weight.shape[0]} rows of {self.code_table.width}, {self.codebooks} codebooks of "
                f"{self.codebook_size} need {wanted[0]} of {wanted[1]}",
            )
        backbone = manifest.components.get("backbone")
        if backbone is not None and all(spec.name != "hidden" for spec in backbone.outputs):
            yield fault("components.backbone.outputs", "has no output 'hidden', which the talker hears")
