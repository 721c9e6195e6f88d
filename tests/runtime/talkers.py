"""A Talker's four engines in plain numpy, small and chaotic enough that any wrong row, order or position shows.

They keep state as graphs do: in-place rows that are read up to ``start``, carried values that ``reset`` clears.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from edgekit.bundle import Component, Embedding, Sampling, TensorRef
from edgekit.bundle.speech import TalkerSpeech
from edgekit.runtime.answer.sampler import CodeLimits, Greedy, Sampler
from edgekit.runtime.engine import Array
from edgekit.runtime.speak.frames import TalkerTables

VOCABULARY, WIDTH, TALKER_WIDTH = 40, 6, 8
CODEBOOKS, CODES, CODEC, EOS = 4, 10, 24, 10
TURN_START, SYSTEM, USER, ASSISTANT, NEWLINE = 30, 31, 32, 33, 34
SAMPLES, HELD = 5, 2  # a frame's samples, and how many of the last frame's come with the next
SPEECH = TalkerSpeech(
    sample_rate_hz=24_000, samples_per_frame=SAMPLES, codebooks=CODEBOOKS, codebook_size=CODES,
    codec_table=Embedding(
        weight=TensorRef(file="codec.bin", offset=0, dtype="float32", shape=(CODEC, TALKER_WIDTH)), scales=None,
        width=TALKER_WIDTH,
    ),
    code_table=Embedding(
        weight=TensorRef(file="codes.bin", offset=0, dtype="float32", shape=(30, TALKER_WIDTH)), scales=None,
        width=TALKER_WIDTH,
    ),
    speakers={"ann": 16, "bob": 17}, turn_start=TURN_START,
    roles={"system": SYSTEM, "user": USER, "assistant": ASSISTANT}, tts_pad=35, tts_bos=36, tts_eos=37, codec_pad=11,
    codec_bos=12, codec_eos=EOS, codec_nothink=13, codec_think_bos=14, codec_think_eos=15,
    codec_suppress=tuple(range(EOS + 1, CODEC)), talker_sampling=Sampling(), code_sampling=Sampling(), max_frames=50,
    context_frames=90,
)  # fmt: skip


class Rows:
    """A Table in memory."""

    def __init__(self, table: Array) -> None:
        self.table = table
        self.vocabulary, self.width = table.shape

    def rows(self, tokens: Sequence[int]) -> Array:
        """Return rows (n, width)."""
        return self.table[list(tokens)]

    def row(self, token: int) -> Array:
        """Return one row."""
        assert token >= 0
        return self.table[token]


class Maths:
    """The weights and the stateless functions of all four; an oracle may call them on whole sequences."""

    def __init__(self, seed: int = 1) -> None:
        draw = np.random.default_rng(seed)

        def matrix(*shape: int) -> Array:
            return draw.standard_normal(shape).astype(np.float32)

        self.text, self.codec = matrix(VOCABULARY, WIDTH), matrix(CODEC, TALKER_WIDTH)
        self.codes = matrix((CODEBOOKS - 1) * CODES, TALKER_WIDTH)
        self._read, self._heard = matrix(WIDTH, TALKER_WIDTH), matrix(WIDTH, TALKER_WIDTH)
        self._talk, self._predict = matrix(TALKER_WIDTH, TALKER_WIDTH), matrix(TALKER_WIDTH, TALKER_WIDTH)
        self._codec_head = matrix(TALKER_WIDTH, CODEC)
        self._code_heads = matrix(CODEBOOKS - 1, TALKER_WIDTH, CODES)

    def tables(self) -> TalkerTables:
        """Return the tables."""
        return TalkerTables(*map(Rows, (self.text, self.codec, self.codes)))

    def project(self, rows: Array, heard: Array) -> Array:
        """talker_adapter."""
        return np.where(heard, np.tanh(rows @ self._heard), np.tanh(rows @ self._read))

    def talk(self, rows: Array) -> tuple[Array, Array]:
        """Return hidden and logits of the last of all rows."""
        hidden = _last(rows, self._talk)
        return hidden, hidden @ self._codec_head

    def predict(self, rows: Array, step: int) -> Array:
        """Return the logits of head ``step`` after all rows."""
        return _last(rows, self._predict) @ self._code_heads[step]

    def sound(self, codes: Array) -> Array:
        """Return the samples of all frames; the last ``HELD`` of them wait for a frame that never comes."""
        samples, level = [], 0.0
        for frame in codes:
            level = np.tanh(0.5 * level + (frame * np.arange(1, CODEBOOKS + 1)).sum() / 40)
            samples += [np.sin(level * place) for place in range(1, SAMPLES + 1)]
        return np.array(samples[: len(samples) - HELD], np.float32)

    def engines(self) -> dict[str, "NumpyEngine"]:
        """Return the Engines of a Talker."""
        calls = {"talker_adapter": _Adapter, "talker": _Talker, "code_predictor": _Predictor, "decoder": _Decoder}
        return {name: NumpyEngine(name, call, self) for name, call in calls.items()}


def _last(rows: Array, matrix: Array) -> Array:
    """Return one row that depends on every row and its place."""
    places = np.cos(1.7 * np.arange(len(rows), dtype=np.float32))[:, None] + 1.5
    fade = np.float32(0.9) ** np.arange(len(rows) - 1, -1, -1, dtype=np.float32)[:, None]
    return np.tanh((rows * places * fade).sum(0) @ matrix)


class NumpyEngine:
    """An Engine of Maths."""

    def __init__(self, name: str, call: type["_Call"], maths: Maths) -> None:
        self.component = Component(graph=name, data=None, inputs=(), outputs=(), precision="float32")
        self.counts, self.notes = {}, ()
        self._call, self._maths = call, maths

    def bind(self, sizes: Mapping[str, int]) -> "_Call":
        """Return a Call with state of its own."""
        return self._call(self._maths, sizes)


class _Call:
    def __init__(self, maths: Maths, sizes: Mapping[str, int]) -> None:
        self.maths = maths
        self.rows = np.full((sizes.get("context", 0), TALKER_WIDTH), np.nan, np.float32)
        self.reset()

    def reset(self) -> None:
        """Forget what is carried."""
        self.codes: list[Array] = []

    def past(self, inputs: Mapping[str, Array]) -> Array:
        """Write the new rows at ``start`` and return all up to them."""
        start, new = int(inputs["start"][0]), inputs["embeds"]
        self.rows[start : start + len(new)] = new
        assert not np.isnan(self.rows[: start + len(new)]).any(), "a row before start was never written"
        return self.rows[: start + len(new)]


class _Adapter(_Call):
    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return {"embeds": self.maths.project(inputs["rows"], inputs["heard"])}


class _Talker(_Call):
    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        rows, new = self.past(inputs), len(inputs["embeds"])
        wanted = [self.maths.talk(rows[: len(rows) - new + row + 1]) for row in inputs["logit_rows"]]
        hidden, logits = zip(*wanted, strict=True) if wanted else ((), ())
        return {"hidden": np.array(hidden), "logits": np.array(logits)}


class _Predictor(_Call):
    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return {"logits": self.maths.predict(self.past(inputs), int(inputs["step"][0]))[None]}


class _Decoder(_Call):
    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        assert int(inputs["start"][0]) == len(self.codes)
        before = len(self.maths.sound(np.array(self.codes))) if self.codes else 0
        self.codes += list(inputs["codes"].copy())
        return {"samples": self.maths.sound(np.array(self.codes))[before:]}


def user_turn(*text: int) -> list[int]:
    """Return the tokens of a user's turn."""
    return [TURN_START, USER, NEWLINE, *text, 38, NEWLINE]


HEAD = [TURN_START, ASSISTANT, NEWLINE]
SYSTEM_TURN = [TURN_START, SYSTEM, NEWLINE, 5, 6, 38, NEWLINE]


_GREEDY = Greedy(CodeLimits(suppress=SPEECH.codec_suppress)), Greedy(CodeLimits())


def expected(
    maths: Maths, told: Array, answer: Sequence[int], *, speaker: int = 16, samplers: tuple[Sampler, Sampler] = _GREEDY
) -> Array:
    """Return the codes (frames, codebooks) of an answer whose whole text is known, after rows ``told``.

    Written down from transformers' generate: no caches, every row anew at every step.
    """
    speech, frames = SPEECH, SPEECH.max_frames

    def read(*tokens: int) -> Array:
        return maths.project(maths.text[list(tokens)], np.zeros((len(tokens), 1), bool))

    text = read(*HEAD, *[speech.tts_pad] * 4, speech.tts_bos, answer[0])
    codec = [speech.codec_nothink, speech.codec_think_bos, speech.codec_think_eos, speaker]
    text[3:] += maths.codec[[*codec, speech.codec_pad, speech.codec_bos]]
    rows = np.concatenate((told, text))
    trailing = [*answer[1:], speech.tts_eos, *[speech.tts_pad] * frames]
    made: list[list[int]] = []
    while True:
        hidden, logits = maths.talk(rows)
        code = samplers[0].pick(logits, [one[0] for one in made])
        if code == EOS or len(made) == frames:
            return np.array(made, np.int64).reshape(-1, CODEBOOKS)
        frame, embedded = [code], [maths.codec[code]]
        for step in range(CODEBOOKS - 1):
            logits = maths.predict(np.array([hidden, *embedded]), step)
            frame.append(samplers[1].pick(logits, frame[1:]))
            embedded.append(maths.codes[step * CODES + frame[-1]])
        rows = np.concatenate((rows, np.sum(embedded, axis=0)[None] + read(trailing[len(made)])))
        made.append(frame)
