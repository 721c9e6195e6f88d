"""The recordings that ship: found by name, with their language and words."""

import pytest

from edgekit.errors import RecipeError
from edgekit.recordings import named, recordings


def test_every_recording_is_there_and_says_its_language():
    for name, one in recordings().items():
        assert one.path.is_file(), name
        assert (one.name, len(one.language)) == (name, 2)


def test_a_pattern_names_each_recording_once_and_in_order():
    found = named(("librivox-0930.flac", "librivox-09*"), "check.clips")
    assert [one.name for one in found] == ["librivox-0930.flac", "librivox-0920.flac"]
    assert found[0].words == "he might even have been made amiable himself"


def test_a_name_that_no_recording_has_is_one_line_with_one_that_is_there():
    with pytest.raises(RecipeError, match=r"^check\.clips: 'clock\.flac' is no recording of .*such as 'librivox-0870"):
        named(("clock.flac",), "check.clips")
