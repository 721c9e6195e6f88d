"""The ears of Step-Audio 2: a Whisper-type encoder pooled to 25 Hz, and an adapter to 12.5 Hz.

Audio is heard in pieces of 25 s. Source: stepfun-ai/Step-Audio2, modeling_step_audio_2.py.
"""

from collections.abc import Mapping

from edgekit.bundle import FrontEnd, Grid
from edgekit.errors import CheckpointError, RecipeError
from edgekit.exporter.blocks import EncoderNames, EncoderShape, audio_encoder, linear
from edgekit.exporter.families.base import Heads, Part, Shapes
from edgekit.exporter.families.config import check_parts, section, value
from edgekit.exporter.families.keys import Config
from edgekit.exporter.families.step_audio.keys import EARS
from edgekit.exporter.graph import GraphWriter
from edgekit.exporter.weights import Weights
from edgekit.recipe import GridSettings, Group

ADAPTER_INNER = 2048  # hard-coded in the published class, absent from config.json
RIGHT_PAD_SAMPLES = 479
PIECE_FRAMES = (25 * 16_000 + RIGHT_PAD_SAMPLES) // 160  # 25 s, the published piece length
FRAMES_PER_EMBEDDING = 8  # 100 Hz mel to 12.5 Hz embeddings
CHUNK_MS = 640
FRAME_MS = 10
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
_LINEARS = frozenset(("adapter.linear1.weight", "adapter.linear2.weight"))


class StepAudioEars(Part):
    """The components ``encoder`` and ``adapter`` bound to one config; ``width``: of the backbone that listens."""

    components: Mapping[str, Group | None] = {"encoder": "encoder", "adapter": "encoder"}

    def __init__(self, config: Config, width: int) -> None:
        audio = EARS.filled(section(config, "audio_encoder_config"))
        state = value(audio, "n_audio_state", int)
        check_parts(audio, "n_audio_state", "n_audio_head")
        self.size = EncoderShape(
            mel_bins=value(audio, "n_mels", int),
            width=state,
            heads=value(audio, "n_audio_head", int),
            layers=value(audio, "n_audio_layer", int),
            inner=4 * state,
            positions=value(audio, "n_audio_ctx", int),
        )
        stride = value(audio, "adapter_stride", int)
        if value(audio, "kernel_size", int) != 3 or stride != 2:
            raise CheckpointError(
                f"config.json: adapter kernel {audio['kernel_size']} stride {stride}: only the published "
                "kernel 3, stride 2 is supported"
            )
        if value(audio, "llm_dim", int) != width:
            raise CheckpointError(
                f"config.json: llm_dim {audio['llm_dim']} differs from text_config.hidden_size {width}; "
                "use the published config.json"
            )
        key = "audio_encoder_config.n_audio_state / n_audio_head"
        self.attends = (Heads(key, self.size.head_dim, turned=False),)
        self.hidden = width
        self._linears = ENCODER.linears(self.size) | _LINEARS

    def expected(self) -> Shapes:
        """Return name and shape of every tensor."""
        width = self.size.width
        adapter: dict[str, tuple[int, ...]] = {
            "adapter.conv.weight": (width, width, 3),
            "adapter.conv.bias": (width,),
            "adapter.linear1.weight": (ADAPTER_INNER, width),
            "adapter.linear1.bias": (ADAPTER_INNER,),
            "adapter.linear2.weight": (self.hidden, ADAPTER_INNER),
            "adapter.linear2.bias": (self.hidden,),
        }
        return ENCODER.shapes(self.size) | adapter

    def group(self, name: str) -> Group | None:
        """Return the precision group of a tensor; None keeps it float."""
        return "encoder" if name in self._linears else None

    def build(self, component: str, g: GraphWriter, w: Weights) -> None:
        """Write one component's graph."""
        if component == "encoder":
            audio_encoder(g, w, ENCODER, self.size, pooled=True)
        else:
            self._adapter(g, w)

    def front_end(self, settings: GridSettings) -> FrontEnd:  # noqa: ARG002 - the same for both modes
        """Return the log-mel front end: 479 zeros after the last sample, as published."""
        return FrontEnd(mel_bins=self.size.mel_bins, floor="clip", right_pad_samples=RIGHT_PAD_SAMPLES)

    def grid(self, settings: GridSettings) -> Grid:
        """Return the published piece of 25 s, or chunks that attend to themselves and the past (approximate)."""
        window = min(PIECE_FRAMES, self.size.positions * 2)
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
            mode=mode, chunk_frames=chunk, max_frames=window, max_positions=self.size.positions,
            masks_last_position=True,
        )  # fmt: skip

    def _adapter(self, g: GraphWriter, w: Weights) -> None:
        """Convolve and project frames (n, width) to embeddings (ceil(n / 2), hidden); one frame is carried over."""
        width = self.size.width
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
        g.output(x, "embeds", "float32", ("embeds", self.hidden))
