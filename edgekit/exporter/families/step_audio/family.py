"""Step-Audio 2 mini, -Base, -Think, R1 and R1.1: hears and writes; with its token2wav it also speaks.

A Whisper-type encoder pooled to 25 Hz, an adapter to 12.5 Hz, and a decoder-only backbone: Qwen2 as published, or a
Qwen3-MoE under the same names. Audio is heard in pieces of 25 s; speech codes come among the answer's tokens. Sources:
stepfun-ai/Step-Audio2, modeling_step_audio_2.py and stepaudio2.py.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.bundle import ComputeLevel, Embedding, FlowSpeech, FrontEnd, Grid, Question, Thinking, TokenProtocol
from edgekit.errors import CheckpointError, RecipeError
from edgekit.exporter.blocks import EncoderNames, EncoderShape, audio_encoder, linear
from edgekit.exporter.families.config import check_parts, section, value
from edgekit.exporter.families.qwen import Qwen
from edgekit.exporter.families.step_audio.token2wav import EXTENSION, SECTION, THINKS, Token2Wav, owns
from edgekit.exporter.graph import GraphWriter
from edgekit.exporter.sources.checkpoint import Tensors
from edgekit.exporter.sources.tokenizer import token_id
from edgekit.exporter.weights import Weights
from edgekit.recipe import GridSettings, Group

ADAPTER_INNER = 2048  # hard-coded in the published class, absent from config.json
RIGHT_PAD_SAMPLES = 479
PIECE_FRAMES = (25 * 16_000 + RIGHT_PAD_SAMPLES) // 160  # 25 s, the published piece length
FRAMES_PER_EMBEDDING = 8  # 100 Hz mel to 12.5 Hz embeddings
CHUNK_MS = 640
FRAME_MS = 10
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
ENCODER = EncoderNames(
    conv1="encoder.conv1",
    conv2="encoder.conv2",
    positions="encoder.positional_embedding.weight",
    layer="encoder.blocks.{}",
    query="attn.query",
    key="attn.key",
    value="attn.value",
    out="attn.out",
    attention_norm="attn_ln",
    up="mlp.0",
    down="mlp.2",
    mlp_norm="mlp_ln",
    final_norm="encoder.after_norm",
)


class StepAudio:
    """The family bound to one config."""

    name = "step_audio"
    tables: Mapping[str, tuple[str, ...]] = {}

    def __init__(self, config: Mapping[str, Any], generation: Mapping[str, Any]) -> None:
        audio = section(config, "audio_encoder_config")
        width = value(audio, "n_audio_state", int)
        check_parts(audio, "n_audio_state", "n_audio_head")
        self.encoder = EncoderShape(
            mel_bins=value(audio, "n_mels", int),
            width=width,
            heads=value(audio, "n_audio_head", int),
            layers=value(audio, "n_audio_layer", int),
            inner=4 * width,
            positions=value(audio, "n_audio_ctx", int),
        )
        self.stride = value(audio, "adapter_stride", int, 2)
        if value(audio, "kernel_size", int, 3) != 3 or self.stride != 2:
            raise CheckpointError(
                f"config.json: adapter kernel {audio.get('kernel_size')} stride {self.stride}: only the published "
                "kernel 3, stride 2 is supported"
            )
        self.backbone = Qwen(section(config, "text_config"))
        if value(audio, "llm_dim", int) != self.backbone.width:
            raise CheckpointError(
                f"config.json: llm_dim {audio['llm_dim']} differs from text_config.hidden_size {self.backbone.width}; "
                "use the published config.json"
            )
        self.embedding = self.backbone.embedding
        self.max_context = self.backbone.positions
        found = config.get("eos_token_id", section(config, "text_config").get("eos_token_id", []))
        self._stop = [found] if isinstance(found, int) else list(found or [])
        self._generation = generation
        extension = config.get(EXTENSION)
        told: Mapping[str, Any] = extension if isinstance(extension, Mapping) else {}
        self._thinks = value(told, THINKS, bool, False)
        self.token2wav = Token2Wav.told(told[SECTION]) if SECTION in told else None
        self.components: tuple[str, ...] = ("encoder", "adapter", "backbone")
        self.unnamed = 0
        speaks: tuple[str, ...] = ()
        if self.token2wav:
            self.components += self.token2wav.components
            self.unnamed = self.token2wav.codes - 1
            speaks = (SPEECH_START, SPEECH_END)
        self.marks: tuple[str, ...] = ("<|BOT|>", "<|EOT|>", "<audio_start>", "<audio_end>", *speaks, FIRST_CODE)

    def expected(self) -> Mapping[str, tuple[int, ...]]:
        """Return name and shape of every tensor the checkpoint must hold."""
        width = self.encoder.width
        adapter: dict[str, tuple[int, ...]] = {
            "adapter.conv.weight": (width, width, 3),
            "adapter.conv.bias": (width,),
            "adapter.linear1.weight": (ADAPTER_INNER, width),
            "adapter.linear1.bias": (ADAPTER_INNER,),
            "adapter.linear2.weight": (self.backbone.width, ADAPTER_INNER),
            "adapter.linear2.bias": (self.backbone.width,),
        }
        speaks = self.token2wav.expected() if self.token2wav else {}
        return {**ENCODER.shapes(self.encoder), **adapter, **self.backbone.expected(), **speaks}

    def ignored(self, name: str) -> bool:
        """Return whether a tensor may be there unused: the output projection where it is tied."""
        return self.backbone.tied and name == "lm_head.weight"

    def group(self, name: str) -> Group | None:
        """Return the precision group of a tensor; None keeps it float."""
        if self.token2wav and owns(name):
            return self.token2wav.group(name)
        if name in ENCODER.linears(self.encoder) or name in ("adapter.linear1.weight", "adapter.linear2.weight"):
            return "encoder"
        return self.backbone.group(name)

    def stored(self, name: str) -> str:
        """Return the name under which a graph stores a tensor: experts are stacked, gate with up."""
        return self.backbone.stored(name)

    def expert_rows(self, source: Tensors, stored: str, expert: int) -> NDArray[np.float32]:
        """Return one expert's matrix of a stored bank."""
        return self.backbone.expert_rows(source, stored, expert)

    def build(self, component: str, g: GraphWriter, w: Weights) -> None:
        """Write one component's graph."""
        if component == "encoder":
            audio_encoder(g, w, ENCODER, self.encoder, pooled=True)
        elif component == "adapter":
            self._adapter(g, w)
        elif component == "backbone":
            self.backbone.build(g, w)
        else:
            assert self.token2wav
            self.token2wav.build(component, g, w)

    def front_end(self, settings: GridSettings) -> FrontEnd:  # noqa: ARG002 - the same for both modes
        """Return the log-mel front end: 479 zeros after the last sample, as published."""
        return FrontEnd(mel_bins=self.encoder.mel_bins, right_pad_samples=RIGHT_PAD_SAMPLES)

    def grid(self, settings: GridSettings) -> Grid:
        """Return the published piece of 25 s, or chunks that attend to themselves and the past (approximate)."""
        window = min(PIECE_FRAMES, self.encoder.positions * 2)
        if settings.tail_ms:
            raise RecipeError(
                f"grid.tail_ms {settings.tail_ms}: this family adds no silence; leave it out of the recipe"
            )
        chunk = window
        mode = settings.mode or "exact"
        if mode == "chunked":
            chunk_ms = settings.chunk_ms or CHUNK_MS
            chunk = chunk_ms // FRAME_MS
            if chunk % FRAMES_PER_EMBEDDING or chunk_ms % FRAME_MS or not 0 < chunk <= window:
                raise RecipeError(f"grid.chunk_ms {chunk_ms}: must be a multiple of 80 up to 25000; change the recipe")
        return Grid(
            mode=mode, chunk_frames=chunk, max_frames=window, max_positions=self.encoder.positions,
            masks_last_position=True,
        )  # fmt: skip

    def protocol(self, tokenizer: str) -> TokenProtocol:
        """Return the token protocol: turns between BOT and EOT, audio between its own marks."""
        ids = {mark: token_id(tokenizer, mark) for mark in self.marks}
        return TokenProtocol(
            attention="prefix",
            stop=tuple(sorted({*self._stop, ids["<|EOT|>"]})),
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
            thinking=THINKING if self._thinks else ASKED_THINKING,
            # Text ids come first. Only an answer that is spoken may hold the others.
            vocabulary_limit=min(ids["<audio_start>"], ids[FIRST_CODE]),
            max_tokens=SPOKEN_TOKENS if self._thinks or self.token2wav else WRITTEN_TOKENS,
            context_tokens=min(4096, self.max_context),
        )

    def speech(self, tables: Mapping[str, Embedding], tokenizer: str) -> FlowSpeech | None:  # noqa: ARG002 - has none
        """Return how answers are spoken, without voices; None without token2wav.

        Raises CheckpointError for a tokenizer that lacks a mark of speech, or puts its codes outside the vocabulary.
        """
        if self.token2wav is None:
            return None
        start, end, first = (token_id(tokenizer, mark) for mark in (SPEECH_START, SPEECH_END, FIRST_CODE))
        if (last := first + self.token2wav.codes) > self.backbone.vocabulary:
            raise CheckpointError(
                f"tokenizer.json: {FIRST_CODE} is {first}, {self.token2wav.codes} codes from there end at {last}, the "
                f"vocabulary at {self.backbone.vocabulary}; take the tokenizer of these weights"
            )
        return self.token2wav.speech(first, start, end)

    def levels(self) -> tuple[ComputeLevel, ...]:
        """Return the default compute levels, cheapest first."""
        return self.backbone.levels()

    def _adapter(self, g: GraphWriter, w: Weights) -> None:
        """Convolve and project frames (n, width) to embeddings (ceil(n / 2), hidden); one frame is carried over."""
        width = self.encoder.width
        frames = g.input("frames", "float32", ("frames", width))
        tail = g.input("past.tail", "float32", (1, width), "carried")
        joined = g.node("Concat", tail, frames, axis=0)
        far = g.constant([2**62])
        g.output(
            g.node("Slice", joined, g.constant([-1]), far, g.constant([0])), "present.tail", "float32", (1, width),
            "carried",
        )  # fmt: skip
        x = g.node("Unsqueeze", g.node("Transpose", joined, perm=[1, 0]), g.constant([0]))
        x = g.node(
            "Conv", x, w.plain(g, "adapter.conv.weight"), w.plain(g, "adapter.conv.bias"), strides=[2], pads=[0, 1]
        )
        x = g.node("Transpose", g.node("Squeeze", g.node("Gelu", x), g.constant([0])), perm=[1, 0])
        x = g.node("Relu", linear(g, w, x, "adapter.linear1.weight", "encoder", "adapter.linear1.bias"))
        x = linear(g, w, x, "adapter.linear2.weight", "encoder", "adapter.linear2.bias")
        g.output(x, "embeds", "float32", ("embeds", self.backbone.width))
