"""The chunks of a transcript: joined, they are the transcript."""

import pytest

from edgekit.runtime.events import Text
from edgekit.serving.wyoming.texts import Texts


def text(said, stable=None, *, final=False):
    return Text(said, final, 0.0, 1.0, stable=len(said) if stable is None else stable)


SAID = [
    text("turn", 0), text("turn of", 5), text("turn off the", 9), text("turn off the light.", final=True),
    text("", final=True), text("ple", 0), text("please", 3), text("please do", final=True),
]  # fmt: skip
WHOLE = "turn off the light. please do"


@pytest.mark.parametrize(
    ("committed", "chunks"),
    [
        (False, ["turn off the light.", " please do"]),
        (True, ["turn ", "off ", "the light.", " ple", "ase do"]),
    ],
)
def test_chunks_are_the_transcript_piece_by_piece(committed, chunks):
    texts = Texts(committed=committed)
    new = [texts.take(event) for event in SAID]
    assert [one for one in new if one] == chunks
    assert "".join(new) == texts.sent == texts.text == WHOLE


def test_the_transcript_is_right_though_a_chunk_should_not_have_been_sent():
    texts = Texts(committed=True)
    assert texts.take(text("no word", 7)) == "no word"
    assert texts.take(text("", final=True)) == ""
    assert texts.take(text("yes", final=True)) == ""
    assert texts.text == "yes"
