"""``flow``: speech codes among the answer's own tokens, as Step-Audio 2 has them; each voice is a file."""

from typing import Annotated

import msgspec

from edgekit.bundle.faults import Faults, beyond, fault
from edgekit.bundle.manifest import Manifest, Sampling, Struct
from edgekit.bundle.ranges import Few, Finite, Name, Rate, SomeTokens, Token
from edgekit.bundle.speaking import Speech

_FRAMES_PER_CODE = 2


class FlowSpeech(Struct, Speech, frozen=True, tag_field="kind", tag="flow"):
    """Speech codes among the answer's own tokens, made sound by flow matching and a vocoder: Step-Audio 2.

    Components ``flow_encoder``, ``flow_step`` and ``vocoder``. Token ``first_code`` + c is code c of ``codes``; tokens
    from ``first_code`` on that are no code, such as padding, are dropped. A reply that speaks begins with ``start`` and
    its speech ends with ``end``. It is made sound by ``chunk_codes`` codes, after a look at ``lookahead_codes`` more.
    ``voices``: files of prepared voice prompts by name.
    """

    sample_rate_hz: Rate
    samples_per_code: Annotated[int, msgspec.Meta(ge=_FRAMES_PER_CODE, le=1 << 20, multiple_of=_FRAMES_PER_CODE)]
    first_code: Token
    codes: SomeTokens
    start: Token
    end: Token
    chunk_codes: Annotated[int, msgspec.Meta(ge=1, le=512)]
    lookahead_codes: Annotated[int, msgspec.Meta(ge=0, le=512)]
    steps: Few
    guidance: Finite
    voices: dict[Name, Name]
    sampling: Sampling

    def files(self) -> tuple[str, ...]:
        """Return the voices' files."""
        return tuple(self.voices.values())

    def components(self) -> dict[str, tuple[str, ...]]:
        """Return what makes codes sound."""
        return {"flow_encoder": ("codes_kept", "frames_kept"), "flow_step": ("capacity",), "vocoder": ()}

    def faults(self, manifest: Manifest) -> Faults:
        """Yield codes that are no tokens, and a bundle without a voice."""
        rows = manifest.embedding.weight.shape[0]
        for name, token in (
            ("first_code", self.first_code), ("codes", self.first_code + self.codes - 1), ("start", self.start),
            ("end", self.end),
        ):  # fmt: skip
            yield from beyond(f"speech.{name}", token, rows)
        if not self.voices:
            yield fault("speech.voices", "is empty, somebody has to speak")
