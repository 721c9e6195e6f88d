"""Tiny bundles with random weights, written by hand as the bundle format says: no exporter, no trained model."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import tokenizers
from onnx import TensorProto, helper

import edgekit
from edgekit.bundle import (
    FORMAT_VERSION,
    Component,
    ComputeLevel,
    Embedding,
    FileEntry,
    FrontEnd,
    GateSettings,
    Grid,
    Manifest,
    Requirements,
    TensorRef,
    TensorSpec,
    TokenProtocol,
    decode,
    encode,
    hash_file,
)
from edgekit.runtime.model import Model

MEL_BINS, WIDTH, HEADS, HEAD_DIM, CONTEXT = 8, 16, 2, 8, 48
SPECIAL = ("<stop>", "<start>", "<plain>", "<sound>", "</sound>", "<en>", "<de>", "<transcribe>", "<translate>")
BYTES = 256
VOCABULARY = BYTES + len(SPECIAL)
MAX_POSITIONS = 24
CHUNK_FRAMES = 8
TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "int64": TensorProto.INT64}


def special(token: str) -> int:
    """Return the id of a special token of the tiny tokenizer."""
    return BYTES + SPECIAL.index(token)


class Graph:
    """A graph under construction, its weights in an external data file."""

    def __init__(self, name: str, seed: int) -> None:
        self.name = name
        self._random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self._fresh = count()
        self.weights: list[onnx.TensorProto] = []
        self.inputs: list[TensorSpec] = []
        self.outputs: list[TensorSpec] = []

    def input(self, name: str, dtype: str, shape: tuple[int | str, ...], state: Any = "none") -> str:
        """Declare an input and return its name."""
        self.inputs.append(TensorSpec(name=name, dtype=dtype, shape=shape, state=state))
        return name

    def output(self, name: str, dtype: str, shape: tuple[int | str, ...], state: Any = "none") -> None:
        """Declare an output that a node writes."""
        self.outputs.append(TensorSpec(name=name, dtype=dtype, shape=shape, state=state))

    def random(self, *shape: int, scale: float = 1.0) -> str:
        """Add random weights and return their name."""
        return self.constant((self._random.standard_normal(shape) * scale).astype(np.float32))

    def constant(self, value: Any) -> str:
        """Add a stored tensor and return its name."""
        name = f"w{len(self.weights)}"
        self.weights.append(onnx.numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, op: str, *inputs: str, outs: tuple[str, ...] = (), domain: str = "", **attributes: Any) -> str:
        """Add a node and return the name of its first output."""
        outs = outs or (f"v{next(self._fresh)}",)
        self.nodes.append(helper.make_node(op, list(inputs), list(outs), domain=domain, **attributes))
        return outs[0]

    def attention(self, x: str, start: str, capacity: int | str, causal: bool) -> str:
        """Add self-attention of x (rows, WIDTH) over a cache that is written in place."""
        batch = self.constant(np.array([0]))
        total = self.node("Add", start, self.node("Shape", x, start=0, end=1))
        last = self.node("Cast", self.node("Sub", total, self.constant(np.array([1]))), to=TensorProto.INT32)
        scalar = self.node("Squeeze", self.node("Cast", total, to=TensorProto.INT32), batch)
        q, k, v = (self.node("Unsqueeze", self.node("MatMul", x, self.random(WIDTH, WIDTH)), batch) for _ in range(3))
        shape = (1, HEADS, capacity, HEAD_DIM)
        past = [self.input(f"past.{kind}.0", "float32", shape, "in-place") for kind in ("key", "value")]
        outs = ("attended", "present.key.0", "present.value.0")
        self.node(
            "GroupQueryAttention", q, k, v, *past, last, scalar, outs=outs, domain="com.microsoft",
            num_heads=HEADS, kv_num_heads=HEADS, causal=int(causal),
        )  # fmt: skip
        for name in outs[1:]:
            self.output(name, "float32", shape, "in-place")
        return self.node("Add", x, self.node("Squeeze", "attended", batch))

    def in_plain_onnx(self) -> None:
        """Write onnxruntime's own attention in ONNX's ops, as the ``standard`` dialect does."""
        nodes, self.nodes = self.nodes, []
        for node in nodes:
            if not node.domain:
                self.nodes.append(node)
                continue
            cached = node.op_type == "GroupQueryAttention"
            q, keys, values, *past = node.input
            query = self._heads(q)
            if not cached:
                self._attend(query, keys, values, None, node.output[0])
                continue
            zero, one = (self.constant(np.array(value)) for value in (0, 1))
            axes = self.constant(np.array([0, 1, 3]))
            rows_in = self.node("Squeeze", self.node("Shape", q, start=1, end=2))
            total = self.node("Cast", past[3], to=TensorProto.INT64)
            rows = self.node("Range", self.node("Sub", total, rows_in), total, one)
            for place, (new, held) in enumerate(((keys, past[0]), (values, past[1]))):
                made = self._heads(new)
                at = self.node("Expand", self.node("Unsqueeze", rows, axes), self.node("Shape", made))
                self.node("ScatterElements", held, at, made, outs=(node.output[1 + place],), axis=2)
            capacity = self.node("Squeeze", self.node("Shape", past[0], start=2, end=3))
            columns = self.node("Range", zero, capacity, one)
            causal = next(one.i for one in node.attribute if one.name == "causal")
            last = rows if causal else self.node("Sub", total, one)
            shape = self.constant(np.array([1, 1, -1, 1]))
            seen = self.node("LessOrEqual", columns, self.node("Reshape", last, shape))
            bias = self.node("Where", seen, self.constant(np.float32(0)), self.constant(np.float32(-1e9)))
            self._attend(query, *node.output[1:3], bias, node.output[0])

    def _heads(self, rows: str) -> str:
        """Return rows (1, n, WIDTH) as heads (1, HEADS, n, HEAD_DIM)."""
        split = self.node("Reshape", rows, self.constant(np.array([1, -1, HEADS, HEAD_DIM])))
        return self.node("Transpose", split, perm=[0, 2, 1, 3])

    def _attend(self, query: str, keys: str, values: str, bias: str | None, out: str) -> None:
        scores = self.node("MatMul", query, self.node("Transpose", keys, perm=[0, 1, 3, 2]))
        scores = self.node("Mul", scores, self.constant(np.float32(HEAD_DIM**-0.5)))
        weights = self.node("Softmax", self.node("Add", scores, bias) if bias else scores, axis=-1)
        joined = self.node("Transpose", self.node("MatMul", weights, values), perm=[0, 2, 1, 3])
        self.node("Reshape", joined, self.constant(np.array([1, -1, WIDTH])), outs=(out,))

    def save(self, folder: Path, *, plain: bool = False) -> Component:
        """Write graph and data; return the manifest's entry. plain: in ONNX's own ops."""
        if plain:
            self.in_plain_onnx()

        def info(spec: TensorSpec) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(spec.name, TYPES[spec.dtype], spec.shape)

        graph = helper.make_graph(
            self.nodes, self.name, [*map(info, self.inputs)], [*map(info, self.outputs)], self.weights
        )
        imports = [helper.make_opsetid("", 21), *([] if plain else [helper.make_opsetid("com.microsoft", 1)])]
        model = helper.make_model(graph, opset_imports=imports, ir_version=10)
        names = f"{self.name}.onnx", f"{self.name}.data"
        onnx.save(model, str(folder / names[0]), save_as_external_data=True, location=names[1], size_threshold=256)
        return Component(
            graph=names[0], data=names[1], inputs=tuple(self.inputs), outputs=tuple(self.outputs), precision="float32"
        )


def _encoder(masks_last: bool, positions: int) -> Graph:
    g = Graph("encoder", 1)
    mel = g.input("mel", "float32", (MEL_BINS, "mel_frames"))
    start = g.input("start", "int64", (1,))
    x = g.node("Unsqueeze", mel, g.constant(np.array([0])))
    x = g.node("Conv", x, g.random(WIDTH, MEL_BINS, 4, scale=0.5), strides=[2])
    x = g.node("Tanh", g.node("Transpose", g.node("Squeeze", x, g.constant(np.array([0]))), perm=[1, 0]))
    x = g.attention(x, start, positions, causal=False)
    if masks_last:
        valid = g.node("Cast", g.input("valid", "int64", (1,)), to=TensorProto.FLOAT)
        x = g.node("Add", x, g.node("Mul", valid, g.constant(np.float32(0.01))))
    g.output(g.node("Tanh", x, outs=("frames",)), "float32", ("frames", WIDTH))
    return g


def _cross_adapter() -> Graph:
    g = Graph("adapter", 2)
    x = g.node("MatMul", g.input("frames", "float32", ("frames", WIDTH)), g.random(WIDTH, 2 * WIDTH))
    x = g.node("Reshape", x, g.constant(np.array([-1, 2, HEADS, HEAD_DIM])))
    g.node("Transpose", x, perm=[1, 2, 0, 3], outs=("cross",))
    g.output("cross", "float32", (2, HEADS, "frames", HEAD_DIM))
    return g


def _prefix_adapter() -> Graph:
    g = Graph("adapter", 2)
    frames, tail = (
        g.input("frames", "float32", ("frames", WIDTH)),
        g.input("past.tail", "float32", (1, WIDTH), "carried"),
    )
    joined = g.node("Concat", tail, frames, axis=0)
    axis, far = g.constant(np.array([0])), g.constant(np.array([2**62]))
    g.node("Slice", joined, g.constant(np.array([-1])), far, axis, outs=("present.tail",))
    g.output("present.tail", "float32", (1, WIDTH), "carried")
    before = g.node("Slice", joined, g.constant(np.array([0])), g.constant(np.array([-1])), axis)
    g.node("MatMul", g.node("Add", before, frames), g.random(WIDTH, WIDTH), outs=("embeds",))
    g.output("embeds", "float32", ("embeds", WIDTH))
    return g


def _backbone(cross: bool, writes_hidden: bool = False, writes_queries: bool = False) -> Graph:
    g = Graph("backbone", 3)
    x, start = g.input("embeds", "float32", ("tokens", WIDTH)), g.input("start", "int64", (1,))
    rows = g.input("logit_rows", "int64", ("rows",))
    experts = g.node("Cast", g.input("experts_per_token", "int64", (1,)), to=TensorProto.FLOAT)
    batch = g.constant(np.array([0]))
    x = g.attention(x, start, "context", causal=True)
    if cross:
        sound = [g.input(f"cross.{i}", "float32", (1, HEADS, "sound", HEAD_DIM)) for i in (0, 1)]
        query = g.node("MatMul", x, g.random(WIDTH, WIDTH))
        if writes_queries:
            g.node("Identity", query, outs=("queries",))
            g.output("queries", "float32", ("tokens", WIDTH))
        query = g.node("Unsqueeze", query, batch)
        heard = g.node("MultiHeadAttention", query, *sound, domain="com.microsoft", num_heads=HEADS)
        x = g.node("Add", x, g.node("Squeeze", heard, batch))
    hidden = g.node("Tanh", g.node("MatMul", x, g.random(WIDTH, WIDTH)))
    x = g.node("Add", x, g.node("Mul", hidden, experts))
    if writes_hidden:
        g.node("Identity", x, outs=("hidden",))
        g.output("hidden", "float32", ("tokens", WIDTH))
    g.node("MatMul", g.node("Gather", x, rows), g.random(WIDTH, VOCABULARY), outs=("logits",))
    g.output("logits", "float32", ("rows", VOCABULARY))
    return g


def _tokenizer(path: Path) -> None:
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    model = tokenizers.models.BPE(vocab={char: index for index, char in enumerate(alphabet)}, merges=[])
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.save(str(path))


def _unreadable(path: Path) -> tuple[int, ...]:
    """Return the tokens whose text is not one printable ASCII character, so that random answers can be read."""
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    return tuple(token for token in range(BYTES) if not tokenizer.decode([token]).isprintable() or token > 93)


def _protocol(cross: bool, suppress: tuple[int, ...]) -> TokenProtocol:
    stop = (special("<stop>"),)
    if cross:
        return TokenProtocol(
            attention="cross", stop=stop, start=(special("<start>"),), start_tail=(special("<plain>"),),
            max_tokens=12, context_tokens=CONTEXT, suppress=suppress, vocabulary_limit=BYTES,
        )  # fmt: skip
    return TokenProtocol(
        attention="prefix", stop=stop, opening="<start>{system}", before="<sound>", between="</sound><sound>",
        system="s", after="</sound>{prompt}", reply="<plain>", max_tokens=12, context_tokens=CONTEXT, suppress=suppress,
        vocabulary_limit=BYTES,
    )  # fmt: skip


@dataclass(frozen=True)
class TinyBundle:
    """A bundle folder and a way to write its manifest anew."""

    folder: Path

    @property
    def manifest(self) -> Manifest:
        """The manifest as written."""
        return decode((self.folder / "manifest.json").read_bytes())

    def change(self, **fields: Any) -> None:
        """Write the manifest with other values in some fields and the files' hashes as they are now."""
        files = tuple(
            FileEntry(path=path.name, bytes=path.stat().st_size, sha256=hash_file(path))
            for path in sorted(self.folder.iterdir())
            if path.name != "manifest.json"
        )
        manifest = msgspec.structs.replace(self.manifest, files=files, **fields)
        (self.folder / "manifest.json").write_bytes(encode(manifest))


@pytest.fixture
def tiny_bundle(tmp_path: Path) -> Callable[..., TinyBundle]:
    """Return a function that writes a bundle for an ``attention``; further fields replace the manifest's."""

    def write(
        attention: str = "cross",
        *,
        masks_last_position: bool = False,
        context_tokens: int = CONTEXT,
        writes_hidden: bool = False,
        writes_queries: bool = False,
        positions: int = MAX_POSITIONS,
        **fields: Any,
    ) -> TinyBundle:
        folder = tmp_path / f"bundle-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        cross, plain = attention == "cross", fields.get("dialect") == "standard"
        table = np.random.default_rng(4).standard_normal((VOCABULARY, WIDTH)).astype(np.float32)
        table.tofile(folder / "tokens.bin")
        _tokenizer(folder / "tokenizer.json")
        graphs = (
            _encoder(masks_last_position, positions),
            _cross_adapter() if cross else _prefix_adapter(),
            _backbone(cross, writes_hidden, writes_queries),
        )
        manifest = Manifest(
            format_version=FORMAT_VERSION, name="tiny", family="handmade", dialect="ort-cpu",
            requires=Requirements(opset=20, onnxruntime="1.18"), precision={},
            components={graph.name: graph.save(folder, plain=plain) for graph in graphs},
            embedding=Embedding(
                weight=TensorRef(file="tokens.bin", offset=0, dtype="float32", shape=table.shape),
                scales=None, width=WIDTH,
            ),
            front_end=FrontEnd(mel_bins=MEL_BINS),
            grid=Grid(
                mode="chunked", chunk_frames=CHUNK_FRAMES, max_frames=40, max_positions=MAX_POSITIONS, tail_frames=4,
                masks_last_position=masks_last_position,
            ),
            protocol=msgspec.structs.replace(
                _protocol(cross, _unreadable(folder / "tokenizer.json")), context_tokens=context_tokens
            ),
            levels=(
                ComputeLevel(name="skip"), ComputeLevel(name="light", experts_per_token=1),
                ComputeLevel(name="full", experts_per_token=2, max_lag_ms=1000.0),
            ),
            gate=GateSettings(kind="off"), recipe={}, census=(), verification={}, files=(),
        )  # fmt: skip
        (folder / "manifest.json").write_bytes(encode(manifest))
        bundle = TinyBundle(folder)
        bundle.change(**fields)
        return bundle

    return write


@pytest.fixture
def load(tiny_bundle: Callable) -> Callable[..., Model]:
    """Return a function that loads a tiny bundle; its arguments are those of tiny_bundle."""

    def tiny(attention: str = "cross", **fields: Any) -> Model:
        return edgekit.load(tiny_bundle(attention, **fields).folder, threads=1)

    return tiny
