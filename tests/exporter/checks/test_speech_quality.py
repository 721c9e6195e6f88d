"""The quality gate of bundles that speak: a quantised one passes, one with weights in each other's place does not."""

import shutil

import msgspec
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from edgekit.bundle import Bundle, open_bundle
from edgekit.errors import QualityError
from edgekit.exporter.checks.limits import pass_or_waive
from edgekit.exporter.checks.quality import compare
from edgekit.exporter.checks.speech_quality import MEL_BINS, Pair, code_mismatches, compare_speech, sound_distance_db
from edgekit.exporter.export import ExportOptions, export
from edgekit.recipe import load_recipe
from edgekit.runtime.judge.probe import answer, hear, speak
from edgekit.runtime.model import load_opened
from edgekit.runtime.speak import Spoken
from tests.exporter import pickles, speaking
from tests.exporter.test_export import JUDGED
from tests.reference import flow_weights

RECIPE = load_recipe(JUDGED)
EXPERTS = "talker.model.layers.{}.mlp.experts.{}."
RATE_HZ = 24_000


@pytest.fixture(scope="module")
def twin(checkpoint, tmp_path_factory):
    return _floats(checkpoint("omni"), tmp_path_factory.mktemp("twin") / "b")


@pytest.fixture(scope="module")
def speaker(tmp_path_factory):
    """Return a Step-Audio 2 checkpoint that speaks."""
    return speaking.write(tmp_path_factory.mktemp("speaker"))


@pytest.fixture(scope="module")
def flow_twin(speaker, tmp_path_factory):
    return _floats(speaker, tmp_path_factory.mktemp("flow") / "b")


def _floats(checkpoint, folder):
    export(checkpoint, folder, ExportOptions(recipe=JUDGED, precision="float32"))
    return open_bundle(folder)


def _swapped(held, one, other):
    """Return tensors in which those whose names begin with ``one`` and ``other`` stand for each other."""
    pairs = [(name, other + name.removeprefix(one)) for name in held if name.startswith(one)]
    assert pairs
    return held | {name: held[instead] for pair in pairs for name, instead in (pair, pair[::-1])}


def _judge(bundle, twin):
    found = compare(bundle, twin, RECIPE, lambda *_: None)
    pass_or_waive("judged", found, RECIPE.limits, bundle.manifest.precision, None)
    return found["measured"]


def test_int8_speech_passes_the_gate_and_the_manifest_says_how_far_it_is(checkpoint, tmp_path):
    manifest = export(checkpoint("omni"), tmp_path / "b", ExportOptions(recipe=JUDGED, precision="int8"))
    measured, speech = (manifest.verification[name] for name in ("measured", "speech"))
    assert 0 < measured["code_mismatch"] <= RECIPE.limits.code_mismatch
    assert 0 < measured["mel_error_db"] <= RECIPE.limits.mel_error_db
    assert speech["frames"] > 0
    assert list(speech["code_mismatch"]) == [str(book) for book in range(manifest.speech.codebooks)]
    assert speech["mel_error_db"] == {"sound": measured["mel_error_db"]}


def test_a_bundle_is_at_no_distance_from_itself(twin):
    measured = _judge(twin, twin)
    assert measured["code_mismatch"] == measured["mel_error_db"] == 0


@pytest.mark.parametrize(
    ("names", "value"),
    [
        ((EXPERTS.format(1, 0), EXPERTS.format(1, 1)), "code_mismatch"),
        (("talker.model.layers.0.", "talker.model.layers.1."), "code_mismatch"),
        (("talker.code_predictor.model.layers.0.", "talker.code_predictor.model.layers.1."), "code_mismatch"),
        (("code2wav.pre_transformer.layers.0.", "code2wav.pre_transformer.layers.1."), "mel_error_db"),
    ],
)
def test_weights_in_each_others_place_fail_the_gate(names, value, checkpoint, twin, tmp_path):
    folder = shutil.copytree(checkpoint("omni"), tmp_path / "c")
    weights = folder / "model.safetensors"
    save_file(_swapped(load_file(weights), *names), weights, metadata={"format": "pt"})
    said = rf"^judged: {value} .*, the recipe allows .*; no finer form of it is left, or pass --accept-loss REASON$"
    with pytest.raises(QualityError, match=said):
        _judge(_floats(folder, tmp_path / "b"), twin)


def test_int8_speech_of_a_flow_passes_the_gate(speaker, tmp_path):
    manifest = export(speaker, tmp_path / "b", ExportOptions(recipe=JUDGED, precision="int8"))
    measured, speech = (manifest.verification[name] for name in ("measured", "speech"))
    assert 0 < measured["mel_error_db"] <= RECIPE.limits.mel_error_db
    assert speech["mel_error_db"]["mel"] == measured["mel_error_db"]
    assert speech["mel_error_db"]["sound"] > 0


def test_layers_of_a_flow_in_each_others_place_fail_the_gate(speaker, flow_twin, tmp_path):
    folder = shutil.copytree(speaker, tmp_path / "c")
    blocks = "flow.decoder.estimator.blocks.0.", "flow.decoder.estimator.blocks.1."
    held = _swapped(flow_weights.draw(speaking.FLOW, 3).arrays, *blocks)
    pickles.save(folder / "token2wav/flow.pt", {name.removeprefix("flow."): array for name, array in held.items()})
    with pytest.raises(QualityError, match="^judged: mel_error_db .*; no finer form"):
        _judge(_floats(folder, tmp_path / "b"), flow_twin)


def test_a_bundle_that_only_writes_has_no_values_of_speech(checkpoint, tmp_path):
    manifest = export(checkpoint("omni-thinker"), tmp_path / "b", ExportOptions(recipe=JUDGED, precision="int8"))
    assert not {"code_mismatch", "mel_error_db"} & set(manifest.verification["measured"])
    assert "speech" not in manifest.verification


def _numbered(bundle, first_code):
    """Return a bundle in which the codes are other tokens."""
    speech = msgspec.structs.replace(bundle.manifest.speech, first_code=first_code)
    return Bundle(bundle.folder, msgspec.structs.replace(bundle.manifest, speech=speech))


@pytest.mark.parametrize("frames", [1, 5])
def test_seeded_codes_are_spoken_where_an_answer_holds_none(frames, flow_twin):
    model = load_opened(_numbered(flow_twin, 10**6), threads=1, speak=True)
    heard = hear(model, np.zeros(16_000, np.float32))
    said = speak(model, heard, (), frames=frames)
    assert said.codes.shape == (frames, 1)
    assert [len(book) for book in said.picked] == [0]
    assert len(said.samples) == frames * model.manifest.speech.samples_per_code
    again = speak(model, heard, (), frames=frames, forced=said)
    np.testing.assert_array_equal(again.samples, said.samples)
    assert "code_mismatch" not in compare_speech([Pair(again, said)], RATE_HZ)[0]


def test_the_codes_of_a_spoken_answer_are_its_own_and_forced_upon_another(flow_twin):
    whole = load_opened(flow_twin, threads=1, speak=True)
    heard = hear(whole, np.zeros(16_000, np.float32))
    first = speak(whole, heard, ()).tokens[0]
    model = load_opened(_numbered(flow_twin, first - 5), threads=1, speak=True)  # the first token is code 5
    said = speak(model, heard, ())
    codes = [token - first + 5 for token in said.tokens]
    assert said.codes[:, 0].tolist() == [code for code in codes if 0 <= code < speaking.CODES]
    assert said.codes[0, 0] == 5
    np.testing.assert_array_equal(said.picked[0], said.codes[:, 0])
    odd = Spoken((first + 1, *said.tokens[:-1]), said.codes, said.picked, said.mel, said.samples)
    again = speak(model, heard, (), forced=odd)
    assert again.tokens == odd.tokens
    codes = [6, *codes[:-1]]
    assert again.codes[:, 0].tolist() == [code for code in codes if 0 <= code < speaking.CODES]
    assert again.picked[0][0] == 5  # before anything else was fed
    assert len(again.samples) == len(again.codes) * model.manifest.speech.samples_per_code


@pytest.mark.parametrize("frames", [1, 2, 100])
def test_forced_codes_are_fed_and_give_the_same_sound(frames, twin):
    model = load_opened(twin, threads=1, speak=True)
    heard = hear(model, np.zeros(16_000, np.float32))
    tokens = answer(model, heard).tokens
    first = speak(model, heard, tokens, frames=frames)
    assert first.codes.shape[1] == twin.manifest.speech.codebooks
    assert len(first.codes) == frames or (len(first.codes) < 100 == frames)  # the talker ends by itself
    frames = len(first.codes)
    odd = (first.codes + 1) % 5
    forced = Spoken((), odd, (), first.mel, first.samples)
    again = speak(model, heard, tokens, frames=frames, forced=forced)
    np.testing.assert_array_equal(again.codes, odd)
    assert [len(book) for book in again.picked] == [frames + 1, *[frames] * (odd.shape[1] - 1)]
    assert again.picked[0][0] == first.codes[0, 0]  # the first choice knows of no code yet
    assert len(again.samples) == len(first.samples)
    assert not np.array_equal(again.samples, first.samples)
    same = speak(model, heard, tokens, frames=frames, forced=first)
    np.testing.assert_array_equal(same.samples, first.samples)


def _said(codes=(), samples=(), mel=()):
    books = tuple(np.array(book, np.int64) for book in codes)
    return Spoken((), np.zeros((0, 1), np.int64), books, np.array(mel, np.float32), np.array(samples, np.float32))


def test_mismatches_are_shares_of_each_codebook_and_of_all_codes():
    pairs = [
        Pair(_said(([1, 2, 9], [4, 4])), _said(([1, 2, 3], [4, 5]))),
        Pair(_said(([7], [])), _said(([8], []))),
    ]
    assert [book.tolist() for book in code_mismatches(pairs)] == [[False, False, True, True], [False, True]]
    measured, found = compare_speech(pairs, RATE_HZ)
    assert measured == {"code_mismatch": 0.5}
    assert found["code_mismatch"] == {"0": 0.5, "1": 0.5}
    assert compare_speech([], RATE_HZ)[0] == {}


def test_mel_frames_count_in_decibels_and_are_judged_in_place_of_the_sound():
    sound = np.random.default_rng(0).standard_normal(2400) / 10
    pair = Pair(_said(samples=sound / 2, mel=[[1.0, 2.0]]), _said(samples=sound, mel=[[1.0, 2.0 - np.log(10)]]))
    measured, found = compare_speech([pair], RATE_HZ)
    assert found["mel_error_db"]["sound"] == pytest.approx(20 * np.log10(2), abs=1e-5)  # float32 sound
    assert found["mel_error_db"]["mel"] == measured["mel_error_db"]
    assert measured["mel_error_db"] == pytest.approx(20 / 2**0.5, rel=1e-6)  # float32 mel: one of two bands 20 dB off
    assert compare_speech([Pair(_said(samples=sound / 2), _said(samples=sound))], RATE_HZ)[0] == {
        "mel_error_db": found["mel_error_db"]["sound"]
    }


@pytest.mark.parametrize("count", [1, 239, 240, 241, 4800])
def test_half_the_amplitude_is_six_decibels_in_every_band(count):
    sound = np.random.default_rng(count).standard_normal(count).astype(np.float32)
    found = sound_distance_db(sound / 2, sound, RATE_HZ)
    assert found.shape == (-(-count // 240), MEL_BINS)
    # what is near the floor in the twin is cut in the quieter sound, so that it differs less
    assert found.min() >= 20 * np.log10(0.5) - 1e-5  # float32 sound
    assert np.median(found) == pytest.approx(20 * np.log10(0.5), abs=1e-5)


def test_silence_is_as_far_as_the_range_and_no_further():
    sound = np.random.default_rng(0).standard_normal(4800).astype(np.float32)
    found = sound_distance_db(np.zeros(0, np.float32), sound, RATE_HZ)
    assert found.min() == -80
    assert found.max() <= 0
    assert not sound_distance_db(np.zeros(4800, np.float32), np.zeros(4800, np.float32), RATE_HZ).any()
    assert sound_distance_db(sound[:0], sound[:0], RATE_HZ).size == 0


def test_numbers_that_are_none_fail_the_gate():
    bad = np.full(2400, np.nan, np.float32)
    measured, _ = compare_speech([Pair(_said(samples=bad, mel=[[1.0]]), _said(samples=bad * 0, mel=[[1.0]]))], RATE_HZ)
    with pytest.raises(QualityError, match="mel_error_db nan"):
        pass_or_waive("judged", {"measured": measured}, RECIPE.limits, {}, None)
