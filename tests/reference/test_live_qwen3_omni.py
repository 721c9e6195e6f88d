"""Qwen3-Omni's text models, live: names, values and greedy tokens of the graphs against transformers' modules."""

from functools import cache, partial

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from transformers import Qwen3OmniMoeConfig, Qwen3OmniMoeForConditionalGeneration  # noqa: E402
from transformers.models.qwen3_omni_moe import modeling_qwen3_omni_moe as published  # noqa: E402

from edgekit.exporter.families.qwen import Qwen  # noqa: E402
from edgekit.exporter.reference.qwen3_omni import Qwen3OmniReference  # noqa: E402
from tests.exporter import omni as graphs  # noqa: E402 - they come after the question whether torch is here
from tests.exporter.parts import Rows, engine  # noqa: E402
from tests.reference import goldens, make_goldens  # noqa: E402
from tests.reference import qwen3_omni as omni  # noqa: E402

pytestmark = pytest.mark.reference

TOLERANCE = 1e-4  # between graph and torch; values are of the order 1, their sums differ by some 1e-5
SMALLEST_LEAD = 1e-3
SMALLEST_GAP = 1e-5  # between a chosen and an unchosen router score; graph and torch differ by some 1e-7 there
GREEDY_TOKENS, FRAMES = 64, 32
RNG = np.random.default_rng(17)
PROMPT = RNG.normal(size=(21, 64)).astype(np.float32)
TALKED = RNG.normal(size=(14, 32)).astype(np.float32)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def reference():
    return Qwen3OmniReference(graphs.CONFIG, graphs.weights())


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """Return a function from a component to its engine, each built once."""
    return cache(lambda name: graphs.graph(tmp_path_factory.mktemp(name), name))


def _close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE)


def test_text_parts_have_transformers_own_names_and_shapes():
    with torch.device("meta"):
        model = Qwen3OmniMoeForConditionalGeneration(Qwen3OmniMoeConfig(**graphs.CONFIG))
    theirs = {name: tuple(one.shape) for name, one in model.state_dict().items()}
    ears, eyes, mouth = "thinker.audio_tower.", "thinker.visual.", "code2wav."
    thinker, talker = graphs.parts()
    assert {**thinker.expected(), **talker.expected()} == {
        name: shape for name, shape in theirs.items() if not name.startswith((ears, eyes, mouth))
    }


def test_the_stored_golden_is_what_torch_answers_now():
    assert make_goldens.differences(make_goldens.make_omni(), goldens.load(omni.GOLDEN)) == []


@pytest.mark.parametrize("sizes", [(21,), (1, 20), (13, 1, 7)], ids=str)
@pytest.mark.parametrize("experts", [1, 2])
def test_thinker_logits_and_hidden_states_equal_transformers(reference, experts, sizes, graph):
    logits, hidden = reference.think(PROMPT, experts)
    assert reference.router_gap() > SMALLEST_GAP, "take another seed: rounding may choose an expert"
    rows = graphs.think(graph("backbone"), experts)
    found = [rows.run(part) for part in np.split(PROMPT, np.cumsum(sizes)[:-1])]
    _close(np.concatenate([one["logits"] for one in found]), logits)
    _close(np.concatenate([one["hidden"] for one in found]), hidden)


@pytest.mark.parametrize("layer", [0, 1, 3])
def test_any_hidden_state_can_be_written_the_last_one_after_its_norm(reference, layer, tmp_path):
    thinker, _ = graphs.parts()
    thinker.hidden = layer
    made = engine(tmp_path, "backbone", partial(thinker.build, "backbone"), graphs.weights())
    found = graphs.think(made).run(PROMPT, [20])
    logits, hidden = reference.think(PROMPT, layer=layer)
    _close(found["hidden"], hidden)
    _close(found["logits"], logits[20:])


def test_thinker_tokens_are_transformers_own_for_64_steps(reference, graph):
    written = reference.write(PROMPT, GREEDY_TOKENS)
    assert written.lead > SMALLEST_LEAD, "take another seed: rounding may choose a token"
    assert graphs.greedy(graphs.think(graph("backbone")), PROMPT, GREEDY_TOKENS) == written.tokens


def test_positions_of_text_and_sound_are_the_same_on_all_three_axes():
    ids = omni.tokens()
    told = [ids[mark] for mark in ("<|im_start|>", "user", "<|audio_start|>")] + [ids["<|audio_pad|>"]] * 30
    told += [ids["<|audio_end|>"], 5, 6, ids["<|im_end|>"]]
    with torch.device("meta"):
        config = Qwen3OmniMoeConfig(**graphs.CONFIG)
        model = Qwen3OmniMoeForConditionalGeneration(config).thinker
    given = torch.tensor([told])
    found, delta = model.get_rope_index(given, attention_mask=torch.ones_like(given), audio_seqlens=torch.tensor([230]))
    np.testing.assert_array_equal(found[:, 0], np.tile(np.arange(len(told)), (3, 1)))
    assert int(delta) == 0


@pytest.mark.parametrize("sizes", [(14,), (1, 13), (9, 1, 4)], ids=str)
def test_talker_logits_and_hidden_states_equal_transformers(reference, sizes, graph):
    logits, hidden = reference.talk(TALKED)
    assert reference.router_gap() > SMALLEST_GAP, "take another seed: rounding may choose an expert"
    rows = Rows(graph("talker"))
    found = [rows.run(part) for part in np.split(TALKED, np.cumsum(sizes)[:-1])]
    _close(np.concatenate([one["logits"] for one in found]), logits)
    _close(np.concatenate([one["hidden"] for one in found]), hidden)


def test_every_step_of_the_code_predictor_equals_transformers(reference, graph):
    given = TALKED[: omni.CODEBOOKS]
    wanted = reference.predict(given)
    rows = Rows(graph("code_predictor"))
    found = [rows.run(given[:2], step=np.array([0]))["logits"]]
    found += [rows.run(given[j + 1 : j + 2], step=np.array([j]))["logits"] for j in range(1, omni.CODEBOOKS - 1)]
    _close(np.concatenate(found), wanted)


@pytest.mark.parametrize("heard", ["00000", "11111", "01101", "0", "1"])
def test_the_adapter_projects_text_and_sound_each_its_own_way(reference, heard, graph):
    chosen = np.array([mark == "1" for mark in heard])
    rows = PROMPT[: len(heard)]
    made = graph("talker_adapter").bind({})
    _close(made.run({"rows": rows, "heard": chosen[:, None].copy()})["embeds"], reference.adapt(rows, chosen))


@pytest.mark.parametrize("trailing", [1, 40])
def test_codes_are_those_of_transformers_own_generate_for_32_frames(reference, trailing, graph):
    text = np.random.default_rng(trailing).normal(size=(trailing, 32)).astype(np.float32)
    codes, lead = reference.speak(TALKED[:9], text, TALKED[9], FRAMES)
    assert codes.shape == (FRAMES, omni.CODEBOOKS)
    assert lead > SMALLEST_LEAD, "take another seed: rounding may choose a code"
    talker, predictor = (graph(name) for name in ("talker", "code_predictor"))
    np.testing.assert_array_equal(graphs.speak((talker, predictor), TALKED[:9], text, TALKED[9], FRAMES), codes)


def test_a_dense_qwen3_of_its_own_equals_transformers(tmp_path):
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = graphs.CONFIG["talker_config"]["code_predictor_config"]
    config = config | {"model_type": "qwen3", "vocab_size": 96, "attention_bias": True}
    del config["num_code_groups"]
    made = Qwen3ForCausalLM(Qwen3Config(**config)).eval()
    ours = Qwen(config)
    tensors = omni.draw(ours.expected(), seed=5)
    made.load_state_dict({name: torch.from_numpy(one) for name, one in tensors.items()})
    with torch.inference_mode():
        wanted = made(inputs_embeds=torch.from_numpy(TALKED)[None]).logits[0].numpy()
    _close(Rows(engine(tmp_path, "backbone", partial(ours.build, "backbone"), tensors)).run(TALKED)["logits"], wanted)


def test_the_talkers_last_state_is_the_normed_one(reference):
    with torch.inference_mode():
        found = reference.talker.model(inputs_embeds=torch.from_numpy(TALKED)[None])
    np.testing.assert_array_equal(reference.talk(TALKED)[1], found.last_hidden_state[0].numpy())
    assert isinstance(reference.talker.model.norm, published.Qwen3OmniMoeTextRMSNorm)
