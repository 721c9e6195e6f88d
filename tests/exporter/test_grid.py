"""The streaming grid of an export: what checkpoint, recipe and user say of chunks and of the ending."""

import json
from pathlib import Path

import pytest

from edgekit.bundle import Grid
from edgekit.errors import RecipeError, UsageError
from edgekit.exporter.export import ExportOptions, export
from edgekit.exporter.families import find_family
from edgekit.exporter.families.whisper import open_whisper
from edgekit.recipe import GridSettings
from tests.exporter.test_export import JUDGED, QUICK

CONFIGS = Path(__file__).parents[2] / "profiles" / "data" / "configs"


@pytest.mark.parametrize(
    "line", ["chunk_ms = 31000", "chunk_ms = 0", "chunk_ms = 630", "tail_ms = -640", "tail_ms = 5"]
)
def test_a_grid_that_no_stream_could_keep_is_refused(line, checkpoint, tmp_path):
    recipe = tmp_path / "r.toml"
    recipe.write_text(QUICK.read_text() + f"\n[grid]\n{line}\n")
    with pytest.raises(RecipeError, match=f"grid.{line.split()[0]}"):
        export(checkpoint("whisper-experts"), tmp_path / "b", ExportOptions(recipe=recipe))


@pytest.mark.parametrize(
    ("extra", "settings", "frames"),
    [
        ({}, {}, (16, 16, 16)),  # a chunk of silence, and whole chunks, unless the checkpoint says otherwise
        ({"tail_frames": 3}, {}, (16, 6, 16)),
        ({"tail_frames": 3, "fill_frames": 4}, {"chunk_ms": 640}, (64, 6, 8)),
        ({"tail_frames": 3, "fill_frames": 4}, {"tail_ms": 80, "chunk_ms": 40}, (4, 8, 4)),
        ({}, {"chunk_ms": 640}, (64, 64, 64)),
    ],
)
def test_checkpoint_and_recipe_say_how_much_silence_ends_an_utterance(extra, settings, frames, checkpoint):
    config = json.loads((checkpoint("whisper-experts") / "config.json").read_text())
    config["edgekit"] |= {"chunk_frames": 8} | extra
    grid = open_whisper(config, {}).grid(GridSettings(mode="chunked", **settings))
    assert (grid.chunk_frames, grid.tail_frames, grid.pad_to_frames) == frames


def test_the_length_of_a_chunk_can_be_asked_for(checkpoint, tmp_path):
    asked = ExportOptions(recipe=QUICK, chunk_ms=120)
    manifest = export(checkpoint("whisper-experts"), tmp_path / "b", asked)
    assert manifest.grid.chunk_frames == manifest.grid.pad_to_frames == 12
    assert manifest.recipe["grid"]["chunk_ms"] == 120
    with pytest.raises(UsageError, match="--chunk-ms 120: .* add --mode chunked"):
        export(checkpoint("whisper-dense"), tmp_path / "d", asked)
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(("mode", "chunk_ms"), [(None, None), ("chunked", None), ("chunked", 2000)])
def test_an_export_measures_what_low_latency_costs_qwen3_omni(mode, chunk_ms, checkpoint, tmp_path):
    options = ExportOptions(recipe=JUDGED, precision="float32", mode=mode, chunk_ms=chunk_ms)
    manifest = export(checkpoint("omni-thinker"), tmp_path / "b", options)
    measured = manifest.verification.get("whole_clip")
    if mode is None:
        assert measured is None
    elif chunk_ms:  # the whole block
        assert measured["frame_error"] == 0
    else:
        assert 0.01 < measured["frame_error"] < 1


@pytest.mark.parametrize(
    ("positions", "total", "last", "frames"),
    [(32, 32, False, 16), (32, 64, True, 16), (2, 34, True, 0), (2, 34, False, 1), (31, 63, True, 15), (1, 33, True, 0),
     (30, 30, True, 14), (28, 60, True, 14)],
)  # fmt: skip
def test_a_last_pair_that_is_half_padding_makes_no_frame(positions, total, last, frames):
    grid = Grid(mode="chunked", chunk_frames=64, max_frames=3000, max_positions=1500, masks_last_position=True)
    assert grid.kept_frames(positions, total, last=last) == frames
    plain = Grid(mode="chunked", chunk_frames=64, max_frames=3000, max_positions=1500)
    assert plain.kept_frames(positions, total, last=last) == positions


@pytest.mark.parametrize("name", ["qwen3-omni-30b-a3b-thinker", "step-audio-2-mini", "step-audio-r1"])
def test_published_checkpoints_were_trained_with_the_floor_of_the_whole_clip(name):
    config = json.loads((CONFIGS / f"{name}.json").read_text())
    opened = find_family(config).open(config, {})
    for mode in ("exact", "chunked"):
        assert opened.front_end(GridSettings(mode=mode)).floor == "clip"


@pytest.mark.parametrize(("mode", "floor"), [("chunked", "running"), ("exact", "clip")])
def test_a_whisper_made_for_chunks_was_trained_with_the_running_floor(mode, floor, checkpoint):
    config = json.loads((checkpoint("whisper-experts") / "config.json").read_text())
    assert open_whisper(config, {}).front_end(GridSettings(mode=mode)).floor == floor
