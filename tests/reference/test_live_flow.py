"""The flow's graphs and goldens against the torch twin, made anew."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from edgekit.exporter.families.step_audio.flow import draw_noise  # noqa: E402
from edgekit.runtime.speak.matching import Flow  # noqa: E402
from tests.exporter import flows  # noqa: E402
from tests.reference import flow_goldens, step_audio_flow_twin  # noqa: E402
from tests.reference.flow_weights import TINY, draw, draw_codes, draw_voice  # noqa: E402
from tests.reference.step_audio_flow_twin import FlowTwin  # noqa: E402

pytestmark = pytest.mark.reference
TOLERANCE = 1e-4  # ten steps of sums in another order; a wrong mask, position or weight is off by 1e-2 and more


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def other():
    """Return other weights than the goldens' as a function: guidance -> twin, and their engines."""
    source = draw(TINY, 17)
    tensors = {name.removeprefix("flow."): array for name, array in source.arrays.items()}
    return lambda guidance: FlowTwin(tensors, draw_noise(TINY.dit.mel_bins), guidance), source


def test_goldens_are_what_the_twin_answers():
    assert flow_goldens.differences(flow_goldens.make(), flow_goldens.load()) == []


def test_a_changed_golden_is_told():
    stored = flow_goldens.load()
    key = flow_goldens.CASES[0].key
    (line,) = flow_goldens.differences(stored, stored | {key: stored[key] + np.float32(1e-3)})
    assert line.startswith(f"{key}: 1.0e-03 apart")


@pytest.mark.parametrize("guidance", [0.7, 0.2])
@pytest.mark.parametrize("sizes", [(11, 95, [25]), (60, 81, [13]), (4, 17, [2, 5])], ids=str)
def test_answers_of_other_weights_equal_the_twin(sizes, guidance, other, tmp_path):
    twin, source = other
    prompt, count, chunks = sizes
    loaded = flows.engines(tmp_path, source, TINY)
    voice, codes = draw_voice(TINY, prompt, 2), draw_codes(TINY, count, 2)
    flow = Flow(
        loaded["flow_encoder"], loaded["flow_step"], voice, flows.speech(TINY, chunks[-1], guidance),
        first_chunks=chunks[:-1],
    )  # fmt: skip
    ours = np.concatenate([flow.push(codes), flow.finish()])
    np.testing.assert_allclose(ours, twin(guidance).answer(voice, codes, chunks), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("prompt", "count"), [(7, 120), (60, 130)])
def test_what_attention_forgets_is_heard(prompt, count, other, monkeypatch):
    twin, _ = other
    voice, codes = draw_voice(TINY, prompt, 2), draw_codes(TINY, count, 2)
    published = twin(0.7).answer(voice, codes, [25])
    monkeypatch.setattr(step_audio_flow_twin, "KEPT", 10_000)
    everything = twin(0.7).answer(voice, codes, [25])
    # Nothing is forgotten before the first 100 frames; then more than rounding is.
    np.testing.assert_array_equal(published[:100], everything[:100])
    assert np.abs(published - everything).max() > 100 * TOLERANCE
