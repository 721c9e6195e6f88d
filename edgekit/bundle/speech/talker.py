"""``talker``: speech by a second language model, as Qwen3-Omni has it."""

from edgekit.bundle.manifest import Embedding, Role, Sampling, Struct
from edgekit.bundle.speaking import Speech


class TalkerSpeech(Struct, Speech, frozen=True, tag_field="kind", tag="talker"):
    """Speech by a second language model that reads along with the answer: Qwen3-Omni.

    Components ``talker_adapter``, ``talker``, ``code_predictor`` and ``decoder``; the backbone also writes ``hidden``,
    what the talker hears of sound. A frame is ``codebooks`` codes: the first by ``talker``, the others by
    ``code_predictor``, whose tables stand one after another in ``code_table``, ``codebook_size`` rows each. Text ids:
    ``turn_start``, the ``roles`` after it, ``tts_*``; codec ids: ``codec_*`` and ``speakers``, of whom ``speaker``
    speaks unless another is asked for; empty: the first by name.
    """

    sample_rate_hz: int
    samples_per_frame: int
    codebooks: int
    codebook_size: int
    codec_table: Embedding
    code_table: Embedding
    speakers: dict[str, int]
    turn_start: int
    roles: dict[Role, int]
    tts_pad: int
    tts_bos: int
    tts_eos: int
    codec_pad: int
    codec_bos: int
    codec_eos: int
    codec_nothink: int
    codec_think_bos: int
    codec_think_eos: int
    codec_suppress: tuple[int, ...]
    talker_sampling: Sampling
    code_sampling: Sampling
    max_frames: int
    context_frames: int
    speaker: str = ""
