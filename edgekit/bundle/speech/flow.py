"""``flow``: speech codes among the answer's own tokens, as Step-Audio 2 has them; each voice is a file."""

from edgekit.bundle.manifest import Sampling, Struct
from edgekit.bundle.speaking import Speech


class FlowSpeech(Struct, Speech, frozen=True, tag_field="kind", tag="flow"):
    """Speech codes among the answer's own tokens, made sound by flow matching and a vocoder: Step-Audio 2.

    Components ``flow_encoder``, ``flow_step`` and ``vocoder``. Token ``first_code`` + c is code c of ``codes``; tokens
    from ``first_code`` on that are no code, such as padding, are dropped. A reply that speaks begins with ``start`` and
    its speech ends with ``end``. It is made sound by ``chunk_codes`` codes, after a look at ``lookahead_codes`` more.
    ``voices``: files of prepared voice prompts by name.
    """

    sample_rate_hz: int
    samples_per_code: int
    first_code: int
    codes: int
    start: int
    end: int
    chunk_codes: int
    lookahead_codes: int
    steps: int
    guidance: float
    voices: dict[str, str]
    sampling: Sampling

    def files(self) -> tuple[str, ...]:
        """Return the voices' files."""
        return tuple(self.voices.values())
