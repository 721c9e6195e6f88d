"""`edgekit verify --reference` on tiny checkpoints: right bundles pass, a bundle of another checkpoint does not."""

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed: make test-reference installs it")

from edgekit.errors import QualityError, VerifyError
from edgekit.exporter.checks.verify import verify_reference
from edgekit.exporter.export import ExportOptions, export
from tests.exporter import pickles, speaking
from tests.reference import checkpoints, hift_case

pytestmark = pytest.mark.reference
RECIPE = Path(__file__).parents[1] / "exporter" / "judged.toml"


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize(
    "name", ["whisper-experts", "whisper-experts-128", "step-dense", "step-moe-4", "omni", "omni-thinker"]
)
def test_a_bundle_agrees_with_its_own_checkpoint(name, precision, tmp_path):
    checkpoint = checkpoints.write(tmp_path / "c", name)
    export(checkpoint, tmp_path / "b", ExportOptions(recipe=RECIPE, precision=precision, accept_loss="random weights"))
    checks = verify_reference(tmp_path / "b", checkpoint)
    if precision == "float32":
        assert [check.name for check in checks if not check.passed] == []
    else:  # random weights may miss a limit made for trained ones, but not by much
        assert [check.name for check in checks if not check.error <= 3 * check.tolerance] == []


def test_a_multilingual_whisper_is_compared_in_the_language_that_its_checkpoint_hears(tmp_path):
    checkpoint = checkpoints.write(tmp_path / "c", "whisper-experts-128")
    export(checkpoint, tmp_path / "b", ExportOptions(recipe=RECIPE, precision="float32"))
    checks = {check.name: check for check in verify_reference(tmp_path / "b", checkpoint)}
    assert checks["languages recognised that differ / clips"].error == 0
    assert checks["logits, tokens forced: relative error"].error < 1e-4


@pytest.mark.parametrize("mode", ["exact", "chunked"])
def test_qwen3_omni_hears_as_its_checkpoint_does_in_blocks_and_in_seconds(mode, tmp_path):
    checkpoint = checkpoints.write(tmp_path / "c", "omni-thinker")
    export(checkpoint, tmp_path / "b", ExportOptions(recipe=RECIPE, precision="float32", mode=mode))
    assert [check for check in verify_reference(tmp_path / "b", checkpoint) if not check.passed] == []


def test_a_bundle_that_speaks_agrees_with_its_own_checkpoint(tmp_path):
    checkpoint = speaking.write(tmp_path / "c")
    export(checkpoint, tmp_path / "b", ExportOptions(recipe=RECIPE, precision="float32"))
    checks = verify_reference(tmp_path / "b", checkpoint)
    assert [check.name for check in checks if not check.passed] == []
    changed = checkpoint / "token2wav" / "hift.pt"
    pickles.save(changed, hift_case.stored(seed=9))
    with pytest.raises(QualityError, match=r"hift\..* does not hold this checkpoint"):
        verify_reference(tmp_path / "b", checkpoint)


def test_another_checkpoint_is_told_apart(tmp_path):
    one = checkpoints.write(tmp_path / "one", "whisper-experts")
    other = checkpoints.write(tmp_path / "other", "whisper-dense")
    step = checkpoints.write(tmp_path / "step", "step-dense")
    export(one, tmp_path / "b", ExportOptions(recipe=RECIPE, precision="float32"))
    with pytest.raises(QualityError, match="does not hold this checkpoint"):
        verify_reference(tmp_path / "b", other)
    with pytest.raises(VerifyError, match="is of family step_audio, the bundle of whisper"):
        verify_reference(tmp_path / "b", step)
