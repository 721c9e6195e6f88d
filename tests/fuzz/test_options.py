"""Wild values of everything that a caller hands to a stream or a recording are taken or refused."""

import math
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import edgekit
from edgekit import StreamOptions
from edgekit.bundle import Sampling
from edgekit.errors import UsageError
from edgekit.runtime.policy import Budget
from tests.fuzz.cases import WILD
from tests.fuzz.worker import must_work
from tests.runtime.streams import sound_of


class _Rude:
    """Answers nothing that it is asked."""

    def __repr__(self):
        raise RuntimeError("no repr")

    def __eq__(self, other):
        raise RuntimeError("no equality")

    __hash__ = None


WILDER = (
    *WILD, 10**400, -(10**400), b"", b"bytes", bytearray(4), memoryview(b"abcd"), Decimal("NaN"), Fraction(1, 3),
    1j, object(), _Rude(), Path("a"), np.float32(np.nan), np.float64(1e300), np.int8(-1), np.uint64(2**64 - 1),
    np.bool_(True), np.array(3), np.zeros(0), np.zeros((0, 2), np.float32), np.zeros((2, 0)), np.zeros((1, 1, 1)),
    np.zeros(3, "U4"), np.zeros(3, object), np.full(4, np.nan, np.float32), np.full(4, 1e30), np.zeros(4,
    np.complex64), np.zeros(5, np.int16), np.zeros(5, np.int64), np.zeros(5, np.uint8), np.zeros(5, bool),
    np.zeros(3, [("a", "f4")]), np.zeros(9, np.float32)[::-2], range(5), (i for i in "ab"), {"temperature":
    math.nan}, {"top_k": 10**30}, {1: 2}, Sampling(), Sampling(temperature=-1.0), Sampling(top_k=-5), Budget(),
    lambda: None, StreamOptions, "auto", "en", "de", "transcribe", "words", "segments", "all", "off", "sound",
    "speech", "running", "clip", "full", "light", "skip", 0.1, 4, 12, 8000, 44_100,
)  # fmt: skip
SOUNDS = (
    np.zeros(1, np.float32), sound_of(1601), sound_of(333)[:, None], np.full(7, -(2**15), np.int16),
    np.zeros(0, np.float32), sound_of(3200)[::2], [0.0, 0.5],
)  # fmt: skip
NAMES = sorted(StreamOptions.__dataclass_fields__)
USUAL = (
    ("channels", 1), ("channels", 2), ("sample_rate_hz", 8_000), ("sample_rate_hz", 48_000), ("gate", "off"),
    ("gate", "sound"), ("level", "light"), ("level", "full"), ("budget", Budget()), ("floor", "clip"),
    ("floor", "running"), ("partials", False), ("speak", False), ("turns", 0), ("sampling", {"temperature": 0.7}),
    ("sampling", {"top_k": 3, "temperature": 1.0}), ("sampling", Sampling()), ("seed", 0), ("seed", 2**63),
    ("max_tokens", 1), ("max_tokens", 10**6),
)  # fmt: skip


LOADED = (
    ("threads", 1), ("threads", 2), ("threads", 7), ("verify_hashes", False), ("context_tokens", 17), ("speak", False),
    ("backend", "ort-cpu"), ("allow_fallback", True), ("context_tokens", 3),
)  # fmt: skip


def _fields(case):
    """Return options: wild ones, or two that many a caller gives."""
    if case.mild:
        return dict(USUAL[one % len(USUAL)] for _, *both in case.edits for one in both)
    return {NAMES[place % len(NAMES)]: WILDER[how % len(WILDER)] for _, place, how in case.edits}


def _loaded(tiny_bundle, **fields):
    """Return a function that loads a bundle once in each process."""
    folders = [tiny_bundle(kind, **fields).folder for kind in ("cross", "prefix")]
    models = {}

    def model(number):
        folder = folders[number % 2]
        if folder not in models:
            models[folder] = edgekit.load(folder, threads=1)
        return models[folder]

    return model


def test_wild_options_of_a_stream_are_taken_or_refused(fuzz, tiny_bundle):
    model = _loaded(tiny_bundle)
    sound = sound_of(1600)

    def attempt(case):
        options = _fields(case)
        stream = model(case.which).stream(**options)
        with must_work():
            channels = stream.options.channels
            for _ in stream.push(np.repeat(sound[:, None], channels, 1) if channels > 1 else sound):
                pass
            for _ in stream.finish():
                pass
            assert stream.done

    fuzz("stream: options", attempt, whole=2, memory=2 << 30)


def test_wild_calls_of_a_stream_are_taken_or_refused_and_change_nothing(fuzz, tiny_bundle):
    model = _loaded(tiny_bundle)
    sound = sound_of(1600)

    def attempt(case):
        stream = model(case.which).stream()
        refused = None
        for kind, place, how in case.edits:
            value, other = WILDER[how % len(WILDER)], WILDER[place % len(WILDER)]
            if case.mild:
                value, other = SOUNDS[how % len(SOUNDS)], place % 1000
            calls = (
                lambda value=value: stream.push(value),
                lambda value=value: stream.push(sound, lag_ms=value),
                lambda value=value: stream.push(sound, dropped_samples=value),
                lambda value=value: stream.ask(value),
                lambda value=value, other=other: stream.ask(value, role=other),
                lambda value=value, other=other: stream.interrupt(value, other),
                lambda value=value, other=other: stream.push(value, lag_ms=other, dropped_samples=value),
            )
            if case.mild:
                calls = (*calls[:3], lambda value=value, other=other: stream.push(value, dropped_samples=other))
            try:
                for _ in calls[kind % len(calls)]() or ():
                    pass
            except (UsageError, edgekit.errors.AudioError) as error:
                refused = error
        with must_work():
            for _ in stream.push(sound):
                pass
            for _ in stream.finish():
                pass
            assert stream.done
        if refused:
            raise refused

    fuzz("stream: push, ask, interrupt", attempt, whole=2, memory=2 << 30)


def test_wild_recordings_are_heard_or_refused(fuzz, tiny_bundle):
    model = _loaded(tiny_bundle)

    def attempt(case):
        options = _fields(case)
        options.pop("channels", None)
        audio = sound_of(1601) if case.mild else WILDER[case.edits[0][1] % len(WILDER)]
        if isinstance(audio, str) and audio.startswith("/dev/stdin"):
            return
        model(case.which).transcribe(audio, **options)

    fuzz("transcribe", attempt, whole=2, memory=2 << 30)


@pytest.mark.parametrize("what", ["load"])
def test_wild_settings_of_load_are_taken_or_refused(fuzz, tiny_bundle, what):
    folder = tiny_bundle().folder
    names = ("threads", "verify_hashes", "context_tokens", "speak", "backend", "allow_fallback", "plans", "path")

    def attempt(case):
        options = {names[place % len(names)]: WILDER[how % len(WILDER)] for _, place, how in case.edits}
        if case.mild:
            options = dict(LOADED[one % len(LOADED)] for _, *both in case.edits for one in both)
        path = options.pop("path", folder)
        edgekit.load(path, **({"threads": 1} | options))

    fuzz(what, attempt, memory=2 << 30, slow=True)
