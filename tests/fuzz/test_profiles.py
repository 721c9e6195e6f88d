"""A damaged profile is refused, or makes a report."""

from pathlib import Path

from edgekit.profiler import render_markdown
from edgekit.profiler.profiles import load_profile
from tests.fuzz.worker import must_work

TESTS = Path(__file__).parents[1]
MEASURED = TESTS.parent / "profiles" / "x86-2core-amx" / "edgekit-tiny-int8.json"
SIMULATED = TESTS / "profiler" / "simulated.json"


def test_a_damaged_profile_is_refused_or_makes_a_report(fuzz, tmp_path):
    whole = [path.read_bytes() for path in (MEASURED, SIMULATED)]
    path = tmp_path / "profile.json"

    def attempt(case):
        path.write_bytes(case.document(case.chosen(whole)))
        profile = load_profile(path)
        with must_work():
            render_markdown([profile, profile])

    fuzz("profile", attempt, whole=len(whole))
