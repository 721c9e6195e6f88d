"""Plans of what Step-Audio 2 speaks with, wide enough that a weight is more than what a plan holds beside it.

Built by TensorRT for RTX without a GPU, in one profile for all that a bundle admits; none is executed. What Qwen3-Omni
speaks with: test_build.py.
"""

import json

import pytest

from edgekit.bundle import open_bundle
from edgekit.exporter.export import ExportOptions, export
from edgekit.runtime.backends import build_plans
from tests.engines.test_build import HERE, written_target
from tests.reference import checkpoints

pytestmark = pytest.mark.engines
CODES, WIDTH = 97, 256
TOKEN2WAV = {
    "conformer": {"codes": CODES, "width": WIDTH, "heads": 4, "inner": 512, "layers": [2, 1]},
    "dit": {"width": WIDTH, "heads": 4, "head_dim": 64, "inner": 512, "layers": 2},
    "vocoder": {"width": 64, "f0_width": 64},
}
KINDS = [("float32", "float32"), ("float32", "float16"), ("int8", "float32"), ("int8", "float16"), ("int4", "float16")]
LINEARS = {"flow_encoder": 3 * 7, "flow_step": 2 * 7, "vocoder": 0}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Return the config of a model that speaks, alone."""
    folder = tmp_path_factory.mktemp("speaker")
    shape = checkpoints.StepAudioShape(codes=CODES + 3, text_positions=2048)
    written = checkpoints.write_step_audio(folder / "checkpoint", shape) / "config.json"
    plain = json.loads(written.read_text(encoding="utf-8")) | {"edgekit": {"token2wav": TOKEN2WAV}}
    (folder / "config.json").write_text(json.dumps(plain), encoding="utf-8")
    return folder / "config.json"


@pytest.mark.parametrize("kind", KINDS)
def test_every_graph_that_speaks_builds_and_its_weights_stay_as_small_as_they_are(
    kind, config, target, plans, tmp_path
):
    precision, activations = kind
    options = ExportOptions(
        recipe=HERE.parent / "exporter" / "quick.toml", target=written_target(tmp_path, activations),
        precision="float32", groups={"decoder": precision}, dummy_weights=True,
    )  # fmt: skip
    export(config, tmp_path / "bundle", options)
    bundle = open_bundle(tmp_path / "bundle")
    built = build_plans(bundle, target, folder=plans)
    notes = {one.component: one.note for one in built}
    assert notes.keys() == bundle.manifest.components.keys() > LINEARS.keys()
    for name, count in LINEARS.items():
        assert notes[name].quantised_asked == notes[name].quantised_layers == (0 if precision == "float32" else count)
        assert notes[name].weight_bytes < 1.1 * bundle.file(bundle.manifest.components[name].data).stat().st_size
