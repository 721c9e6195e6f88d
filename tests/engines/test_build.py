"""Plans are really built here, by TensorRT for RTX without a GPU; none is executed.

Run by ``make test-engines``, where the package is installed.
"""

import json
import shutil
from pathlib import Path

import pytest

from edgekit.bundle import open_bundle
from edgekit.errors import BackendError
from edgekit.exporter.export import ExportOptions, export
from edgekit.recipe import load_target
from edgekit.runtime.backends.builder import build
from edgekit.runtime.backends.layers import take_layer_census
from edgekit.runtime.backends.plans import PlanStore
from tests.exporter.graphs import STANDARD
from tests.reference import checkpoints

pytestmark = pytest.mark.engines
HERE = Path(__file__).parent
JUDGED = HERE.parent / "exporter" / "judged.toml"
COMPONENTS = ("adapter", "backbone", "encoder")
# More than 32 MB of INT8 in each of three components, in few layers: a plan also holds a kernel or more for each layer.
WIDE = {
    "model_type": "whisper", "num_mel_bins": 80, "d_model": 2560, "max_source_positions": 1500,
    "max_target_positions": 448, "encoder_attention_heads": 20, "decoder_attention_heads": 20, "encoder_layers": 1,
    "decoder_layers": 3, "encoder_ffn_dim": 5120, "decoder_ffn_dim": 2560, "vocab_size": 1536, "eos_token_id": 1,
    "decoder_start_token_id": 2,
    "edgekit": {"encoder_attention": "chunk-causal", "chunk_frames": 32, "num_experts": 8, "num_experts_per_tok": 8},
}  # fmt: skip


@pytest.fixture(scope="module")
def target():
    return load_target(str(HERE / "rtx.toml"))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Return a function: precision -> a bundle of whisper-experts."""
    folder = tmp_path_factory.mktemp("small")
    checkpoint = checkpoints.write(folder / "checkpoint", "whisper-experts")

    def make(precision):
        if not (folder / precision).is_dir():
            export(checkpoint, folder / precision, ExportOptions(recipe=JUDGED, target=STANDARD, precision=precision))
        return open_bundle(folder / precision)

    return make


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Return bundles of one wide shape in noise, by precision."""
    folder = tmp_path_factory.mktemp("wide")
    config = folder / "config.json"
    config.write_text(json.dumps(WIDE), encoding="utf-8")
    found = {}
    for precision in ("int8", "float32"):
        options = ExportOptions(recipe=HERE / "wide.toml", target=STANDARD, precision=precision, dummy_weights=True)
        export(config, folder / precision, options)
        found[precision] = open_bundle(folder / precision)
    yield found
    shutil.rmtree(folder)


def test_every_component_builds_in_float_and_int8_and_is_kept_the_second_time(small, target, tmp_path):
    for precision in ("float32", "int8"):
        seen = []
        built = build(
            small(precision), target, folder=tmp_path / precision, progress=lambda *said, to=seen: to.append(said)
        )
        assert sorted(one.component for one in built) == sorted(COMPONENTS)
        assert not any(one.kept for one in built)
        assert {name for name, _, _ in seen} == set(COMPONENTS)
        asked = {one.component: one.note.int8_asked for one in built}
        # 2 layers: 6 linears of an encoder layer; 2 of the adapter; 6 and two banks of a decoder layer, and the head
        expected = {"encoder": 12, "adapter": 4, "backbone": 17}
        assert asked == (expected if precision == "int8" else dict.fromkeys(expected, 0))
        assert all(one.note.int8_layers == one.note.int8_asked for one in built)
        again = build(small(precision), target, folder=tmp_path / precision)
        assert all(one.kept for one in again)
        assert [one.path for one in again] == [one.path for one in built]


def test_a_damaged_plan_is_built_anew(small, target, tmp_path):
    built = build(small("int8"), target, folder=tmp_path)
    damaged = built[0].path.read_bytes()
    built[0].path.write_bytes(damaged[:-1] + bytes([damaged[-1] ^ 1]))
    again = build(small("int8"), target, folder=tmp_path)
    assert [one.kept for one in again] == [False, True, True]
    assert PlanStore(small("int8"), tmp_path).read(again[0].component, again[0].note.key) is not None


def test_another_length_of_the_cache_is_another_plan(small, target, tmp_path):
    whole = build(small("int8"), target, folder=tmp_path)
    short = build(small("int8"), target, folder=tmp_path, context_tokens=64)
    assert {one.component: one.kept for one in short} == {"encoder": True, "adapter": True, "backbone": False}
    assert len({one.path for one in (*whole, *short)}) == len(COMPONENTS) + 1


def test_weights_stay_int8_in_the_plan_and_a_float_plan_is_told_from_it(wide, target, tmp_path):
    plans = {precision: build(bundle, target, folder=tmp_path / precision) for precision, bundle in wide.items()}
    manifest = wide["int8"].manifest
    for small_one, large_one in zip(plans["int8"], plans["float32"], strict=True):
        component = manifest.components[small_one.component]
        weight_bytes = wide["int8"].file(component.data).stat().st_size
        rows = [row for row in manifest.census if row.component == small_one.component]
        assert sum(row.bytes for row in rows if row.dtype == "int8") >= 32e6
        limit = 1.05 * weight_bytes + 1e6
        assert small_one.note.bytes <= limit, small_one
        assert large_one.note.bytes > limit, large_one
        assert take_layer_census(rows, weight_bytes, [], large_one.note.bytes).int8 < small_one.note.int8_asked


def test_a_graph_that_the_builder_cannot_read_is_one_line(small, target, tmp_path):
    broken = tmp_path / "bundle"
    shutil.copytree(small("int8").folder, broken)
    graph = broken / "adapter.onnx"
    graph.write_bytes(graph.read_bytes().replace(b"Transpose", b"Transposs"))
    with pytest.raises(BackendError, match=r"adapter\.onnx: tensorrt-rtx .* cannot read it \(.+\); export it again$"):
        build(open_bundle(broken, check_hashes=False), target, folder=tmp_path / "plans")
