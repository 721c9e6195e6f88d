"""Plans are really built here, by TensorRT for RTX without a GPU; none is executed.

Run by ``make test-engines``, where the package is installed.
"""

import json
import os
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from edgekit.bundle import open_bundle
from edgekit.errors import BackendError
from edgekit.exporter.export import ExportOptions, export
from edgekit.runtime.backends import build_plans
from edgekit.runtime.backends.device import Driver
from edgekit.runtime.backends.trt.builder import build
from edgekit.runtime.backends.trt.layers import take_layer_census
from edgekit.runtime.backends.trt.library import RTX
from edgekit.runtime.backends.trt.plan_stream import reader_class, reads_in_blocks, stream_reader
from edgekit.runtime.backends.trt.plans import PlanStore
from edgekit.runtime.memory import build_peak_mib
from tests.reference import checkpoints

pytestmark = pytest.mark.engines
HERE = Path(__file__).parent
COMPONENTS = ("adapter", "backbone", "encoder")
# Every family in INT8 and INT4, and every kind of number in a family that has experts; targets that ship have float16.
FAMILIES = [
    ("whisper-experts", ("float32", "float16")), ("whisper-experts", ("int4", "float16")),
    ("step-dense", ("int8", "float16")), ("step-dense", ("int4", "float32")),
    ("step-moe-2", ("float32", "float16")), ("step-moe-2", ("int8", "float32")), ("step-moe-2", ("int4", "float16")),
    ("omni", ("int8", "float16")), ("omni", ("int4", "float16")),
]  # fmt: skip
# More than 32 MB of INT8 in each of three components, in few layers: a plan also holds a kernel or more for each layer.
WIDE = {
    "model_type": "whisper", "num_mel_bins": 80, "d_model": 2560, "max_source_positions": 1500,
    "max_target_positions": 448, "encoder_attention_heads": 20, "decoder_attention_heads": 20, "encoder_layers": 1,
    "decoder_layers": 3, "encoder_ffn_dim": 5120, "decoder_ffn_dim": 2560, "vocab_size": 1536, "eos_token_id": 1,
    "decoder_start_token_id": 2,
    "edgekit": {"encoder_attention": "chunk-causal", "chunk_frames": 32, "num_experts": 8, "num_experts_per_tok": 8},
}  # fmt: skip


# More than 32 MB of INT4 in gated experts behind grouped attention, as Qwen3's; ears as small as can be. The kernels of
# one such layer are some 4 MB, whatever its weights.
GATED = {
    "model_type": "step_audio_2", "eos_token_id": [1],
    "text_config": {
        "model_type": "qwen3_moe", "hidden_size": 1024, "num_hidden_layers": 1, "num_attention_heads": 16,
        "num_key_value_heads": 4, "head_dim": 64, "intermediate_size": 1024, "vocab_size": 1024,
        "max_position_embeddings": 512, "rope_theta": 1e6, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
        "num_experts": 64, "num_experts_per_tok": 4, "moe_intermediate_size": 768, "norm_topk_prob": True,
    },
    "audio_encoder_config": {
        "n_mels": 80, "n_audio_ctx": 64, "n_audio_state": 64, "n_audio_head": 4, "n_audio_layer": 1, "llm_dim": 1024,
        "kernel_size": 3, "adapter_stride": 2, "n_codebook_size": 4096,
    },
}  # fmt: skip


def written_target(folder, activations):
    path = folder / f"{activations}.toml"
    path.write_text(
        (HERE / "rtx.toml").read_text(encoding="utf-8") + f'activations = "{activations}"\n', encoding="utf-8"
    )
    return str(path)


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Return a function: config, precision and activations -> a bundle in noise."""
    folder = tmp_path_factory.mktemp("wide")

    def make(config, precision, activations="float32"):
        path = folder / config["model_type"] / "config.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(config), encoding="utf-8")
        made = folder / f"{path.parent.name}-{precision}-{activations}"
        if not made.is_dir():
            target = written_target(folder, activations)
            options = ExportOptions(recipe=HERE / "wide.toml", target=target, precision=precision, dummy_weights=True)
            export(path, made, options)
        return open_bundle(made)

    yield make
    shutil.rmtree(folder)


def test_every_component_builds_in_float_and_int8_and_is_kept_the_second_time(small, target, first_build, plans):
    folder, quantised, told = first_build
    assert {name for name, _, _ in told} == set(COMPONENTS)
    # 2 layers: 6 linears of an encoder layer; 2 of the adapter; 6 and two banks of a decoder layer, and the head
    asked = {"encoder": 12, "adapter": 4, "backbone": 17}
    whole = build_plans(small("float32"), target, folder=plans)
    for built, expected in ((quantised, asked), (whole, dict.fromkeys(asked, 0))):
        assert [one.component for one in built] == list(COMPONENTS)
        assert {one.component: one.note.quantised_asked for one in built} == expected
        assert all(one.note.quantised_layers == one.note.quantised_asked for one in built)
    assert not any(one.kept for one in quantised)
    again = build_plans(small("int8"), target, folder=folder)
    assert all(one.kept for one in again)
    assert [one.path for one in again] == [one.path for one in quantised]


@pytest.mark.parametrize(("name", "kind"), FAMILIES)
def test_every_graph_of_every_family_builds(name, kind, target, plans, tmp_path):
    """Those of the talker and the code predictor among them. INT4 of every group: no sound is heard to calibrate on."""
    precision, activations = kind
    checkpoint = checkpoints.write(tmp_path / "checkpoint", name)
    groups = {"encoder": "float32"} if precision == "int8" else {}
    options = ExportOptions(
        recipe=HERE.parent / "exporter" / "quick.toml", target=written_target(tmp_path, activations),
        precision=precision, groups=groups,
    )  # fmt: skip
    manifest = export(checkpoint, tmp_path / "bundle", options)
    built = build_plans(open_bundle(tmp_path / "bundle"), target, folder=plans)
    assert sorted(one.component for one in built) == sorted(manifest.components)
    asked = {one.component: one.note.quantised_asked for one in built}
    assert all(one.note.quantised_layers == one.note.quantised_asked for one in built)
    assert (asked["backbone"] > 0) == (precision != "float32")


def test_a_damaged_plan_is_built_anew(small, target, built):
    plan = built["adapter"]
    damaged = plan.read_bytes()
    plan.write_bytes(damaged[:1000] + bytes([damaged[1000] ^ 1]) + damaged[1001:])
    again = build_plans(small("int8"), target, folder=plan.parent)
    assert [one.component for one in again if not one.kept] == ["adapter"]
    _, reader = PlanStore(small("int8"), plan.parent).open("adapter", again[0].note.key)
    reader.close()


def test_a_plan_is_read_through_the_class_that_the_library_takes(small, first_build):
    trt = pytest.importorskip("tensorrt_rtx")
    folder, (built, *_), _ = first_build
    note, plan = PlanStore(small("int8"), folder).open(built.component, built.note.key)
    with closing(plan):
        assert reads_in_blocks(trt)
        made = reader_class(trt, plan)
        assert issubclass(made, trt.IStreamReaderV2)
        if not has_driver():  # the library's own constructor asks for it
            with pytest.raises(RuntimeError, match="cuda driver"):
                stream_reader(trt, plan)
        reader = made.__new__(made)
        whole = built.path.read_bytes()[: note.bytes]
        assert b"".join(iter(lambda: reader.read(5000, 0), b"")) == whole
        assert reader.seek(-10, trt.SeekPosition.END)
        assert reader.seek(4, trt.SeekPosition.CUR)
        assert reader.read(1 << 40, 0) == whole[-6:]
        assert reader.seek(1, trt.SeekPosition.SET)
        assert not reader.seek(-2, trt.SeekPosition.CUR)
        assert reader.read(3, 0) == whole[1:4]


def test_a_disk_that_takes_no_plan_ends_the_build_in_one_line(small, target, tmp_path):
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from edgekit.bundle import open_bundle; from edgekit.recipe import load_target\n"
        "from edgekit.errors import OutputError; from edgekit.runtime.backends import build_plans\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "try: build_plans(open_bundle(sys.argv[1]), load_target(sys.argv[2]), folder=Path(sys.argv[3]))\n"
        "except OutputError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, small("int8").folder, HERE / "rtx.toml", tmp_path / "plans"], check=True,
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
    )  # fmt: skip
    assert done.stdout.endswith("File too large; free space, or choose another --output\n"), done
    assert list((tmp_path / "plans").iterdir()) == []


def test_another_length_of_the_cache_is_another_plan(small, target, built):
    folder = built["backbone"].parent
    short = build_plans(small("int8"), target, folder=folder, context_tokens=64)
    assert {one.component: one.kept for one in short} == {"encoder": True, "adapter": True, "backbone": False}
    assert len({*built.values(), *(one.path for one in short)}) == len(COMPONENTS) + 1


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_weights_stay_small_in_the_plan_and_a_float_plan_is_told_from_it(precision, wide, target, plans):
    small, large = wide(WIDE, precision), wide(WIDE, "float32")
    check_bytes(small, large, COMPONENTS, target, plans, at_least=32e6 if precision == "int8" else 16e6)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_gated_experts_beside_float16_products_stay_small_too(precision, wide, target, plans):
    small, large = wide(GATED, precision, "float16"), wide(GATED, "float32", "float16")
    check_bytes(small, large, ["backbone"], target, plans, at_least=32e6)


def check_bytes(small, large, components, target, folder, *, at_least):
    """Assert that the plans of one bundle are hardly larger than its weights, and those of the other are."""
    manifest = small.manifest
    plans = [
        {one.component: one.note for one in build_plans(bundle, target, folder=folder)} for bundle in (small, large)
    ]
    for name in components:
        weight_bytes = small.file(manifest.components[name].data).stat().st_size
        rows = [row for row in manifest.census if row.component == name]
        assert sum(row.bytes for row in rows if row.dtype in {"int8", "int4"}) >= at_least
        limit = 1.05 * weight_bytes + 1e6
        print(f"{name}: {plans[0][name].bytes / weight_bytes:.3f}, float {plans[1][name].bytes / weight_bytes:.3f}")
        assert plans[0][name].bytes <= limit, name
        assert plans[1][name].bytes > limit, name
        assert (
            take_layer_census(rows, weight_bytes, [], plans[1][name].bytes).quantised < plans[0][name].quantised_asked
        )


def has_driver():
    try:
        Driver()
    except BackendError:
        return False
    return True


def machine(folder, available_mib):
    """Return a folder that stands for the root of a machine with so much memory available."""
    (folder / "proc").mkdir(parents=True)
    kib = int(available_mib * 1024)
    (folder / "proc/meminfo").write_text(f"MemTotal:       {kib} kB\nMemAvailable:    {kib} kB\n")
    return folder


def largest(bundle):
    """Return the component whose build takes the most memory, and how much in MiB."""
    peaks = {name: build_peak_mib(bundle.manifest, name) for name in bundle.manifest.components}
    return max(peaks.items(), key=lambda one: one[1])


def test_a_build_that_would_not_fit_is_refused_before_it_starts(small, target, built, tmp_path):
    bundle, folder = small("int8"), built["adapter"].parent
    name, peak = largest(bundle)
    with pytest.raises(BackendError, match=r"the plan of '\w+' is predicted to take [\d,]+ MiB, this machine has "):
        build(bundle, target, RTX, folder=tmp_path / "none", root=machine(tmp_path / "less", peak - 1))
    assert not (tmp_path / "none").exists()
    built[name].unlink()
    more = build(bundle, target, RTX, folder=folder, root=machine(tmp_path / "more", peak + 1))
    assert [one.component for one in more if not one.kept] == [name]
    # what is there already takes no building
    again = build(bundle, target, RTX, folder=folder, root=tmp_path / "less")
    assert all(one.kept for one in again)


def test_where_the_gpu_shares_the_memory_kernels_get_what_is_left(small, target, built, tmp_path):
    bundle, shared = small("int8"), msgspec.structs.replace(target, unified_memory=True)
    folder, (name, peak) = built["adapter"].parent, largest(bundle)
    built[name].unlink()
    with pytest.raises(BackendError, match=r"no plan of it with 0 MiB left .*workspace.*; end other programs"):
        build(bundle, shared, RTX, folder=folder, root=machine(tmp_path / "less", peak + 0.4))
    more = build(bundle, shared, RTX, folder=folder, root=machine(tmp_path / "more", peak + 500))
    assert [one.component for one in more if not one.kept] == [name]


def test_a_graph_that_the_builder_cannot_read_is_one_line(small, target, built, tmp_path):
    built["adapter"].unlink()
    broken = tmp_path / "bundle"
    shutil.copytree(small("int8").folder, broken)
    graph = broken / "adapter.onnx"
    graph.write_bytes(graph.read_bytes().replace(b"Transpose", b"Unsqueeze"))  # an op of the list, without its axes
    with pytest.raises(BackendError, match=r"adapter\.onnx: tensorrt-rtx .* cannot read it \(.+\); export it again$"):
        build_plans(open_bundle(broken, check_hashes=False), target, folder=built["adapter"].parent)
