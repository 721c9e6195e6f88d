"""`edgekit verify --reference` by what a stand-in for the reference says: which limits hold, and what it refuses."""

from pathlib import Path

import numpy as np
import pytest

from edgekit.bundle import open_bundle
from edgekit.errors import VerifyError
from edgekit.exporter.checks import verify as live
from edgekit.exporter.export import ExportOptions, export
from tests.exporter.graphs import ORT_CUDA
from tests.exporter.test_export import JUDGED, QUICK

TARGETS = {"cpu": 1e-4, ORT_CUDA: 0.2}  # target to what an array of its float bundle may differ by


class _Alike:
    """A reference of which every number is one."""

    vocabulary = 0

    @classmethod
    def open(cls, _folder):
        return cls()

    def hear(self, _mel, _positions):
        return np.ones((2, 3), np.float32)

    def heard(self, _heard):
        return np.ones((2, 3), np.float32)

    def answer(self, _heard, _prompt, tokens, _experts):
        return np.ones((len(tokens) + 1, self.vocabulary), np.float32)


@pytest.mark.parametrize("target", TARGETS)
def test_products_in_float16_are_judged_as_what_rounds(target, checkpoint, tmp_path, monkeypatch):
    source = checkpoint("whisper-dense")
    export(source, tmp_path / "b", ExportOptions(recipe=JUDGED, precision="float32", target=target))
    monkeypatch.setattr(live, "_reference", lambda _family: _Alike)
    monkeypatch.setattr(_Alike, "vocabulary", open_bundle(tmp_path / "b").manifest.embedding.weight.shape[0])
    checks = {check.name: check for check in live.verify_reference(tmp_path / "b", source)}
    for name in ("what the backbone hears: relative error", "logits, tokens forced: relative error"):
        assert checks[name].tolerance == TARGETS[target]
    assert (checks["greedy tokens that differ / tokens"].tolerance > 0) is (target != "cpu")


def test_where_there_is_no_clip_to_hear_nothing_is_fetched_and_nothing_passes(checkpoint, tmp_path):
    export(checkpoint("whisper-dense"), tmp_path / "b", ExportOptions(recipe=QUICK, precision="float32"))
    message = (
        r"b: has no check clip to hear, so nothing would be compared with the checkpoint; export it again with a "
        r"recipe that names check clips in a language of it$"
    )
    with pytest.raises(VerifyError, match=message):
        live.verify_reference(tmp_path / "b", Path("nowhere"))
