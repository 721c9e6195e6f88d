"""What a type checker knows of the options of a stream. Checked by pyright (``make lint``), never run.

Each line that is ignored is an error to a caller; pyright reports an ignore that hides none.
"""
# pyright: reportUnnecessaryTypeIgnoreComment=true

from pathlib import Path
from typing import assert_type

import numpy as np

import edgekit


def names_and_types_are_known(model: edgekit.Model) -> None:
    model.stream(gate="off", language="en", turns="all", think=True, sampling={"temperature": 0.7}, floor="clip")
    model.stream(edgekit.StreamOptions(level="full"))
    model.stream(lanugage="en")  # pyright: ignore[reportCallIssue]
    model.stream(gate="loud")  # pyright: ignore[reportArgumentType]
    model.stream(turns="some")  # pyright: ignore[reportArgumentType]
    model.transcribe("talk.wav", level="full", speak=False)
    model.transcribe("talk.wav", channels=2)  # pyright: ignore[reportCallIssue]
    model.transcribe("talk.wav", level=3)  # pyright: ignore[reportCallIssue, reportArgumentType]


def a_list_gives_a_list(model: edgekit.Model) -> None:
    assert_type(model.transcribe(Path("talk.wav")), edgekit.Transcript)
    assert_type(model.transcribe(b"RIFF"), edgekit.Transcript)
    assert_type(model.transcribe(np.zeros(9, np.float32), sample_rate_hz=8_000), edgekit.Transcript)
    with Path("talk.wav").open("rb") as file:
        assert_type(model.transcribe(file), edgekit.Transcript)
    assert_type(model.transcribe(["talk.wav", np.zeros(9)]), list[edgekit.Transcript])
    assert_type(model.transcribe(("talk.wav", "more.wav")), list[edgekit.Transcript])
    model.transcribe(3)  # pyright: ignore[reportCallIssue, reportArgumentType]


def events_and_errors_are_classes(stream: edgekit.Stream) -> None:
    try:
        for event in stream.events():
            if isinstance(event, edgekit.Text):
                assert_type(event.language, str | None)
    except edgekit.UsageError as error:
        assert_type(error.exit_code, int)
