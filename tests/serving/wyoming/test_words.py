"""What somebody said, sent as Home Assistant sends it, comes back as words; heard by edgekit-tiny."""

import asyncio
import json
import re
from pathlib import Path

import numpy as np
import pytest
from wyoming.asr import Transcribe
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.info import Describe, Info

import edgekit
from edgekit.exporter.export import ExportOptions, export
from edgekit.runtime.audio.files import read_mono
from tests.runtime.streams import RATE
from tests.serving.wyoming.test_connection import transcript_of

ROOT = Path(__file__).parents[3]
CLIPS = ROOT / "export/clips"
CLIP = "librivox-0930.flac"
QUICK = ROOT / "tests/exporter/quick.toml"
PIECE = 1024  # samples; what satellites of Home Assistant send


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Return edgekit-tiny in float32."""
    folder = tmp_path_factory.mktemp("tiny") / "bundle"
    export(
        ROOT / "models/edgekit-tiny/edgekit_tiny/checkpoint", folder, ExportOptions(recipe=QUICK, precision="float32")
    )
    return edgekit.load(folder, threads=1)


@pytest.fixture(scope="module")
def said():
    """Return the samples of a sentence as int16, and its words."""
    words = json.loads((CLIPS / "transcripts.json").read_text(encoding="utf-8"))
    samples = read_mono(CLIPS / CLIP, RATE)
    return (samples * 32_767).clip(-32_768, 32_767).astype(np.int16), words[CLIP]


def plain(text):
    return re.sub(r"[^a-z' ]", " ", text.lower()).split()


@pytest.mark.parametrize("partials", [False, True, "committed"])
def test_a_spoken_sentence_comes_back_as_its_words(listening, model, said, partials):
    """Only what is committed may be sent while somebody speaks; others may be withdrawn, so they are not even made."""
    sound, words = said

    async def run():
        async with listening(model, fields={"level": "full", "partials": partials}) as at, at.client() as client:
            await client.say(Describe())
            program = Info.from_event(await client.next()).asr[0]
            assert program.models[0].languages == ["en"]
            await client.say(Transcribe(language="en"), AudioStart(RATE, 2, 1))
            for start in range(0, len(sound), PIECE):
                await client.say(AudioChunk(RATE, 2, 1, sound[start : start + PIECE].tobytes()))
            await client.say(AudioStop())
            events = await client.until("transcript-stop")
            return transcript_of(events), len(events) - 3

    text, chunks = asyncio.run(run())
    assert chunks >= 1
    if partials != "committed":
        assert (text, chunks) == (model.transcribe(sound, level="full", floor="running").text, 1)
    wrong = set(plain(words)) ^ set(plain(text))
    assert len(wrong) <= 0.2 * len(plain(words)), (text, words)
