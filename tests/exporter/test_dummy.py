"""Dummy weights: a bundle of noise has every shape, dtype and byte of the real one, and says that it is noise."""

import json
import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

import edgekit
from edgekit.bundle import open_bundle
from edgekit.errors import CheckpointError, QualityError, VerifyError
from edgekit.exporter import weights
from edgekit.exporter.checks.verify import verify_reference
from edgekit.exporter.dummy import SIGN, DummyTensors, dummy_tokenizer, open_dummy
from edgekit.exporter.export import ExportOptions, export, quantize
from edgekit.exporter.families.whisper_tokens import published_generation
from edgekit.runtime.judge.verify import verify
from tests.exporter.test_export import JUDGED, QUICK, SYSTEMS

NOISE = np.random.default_rng(3).uniform(-0.3, 0.3, 32_000).astype(np.float32)


@pytest.fixture
def config(checkpoint, tmp_path):
    """Return a function that writes a checkpoint's two configs, alone in a folder, and returns config.json."""

    def write(name, **changes):
        folder = tmp_path / name
        folder.mkdir()
        for file in ("config.json", "generation_config.json"):
            (folder / file).write_bytes((checkpoint(name) / file).read_bytes())
        held = json.loads((folder / "config.json").read_text()) | changes
        (folder / "config.json").write_text(json.dumps({key: one for key, one in held.items() if one is not None}))
        return folder / "config.json"

    return write


def _dummy(source, output, **options):
    return export(source, output, ExportOptions(**{"recipe": QUICK, "dummy_weights": True} | options))


def _bytes(folder):
    return {entry.path: (folder / entry.path).read_bytes() for entry in open_bundle(folder).manifest.files}


@pytest.mark.parametrize("precision", ["float32", "int8", "int4"])
@pytest.mark.parametrize("name", SYSTEMS)
def test_a_dummy_has_the_census_and_the_file_sizes_of_the_real_bundle(name, precision, checkpoint, config, tmp_path):
    real = export(checkpoint(name), tmp_path / "real", ExportOptions(recipe=QUICK, precision=precision))
    made = _dummy(config(name), tmp_path / "made", precision=precision)
    assert made.census == real.census
    assert made.components == real.components
    assert made.embedding == real.embedding
    sizes = [{e.path: e.bytes for e in m.files if e.path != "tokenizer.json"} for m in (made, real)]
    assert sizes[0] == sizes[1]


def test_weights_and_tokenizer_beside_a_config_change_nothing(config, tmp_path):
    alone = config("whisper-experts")
    _dummy(alone, tmp_path / "one")
    for name in ("model.safetensors", "tokenizer.json", "pytorch_model.bin"):
        (alone.parent / name).write_bytes(b"not read")
    _dummy(alone.parent, tmp_path / "two")
    assert _bytes(tmp_path / "one") == _bytes(tmp_path / "two")
    assert (tmp_path / "one/manifest.json").read_bytes() == (tmp_path / "two/manifest.json").read_bytes()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=3),
    st.integers(1, 60),
    st.lists(st.integers(0, 60), max_size=5),
    st.integers(0, 2**40),
)
def test_any_blocks_of_rows_give_the_same_numbers(inner, rows, cuts, seed):
    noise = DummyTensors({"a.weight": (rows, *inner)}, seed)
    edges = sorted({0, rows, *(cut for cut in cuts if cut < rows)})
    parts = [noise.rows("a.weight", start, stop) for start, stop in pairwise(edges)]
    np.testing.assert_array_equal(np.concatenate(parts), noise.rows("a.weight", 0, rows))


def test_noise_depends_on_seed_and_name_and_is_the_same_everywhere():
    shapes = {"a.weight": (3, 2), "b.weight": (3, 2)}
    drawn = DummyTensors(shapes, 1).rows("a.weight", 0, 3)
    steps = drawn.astype(np.float64) * 2**0.5 * 65_536 / 12**0.5  # matrices of 2 columns have deviation 2 ** -0.5
    assert np.rint(steps).astype(int).tolist() == [[27516, 14991], [27335, -5496], [27593, 15070]]
    assert not np.array_equal(drawn, DummyTensors(shapes, 2).rows("a.weight", 0, 3))
    assert not np.array_equal(drawn, DummyTensors(shapes, 1).rows("b.weight", 0, 3))


@pytest.mark.parametrize(
    ("name", "shape", "deviation", "mean"),
    [
        ("fc1.weight", (300, 400), 0.05, 0.0),
        ("conv1.weight", (100, 16, 100), 0.025, 0.0),
        ("layer_norm.weight", (40_000,), 0.1, 1.0),
        ("fc1.bias", (40_000,), 0.02, 0.0),
        ("embed_positions.weight", (200, 200), 0.1, 0.0),
    ],
)
def test_noise_has_the_spread_of_its_kind(name, shape, deviation, mean):
    drawn = DummyTensors({name: shape}, 1).rows(name, 0, shape[0])
    assert drawn.dtype == np.float32
    assert drawn.shape == shape
    assert drawn.std() == pytest.approx(deviation, rel=0.02)  # 40 000 draws: the deviation is sure to 0.3 %
    assert drawn.mean() == pytest.approx(mean, abs=deviation * 0.03)


@pytest.mark.parametrize("precision", ["float32", "int4"])
@pytest.mark.parametrize("name", ["whisper-experts", "step-moe-4"])
def test_weight_files_have_no_holes_and_no_long_run_of_zeros(name, precision, config, tmp_path):
    _dummy(config(name), tmp_path / "b", precision=precision)
    files = [*(tmp_path / "b").glob("*.data")]
    assert files
    for file in files:
        assert file.stat().st_blocks * 512 >= file.stat().st_size * 0.9
        longest = max(map(len, re.findall(rb"\0{64,}", file.read_bytes())), default=0)
        assert longest < 4096 + 256, file  # tensors begin on pages; a row of the table of sines is zero


@pytest.mark.parametrize("name", ["whisper-experts", "step-moe-4"])
def test_a_stream_of_a_dummy_ends_and_says_nothing_but_the_sign(name, config, tmp_path):
    _dummy(config(name), tmp_path / "b", precision="int4")
    model = edgekit.load(tmp_path / "b", threads=1)
    stream = model.stream(gate="off")
    events = [event for part in np.split(NOISE, 8) for event in stream.push(part)] + list(stream.finish())
    final = [event for event in events if getattr(event, "final", False)]
    assert len(final) == 1
    assert set(final[0].text) == {SIGN}
    assert 1 <= len(final[0].tokens) == len(final[0].text) <= 2 * 4 + 8  # 4 tokens a second and 8


@pytest.mark.parametrize("name", ["whisper-experts", "step-moe-4"])
def test_quantizing_a_float_dummy_gives_the_bytes_of_exporting_straight(name, config, tmp_path):
    alone = config(name)
    straight = _dummy(alone, tmp_path / "straight", precision="int4")
    _dummy(alone, tmp_path / "float", precision="float32")
    quantised = quantize(tmp_path / "float", tmp_path / "quantised", ExportOptions(precision="int4"))
    assert quantised == straight
    assert quantised.dummy_seed is not None
    assert quantised.name == "quick-dummy"
    assert _bytes(tmp_path / "quantised") == _bytes(tmp_path / "straight")


def test_a_dummy_claims_nothing_that_holds_for_trained_weights_only(config, tmp_path):
    recipe = tmp_path / "trained.toml"
    recipe.write_text(
        'license = "MIT"\nmax_repeats = 3\n[limits]\nweight_error = 0.0\n'
        '[[levels]]\nname = "skip"\n[[levels]]\nname = "full"\nexperts_per_token = 8\nword_error_rate = 0.1\n'
    )
    alone = config("whisper-experts")
    made = _dummy(alone.rename(alone.with_name("plan.json")), tmp_path / "b", recipe=recipe)
    assert made.name == "plan-dummy"
    assert made.license == ""
    assert [level.word_error_rate for level in made.levels] == [None, None]
    assert made.protocol.max_repeats is None
    assert made.verification["twin"] == "none"
    assert "waiver" not in made.verification
    assert made.verification["weights"]["tensors"] > 50


def test_a_weight_that_is_not_written_as_drawn_is_still_refused(config, tmp_path, monkeypatch):
    blocks = weights.Weights.blocks

    class Forgetful(weights.Weights):
        def blocks(self, name):
            return ((row, block * (".1.fc1" not in name)) for row, block in blocks(self, name))

    monkeypatch.setattr("edgekit.exporter.build.Weights", Forgetful)
    with pytest.raises(QualityError, match=r"layers\.1\.fc1\.weight: a stored weight is "):
        _dummy(config("whisper-dense"), tmp_path / "b", groups={"backbone": "int8"})
    assert not (tmp_path / "b").exists()


def test_verify_runs_the_goldens_of_a_dummy_and_refuses_a_reference(checkpoint, config, tmp_path):
    made = _dummy(config("step-moe-4"), tmp_path / "b", recipe=JUDGED)
    (told,) = made.verification["goldens"].values()
    assert set(told["text"]) == {SIGN}
    checks = verify(tmp_path / "b").checks
    assert all(check.passed for check in checks)
    assert any("logits" in check.name for check in checks)
    assert not any("tokens" in check.name for check in checks)
    with pytest.raises(VerifyError, match="holds dummy weights, no checkpoint has them"):
        verify_reference(tmp_path / "b", checkpoint("step-moe-4"))


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1, max_size=20))
def test_any_text_has_tokens_and_every_token_reads_as_the_sign(text):
    tokenizer = Tokenizer.from_str(dummy_tokenizer(50, {"<|BOT|>": 48, "<audio_0>": 49}))
    found = tokenizer.encode(text, add_special_tokens=False).ids
    assert found
    assert all(0 <= token < 50 for token in found)
    assert tokenizer.decode(found) == SIGN * len(found)


def test_marks_are_recognised_and_every_id_has_a_token():
    tokenizer = Tokenizer.from_str(dummy_tokenizer(50, {"<|BOT|>": 48, "<audio_0>": 49}))
    assert tokenizer.encode("<|BOT|>system\nYou are.<audio_0>", add_special_tokens=False).ids == [48, 0, 0, 0, 0, 49]
    assert tokenizer.get_vocab_size() == 50
    assert all(tokenizer.decode([token]) == SIGN for token in range(50))


@pytest.mark.parametrize(
    ("tokens", "start", "expected"),
    [
        (51_864, 50_257, {"begin_suppress_tokens": [50_256]}),
        (51_865, 50_258, (50_259, 50_358, 50_359, 50_363)),
        (51_866, 50_258, (50_259, 50_359, 50_360, 50_364)),
    ],
)
def test_a_whisper_without_generation_settings_has_the_published_ones(tokens, start, expected):
    found = published_generation({"vocab_size": tokens, "decoder_start_token_id": start, "eos_token_id": start - 1})
    if not isinstance(expected, dict):
        english, translate, transcribe, no_timestamps = expected
        assert found["lang_to_id"] == {"<|en|>": english}
        assert found["task_to_id"] == {"translate": translate, "transcribe": transcribe}
        assert found["no_timestamps_token_id"] == no_timestamps
        return
    assert found == expected


def test_a_config_alone_may_name_several_ends(config):
    alone = config("whisper-dense")
    alone.with_name("generation_config.json").unlink()
    told = json.loads(alone.read_text())
    ends = [told["eos_token_id"], 9]
    alone.write_text(json.dumps(told | {"eos_token_id": ends}))
    made = open_dummy(alone)
    assert made.generation["begin_suppress_tokens"] == ends
    assert list(made.opened.protocol(made.tokenizer).stop) == ends
    with pytest.raises(CheckpointError, match="^config.json: 'eos_token_id' is '7', must be a token or a list"):
        published_generation({"eos_token_id": "7"})


def test_a_config_alone_is_enough(config):
    alone = config("whisper-dense")
    alone.with_name("generation_config.json").unlink()
    made = open_dummy(alone)
    assert made.name == "whisper-dense"
    assert made.opened.protocol(made.tokenizer).start_tail == (599,)  # the last of 600: its name is not in the config


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("whisper-dense", {"d_model": "64"}, "'d_model' is '64', must be int"),
        ("whisper-dense", {"d_model": 66}, "'d_model' is 66, must divide evenly by 'encoder_attention_heads', 4"),
        ("whisper-dense", {"num_mel_bins": 0}, "'num_mel_bins' is 0, must be from 1 to 1,024"),
        ("whisper-dense", {"vocab_size": 490}, "no_timestamps_token_id is 498, must be a token below 490"),
        ("whisper-dense", {"model_type": "whisker"}, "the nearest is 'whisper'"),
        ("step-dense", {"text_config": None}, "'text_config' is NoneType, must be an object"),
    ],
)
def test_a_config_that_lacks_or_contradicts_something_is_one_line(name, changes, message, config, tmp_path):
    with pytest.raises(CheckpointError, match=message) as caught:
        _dummy(config(name, **changes), tmp_path / "b")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "b").exists()


def test_heads_that_share_keys_must_divide(config, checkpoint, tmp_path):
    text = json.loads((checkpoint("step-dense") / "config.json").read_text())["text_config"]
    for changes, part in (({"num_key_value_heads": 3}, "3"), ({"num_attention_heads": 0}, "0")):
        alone = tmp_path / f"{part}.json"
        held = json.loads((checkpoint("step-dense") / "config.json").read_text())
        alone.write_text(json.dumps(held | {"text_config": text | changes}))
        with pytest.raises(CheckpointError, match=f"must divide evenly by '.*', {part}|is {part}, must be from 1"):
            _dummy(alone, tmp_path / "b")


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(CheckpointError, match=r"^\S*config.json: No such file or directory"):
        _dummy(tmp_path, tmp_path / "b")
