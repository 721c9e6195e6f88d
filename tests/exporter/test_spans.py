"""Every span of whole streams of the shipped families is in the table of names, and every name there is written."""

import numpy as np
import pytest

import edgekit
from edgekit import spans
from edgekit.errors import RegistryError
from edgekit.exporter.export import ExportOptions, export
from tests.exporter import speaking
from tests.exporter.test_export import QUICK
from tests.reference import checkpoints

RATE = 16_000
SYSTEMS = ("whisper-experts", "omni", "omni-thinker", "speaking")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Return for each system the spans of a stream that hears, is asked where it can be, and speaks where it can."""
    return {name: _spans(name, tmp_path_factory.mktemp(name)) for name in SYSTEMS}


def _spans(name, folder):
    checkpoint = speaking.write(folder) if name == "speaking" else checkpoints.write(folder, name)
    options = ExportOptions(recipe=QUICK, precision="float32", mode="chunked" if name.startswith("whisper") else None)
    speaks = export(checkpoint, folder / "b", options).speech is not None
    model = edgekit.load(folder / "b", threads=1, speak=speaks)
    cross = model.manifest.protocol.attention == "cross"
    stream = model.stream(
        gate="off", max_tokens=40, **({"partials": True, "times": "words"} if cross else {"speak": speaks})
    )
    if not cross:
        list(stream.ask("what was that"))
    for part in np.array_split(np.random.default_rng(0).normal(0, 0.1, 3 * RATE).astype(np.float32), 7):
        list(stream.push(part))
    list(stream.finish())
    return stream.trace.spans


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_span_of_a_stream_is_in_the_table(name, written):
    assert written[name]
    for span in written[name]:
        assert spans.span_kind(span.name).unit
        assert span.count >= 0


def test_every_name_in_the_table_is_written_by_some_stream(written):
    names = {span.name for found in written.values() for span in found}
    assert names == spans.names_within("") | spans.names_within(spans.SPEAK)


def test_samples_are_counted_once_and_no_more_frames_than_positions(written):
    for found in written.values():
        work = {span.name: sum(one.count for one in found if one.name == span.name) for span in found}
        assert work[spans.GATE] == work[spans.FEATURES] == 3 * RATE
        assert work[spans.ADAPTER] <= work[spans.ENCODER]


def test_what_lies_within_speaking_is_what_its_engines_do(written):
    for name in ("omni", "speaking"):
        engines = {span.name for span in written[name]} & spans.names_within(spans.SPEAK)
        around = [(span.start_s, span.start_s + span.seconds) for span in written[name] if span.name == spans.SPEAK]
        assert len(engines) >= 3
        inside = {span.name for span in written[name] if any(begin <= span.start_s < end for begin, end in around)}
        assert inside == engines | {spans.SPEAK}
    assert not {span.name for span in written["whisper-experts"]} & spans.names_within(spans.SPEAK)


def test_a_name_may_be_said_again_and_mean_nothing_else():
    kind = spans.span_kind(spans.ENCODER)
    assert spans.register(kind.name, kind.unit, kind.text) == "encoder"
    with pytest.raises(RegistryError, match="^span 'encoder': registered already; choose another name"):
        spans.register("encoder", "rows", kind.text)
    with pytest.raises(RegistryError, match="^span 'encodr' is not known; choose one of: .*encoder.*, or register it"):
        spans.span_kind("encodr")
