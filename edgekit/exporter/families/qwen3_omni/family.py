"""Qwen3-Omni, Instruct and Thinking: hears and writes; with a talker in its config it also speaks. Images are not read.

Puts together ears (``qwen3_omni_ears``), thinker (``qwen``), talker and code predictor (``qwen3_omni_talker``) and the
codec's decoder (``code2wav``), and knows the turns between them. Source: transformers, modeling_qwen3_omni_moe.py.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import (
    ComputeLevel,
    Embedding,
    FrontEnd,
    Grid,
    Question,
    TalkerSpeech,
    Thinking,
    TokenProtocol,
)
from edgekit.errors import CheckpointError
from edgekit.exporter.families.config import section, value
from edgekit.exporter.families.qwen import Qwen, QwenNames
from edgekit.exporter.families.qwen3_omni.code2wav import Code2Wav
from edgekit.exporter.families.qwen3_omni.ears import Qwen3OmniEars
from edgekit.exporter.families.qwen3_omni.talker import ROLES, SPECIAL_CODES, TURN_START, Talker
from edgekit.exporter.graph import GraphWriter
from edgekit.exporter.sources.checkpoint import Tensors
from edgekit.exporter.sources.tokenizer import token_id
from edgekit.exporter.weights import Weights
from edgekit.recipe import GridSettings, Group

THINKER = QwenNames("thinker.model", "thinker.model.embed_tokens.weight", "thinker.lm_head.weight")
TURN_END, SOUND_START, SOUND_END = "<|im_end|>", "<|audio_start|>", "<|audio_end|>"
MOST_TOKENS = 1024  # of an answer, as published
QUESTIONS = {
    "transcribe": Question(prompt="Transcribe the audio into text."),
    "translate": Question(prompt="Listen to the provided speech and produce a translation in English text."),
}
# The published thinkers that do not speak think, or describe sound; their configs do not say which, so users do.
THINKING = Thinking(open="<think>\n", close="</think>", then="\n\n", none="<think>\n\n</think>\n\n")
_EARS, _TALKER, _DECODER = "thinker.audio_tower.", "talker.", "code2wav."


class Qwen3Omni:
    """The family bound to one config."""

    name = "qwen3_omni"
    unnamed = 0

    def __init__(self, config: Mapping[str, Any], generation: Mapping[str, Any]) -> None:
        self._generation = generation
        thinker = section(config, "thinker_config")
        audio = section(thinker, "audio_config")
        self.ears = Qwen3OmniEars(audio)
        self.backbone = Qwen(section(thinker, "text_config"), THINKER, "thinker_config.text_config")
        if value(audio, "output_dim", int) != self.backbone.width:
            raise CheckpointError(
                f"config.json: audio_config.output_dim {audio['output_dim']} differs from text_config.hidden_size "
                f"{self.backbone.width}; use the published config.json"
            )
        self.embedding = self.backbone.embedding
        self.max_context = self.backbone.positions
        self.marks: tuple[str, ...] = (TURN_START, TURN_END, SOUND_START, SOUND_END)
        self.components: tuple[str, ...] = ("encoder", "adapter", "backbone")
        self.tables: Mapping[str, tuple[str, ...]] = {}
        self.talker: Talker | None = None
        self.decoder: Code2Wav | None = None
        if _speaks(config):
            self.talker = Talker(config, self.backbone)
            self.decoder = Code2Wav(section(config, "code2wav_config"))
            self.components += (*self.talker.components, "decoder")
            self.tables = self.talker.tables
            self.marks += ROLES
            self._check_codes(self.talker, self.decoder)

    @staticmethod
    def _check_codes(talker: Talker, decoder: Code2Wav) -> None:
        ours = (talker.codebooks, talker.predictor.vocabulary, talker.talker.vocabulary - SPECIAL_CODES)
        theirs = (decoder.codebooks, decoder.codebook_size, decoder.codebook_size)
        if ours != theirs:
            raise CheckpointError(
                f"config.json: talker_config makes {ours[0]} codes of {ours[1]}, the first of {ours[2]}, "
                f"code2wav_config reads {theirs[0]} of {theirs[1]}; use the published config.json"
            )

    def expected(self) -> Mapping[str, tuple[int, ...]]:
        """Return name and shape of every tensor the checkpoint must hold."""
        found = {**self.ears.expected(), **self.backbone.expected()}
        for part in (self.talker, self.decoder):
            found |= part.expected() if part else {}
        return found

    def ignored(self, name: str) -> bool:
        """Return whether a tensor may be there unused: what sees, what speaks if nothing does, a tied projection."""
        if name.startswith((_TALKER, _DECODER)):
            return self.talker is None
        return name.startswith("thinker.visual.") or (self.backbone.tied and name == THINKER.head)

    def group(self, name: str) -> Group | None:
        """Return the precision group of a tensor; None keeps it float."""
        if name.startswith(_EARS):
            return self.ears.group(name)
        if self.talker and name.startswith(_TALKER):
            return self.talker.group(name)
        if self.decoder and name.startswith(_DECODER):
            return self.decoder.group(name)
        return self.backbone.group(name)

    def stored(self, name: str) -> str:
        """Return the name under which the bundle stores a tensor: experts are stacked, and so are code tables."""
        return self.talker.stored(name) if self.talker else self.backbone.stored(name)

    def expert_rows(self, source: Tensors, stored: str, expert: int) -> NDArray[np.float32]:
        """Return one expert's matrix of a stored bank."""
        part = self.talker if self.talker and stored.startswith(_TALKER) else self.backbone
        return part.expert_rows(source, stored, expert)

    def build(self, component: str, g: GraphWriter, w: Weights) -> None:
        """Write one component's graph."""
        if component in ("encoder", "adapter"):
            self.ears.build(component, g, w)
        elif component == "backbone":
            self.backbone.build(g, w, self.talker.accepted if self.talker else None)
        elif component == "decoder":
            assert self.decoder
            self.decoder.build(g, w)
        else:
            assert self.talker
            self.talker.build(component, g, w)

    def front_end(self, settings: GridSettings) -> FrontEnd:
        """Return the log-mel front end."""
        return self.ears.front_end(settings)

    def grid(self, settings: GridSettings) -> Grid:
        """Return the streaming grid."""
        return self.ears.grid(settings)

    def protocol(self, tokenizer: str) -> TokenProtocol:
        """Return the token protocol: ChatML, audio between its own marks."""
        ids = {mark: token_id(tokenizer, mark) for mark in self.marks}
        found = self._generation.get("eos_token_id") or []
        ends = [found] if isinstance(found, int) else list(found)
        return TokenProtocol(
            attention="prefix",
            stop=tuple(sorted({*ends, ids[TURN_END]})),
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
            thinking=None if self.talker else THINKING,
            max_tokens=MOST_TOKENS,
            context_tokens=min(4096, self.max_context),
        )

    def speech(self, tables: Mapping[str, Embedding], tokenizer: str) -> TalkerSpeech | None:
        """Return how answers are spoken; None where the config has no talker."""
        if self.talker is None or self.decoder is None:
            return None
        return self.talker.speech(tables, tokenizer, self.decoder.samples_per_frame)

    def levels(self) -> tuple[ComputeLevel, ...]:
        """Return the default compute levels, cheapest first."""
        return self.backbone.levels()


def _speaks(config: Mapping[str, Any]) -> bool:
    parts = (config.get("talker_config"), config.get("code2wav_config"))
    return value(config, "enable_audio_output", bool, True) and all(isinstance(part, Mapping) for part in parts)
