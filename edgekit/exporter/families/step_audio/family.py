"""Step-Audio 2 mini, -Base, -Think, R1 and R1.1: hears and writes; with its token2wav it also speaks.

Ears (``ears``), a decoder-only backbone, Qwen2 as published or a Qwen3-MoE under the same names, and the turns between
them; speech codes come among the answer's tokens. Sources: stepfun-ai/Step-Audio2, modeling_step_audio_2.py and
stepaudio2.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from edgekit.bundle import Embedding, Question, Thinking, TokenProtocol
from edgekit.bundle.speech import FlowSpeech
from edgekit.errors import CheckpointError
from edgekit.exporter.families.base import Family, Opened, Part
from edgekit.exporter.families.config import section, value
from edgekit.exporter.families.generation import ids, sampling
from edgekit.exporter.families.keys import Config
from edgekit.exporter.families.qwen import Qwen
from edgekit.exporter.families.step_audio import token2wav
from edgekit.exporter.families.step_audio.ears import StepAudioEars
from edgekit.exporter.families.step_audio.keys import STEP_AUDIO, TEXT
from edgekit.exporter.families.step_audio.token2wav import EXTENSION, SECTION, THINKS, Token2Wav
from edgekit.exporter.sources.tokenizer import token_id

# The published examples ask by the system text.
QUESTIONS = {
    "transcribe": Question(system="请记录下你所听到的语音内容。", prompt=""),
    "translate": Question(system="请仔细聆听这段语音，然后将其内容翻译成英文。", prompt=""),  # noqa: RUF001 - Chinese
}
# R1's own template begins every reply within a thought; -Think is asked to, and has one newline more before it.
THINKING = Thinking(open="<think>\n", close="</think>", then="\n\n", none="<think>\n\n</think>\n\n", usual=True)
ASKED_THINKING = Thinking(open="\n<think>\n", close="</think>", then="\n\n")
SPEECH_START, SPEECH_END, FIRST_CODE = "<tts_start>", "<tts_end>", "<audio_0>"
WRITTEN_TOKENS, SPOKEN_TOKENS = 512, 2048  # of an answer, the latter as published for thoughts and speech


@dataclass(frozen=True, slots=True)
class _Turns:
    """What stands around the sound, and what is said.

    stop: ids at which an answer ends; thinks: whether the model thinks if nobody says otherwise; token2wav: None in a
    model that only writes; generation: settings of the checkpoint.
    """

    stop: tuple[int, ...]
    thinks: bool
    token2wav: Token2Wav | None
    vocabulary: int
    max_context: int
    generation: Config

    @property
    def marks(self) -> tuple[str, ...]:
        """Tokens that are looked up, in the order of their ids."""
        speaks = (SPEECH_START, SPEECH_END) if self.token2wav else ()
        return ("<|BOT|>", "<|EOT|>", "<audio_start>", "<audio_end>", *speaks, FIRST_CODE)

    def protocol(self, tokenizer: str) -> TokenProtocol:
        """Return the token protocol: turns between BOT and EOT, audio between its own marks."""
        ids = {mark: token_id(tokenizer, mark) for mark in self.marks}
        return TokenProtocol(
            attention="prefix",
            stop=tuple(sorted({*self.stop, ids["<|EOT|>"]})),
            opening="<|BOT|>system\n{system}<|EOT|>{tools}",
            before="<|BOT|>human\n<audio_start>",
            between="<audio_end><audio_start>",
            after="<audio_end>{prompt}<|EOT|>",
            turn="<|BOT|>{role}\n{text}<|EOT|>",
            reply="<|BOT|>assistant\n",
            speak=SPEECH_START if self.token2wav else "",
            again="<|EOT|>",
            system="You are a helpful assistant.",
            tools="<|BOT|>tool_json_schemas\n{tools}<|EOT|>",
            questions=QUESTIONS,
            roles={"user": "human", "tool": "input"},
            thinking=THINKING if self.thinks else ASKED_THINKING,
            # Text ids come first. Only an answer that is spoken may hold the others.
            vocabulary_limit=min(ids["<audio_start>"], ids[FIRST_CODE]),
            max_tokens=SPOKEN_TOKENS if self.thinks or self.token2wav else WRITTEN_TOKENS,
            context_tokens=min(4096, self.max_context),
        )

    def speech(self, tables: Mapping[str, Embedding], tokenizer: str) -> FlowSpeech | None:  # noqa: ARG002 - has none
        """Return how answers are spoken, without voices; None without token2wav.

        Raises CheckpointError for a tokenizer that lacks a mark of speech, or puts its codes outside the vocabulary.
        """
        if self.token2wav is None:
            return None
        start, end, first = (token_id(tokenizer, mark) for mark in (SPEECH_START, SPEECH_END, FIRST_CODE))
        if (last := first + self.token2wav.codes) > self.vocabulary:
            raise CheckpointError(
                f"tokenizer.json: {FIRST_CODE} is {first}, {self.token2wav.codes} codes from there end at {last}, the "
                f"vocabulary at {self.vocabulary}; take the tokenizer of these weights"
            )
        speech = self.token2wav.speech(first, start, end)
        return msgspec.structs.replace(speech, sampling=sampling(self.generation, speech.sampling))


def open_step_audio(config: Config, generation: Config) -> Opened:
    """Return Step-Audio bound to one config."""
    backbone = Qwen(section(config, "text_config"), kind=TEXT)
    ears = StepAudioEars(config, backbone.width)
    extension = config.get(EXTENSION)
    told: Mapping[str, Any] = extension if isinstance(extension, Mapping) else {}
    speaks = Token2Wav.told(told[SECTION]) if SECTION in told else None
    turns = _Turns(
        stop=ids(generation, "eos_token_id"),
        thinks=value(told, THINKS, bool, False),
        token2wav=speaks,
        vocabulary=backbone.vocabulary,
        max_context=backbone.positions,
        generation=generation,
    )
    parts: tuple[Part, ...] = (ears, backbone)
    return Opened(
        parts=(*parts, speaks.flow, speaks.vocoder) if speaks else parts,
        embedding=backbone.embedding,
        max_context=backbone.positions,
        marks=turns.marks,
        unnamed=speaks.codes - 1 if speaks else 0,
        protocol=turns.protocol,
        front_end=ears.front_end,
        grid=ears.grid,
        levels=backbone.levels(),
        speech=turns.speech,
        voices=token2wav.voices,
    )


FAMILY = Family(
    name="step_audio",
    model_types=("step_audio_2",),
    open=open_step_audio,
    recipe="step-audio-2-mini",
    keys=STEP_AUDIO,
    text=("text_config",),
    published=(
        "stepfun-ai/Step-Audio-2-mini", "stepfun-ai/Step-Audio-2-mini-Base", "stepfun-ai/Step-Audio-2-mini-Think",
        "stepfun-ai/Step-Audio-R1", "stepfun-ai/Step-Audio-R1.1",
    ),
    files=token2wav.FILES,
    beside=token2wav.beside,
    reference="edgekit.exporter.reference.step_audio:StepAudioReference",
)  # fmt: skip
