"""HiFT: the vocoder of Step-Audio 2 and CosyVoice 2, log-mel at 50 Hz to sound at 24 kHz.

A pitch is read from the mel and sung by a sine with overtones (the source); upsampling convolutions shape it, level by
level, into the spectrum of short frames, which an inverse STFT makes sound. What the published code draws at random,
the noise in the source, is an input. The random phases that it draws as well change nothing there: they are added to
the first sample of a curve of which only the middle of each frame is looked at.

Sources: Li et al. 2023 (HiFTNet); stepfun-ai/Step-Audio2, flashcosyvoice/modules/hifigan.py; models of its own size
only, in which every number below is a default of the published class.
"""

import math
from dataclasses import dataclass
from os import PathLike
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import CheckpointError
from edgekit.exporter.families.base import Part, Shapes
from edgekit.exporter.graph import GraphWriter
from edgekit.exporter.sources.checkpoint import Tensors
from edgekit.exporter.sources.folded import FoldedTensors
from edgekit.exporter.sources.pickled import open_pickled
from edgekit.exporter.waves import phases, snake
from edgekit.exporter.weights import Weights

PREFIX = "hift."
STORED_PREFIX = "generator."
SAMPLE_RATE_HZ = 24_000
RATES, KERNELS = (8, 5, 3), (16, 11, 7)  # of the upsampling convolutions
N_FFT, HOP = 16, 4
SAMPLES_PER_FRAME = math.prod(RATES) * HOP
BLOCK_KERNELS, SOURCE_KERNELS, DILATIONS = (3, 7, 11), (7, 7, 11), (1, 3, 5)
EDGE_KERNEL = 7  # of the first and the last convolution
F0_CONVS, F0_KERNEL = (0, 2, 4, 6, 8), 3  # places in the published sequence, ELU between
HARMONICS = 9  # the fundamental and eight overtones
SINE_AMPLITUDE, VOICED_NOISE = 0.1, 0.003
VOICED_HZ = 10.0
SLOPE, LAST_SLOPE = 0.1, 0.01  # of the leaky ReLUs
LARGEST_MAGNITUDE = 100.0
LOUDEST = 0.99
_END = np.iinfo(np.int64).max

Waves = NDArray[np.float64]


def open_hift(path: str | PathLike[str]) -> Tensors:
    """Return the tensors of a published ``hift.pt`` as HiFT expects them; errors as open_pickled."""
    return FoldedTensors(open_pickled(path), STORED_PREFIX, PREFIX)


@dataclass(frozen=True, slots=True)
class HiFT(Part):
    """The vocoder at one size: ``width`` channels after the first convolution, halved by every upsampling.

    All of it stays float.
    """

    components = MappingProxyType({"vocoder": None})

    mel_bins: int = 80
    width: int = 512
    f0_width: int = 512

    @classmethod
    def of(cls, tensors: Tensors) -> "HiFT":
        """Return the vocoder of the size that tensors have; raises CheckpointError if they are not a HiFT's."""
        first, f0 = f"{PREFIX}conv_pre.weight", f"{PREFIX}f0_predictor.condnet.0.weight"
        shapes = [tensors.shape(name) for name in (first, f0)]
        if any(len(shape) != 3 for shape in shapes) or shapes[0][0] < 1 or shapes[0][0] % (1 << len(RATES)):
            raise CheckpointError(
                f"{first}: shape {list(shapes[0])}, a vocoder starts with a convolution to a multiple of "
                f"{1 << len(RATES)} channels; use the published hift.pt"
            )
        return cls(shapes[0][1], shapes[0][0], shapes[1][0])

    def expected(self) -> Shapes:
        """Return name and shape of every tensor, weight norm folded."""
        bins = N_FFT + 2
        found: dict[str, tuple[int, ...]] = {
            "conv_pre.weight": (self.width, self.mel_bins, EDGE_KERNEL),
            "conv_post.weight": (bins, self._channels(len(RATES)), EDGE_KERNEL),
            "m_source.l_linear.weight": (1, HARMONICS),
            "f0_predictor.classifier.weight": (1, self.f0_width),
        }
        for place in F0_CONVS:
            inputs = self.f0_width if place else self.mel_bins
            found[f"f0_predictor.condnet.{place}.weight"] = (self.f0_width, inputs, F0_KERNEL)
        for level, kernel in enumerate(KERNELS):
            inputs, outputs = self._channels(level), self._channels(level + 1)
            found[f"ups.{level}.weight"] = (inputs, outputs, kernel)
            stride = _source_stride(level)
            found[f"source_downs.{level}.weight"] = (outputs, bins, 1 if stride == 1 else 2 * stride)
            for block, size in self._blocks(level):
                for step in range(len(DILATIONS)):
                    for part in ("1", "2"):
                        found[f"{block}.convs{part}.{step}.weight"] = (outputs, outputs, size)
                        found[f"{block}.activations{part}.{step}.alpha"] = (outputs,)
        for name in [name for name in found if name.endswith(".weight")]:
            axis = 1 if name.startswith("ups.") else 0  # transposed convolutions are stored the other way about
            found[name.removesuffix("weight") + "bias"] = (found[name][axis],)
        return {PREFIX + name: shape for name, shape in found.items()}

    def build(self, component: str, g: GraphWriter, w: Weights) -> None:
        """Write the graph ``vocoder``.

        Inputs: ``mel`` (frames, bins); ``kept`` (kept,), the source's first samples as an earlier call returned them,
        perhaps none; ``noise`` (480 * frames - kept, HARMONICS), drawn from a normal distribution. Outputs: ``samples``
        and ``source``, both (480 * frames,).
        """
        del component
        mel = g.input("mel", "float32", ("frames", self.mel_bins))
        kept = g.input("kept", "float32", ("kept",))
        noise = g.input("noise", "float32", ("new", HARMONICS))
        x = g.node("Unsqueeze", g.node("Transpose", mel, perm=[1, 0]), g.constant([0]))
        source = g.node("Concat", kept, _source(g, w, self._f0(g, w, x), kept, noise), axis=0)
        g.output(self._decode(g, w, x, source), "samples", "float32", ("samples",))
        g.output(source, "source", "float32", ("samples",))

    def _channels(self, level: int) -> int:
        return self.width >> level

    def _blocks(self, level: int) -> list[tuple[str, int]]:
        """Return name and kernel of a level's residual blocks: the source's first, then those that are averaged."""
        first = level * len(BLOCK_KERNELS)
        averaged = [(f"resblocks.{first + index}", size) for index, size in enumerate(BLOCK_KERNELS)]
        return [(f"source_resblocks.{level}", SOURCE_KERNELS[level]), *averaged]

    def _f0(self, g: GraphWriter, w: Weights, x: str) -> str:
        """Return the pitch of every frame in Hz, (frames, 1)."""
        for place in F0_CONVS:
            x = g.node("Elu", _conv(g, w, x, f"f0_predictor.condnet.{place}", pad=F0_KERNEL // 2))
        rows = g.node("Transpose", g.node("Squeeze", x, g.constant([0])), perm=[1, 0])
        return g.node("Abs", _linear(g, w, rows, "f0_predictor.classifier"))

    def _decode(self, g: GraphWriter, w: Weights, x: str, source: str) -> str:
        """Return samples (n,) of mel (1, bins, frames) and source (n,)."""
        spectrum = stft(g, source)
        x = _conv(g, w, x, "conv_pre", pad=EDGE_KERNEL // 2)
        for level, (rate, kernel) in enumerate(zip(RATES, KERNELS, strict=True)):
            x = g.node("LeakyRelu", x, alpha=SLOPE)
            at = f"{PREFIX}ups.{level}"
            pad = (kernel - rate) // 2
            weight, bias = w.plain(g, f"{at}.weight"), w.plain(g, f"{at}.bias")
            x = g.node("ConvTranspose", x, weight, bias, strides=[rate], pads=[pad, pad])
            if level == len(RATES) - 1:  # a spectrum of n samples has n / HOP + 1 frames
                x = g.node("Pad", x, g.constant([0, 0, 1, 0, 0, 0]), mode="reflect")
            stride = _source_stride(level)
            heard = _conv(g, w, spectrum, f"source_downs.{level}", pad=stride // 2, stride=stride)
            sung, *averaged = self._blocks(level)
            x = g.node("Add", x, _block(g, w, heard, sung))
            total = g.node("Sum", *(_block(g, w, x, block) for block in averaged))
            x = g.node("Div", total, g.constant(float(len(averaged))))
        x = _conv(g, w, g.node("LeakyRelu", x, alpha=LAST_SLOPE), "conv_post", pad=EDGE_KERNEL // 2)
        half = g.constant([N_FFT // 2 + 1] * 2)
        loud, turned = g.nodes("Split", x, half, axis=1, outs=(None, None))
        samples = istft(g, g.node("Exp", loud), g.node("Sin", turned))
        return g.node("Clip", samples, g.constant(-LOUDEST), g.constant(LOUDEST))


def stft(g: GraphWriter, samples: str) -> str:
    """Return the spectrum (1, N_FFT + 2, n / HOP + 1) of samples (n,): real parts, then imaginary ones.

    As torch.stft with a periodic Hann window, centred, reflected at the edges.
    """
    sound = g.node("Unsqueeze", samples, g.constant([0, 1]))
    half = N_FFT // 2
    padded = g.node("Pad", sound, g.constant([0, 0, half, 0, 0, half]), mode="reflect")
    angles = _angles()
    waves = np.concatenate([np.cos(angles), -np.sin(angles)]) * _hann()
    return g.node("Conv", padded, _kernel(g, "const.stft", waves), strides=[HOP])


def istft(g: GraphWriter, magnitude: str, phase: str) -> str:
    """Return samples (n,) of magnitudes and phases (1, N_FFT / 2 + 1, n / HOP + 1), as torch.istft of them.

    Frames are windowed and added, and the sum is divided by that of the squared windows: it is not the same at the
    edges. The imaginary parts of the lowest and the highest bin count for nothing.
    """
    size = g.node("Min", magnitude, g.constant(LARGEST_MAGNITUDE))
    real, imaginary = (g.node("Mul", size, g.node(part, phase)) for part in ("Cos", "Sin"))
    angles = _angles()
    twice = np.full((2, N_FFT // 2 + 1, 1), 2.0)  # a bin stands for its mirror image too
    twice[:, [0, -1]] = [[[1.0]], [[0.0]]]
    waves = np.concatenate([np.cos(angles), -np.sin(angles)]) * twice.reshape(-1, 1)
    spectrum = g.node("Concat", real, imaginary, axis=1)
    added = _overlap(g, spectrum, _kernel(g, "const.istft", waves * _hann() / N_FFT))
    shape = g.node("Concat", g.constant([1, 1]), g.node("Shape", magnitude, start=2, end=3), axis=0)
    ones = g.node("Expand", g.constant(1.0), shape)
    weight = _overlap(g, ones, _kernel(g, "const.istft.window", _hann()[None] ** 2))
    return g.node("Squeeze", g.node("Div", added, weight), g.constant([0, 1]))


def _source(g: GraphWriter, w: Weights, f0: str, kept: str, noise: str) -> str:
    """Return the source after the ``kept`` samples, (new,), of pitches f0 (frames, 1) in Hz and noise (new, HARMONICS).

    The published curve of phases is the running sum of the frames' steps, each 480 samples long, joined by straight
    lines between the middles of the frames and level before the first and after the last. Here it is counted in turns,
    whole ones dropped, and summed exactly or nearly so.
    """
    row, first = g.constant([0]), g.node("Shape", kept)
    middle, step = phases(g, f0, SAMPLE_RATE_HZ, SAMPLES_PER_FRAME, HARMONICS)
    later = g.node("Slice", step, g.constant([1]), g.constant([_END]), row)
    still = g.constant(np.zeros((1, HARMONICS), np.float32))
    before, after = (g.node("Concat", *pair, axis=0) for pair in ((still, later), (later, still)))
    from_middle = np.arange(SAMPLES_PER_FRAME, dtype=np.float32) + np.float32(0.5) - SAMPLES_PER_FRAME // 2
    halves = from_middle.reshape(2, 1, -1, 1)
    parts = [
        g.node("Mul", g.node("Unsqueeze", slope, g.constant([1])), g.tensor(f"const.source.{index}", halves[index]))
        for index, slope in enumerate((before, after))
    ]
    turns = g.node("Add", middle, g.node("Concat", *parts, axis=1))  # (frames, samples, HARMONICS)

    def new(values: str, width: int) -> str:
        flat = g.node("Reshape", values, g.constant([-1, width]))
        return g.node("Slice", flat, first, g.constant([_END]), row)

    sines = g.node("Sin", g.node("Mul", new(turns, HARMONICS), g.constant(2 * math.pi)))
    voiced = g.node("Greater", f0, g.constant(VOICED_HZ))  # (frames, 1)
    sung = g.node("Where", voiced, g.constant(SINE_AMPLITUDE), g.constant(0.0))
    hissed = g.node("Where", voiced, g.constant(VOICED_NOISE), g.constant(SINE_AMPLITUDE / 3))
    every = g.node("Concat", g.node("Shape", f0, start=0, end=1), g.constant([SAMPLES_PER_FRAME]), axis=0)
    sung, hissed = (new(g.node("Expand", value, every), 1) for value in (sung, hissed))
    mixed = g.node("Add", g.node("Mul", sines, sung), g.node("Mul", noise, hissed))
    return g.node("Squeeze", g.node("Tanh", _linear(g, w, mixed, "m_source.l_linear")), g.constant([1]))


def _block(g: GraphWriter, w: Weights, x: str, block: tuple[str, int]) -> str:
    """Return a residual block of x (1, C, T): widening convolutions, each after a Snake and before a plain one."""
    name, kernel = block
    for step, dilation in enumerate(DILATIONS):
        y = x
        for part, wide in (("1", dilation), ("2", 1)):
            alpha = g.node("Unsqueeze", w.plain(g, f"{PREFIX}{name}.activations{part}.{step}.alpha"), g.constant([1]))
            y = snake(g, y, alpha, alpha)
            y = _conv(g, w, y, f"{name}.convs{part}.{step}", pad=(kernel - 1) * wide // 2, dilation=wide)
        x = g.node("Add", x, y)
    return x


def _conv(g: GraphWriter, w: Weights, x: str, name: str, *, pad: int, stride: int = 1, dilation: int = 1) -> str:
    """Return the convolution ``name`` of x (1, C, T), ``pad`` zeros at both ends."""
    weight, bias = w.plain(g, f"{PREFIX}{name}.weight"), w.plain(g, f"{PREFIX}{name}.bias")
    return g.node("Conv", x, weight, bias, pads=[pad, pad], strides=[stride], dilations=[dilation])


def _linear(g: GraphWriter, w: Weights, x: str, name: str) -> str:
    return g.node("Gemm", x, w.plain(g, f"{PREFIX}{name}.weight"), w.plain(g, f"{PREFIX}{name}.bias"), transB=1)


def _source_stride(level: int) -> int:
    """Return how many frames of the source's spectrum make one column of a level."""
    return math.prod(RATES[level + 1 :])


def _angles() -> Waves:
    """Return the angle of every bin at every sample of a frame, (N_FFT / 2 + 1, N_FFT)."""
    return np.asarray(np.outer(np.arange(N_FFT // 2 + 1), np.arange(N_FFT)) * (2 * np.pi / N_FFT), np.float64)


def _hann() -> Waves:
    """Return the periodic Hann window, (N_FFT,)."""
    return np.asarray(0.5 - 0.5 * np.cos(np.arange(N_FFT) * (2 * np.pi / N_FFT)), np.float64)


def _kernel(g: GraphWriter, name: str, waves: Waves) -> str:
    return g.tensor(name, waves[:, None].astype(np.float32))


def _overlap(g: GraphWriter, frames: str, kernel: str) -> str:
    """Return frames (1, bins, n / HOP + 1) as samples (1, 1, n), added up where they overlap."""
    return g.node("ConvTranspose", frames, kernel, strides=[HOP], pads=[N_FFT // 2, N_FFT // 2])
