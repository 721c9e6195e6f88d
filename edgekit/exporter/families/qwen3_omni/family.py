"""Qwen3-Omni, Instruct and Thinking: hears and writes; with a talker in its config it also speaks. Images are not read.

Puts together ears (``ears``), thinker (``qwen``), talker and code predictor (``talker``) and the codec's decoder
(``code2wav``), and knows the turns between them. Source: transformers, modeling_qwen3_omni_moe.py.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from edgekit.bundle import Question, Thinking, TokenProtocol
from edgekit.errors import CheckpointError
from edgekit.exporter.families.base import Family, Opened, Part, SpeechMaker, writes_only
from edgekit.exporter.families.config import section, value
from edgekit.exporter.families.generation import ids
from edgekit.exporter.families.keys import Config
from edgekit.exporter.families.qwen import Qwen, QwenNames
from edgekit.exporter.families.qwen3_omni.code2wav import Code2Wav
from edgekit.exporter.families.qwen3_omni.ears import Qwen3OmniEars
from edgekit.exporter.families.qwen3_omni.keys import EARS, OMNI, TEXT
from edgekit.exporter.families.qwen3_omni.keys import THINKER as THINKER_KEYS
from edgekit.exporter.families.qwen3_omni.talker import ROLES, SPECIAL_CODES, TURN_START, Talker
from edgekit.exporter.sources.tokenizer import token_id

THINKER = QwenNames("thinker.model", "thinker.model.embed_tokens.weight", "thinker.lm_head.weight")
TURN_END, SOUND_START, SOUND_END = "<|im_end|>", "<|audio_start|>", "<|audio_end|>"
MOST_TOKENS = 1024  # of an answer, as published
QUESTIONS = {
    "transcribe": Question(prompt="Transcribe the audio into text."),
    "translate": Question(prompt="Listen to the provided speech and produce a translation in English text."),
}
# The published thinkers that do not speak think, or describe sound; their configs do not say which, so users do.
THINKING = Thinking(open="<think>\n", close="</think>", then="\n\n", none="<think>\n\n</think>\n\n")
_MARKS = (TURN_START, TURN_END, SOUND_START, SOUND_END)
_SEES, _SPEAKS = ("thinker.visual.",), ("talker.", "code2wav.")


def open_qwen3_omni(config: Config, generation: Config) -> Opened:
    """Return Qwen3-Omni bound to one config."""
    config = OMNI.filled(config)
    inner = THINKER_KEYS.filled(section(config, "thinker_config"))
    audio = EARS.filled(section(inner, "audio_config"))
    ears = Qwen3OmniEars(audio)
    thinker = Qwen(section(inner, "text_config"), THINKER, "thinker_config.text_config", TEXT)
    if value(audio, "output_dim", int) != thinker.width:
        raise CheckpointError(
            f"config.json: audio_config.output_dim {audio['output_dim']} differs from text_config.hidden_size "
            f"{thinker.width}; use the published config.json"
        )
    parts: tuple[Part, ...] = (ears, thinker)
    speech: SpeechMaker = writes_only
    if speaks := _speaks(config):
        talker = Talker(config, thinker)
        decoder = Code2Wav(section(config, "code2wav_config"))
        _check_codes(talker, decoder)
        thinker.hidden = talker.accepted
        parts += (talker, decoder)
        speech = partial(talker.speech, decoder.samples_per_frame)
    return Opened(
        parts=parts,
        embedding=thinker.embedding,
        max_context=thinker.positions,
        marks=(*_MARKS, *(ROLES if speaks else ())),
        unused=_SEES if speaks else (*_SEES, *_SPEAKS),
        protocol=partial(_protocol, generation, thinker.positions, speaks),
        front_end=ears.front_end,
        grid=ears.grid,
        levels=thinker.levels(),
        speech=speech,
    )


def _speaks(config: Mapping[str, Any]) -> bool:
    parts = (config.get("talker_config"), config.get("code2wav_config"))
    return value(config, "enable_audio_output", bool) and all(isinstance(part, Mapping) for part in parts)


def _check_codes(talker: Talker, decoder: Code2Wav) -> None:
    ours = (talker.codebooks, talker.predictor.vocabulary, talker.talker.vocabulary - SPECIAL_CODES)
    theirs = (decoder.codebooks, decoder.codebook_size, decoder.codebook_size)
    if ours != theirs:
        raise CheckpointError(
            f"config.json: talker_config makes {ours[0]} codes of {ours[1]}, the first of {ours[2]}, "
            f"code2wav_config reads {theirs[0]} of {theirs[1]}; use the published config.json"
        )


def _protocol(generation: Config, max_context: int, speaks: bool, tokenizer: str) -> TokenProtocol:
    """Return the token protocol: ChatML, audio between its own marks."""
    marks = {mark: token_id(tokenizer, mark) for mark in (*_MARKS, *(ROLES if speaks else ()))}
    return TokenProtocol(
        attention="prefix",
        stop=tuple(sorted({*ids(generation, "eos_token_id"), marks[TURN_END]})),
        opening=f"{TURN_START}system\n{{system}}{TURN_END}\n",
        before=f"{TURN_START}user\n{SOUND_START}",
        between=f"{SOUND_END}{SOUND_START}",
        after=f"{SOUND_END}{{prompt}}{TURN_END}\n",
        turn=f"{TURN_START}{{role}}\n{{text}}{TURN_END}\n",
        reply=f"{TURN_START}assistant\n",
        again=f"{TURN_END}\n",
        system="You are a helpful assistant.",
        questions=QUESTIONS,
        roles={"user": "user"},
        thinking=None if speaks else THINKING,
        max_tokens=MOST_TOKENS,
        context_tokens=min(4096, max_context),
    )


FAMILY = Family(
    name="qwen3_omni",
    model_types=("qwen3_omni_moe",),
    open=open_qwen3_omni,
    recipe="qwen3-omni-30b",
    keys=OMNI,
    text=("thinker_config", "text_config"),
    published=tuple(f"Qwen/Qwen3-Omni-30B-A3B-{kind}" for kind in ("Instruct", "Thinking", "Captioner")),
    reference="edgekit.exporter.reference.qwen3_omni:Qwen3OmniReference",
)
