"""The lists of ops that a dialect's graphs may hold: every op that a family writes, and none that nobody writes.

An export itself refuses what a device would: see ``build``.
"""

import pytest

from edgekit.bundle import open_bundle
from edgekit.bundle.dialects import DIALECTS
from edgekit.exporter.dialects import DIALECTS as WRITERS
from edgekit.exporter.export import ExportOptions, export
from edgekit.runtime.graphs.model import read_model
from edgekit.runtime.graphs.source import bundle_graph
from tests.exporter import speaking
from tests.exporter.graphs import ORT_CUDA, STANDARD
from tests.reference import checkpoints, qwen3_omni

TARGETS = {"ort-cpu": "cpu", "ort-cuda": ORT_CUDA, "standard": STANDARD}
EXACT, CHUNKED, SECONDS = (
    f"[grid]\n{how}\n"
    for how in ('mode = "exact"', 'mode = "chunked"\nchunk_ms = 640', 'mode = "chunked"\nchunk_ms = 1000')
)
PLAIN = '[quantize]\nencoder_finer = "none"\n'
FINER = '[quantize]\nencoder_finer = ["model.encoder.layers.0.fc2.weight"]\n'
# Of each family what writes other ops: experts or none, a voice or none, whole windows or chunks, each precision.
MADE = [
    ("whisper-dense", EXACT + PLAIN, {"precision": "float32"}),
    ("whisper-dense", EXACT + FINER, {"precision": "int8"}),
    ("whisper-experts", CHUNKED + PLAIN, {"precision": "int4", "groups": {"experts": "float32"}}),
    ("whisper-experts", CHUNKED + PLAIN, {"precision": "float32"}),
    ("step-moe-4", CHUNKED + PLAIN, {"precision": "float32"}),
    ("step-moe-4", CHUNKED + PLAIN, {"precision": "int8"}),
    ("step that speaks", EXACT + PLAIN, {"precision": "float32"}),
    ("step that speaks", CHUNKED + PLAIN, {"precision": "int8"}),
    ("omni", EXACT + PLAIN, {"precision": "float32"}),
    ("omni", SECONDS + PLAIN, {"precision": "int8", "groups": {"experts": "float32"}}),
]


def write(folder, name):
    if name == "omni":
        return qwen3_omni.write(folder)
    return speaking.write(folder) if name == "step that speaks" else checkpoints.write(folder, name)


@pytest.mark.parametrize("dialect", TARGETS)
def test_what_families_write_is_the_list_of_the_dialect_op_by_op(dialect, tmp_path):
    written = set()
    for number, (name, settings, precisions) in enumerate(MADE):
        checkpoint = tmp_path / name
        if not checkpoint.exists():
            checkpoint.mkdir()
            write(checkpoint, name)
        recipe = tmp_path / f"{number}.toml"
        how = settings if WRITERS.get(dialect).finer_op else settings.replace(FINER, PLAIN)
        recipe.write_text(f'name = "n"\n{how}[limits]\nweight_error = 0.2\n')
        options = ExportOptions(recipe=recipe, target=TARGETS[dialect], **precisions)
        export(checkpoint, tmp_path / str(number), options)
        bundle = open_bundle(tmp_path / str(number))
        for component in bundle.manifest.components:
            nodes = read_model(bundle_graph(bundle, component).graph).nodes
            written |= {(node.domain.decode(), node.op.decode()) for node in nodes}
    assert written == DIALECTS.get(dialect).ops
