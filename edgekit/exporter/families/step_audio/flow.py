"""Step-Audio 2's flow matching: speech codes at 25 Hz to log-mel frames at 50 Hz, in a voice that a prompt gives.

A conformer makes of the codes what to say; a diffusion transformer, asked ten times, turns noise into mel frames. Sizes
are read from the tensors of token2wav/flow.pt; flow.yaml, which also names the classes, is compared with them where it
is there. Source: stepfun-ai/Step-Audio2, cosyvoice2/flow/.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import CheckpointError
from edgekit.exporter.families.base import Heads, Part, Shapes
from edgekit.exporter.families.step_audio.conformer import (
    STRIDE,
    ConformerShape,
    build_conformer,
    conformer_linears,
    conformer_shapes,
)
from edgekit.exporter.families.step_audio.dit import DitShape, build_dit, dit_linears, dit_shapes
from edgekit.exporter.graph import GraphWriter
from edgekit.exporter.sources.checkpoint import Tensors
from edgekit.exporter.weights import Weights
from edgekit.recipe import Group
from edgekit.reprs import short

ROOT = "flow."
GUIDANCE = 0.7  # inference_cfg_rate of the published class, where flow.yaml does not say another
LARGEST_GUIDANCE = 1000
NOISE_FRAMES = 3000  # 60 s; a stream uses as many as its prompt has, and three seconds more
NOISE_SEED = 0
_TABLE = f"{ROOT}input_embedding.weight"
_SPEAKER = f"{ROOT}spk_embed_affine_layer"
_PROJECTION = f"{ROOT}encoder_proj"
_CONFORMER = f"{ROOT}encoder."
_DIT = f"{ROOT}decoder.estimator."
_AGAIN = "use the published flow.pt and flow.yaml"
# What the graphs are built for and no tensor shows; flow.yaml must not say another.
_FIXED = {
    "input_layer": "linear",
    "pos_enc_layer_type": "rel_pos_espnet",
    "selfattention_layer_type": "rel_selfattn",
    "activation_type": "swish",
    "normalize_before": "True",
    "up_scale_factor": str(STRIDE),
    "output_type": "mel",
}


@dataclass(frozen=True, slots=True)
class FlowShape:
    """Sizes of both halves."""

    conformer: ConformerShape
    dit: DitShape


# As released; only to make a bundle of noise from a config alone, which says nothing of the flow.
RELEASED = FlowShape(
    ConformerShape(codes=6561, width=512, heads=8, inner=2048, layers=(6, 4), lookahead=3, key_bias=True),
    DitShape(mel_bins=80, speaker=192, width=512, layers=16, heads=8, head_dim=64, inner=2048, time_width=256),
)


class Flow(Part):
    """The flow bound to its sizes; tensors are named as in flow.pt behind ``flow.``."""

    components: Mapping[str, Group | None] = {"flow_encoder": "decoder", "flow_step": "decoder"}

    def __init__(self, shape: FlowShape, guidance: float = GUIDANCE) -> None:
        self.shape = shape
        self.guidance = guidance
        conformer = shape.conformer
        key = "edgekit.token2wav.conformer.width / heads"
        self.attends = (Heads(key, conformer.width // max(1, conformer.heads), turned=False),)
        self._linears = conformer_linears(shape.conformer, _CONFORMER) | dit_linears(shape.dit, _DIT)

    @classmethod
    def read(cls, source: Tensors, settings: str | None) -> "Flow":
        """Return the Flow whose tensors a source holds; ``settings`` is the text of flow.yaml, None where it is absent.

        Raises CheckpointError if a tensor that tells a size is missing or misshapen, or the settings say another size.
        """
        shape = _read_shape(source)
        return cls(shape, GUIDANCE if settings is None else _check_settings(settings, shape))

    def expected(self) -> Shapes:
        """Return name and shape of every tensor."""
        conformer, dit = self.shape.conformer, self.shape.dit
        return {
            _TABLE: (conformer.codes, conformer.width),
            f"{_SPEAKER}.weight": (dit.mel_bins, dit.speaker),
            f"{_SPEAKER}.bias": (dit.mel_bins,),
            f"{_PROJECTION}.weight": (dit.mel_bins, conformer.width),
            f"{_PROJECTION}.bias": (dit.mel_bins,),
            **conformer_shapes(conformer, _CONFORMER),
            **dit_shapes(dit, _DIT),
        }

    def group(self, name: str) -> Group | None:
        """Return the precision group of a tensor: the linears of all layers; None keeps it float."""
        return "decoder" if name in self._linears else None

    def build(self, component: str, g: GraphWriter, w: Weights) -> None:
        """Write one component's graph."""
        if component == "flow_encoder":
            self._encoder(g, w)
        else:
            build_dit(g, w, self.shape.dit, _DIT, _SPEAKER)

    def _encoder(self, g: GraphWriter, w: Weights) -> None:
        """Build the conformer and its projection to mel; beside ``mu`` (STRIDE * m, bins) it hands out the noise.

        ``noise`` (NOISE_FRAMES, bins) is what frames begin as. The published class draws it anew in every process;
        stored, the same codes always give the same sound.
        """
        bins = self.shape.dit.mel_bins
        hidden = build_conformer(g, w, self.shape.conformer, _CONFORMER, _TABLE)
        mu = g.node("Gemm", hidden, w.plain(g, f"{_PROJECTION}.weight"), w.plain(g, f"{_PROJECTION}.bias"), transB=1)
        g.output(mu, "mu", "float32", ("frames", bins))
        noise = draw_noise(bins)
        g.output(g.tensor("const.noise", noise), "noise", "float32", noise.shape)


def draw_noise(bins: int) -> NDArray[np.float32]:
    """Return the normal noise (NOISE_FRAMES, bins) that is stored in every bundle."""
    return np.random.default_rng(NOISE_SEED).standard_normal((NOISE_FRAMES, bins), np.float32)


def _read_shape(source: Tensors) -> FlowShape:
    names = source.names()

    def sizes(name: str, axes: int) -> tuple[int, ...]:
        if name not in names:
            raise CheckpointError(f"{name}: missing, it tells the size of the flow; {_AGAIN}")
        shape = source.shape(name)
        if len(shape) != axes or not all(shape):
            raise CheckpointError(f"{name}: shape {list(shape)}, must have {axes} axes; {_AGAIN}")
        return shape

    def layers(root: str, part: str) -> int:
        found = {
            int(m[1]) for name in names if (m := re.fullmatch(rf"{re.escape(root)}\.([0-9]{{1,6}})\.{part}", name))
        }
        if found != set(range(len(found))) or not found:
            raise CheckpointError(f"{root}: layers {short(sorted(found))}, must be 0, 1, 2 and so on; {_AGAIN}")
        return len(found)

    first = f"{_CONFORMER}encoders.0"
    heads, _ = sizes(f"{first}.self_attn.pos_bias_u", 2)
    kernel = sizes(f"{_CONFORMER}up_layer.conv.weight", 3)[2]
    if kernel != 2 * STRIDE + 1:
        raise CheckpointError(
            f"{_CONFORMER}up_layer.conv.weight: kernel {kernel}, must be {2 * STRIDE + 1}: {STRIDE} frames for a code; "
            f"{_AGAIN}"
        )
    codes, width = sizes(_TABLE, 2)
    conformer = ConformerShape(
        codes=codes,
        width=width,
        heads=heads,
        inner=sizes(f"{first}.feed_forward.w_1.weight", 2)[0],
        layers=(
            layers(f"{_CONFORMER}encoders", "norm_ff.weight"),
            layers(f"{_CONFORMER}up_encoders", "norm_ff.weight"),
        ),
        lookahead=sizes(f"{_CONFORMER}pre_lookahead_layer.conv1.weight", 3)[2] - 1,
        key_bias=f"{first}.self_attn.linear_k.bias" in names,
    )
    block = f"{_DIT}blocks.0"
    (head_dim,) = sizes(f"{block}.attn.q_norm.weight", 1)
    attended, dit_width = sizes(f"{block}.attn.to_q.weight", 2)
    for whole, parts, name in (
        (width, heads, f"{first}.self_attn.pos_bias_u"),
        (attended, head_dim, f"{block}.attn.q_norm.weight"),
    ):
        if whole % parts:
            raise CheckpointError(f"{name}: {parts} does not divide the attention's width {whole}; {_AGAIN}")
    bins, speaker = sizes(f"{_SPEAKER}.weight", 2)
    dit = DitShape(
        mel_bins=bins,
        speaker=speaker,
        width=dit_width,
        layers=layers(f"{_DIT}blocks", "attn.to_q.weight"),
        heads=attended // head_dim,
        head_dim=head_dim,
        inner=sizes(f"{block}.mlp.fc1.weight", 2)[0],
        time_width=sizes(f"{_DIT}t_embedder.mlp.0.weight", 2)[1],
    )
    return FlowShape(conformer, dit)


def _check_settings(settings: str, shape: FlowShape) -> float:
    """Return the guidance that flow.yaml names; raises CheckpointError where it says another size than the tensors.

    Only ``key: plain value`` lines are looked at, by their keys: the file is never loaded, since its tags name classes.
    """
    conformer, dit = shape.conformer, shape.dit
    told = {
        "vocab_size": conformer.codes,
        "spk_embed_dim": dit.speaker,
        "pre_lookahead_len": conformer.lookahead,
        "num_blocks": conformer.layers[0],
        "num_up_blocks": conformer.layers[1],
        "up_stride": STRIDE,
        "attention_heads": conformer.heads,
        "linear_units": conformer.inner,
        "in_channels": 4 * dit.mel_bins,
        "out_channels": dit.mel_bins,
        "depth": dit.layers,
        "num_heads": dit.heads,
        "head_dim": dit.head_dim,
        "hidden_size": dit.width,
    }
    wanted = _FIXED | {key: str(size) for key, size in told.items()}
    guidance = GUIDANCE
    for line in settings.splitlines():
        match = re.fullmatch(r"\s*(\w+):\s*(['\"]?)([^\s'\"#!]+)\2\s*(?:#.*)?", line)
        if match is None:
            continue
        key, said = match[1], match[3]
        if key in wanted and not _same(said, wanted[key]):
            raise CheckpointError(
                f"flow.yaml: {key} is {said}, the tensors and this family say {wanted[key]}; {_AGAIN}"
            )
        if key == "inference_cfg_rate":
            guidance = _number(said)
    return guidance


def _same(said: str, wanted: str) -> bool:
    try:
        return float(said) == float(wanted)
    except ValueError:
        return said.lower() == wanted.lower()


def _number(said: str) -> float:
    try:
        found = float(said)
    except ValueError:
        found = math.nan
    if not 0 < found <= LARGEST_GUIDANCE:
        raise CheckpointError(
            f"flow.yaml: inference_cfg_rate is {said}, must be above 0, up to {LARGEST_GUIDANCE}; {_AGAIN}"
        )
    return found
