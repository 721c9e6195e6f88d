"""Building plans, as far as it goes without TensorRT: what is refused, and within which bounds inputs lie."""

import importlib.util

import msgspec
import pytest

from edgekit.bundle import ComputeLevel, Grid, TensorSpec, open_bundle
from edgekit.errors import BackendError, BundleFormatError, MissingPackageError, UsageError
from edgekit.recipe import Target, load_target
from edgekit.runtime.backends import build_plans
from edgekit.runtime.backends.sizes import InputSizes, free_sizes, input_sizes
from edgekit.runtime.speak.matching import count_slots
from edgekit.runtime.speak.voice import LEAST_CODES, MOST_CODES
from tests.exporter import flows
from tests.reference.flow_weights import TINY
from tests.runtime.talkers import SPEECH


def target(*backends):
    return Target(
        name="t", description="", dialect="standard", backends=backends, min_memory_mib=1, tested=False
    )  # fmt: skip


@pytest.fixture
def bundle(tiny_bundle):
    return open_bundle(tiny_bundle(dialect="standard").folder)


def test_a_bundle_of_another_dialect_is_refused_with_the_command_that_makes_one(tiny_bundle):
    with pytest.raises(BackendError, match=r"'ort-cpu', plans are built from 'standard'.*edgekit export.*--target t "):
        build_plans(open_bundle(tiny_bundle().folder), target("tensorrt-rtx"))


def test_a_target_that_runs_without_plans_is_refused(bundle):
    with pytest.raises(BackendError, match=r"target 'cpu': runs on onnxruntime-cpu, which needs no plans"):
        build_plans(bundle, load_target("cpu"))


@pytest.mark.parametrize("context", [0, -1, 10_000])
def test_a_cache_that_the_bundle_does_not_admit_is_refused(context, bundle):
    with pytest.raises(UsageError, match=rf"context_tokens: {context}, this bundle has 1 to \d+"):
        build_plans(bundle, target("tensorrt-rtx"), context_tokens=context)


@pytest.mark.parametrize(("backend", "module", "hint"), [
    ("tensorrt", "tensorrt", "JetPack"), ("tensorrt-rtx", "tensorrt_rtx", r"edgekit-audio\[rtx\]"),
])  # fmt: skip
def test_a_builder_that_is_not_installed_is_named_with_the_way_to_it(backend, module, hint, bundle):
    if importlib.util.find_spec(module):
        pytest.skip(f"{module} is installed here")
    with pytest.raises(MissingPackageError, match=rf"^{backend}: .*; .*{hint}"):
        build_plans(bundle, target("onnxruntime-cpu", backend))


def sized(manifest, *inputs, context=64):
    component = msgspec.structs.replace(manifest.components["backbone"], inputs=inputs)
    manifest = msgspec.structs.replace(manifest, components=manifest.components | {"backbone": component})
    return input_sizes(manifest, "backbone", context)


def test_bounds_admit_every_chunk_every_prompt_and_no_row_at_all(bundle):
    grid = Grid(mode="chunked", chunk_frames=64, max_frames=3000, max_positions=1500)
    manifest = msgspec.structs.replace(bundle.manifest, grid=grid)
    found = sized(
        manifest,
        TensorSpec(name="mel", dtype="float32", shape=(80, "mel_frames")),
        TensorSpec(name="frames", dtype="float32", shape=("frames", 8)),
        TensorSpec(name="embeds", dtype="float32", shape=("tokens", 8)),
        TensorSpec(name="logit_rows", dtype="int64", shape=("rows",)),
        TensorSpec(name="cross.0", dtype="float32", shape=(1, 2, "sound", 4)),
        TensorSpec(name="past.key.0", dtype="float32", shape=(1, 2, "context", 4), state="carried"),
        TensorSpec(name="start", dtype="int64", shape=(1,)),
    )
    assert found == {
        "mel": InputSizes((80, 4), (80, 67), (80, 67)),  # two frames before the chunk, one after it
        "frames": InputSizes((1, 8), (32, 8), (32, 8)),
        "embeds": InputSizes((1, 8), (1, 8), (64, 8)),
        "logit_rows": InputSizes((0,), (1,), (64,)),
        "cross.0": InputSizes((1, 2, 1, 4), (1, 2, 375, 4), (1, 2, 1500, 4)),
        "past.key.0": InputSizes((1, 2, 64, 4), (1, 2, 64, 4), (1, 2, 64, 4)),
    }


def test_experts_go_from_one_to_the_most_that_a_level_has(bundle):
    levels = (ComputeLevel(name="skip"), ComputeLevel(name="two", experts_per_token=2),
              ComputeLevel(name="full", experts_per_token=6))  # fmt: skip
    manifest = msgspec.structs.replace(bundle.manifest, levels=levels)
    found = sized(manifest, TensorSpec(name="experts_per_token", dtype="int64", shape=(1,)))
    assert found == {"experts_per_token": InputSizes((1,), (6,), (6,))}


def test_a_free_size_that_no_grid_tells_of_is_refused(bundle):
    with pytest.raises(BundleFormatError, match=r"input 'x' has the free size 'mystery'"):
        sized(bundle.manifest, TensorSpec(name="x", dtype="float32", shape=("mystery", 2)))


def test_bounds_of_a_talker_are_those_of_its_own_caches(bundle):
    manifest = msgspec.structs.replace(bundle.manifest, speech=msgspec.structs.replace(SPEECH, context_frames=40))
    assert free_sizes(manifest, "talker_adapter", 64) == {"n": (1, 1, 64)}
    assert free_sizes(manifest, "talker", 64) == {"tokens": (1, 1, 40), "rows": (0, 1, 40), "context": (40, 40, 40)}
    assert free_sizes(manifest, "code_predictor", 64) == {"tokens": (1, 1, 4)}
    assert free_sizes(manifest, "decoder", 64) == {"frames": (1, 24, 24)}
    assert free_sizes(manifest, "backbone", 64)["context"] == (64, 64, 64)


def test_bounds_of_a_flow_admit_the_longest_voice_and_every_piece(bundle):
    speech = flows.speech(TINY)
    manifest = msgspec.structs.replace(bundle.manifest, speech=speech)
    encoder, step, vocoder = (free_sizes(manifest, name, 64) for name in ("flow_encoder", "flow_step", "vocoder"))
    most = speech.chunk_codes + speech.lookahead_codes
    assert encoder["codes"] == (4, most, MOST_CODES + 3)  # one code and what is looked ahead to; a whole prompt
    assert encoder["frames_kept"][0] == 2 * encoder["codes_kept"][0]
    assert step["frames"] == (2, 2 * speech.chunk_codes, 2 * MOST_CODES)
    for codes, capacity in ((LEAST_CODES, step["capacity"][0]), (MOST_CODES, step["capacity"][2])):
        assert capacity == count_slots(2 * codes, 2 * most)
    for frames, kept, new in zip(*vocoder.values(), strict=True):
        assert kept + new == 480 * frames
    # 7 frames were too few to begin with, and a last chunk follows; or 8 were held back
    assert vocoder["frames"][2] >= 8 + 2 * most
    assert vocoder["new"][2] >= 480 * (7 + 2 * most)
