"""What torch.save really writes, read without torch."""

import os
from collections import OrderedDict

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from edgekit.errors import CheckpointError  # noqa: E402
from edgekit.exporter.families.step_audio.hift import open_hift  # noqa: E402
from edgekit.exporter.sources.checkpoint import read  # noqa: E402
from edgekit.exporter.sources.pickled import open_pickled  # noqa: E402
from tests.reference import hift_case  # noqa: E402

pytestmark = pytest.mark.reference


class Hostile:
    """Wants a function run when it is read."""

    def __reduce__(self):
        return os.getcwd, ()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16, torch.int64], ids=str)
def test_every_kind_of_number_is_read_as_torch_wrote_it(kind, protocol, tmp_path):
    value = (torch.rand(7, 3, 2, generator=torch.Generator().manual_seed(1)) * 20 - 10).to(kind)
    content = {"a": value, "scalar": value[0, 0, 0].clone(), "empty": value[:0]}
    torch.save(content, tmp_path / "a.pt", pickle_protocol=protocol)
    opened = open_pickled(tmp_path / "a.pt")
    assert opened.names() == content.keys()
    for name, stored in content.items():
        assert opened.shape(name) == tuple(stored.shape)
        np.testing.assert_array_equal(read(opened, name), stored.float().numpy())


def test_views_are_read_as_torch_sees_them(tmp_path):
    base = torch.arange(60, dtype=torch.float32).reshape(3, 4, 5)
    views = {
        "turned": base.transpose(0, 2),
        "part": base[1:, 1::2, 3],
        "one row, often": base[0, 0].expand(4, 5),
        "base": base,
        "parameter": nn.Parameter(base[2].T),
    }
    torch.save(OrderedDict(views), tmp_path / "a.pt")
    opened = open_pickled(tmp_path / "a.pt")
    for name, view in views.items():
        np.testing.assert_array_equal(read(opened, name), view.detach().numpy())
        np.testing.assert_array_equal(opened.rows(name, 1, 2), view[1:2].detach().numpy())


def test_a_module_and_what_lies_beside_it_are_read(tmp_path):
    module = nn.Sequential(nn.Conv1d(3, 4, 5), nn.BatchNorm1d(4))
    torch.save({"generator": module.state_dict(), "step": 3, "options": {"lr": 0.1, "names": ["a"]}}, tmp_path / "a.pt")
    opened = open_pickled(tmp_path / "a.pt")
    assert opened.names() == {f"generator.{name}" for name in module.state_dict()}
    np.testing.assert_array_equal(read(opened, "generator.0.weight"), module[0].weight.detach().numpy())
    assert read(opened, "generator.1.num_batches_tracked") == 0


@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm], ids=["old", "new"])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
def test_a_normed_convolution_is_folded_as_torch_computes_it(norm, tmp_path):
    torch.manual_seed(3)
    module = nn.ModuleDict({"conv_pre": norm(nn.Conv1d(3, 4, 5)), "up": norm(nn.ConvTranspose1d(4, 2, 6))})
    torch.save({f"generator.{name}": value for name, value in module.state_dict().items()}, tmp_path / "hift.pt")
    opened = open_hift(tmp_path / "hift.pt")
    assert opened.names() == {f"hift.{layer}.{part}" for layer in ("conv_pre", "up") for part in ("weight", "bias")}
    for layer in module:
        weight = module[layer].weight.detach().numpy()
        np.testing.assert_allclose(read(opened, f"hift.{layer}.weight"), weight, rtol=0, atol=1e-6)


def test_a_vocoder_saved_by_torch_is_the_one_in_memory(tmp_path):
    stored = hift_case.stored()
    torch.save({name: torch.tensor(array) for name, array in stored.items()}, tmp_path / "hift.pt")
    opened = open_pickled(tmp_path / "hift.pt")
    assert opened.names() == stored.keys()
    for name, array in stored.items():
        np.testing.assert_array_equal(read(opened, name), array)


@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_saves_but_is_no_plain_file_of_weights_is_refused(zipped, tmp_path):
    torch.save({"a": Hostile()}, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    said = "wants to run 'posix.getcwd'" if zipped else "a bare pickle, as torch wrote before 1.6"
    with pytest.raises(CheckpointError, match=said):
        open_pickled(tmp_path / "a.pt")


def test_a_whole_module_is_refused(tmp_path):
    torch.save(nn.Linear(2, 3), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="wants to run 'torch.nn.modules.linear.Linear'"):
        open_pickled(tmp_path / "a.pt")
