"""A dialect written as a stranger would: one file of public names, registered, and everything that follows from it."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from edgekit.bundle import open_bundle
from edgekit.bundle.dialects import DIALECTS as NAMES
from edgekit.bundle.dialects import DialectName
from edgekit.errors import BackendError, CensusError, CheckpointError, QualityError, RecipeError, RegistryError
from edgekit.exporter.blocks import cached_attention, linear, rotary_tables, steps
from edgekit.exporter.checks.weight_check import check_weights
from edgekit.exporter.dialects import DIALECTS
from edgekit.exporter.dialects.ort_cpu import OrtDialect
from edgekit.exporter.export import ExportOptions, export, quantize
from edgekit.exporter.families import find_family
from edgekit.exporter.graph import GraphWriter
from edgekit.exporter.quantize import SCALE, quantize_channels
from edgekit.exporter.sources.checkpoint import open_checkpoint
from edgekit.exporter.tables import written_bundle
from edgekit.exporter.weights import Weights
from edgekit.exporter.written import Layout, Packing, WrittenWeight
from edgekit.runtime.backends.ort import load_component
from tests.exporter.parts import Held, engine

QUICK = Path(__file__).parent / "quick.toml"
STANDARD = Path(__file__).parent / "standard.toml"
LINEAR = "model.decoder.layers.0.fc1.weight"


class Upright:
    """Signed codes (width, rows): of no other dialect, and of no use to a host that looks tokens up."""

    def pack(self, g: GraphWriter, w: Weights, name: str) -> str:
        """Store a matrix and return it as it multiplies."""
        codes, scales = quantize_channels(w.read(name))
        g.tensor(name, np.ascontiguousarray(codes.T))
        g.tensor(name + SCALE, scales)
        return g.node("DequantizeLinear", name, name + SCALE, axis=1)

    def layout(self, weight: WrittenWeight, scales: WrittenWeight) -> Layout:
        """Return the matrix."""
        return Layout(weight.shape[1], weight.shape[0], weight.shape[0], 8)

    def unpack(self, weight: WrittenWeight, scales: WrittenWeight, start: int, stop: int):
        """Return rows [start, stop) as numbers, and a scale for each."""
        steps = scales.rows(start, stop)[:, None]
        return weight.read().T[start:stop].astype(np.float32) * steps, steps


class Toy(OrtDialect):
    """The CPU's dialect but for linears in INT8, which multiply by whole numbers that were made floats again."""

    name = "toy"
    packings: Mapping[str, Packing] = {"DequantizeLinear": Upright(), "QMoE": OrtDialect.packings["QMoE"]}

    def linear(self, g, w, x, name, *, group, bias):
        """Return Gemm of a dequantised matrix, or what the CPU's dialect writes."""
        if w.precision[group] != "int8":
            return super().linear(g, w, x, name, group=group, bias=bias)
        return g.node("Gemm", x, self.packings["DequantizeLinear"].pack(g, w, name), bias)

    def check(self, graph, activations):
        """Refuse what rounds activations."""
        for node in onnx.load(str(graph), load_external_data=False).graph.node:
            if node.op_type == "MatMulNBits":
                raise CensusError(f"{graph.name}: {node.op_type} '{node.name}' rounds what it multiplies")


@contextmanager
def registered(dialect: OrtDialect) -> Iterator[str]:
    """Keep a dialect for a block, its name and its writer."""
    like = NAMES.get("ort-cpu")
    named = replace(like, name=dialect.name, ops=like.ops | {("", "DequantizeLinear")})
    with NAMES.registered(named), DIALECTS.registered(dialect):
        yield dialect.name


@pytest.fixture
def target(tmp_path):
    """Return the file of a target that wants the toy."""
    file = tmp_path / "toy.toml"
    file.write_text(STANDARD.read_text(encoding="utf-8").replace('"standard"', '"toy"'), encoding="utf-8")
    return str(file)


def weights_of(folder, checkpoint, *, check_hashes=True):
    manifest, found = open_bundle(folder, check_hashes=check_hashes).manifest, open_checkpoint(checkpoint)
    opened = find_family(found.config).bind(found.config, found.generation)
    dialect = DIALECTS.get(manifest.dialect)
    return found, opened, written_bundle(folder, opened, dialect, manifest.components, manifest.tables())


def test_every_dialect_of_a_bundle_has_a_writer():
    assert DIALECTS.names() == NAMES.names()


def test_a_toy_exports_and_every_weight_is_read_back_by_its_own_packing(checkpoint, target, tmp_path):
    source = checkpoint("whisper-dense")
    with registered(Toy()):
        manifest = export(source, tmp_path / "b", ExportOptions(recipe=QUICK, target=target, precision="int8"))
        found, opened, held = weights_of(tmp_path / "b", source)
        checked = check_weights(opened, held, found, lambda _done, _total: None)
    assert manifest.dialect == "toy"
    assert {row.op for row in manifest.census if row.dtype == "int8"} == {"DequantizeLinear"}
    assert held[LINEAR].shape == opened.expected()[LINEAR][::-1]  # upright
    assert checked["quantised"] == sum(
        row.group != "float" and not row.tensor.endswith(SCALE) for row in manifest.census
    )
    assert checked["error"]["backbone"] < 0.01  # a step of 1/127 of the largest weight of a row


def test_a_table_that_the_host_cannot_look_up_in_the_head_gets_a_file_that_is_judged_too(checkpoint, target, tmp_path):
    source, options = checkpoint("whisper-dense"), ExportOptions(recipe=QUICK, precision="int8")
    tied = export(source, tmp_path / "cpu", options)
    assert tied.embedding.weight.file == tied.components["backbone"].data
    with registered(Toy()):
        made = export(source, tmp_path / "toy", replace(options, target=target))
        assert made.embedding.weight.file == "embedding.data"
        assert [row.group for row in made.census if row.component == "embedding"] == ["head", "head"]
        with (tmp_path / "toy" / "embedding.data").open("r+b") as stream:
            first = stream.read(1)[0]
            stream.seek(0)
            stream.write(bytes([first ^ 64]))
        found, opened, held = weights_of(tmp_path / "toy", source, check_hashes=False)
        with pytest.raises(QualityError, match="a stored weight is .* from the checkpoint's"):
            check_weights(opened, held, found, lambda _done, _total: None)


def test_quantising_its_float_bundle_gives_the_same_bytes(checkpoint, target, tmp_path):
    with registered(Toy()):
        for name, precision in (("straight", "int8"), ("float", "float32")):
            options = ExportOptions(recipe=QUICK, target=target, precision=precision)
            export(checkpoint("whisper-experts"), tmp_path / name, options)
        quantize(tmp_path / "float", tmp_path / "later", ExportOptions(precision="int8"))
        straight, later = (open_bundle(tmp_path / name).manifest.files for name in ("straight", "later"))
    assert {file.path: file.sha256 for file in straight} == {file.path: file.sha256 for file in later}


def test_a_weight_that_was_changed_in_the_file_is_found(checkpoint, target, tmp_path):
    source = checkpoint("whisper-dense")
    with registered(Toy()):
        export(source, tmp_path / "b", ExportOptions(recipe=QUICK, target=target, precision="int8"))
        found, opened, held = weights_of(tmp_path / "b", source)
        weight = held[LINEAR]
        with weight.file.open("r+b") as stream:
            stream.seek(weight.offset)
            stream.write(bytes([int(weight.read().view(np.uint8).flat[0]) ^ 64]))
        with pytest.raises(QualityError, match=f"{LINEAR}: a stored weight is .* from the checkpoint's"):
            check_weights(opened, held, found, lambda _done, _total: None)


def test_its_graphs_compute_what_was_written(tmp_path):
    rng = np.random.default_rng(1)
    matrix, x = rng.standard_normal((5, 24), np.float32), rng.standard_normal((3, 24), np.float32)

    def build(g, w):
        g.output(linear(g, w, g.input("x", "float32", ("n", 24)), "m", "backbone"), "y", "float32", ("n", 5))

    with registered(Toy()) as name:
        engine(tmp_path, "part", build, {"m": matrix}, "int8", dialect=name)
    codes, scales = quantize_channels(matrix)
    wanted = x @ (codes * scales[:, None]).T
    (y,) = ReferenceEvaluator(str(tmp_path / "part.onnx")).run(None, {"x": x})
    np.testing.assert_allclose(y, wanted, atol=1e-5)  # sums in another order


def test_its_bundle_loads_on_what_runs_such_graphs(checkpoint, target, tmp_path):
    with registered(Toy()):
        export(
            checkpoint("whisper-dense"), tmp_path / "b", ExportOptions(recipe=QUICK, target=target, precision="int8")
        )
        loaded = load_component(open_bundle(tmp_path / "b"), "backbone", 1)
    assert {"embeds", "start"} <= {spec.name for spec in loaded.component.inputs}


def test_its_own_check_of_graphs_fails_the_export(checkpoint, target, tmp_path):
    options = ExportOptions(recipe=QUICK, target=target, precision="int4")
    with registered(Toy()), pytest.raises(CensusError, match=r"^encoder.onnx: MatMulNBits '.*' rounds what it mult"):
        export(checkpoint("whisper-dense"), tmp_path / "b", options)
    assert not (tmp_path / "b").exists()


def test_codes_that_no_packing_reads_fail_the_export(checkpoint, target, tmp_path):
    class Unread(Toy):
        packings: Mapping[str, Packing] = {"QMoE": OrtDialect.packings["QMoE"]}

        def linear(self, g, w, x, name, *, group, bias):
            return g.node("Gemm", x, Upright().pack(g, w, name), bias)

    options = ExportOptions(recipe=QUICK, target=target, precision="int8")
    with registered(Unread()), pytest.raises(CensusError, match="stored as int8 for DequantizeLinear, the recipe says"):
        export(checkpoint("whisper-dense"), tmp_path / "b", options)


def test_an_encoder_of_fixed_scales_is_calibrated_whatever_the_dialect_is(checkpoint, target, tmp_path):
    class Fixed(Toy):
        encoder_activations = "static"

    recipe = tmp_path / "deaf.toml"
    recipe.write_text("[calibrate]\nclips = []\n")
    options = ExportOptions(recipe=recipe, target=target, precision="int8")
    with (
        registered(Fixed()),
        pytest.raises(RecipeError, match=r"calibrate.clips: the recipe names none, and INT8 activat"),
    ):
        export(checkpoint("whisper-dense"), tmp_path / "b", options)


def test_a_dialect_without_a_writer_is_one_line(checkpoint, target, tmp_path):
    options = ExportOptions(recipe=QUICK, target=target)
    with (
        NAMES.registered(DialectName("toy", ("float32",))),
        pytest.raises(RegistryError, match=r"^writer of dialect 'toy' is not known; choose one of: ort-cpu, ort-"),
    ):
        export(checkpoint("whisper-dense"), tmp_path / "b", options)


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"encoder_activations": "sometimes"}, "encoder_activations is 'sometimes', must be"),
        ({"packings": {"Gemm": "int8"}}, "packings is {'Gemm': 'int8'}, must be"),
        ({"products": ()}, "products is empty"),
        ({"sound": SimpleNamespace(attention=print)}, "sound lacks sliding_attention, turns"),
        ({"check": None}, "check is None, must be a method"),
        ({"versions": 21}, "versions is 21, must be Versions"),
    ],
)
def test_a_writer_with_a_field_of_another_kind_is_refused_by_name(changed, fault):
    toy = Toy()
    for name, value in changed.items():
        setattr(toy, name, value)
    with pytest.raises(RegistryError, match=f"^writer of dialect 'toy': {fault}"):
        DIALECTS.register(toy)


def test_a_name_that_lacks_what_targets_ask_is_refused_by_name():
    with pytest.raises(RegistryError, match=r"^dialect 'toy': activations is empty; DialectName in edgekit.bundle."):
        NAMES.register(DialectName("toy", ()))
    with pytest.raises(RegistryError, match=r"^dialect 'toy': activations is \('bfloat16',\), must be tuple"):
        NAMES.register(DialectName("toy", ("bfloat16",)))


def test_a_checkpoint_whose_tensor_has_another_size_is_named(checkpoint, target, tmp_path):
    source = checkpoint("whisper-dense")
    with registered(Toy()):
        export(source, tmp_path / "b", ExportOptions(recipe=QUICK, target=target, precision="int8"))
        found, opened, held = weights_of(tmp_path / "b", source)
        rows, width = opened.expected()[LINEAR]
        given = Held({name: found.rows(name, 0, found.shape(name)[0]) for name in opened.expected()})
        given.tensors[LINEAR] = given.tensors[LINEAR][:-1]
        wanted = (
            f"^{LINEAR}: {rows * width} numbers in the bundle, {(rows - 1) * width} in the checkpoint; name its own"
        )
        with pytest.raises(QualityError, match=wanted):
            check_weights(opened, held, given, lambda _done, _total: None)


def attended(folder, size, *, turned):
    """Return what the CPU's attention makes of three rows with two heads of a size."""

    def build(g, w):
        q, k, v = (g.input(name, "float32", ("tokens", size * (2 if name == "q" else 1))) for name in "qkv")
        at = steps(g, q, g.input("start", "int64", (1,)))
        rotary = rotary_tables(g, 16, size, 10_000.0) if turned else None
        rows = cached_attention(
            g, q, k, v, 0, at, heads=2, kv_heads=1, head_dim=size, capacity="context", causal=True, rotary=rotary
        )
        g.output(rows, "rows", "float32", ("tokens", 2 * size))

    made = engine(folder, "backbone", build, {})
    draws = np.random.default_rng(3)
    inputs = {name: draws.normal(size=(3, size * (2 if name == "q" else 1))).astype(np.float32) for name in "qkv"}
    return made.bind({"context": 16}).run(inputs | {"start": np.zeros(1, np.int64)})["rows"]


@pytest.mark.parametrize("turned", [False, True])
def test_the_sizes_of_heads_that_the_cpu_takes_are_those_that_its_dialect_says(turned, tmp_path):
    step = DIALECTS.get("ort-cpu").head_steps[turned]
    for size in (step, 3 * step, 320):
        assert np.isfinite(attended(tmp_path / f"{size}", size, turned=turned)).all()
    for size in (step // 2, step + step // 2):
        with pytest.raises(BackendError, match="head_size"):
            attended(tmp_path / f"{size}", size, turned=turned)


CONFIGS = Path(__file__).parents[2] / "profiles/data/configs"


@pytest.mark.parametrize(
    ("name", "path", "size", "said"),
    [
        ("step-audio-2-mini", "text_config.head_dim", 72, "text_config.head_dim is 72, .* multiples of 16 where pos"),
        (
            "step-audio-2-mini",
            "text_config.num_attention_heads",
            448,
            "num_attention_heads is 8, .* of 16",
        ),
        ("step-audio-2-mini", "audio_encoder_config.n_audio_head", 320, "n_audio_state / n_audio_head is 4, .* of 8;"),
        (
            "qwen3-omni-30b-a3b",
            "thinker_config.text_config.head_dim",
            136,
            "text_config.head_dim is 136",
        ),
        ("qwen3-omni-30b-a3b", "thinker_config.audio_config.encoder_attention_heads", 128, "attention_heads is 10,"),
        ("qwen3-omni-30b-a3b", "talker_config.text_config.head_dim", 24, "talker_config.text_config.head_dim is 24"),
        (
            "qwen3-omni-30b-a3b",
            "talker_config.code_predictor_config.head_dim",
            8,
            "predictor_config.head_dim is 8",
        ),
    ],
)
def test_heads_that_a_dialect_does_not_take_are_refused_before_anything_is_built(name, path, size, said, tmp_path):
    config = json.loads((CONFIGS / f"{name}.json").read_text())
    *inside, key = path.split(".")
    held = config
    for one in inside:
        held = held[one]
    held[key] = size
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=f"^config.json: .*{said}") as caught:
        export(file, tmp_path / "b", ExportOptions(dummy_weights=True))
    assert "choose a target of another dialect, or another checkpoint" in str(caught.value)
    assert [one.name for one in tmp_path.iterdir()] == ["config.json"]
