"""Plans of every graph that speaks, wide enough that a weight is more than what a plan holds beside it.

Built by TensorRT for RTX without a GPU, in one profile for all that a bundle admits; none is executed.
"""

import copy
import json
import shutil

import pytest

from edgekit.bundle import open_bundle
from edgekit.exporter.export import ExportOptions, export
from edgekit.recipe import load_target
from edgekit.runtime.backends.builder import build
from tests.engines.test_build import HERE
from tests.exporter.graphs import STANDARD
from tests.reference import checkpoints, qwen3_omni

pytestmark = pytest.mark.engines
SPEAKING = {
    "qwen3_omni": ("talker_adapter", "talker", "code_predictor", "decoder"),
    "step_audio": ("flow_encoder", "flow_step", "vocoder"),
}
CODES, WIDTH = 97, 256
SECTION = {
    "conformer": {"codes": CODES, "width": WIDTH, "heads": 4, "inner": 512, "layers": [2, 1]},
    "dit": {"width": WIDTH, "heads": 4, "head_dim": 64, "inner": 512, "layers": 2},
    "vocoder": {"width": 64, "f0_width": 64},
}


def _omni():
    config = copy.deepcopy(qwen3_omni.config())
    talker = config["talker_config"]
    wide = {"hidden_size": WIDTH, "intermediate_size": 512}
    talker["text_config"] |= wide | {"moe_intermediate_size": 256, "shared_expert_intermediate_size": 256}
    talker["code_predictor_config"] |= wide
    config["code2wav_config"] |= wide | {"num_attention_heads": 4, "num_key_value_heads": 4}
    return config


def _step(folder):
    shape = checkpoints.StepAudioShape(codes=CODES + 3, text_positions=2048)
    config = json.loads((checkpoints.write_step_audio(folder, shape) / "config.json").read_text())
    return config | {"edgekit": {"token2wav": SECTION}}


@pytest.fixture(scope="module")
def target():
    return load_target(str(HERE / "rtx.toml"))


@pytest.fixture(scope="module", params=SPEAKING)
def bundles(request, tmp_path_factory):
    """Return bundles of one family in noise, by the precision of what speaks."""
    folder = tmp_path_factory.mktemp(request.param)
    config = folder / "config.json"
    config.write_text(
        json.dumps(_omni() if request.param == "qwen3_omni" else _step(folder / "checkpoint")), encoding="utf-8"
    )
    found = {}
    for precision in ("float32", "int8", "int4"):
        options = ExportOptions(
            recipe=HERE.parent / "exporter" / "quick.toml", target=STANDARD, precision="float32",
            groups={"decoder": precision}, dummy_weights=True,
        )  # fmt: skip
        export(config, folder / precision, options)
        found[precision] = open_bundle(folder / precision)
    yield found
    shutil.rmtree(folder)


def test_every_graph_of_speech_builds_and_its_weights_stay_as_small_as_they_are(bundles, target, tmp_path):
    names = SPEAKING[bundles["float32"].manifest.family]
    weights = {}
    for precision, bundle in bundles.items():
        built = {one.component: one.note for one in build(bundle, target, folder=tmp_path / precision)}
        assert set(names) < built.keys()
        for name in names:
            data = bundle.file(bundle.manifest.components[name].data).stat().st_size
            weights[precision, name] = built[name].weight_bytes
            assert built[name].weight_bytes < 1.1 * data
            rows = [row for row in bundle.manifest.census if row.component == name and row.dtype in ("int8", "int4")]
            assert built[name].int8_asked == len(rows)
            assert bool(rows) == (precision != "float32" and name != "vocoder")
    for name in set(names) - {"vocoder"}:
        assert weights["float32", name] > weights["int8", name] > weights["int4", name]
