"""Graphs of Step-Audio 2's flow against the stored answers of a torch twin, called as a stream calls them.

Tolerance: ten solver steps over sums of some hundred products in another order than torch's differ by some 1e-5, of
values of the order 1; a wrong mask, position or weight is off by 1e-2 and more.
"""

from dataclasses import replace

import numpy as np
import pytest

from edgekit.errors import CheckpointError
from edgekit.exporter.families.step_audio.flow import GUIDANCE, RELEASED, Flow, draw_noise
from edgekit.exporter.sources.checkpoint import check_names
from edgekit.exporter.written import BundleTensors, written_weights
from edgekit.runtime.speak.matching import Flow as Stream
from tests.exporter import flows
from tests.reference import flow_goldens
from tests.reference.flow_weights import TINY, Arrays, draw

TOLERANCE = 1e-4
INT8_ERROR = 0.006  # measured 0.0023; two swapped layers of one linear are 0.012 (positions) to 0.3 apart
WHOLE = [case for case in flow_goldens.CASES if not case.chunks]
STREAMED = [case for case in flow_goldens.CASES if case.chunks]
SETTINGS = """
flow: !new:some.package.Flow
  vocab_size: 97
  encoder: !new:some.package.Encoder
    attention_heads: 4
    num_blocks: 2   # before the upsampling
    up_scale_factor: 2
    normalize_before: True
  decoder:
    inference_cfg_rate: 0.35
    estimator:
      depth: 2
"""


@pytest.fixture(scope="module")
def source():
    return flow_goldens.weights()


@pytest.fixture(scope="module", params=["ort-cpu", "ort-cuda", "standard"])
def dialect(request):
    return request.param


@pytest.fixture(scope="module")
def folder(tmp_path_factory, dialect):
    return tmp_path_factory.mktemp(dialect)


@pytest.fixture(scope="module")
def engines(folder, source, dialect):
    return flows.engines(folder, source, TINY, dialect=dialect)


def answer(loaded, case):
    """Return the mel frames of a streamed case."""
    flow = Stream(
        loaded["flow_encoder"], loaded["flow_step"], case.voice(), flows.speech(TINY, case.chunks[-1]),
        first_chunks=case.chunks[:-1],
    )  # fmt: skip
    return np.concatenate([flow.push(case.answer()), flow.finish()])


def error(ours, wanted):
    """Return the root mean square of the difference / that of what is wanted."""
    return float(np.linalg.norm(ours - wanted) / np.linalg.norm(wanted))


def components(loaded):
    return {name: engine.component for name, engine in loaded.items()}


def test_the_weights_and_the_noise_are_those_the_golden_was_made_with(engines):
    np.testing.assert_array_equal(flows.noise(engines), draw_noise(TINY.dit.mel_bins))
    assert flow_goldens.identity(flows.noise(engines)) == flow_goldens.load()["digest"]


@pytest.mark.parametrize("case", WHOLE, ids=lambda case: case.key)
def test_an_answer_made_in_one_call_equals_the_twin(case, engines):
    ours = flows.whole(engines, case.voice(), case.answer())
    np.testing.assert_allclose(ours, flow_goldens.load()[case.key], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("case", STREAMED, ids=lambda case: case.key)
def test_a_streamed_answer_equals_the_twin(case, engines):
    np.testing.assert_allclose(answer(engines, case), flow_goldens.load()[case.key], rtol=0, atol=TOLERANCE)


def test_sizes_are_read_from_the_tensors(source):
    assert Flow.read(source, None).shape == TINY
    without_bias = replace(TINY, conformer=replace(TINY.conformer, key_bias=False, layers=(1, 3)))
    assert Flow.read(draw(without_bias, 1), None).shape == without_bias


def test_every_tensor_is_in_one_graph_under_its_own_name_and_nothing_else_is(engines, folder, source):
    written = written_weights(folder, components(engines), {})
    assert written.keys() == source.names() == Flow(TINY).expected().keys()
    for name, weight in written.items():
        np.testing.assert_array_equal(weight.read(), source.arrays[name], err_msg=name)
    check_names(source, Flow(TINY).expected())


def test_the_released_flow_has_as_many_numbers_as_the_published_classes():
    sizes = Flow(RELEASED).expected()
    assert sum(int(np.prod(size)) for size in sizes.values()) == 155_802_352


def test_a_key_without_bias_is_exported(tmp_path):
    shape = replace(TINY, conformer=replace(TINY.conformer, key_bias=False))
    loaded = flows.engines(tmp_path, draw(shape, 1), shape)
    assert np.isfinite(answer(loaded, STREAMED[0])).all()


def test_int8_stays_near_the_twin(source, tmp_path):
    loaded = flows.engines(tmp_path, source, TINY, "int8")
    case = flow_goldens.Case(7, 120, (25,))
    assert 1e-4 < error(answer(loaded, case), flow_goldens.load()[case.key]) < INT8_ERROR


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (f"flow.encoder.encoders.0.{part}.weight", f"flow.encoder.encoders.1.{part}.weight")
        for part in ("self_attn.linear_q", "self_attn.linear_v", "self_attn.linear_pos", "feed_forward.w_2")
    ]
    + [
        (f"flow.decoder.estimator.blocks.0.{part}.weight", f"flow.decoder.estimator.blocks.1.{part}.weight")
        for part in ("attn.to_q", "attn.to_k", "attn.proj", "mlp.fc1", "adaLN_modulation.1")
    ],
)
def test_the_bound_of_int8_rejects_two_swapped_layers(one, other, source, tmp_path):
    swapped = Arrays(source.arrays | {one: source.arrays[other], other: source.arrays[one]})
    loaded = flows.engines(tmp_path, swapped, TINY, "int8")
    case = flow_goldens.Case(7, 120, (25,))
    assert error(answer(loaded, case), flow_goldens.load()[case.key]) > INT8_ERROR


def test_int8_quantises_the_linears_of_all_layers_and_no_more(source, tmp_path):
    flow = Flow(TINY)
    loaded = flows.engines(tmp_path, source, TINY, "int8")
    written = written_weights(tmp_path, components(loaded), {})
    quantised = {name for name, weight in written.items() if weight.op == "MatMulNBits" and weight.dtype == np.uint8}
    assert quantised == {name for name in flow.expected() if flow.group(name) == "decoder"}
    # 7 linears in each conformer layer and in each block.
    assert len(quantised) == 7 * (sum(TINY.conformer.layers) + TINY.dit.layers)


def test_int8_keeps_attention_in_half_precision_and_float_does_not(engines, source, tmp_path):
    def kept(loaded):
        return {spec.dtype for spec in loaded["flow_step"].component.inputs if spec.state != "none"}

    assert kept(engines) == {"float32"}
    assert kept(flows.engines(tmp_path, source, TINY, "int8")) == {"float16"}


def test_quantising_a_float_bundle_gives_the_same_bytes(engines, folder, source, tmp_path):
    (tmp_path / "straight").mkdir()
    (tmp_path / "later").mkdir()
    flows.engines(tmp_path / "straight", source, TINY, "int8")
    flows.engines(tmp_path / "later", BundleTensors(written_weights(folder, components(engines), {})), TINY, "int8")
    for file in sorted((tmp_path / "straight").iterdir()):
        assert file.read_bytes() == (tmp_path / "later" / file.name).read_bytes(), file.name


def test_settings_tell_the_guidance_and_are_compared_with_the_tensors(source):
    assert Flow.read(source, None).guidance == GUIDANCE
    assert Flow.read(source, SETTINGS).guidance == 0.35
    assert Flow.read(source, "").guidance == GUIDANCE


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("depth: 2", "depth: 16", "depth is 16, the tensors and this family say 2"),
        ("attention_heads: 4", "attention_heads: 8", "attention_heads is 8"),
        ("normalize_before: True", "normalize_before: False", "normalize_before is False"),
        ("up_scale_factor: 2", "up_scale_factor: 4", "up_scale_factor is 4"),
        ("0.35", "much", "inference_cfg_rate is much, must be above 0, up to 1000"),
        ("0.35", "-1", "inference_cfg_rate is -1"),
    ],
)
def test_settings_that_contradict_the_tensors_are_refused_in_one_line(old, new, said, source):
    with pytest.raises(CheckpointError) as caught:
        Flow.read(source, SETTINGS.replace(old, new))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("flow.input_embedding.weight", None, "flow.input_embedding.weight: missing"),
        ("flow.input_embedding.weight", (97,), "shape [97], must have 2 axes"),
        ("flow.encoder.up_layer.conv.weight", (64, 64, 7), "kernel 7, must be 5"),
        ("flow.encoder.encoders.0.norm_ff.weight", None, "flow.encoder.encoders: layers [1], must be 0, 1, 2"),
        ("flow.decoder.estimator.blocks.0.attn.q_norm.weight", (27,), "27 does not divide"),
    ],
)
def test_tensors_that_tell_no_size_are_refused_in_one_line(name, shape, said, source):
    arrays = dict(source.arrays)
    del arrays[name]
    if shape:
        arrays[name] = np.zeros(shape, np.float32)
    with pytest.raises(CheckpointError) as caught:
        Flow.read(Arrays(arrays), None)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
