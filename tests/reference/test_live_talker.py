"""The Talker against transformers' own generate, live: the same codes and samples, while the text is still coming."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from edgekit.runtime.speak.talker import Talker, TalkerOptions, TalkerTables  # noqa: E402
from edgekit.timing import Trace  # noqa: E402
from tests.reference import omni  # noqa: E402
from tests.runtime.streams import Logged  # noqa: E402

pytestmark = pytest.mark.reference

TOLERANCE = 1e-5  # of samples in [-1, 1]: code2wav over few frames against over all, other orders of the same sums
MEL_FRAMES = (230, 117)  # 30 and 16 tokens of sound; the first crosses a window of the encoder
MAX_FRAMES = 40


@dataclass(frozen=True)
class Run:
    """What transformers made of a conversation: all ids, each position's hidden row, codes (frames, codebooks)."""

    ids: list[int]
    prompt: int
    hidden: np.ndarray
    codes: np.ndarray

    @property
    def answer(self) -> list[int]:
        """The text that the talker was told: the last token was chosen, never read."""
        return self.ids[self.prompt : -1]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model():
    return omni.model(4)


def _user(text: Sequence[int], sound_tokens: int) -> list[int]:
    sound = [omni.AUDIO_START, *[omni.AUDIO] * sound_tokens, omni.AUDIO_END]
    return [omni.TURN_START, omni.USER, omni.NEWLINE, *text[:1], *sound, *text[1:], omni.TURN_END, omni.NEWLINE]


_SYSTEM = [omni.TURN_START, omni.SYSTEM, omni.NEWLINE, 7, 8, omni.TURN_END, omni.NEWLINE]
_HEAD = [omni.TURN_START, omni.ASSISTANT, omni.NEWLINE]


def _generate(model, prompt, mels, *, text_tokens, frames=MAX_FRAMES, speaker="ethan"):
    """Return the Run of transformers, greedy throughout.

    The last talker token that fits is never made a frame there: one more is asked for.
    """
    generator = torch.Generator().manual_seed(9)
    longest = max(mels)
    features = torch.rand((len(mels), 128, longest), generator=generator) * 2 - 1
    mask = torch.arange(longest)[None] < torch.tensor(mels)[:, None]
    codes = []
    predict, decode = model.talker.code_predictor.generate, model.code2wav.chunked_decode

    def greedy(**arguments):
        return predict(**arguments | {"do_sample": False, "top_k": None, "top_p": None})

    def kept(given, **arguments):
        codes.append(given[0].T.numpy().copy())
        return decode(given, **arguments)

    with pytest.MonkeyPatch.context() as patch:  # published code always samples these codes and keeps them to itself
        patch.setattr(model.talker.code_predictor, "generate", greedy)
        patch.setattr(model.code2wav, "chunked_decode", kept)
        result, _ = model.generate(
            torch.tensor([prompt]), speaker=speaker, input_features=features, feature_attention_mask=mask.long(),
            thinker_max_new_tokens=text_tokens + 1, thinker_do_sample=False, talker_do_sample=False,
            talker_repetition_penalty=1.0, talker_temperature=None, talker_top_k=None, talker_top_p=None,
            talker_max_new_tokens=frames + 1,
        )  # fmt: skip
    layer = model.config.talker_config.accept_hidden_layer
    hidden = np.concatenate([step[layer][0].numpy() for step in result.hidden_states])
    return Run(result.sequences[0].tolist(), len(prompt), hidden, codes[0])


def _talker(model, trace=None, frames=MAX_FRAMES, **options):
    engines = omni.engines(model)
    engines["decoder"] = Logged(engines["decoder"])
    predictor = model.talker.code_predictor.model
    tables = TalkerTables(
        text=omni.table(model.thinker.get_input_embeddings().weight),
        codec=omni.table(model.talker.model.codec_embedding.weight),
        codes=omni.table(*(table.weight for table in predictor.codec_embedding)),
    )
    talker = Talker(omni.speech(model, frames), engines, tables, trace or Trace(), TalkerOptions(**options))
    return talker, engines["decoder"]


def _read(talker, model, ids, hidden, part=1000):
    """Tell a Talker ids, sound apart from text, in parts of at most ``part``."""
    rows = omni.table(model.thinker.get_input_embeddings().weight).rows(ids)
    cuts = [0, *(at for at in range(1, len(ids)) if (ids[at] == omni.AUDIO) != (ids[at - 1] == omni.AUDIO)), len(ids)]
    for begin, end in pairwise(cuts):
        for at in range(begin, end, part):
            to = min(at + part, end)
            if ids[at] == omni.AUDIO:
                talker.read(None, np.full_like(rows[at:to], np.nan), hidden[at:to])
            else:
                talker.read(ids[at:to], rows[at:to], None)


def _spoken(talker, decoder, answer):
    """Return codes (frames, codebooks) and samples of an answer that comes token by token."""
    del decoder.calls[:]
    pieces = [piece for token in answer for piece in talker.say(token) if piece is not None]
    pieces += [piece for piece in talker.finish() if piece is not None]
    codes = [call["codes"] for call in decoder.calls]
    return np.concatenate(codes), np.concatenate(pieces)


def _whole(model, codes):
    with torch.inference_mode():
        return model.code2wav(torch.from_numpy(codes.T[None].copy()))[0, 0].numpy()


@pytest.mark.parametrize("text_tokens", [1, 2, 12])
@pytest.mark.parametrize(("part", "first_frames"), [(1000, 1), (1, 2), (7, 24)])
def test_greedy_codes_and_samples_are_those_of_the_sequential_run(model, text_tokens, part, first_frames):
    prompt = [*_SYSTEM, *_user([11, 12, 13], 30), *_HEAD]
    run = _generate(model, prompt, MEL_FRAMES[:1], text_tokens=text_tokens)
    assert len(run.codes) == MAX_FRAMES
    assert len(np.unique(run.codes, axis=0)) > 10
    talker, decoder = _talker(model, first_frames=first_frames)
    talker.open()
    _read(talker, model, prompt, run.hidden, part)
    codes, samples = _spoken(talker, decoder, run.answer)
    np.testing.assert_array_equal(codes, run.codes)
    np.testing.assert_allclose(samples, _whole(model, codes), rtol=0, atol=TOLERANCE)
    assert np.abs(samples).max() > 0.01
    assert talker.cut == "frames"


def test_a_second_turn_is_that_of_a_run_over_the_whole_conversation(model):
    prompt = [*_SYSTEM, *_user([11, 12, 13], 30), *_HEAD]
    first = _generate(model, prompt, MEL_FRAMES[:1], text_tokens=6)
    told = [*prompt, *first.answer]
    rest = [omni.TURN_END, omni.NEWLINE, *_user([21], 16), *_HEAD]
    second = _generate(model, [*told, *rest], MEL_FRAMES, text_tokens=9)
    talker, decoder = _talker(model)
    talker.open()
    _read(talker, model, prompt, second.hidden)
    _spoken(talker, decoder, first.answer)
    _read(talker, model, rest, second.hidden[len(told) :])
    codes, samples = _spoken(talker, decoder, second.answer)
    np.testing.assert_array_equal(codes, second.codes)
    np.testing.assert_allclose(samples, _whole(model, codes), rtol=0, atol=TOLERANCE)


def test_speech_ends_where_the_talker_ends_it(model, monkeypatch):
    prompt = [*_SYSTEM, *_user([11, 12, 13], 30), *_HEAD]
    endless = _generate(model, prompt, MEL_FRAMES[:1], text_tokens=4)
    firsts = endless.codes[:, 0].tolist()
    end = next(at for at in range(8, MAX_FRAMES) if firsts[at] not in firsts[:at])  # text is over by then
    monkeypatch.setattr(model.config.talker_config, "codec_eos_token_id", firsts[end])
    run = _generate(model, prompt, MEL_FRAMES[:1], text_tokens=4)
    talker, decoder = _talker(model)
    talker.open()
    _read(talker, model, prompt, run.hidden)
    codes, _ = _spoken(talker, decoder, run.answer)
    assert len(codes) == end
    np.testing.assert_array_equal(codes, run.codes)
    assert talker.cut is None


def test_another_speaker_says_it_otherwise_as_in_transformers(model):
    prompt = [*_SYSTEM, *_user([11, 12, 13], 30), *_HEAD]
    runs = {
        name: _generate(model, prompt, MEL_FRAMES[:1], text_tokens=3, speaker=name) for name in ("ethan", "chelsie")
    }
    assert not np.array_equal(runs["ethan"].codes, runs["chelsie"].codes)
    for name, run in runs.items():
        talker, decoder = _talker(model, speaker=name.upper())
        talker.open()
        _read(talker, model, prompt, run.hidden)
        np.testing.assert_array_equal(_spoken(talker, decoder, run.answer)[0], run.codes)
