"""The ``fuzz`` fixture: cases into one attempt until their number or their time is through, and the table of all.

A target must accept what is whole before it is given anything damaged: one that refuses everything shows nothing.

FUZZ_CASES: cases of each target. FUZZ_SECONDS: of all targets together, each has an equal share. FUZZ_CASE: the case
that a fault was printed with, run alone and in this process.
"""

import os
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from edgekit.errors import EdgeKitError
from tests.fuzz.cases import Case, cases, read_case, smaller
from tests.fuzz.worker import FAULTS, LIMIT_S, MEMORY, Attempt, Outcome, Worker
from tests.runtime.conftest import load, tiny_bundle  # noqa: F401 - fixtures of the targets

SHORT_CASES = 300
SHORT_SECONDS = 65.0  # of all targets, in continuous integration
ROUND = 1000  # cases that hypothesis draws at a time; what it has drawn it does not draw again, and must remember
SHRINK_S = 10.0
settings.register_profile(
    "fuzz", database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)


@dataclass
class Row:
    """What became of the cases of one target."""

    area: str
    cases: int = 0
    verdicts: dict[str, int] = field(default_factory=dict)
    worst: dict[str, tuple[Case, Outcome, int]] = field(default_factory=dict)  # by kind of fault

    def count(self, case: Case, outcome: Outcome) -> None:
        """Add a case; of each kind of fault the shortest is kept."""
        self.cases += 1
        self.verdicts[outcome.verdict] = self.verdicts.get(outcome.verdict, 0) + 1
        if outcome.is_fault:
            kind = f"{outcome.verdict}: {outcome.where}"
            shortest, first, number = self.worst.get(kind, (case, outcome, 0))
            if len(repr(case)) < len(repr(shortest)):
                shortest, first = case, outcome
            self.worst[kind] = shortest, first, number + 1

    def line(self) -> str:
        """Return the row of the table."""
        return " | ".join(
            [
                "",
                self.area,
                f"{self.cases:,}",
                *(f"{self.verdicts.get(name, 0):,}" for name in ("refused", *FAULTS)),
                "",
            ]
        ).strip()


ROWS: list[Row] = []
ALONE: list[str] = []  # what became of FUZZ_CASE
TARGETS = [0]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what uses the fixture, and count it."""
    targets = [item for item in items if "fuzz" in getattr(item, "fixturenames", ())]
    for item in targets:
        item.add_marker(pytest.mark.fuzz)
    TARGETS[0] = len(targets)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table."""
    for line in ALONE:
        terminalreporter.line(line)
    if ROWS:
        terminalreporter.section("fuzz")
        terminalreporter.line("| area | cases | refused | tracebacks | hangs | accepted wrongly |")
        terminalreporter.line("| --- | ---: | ---: | ---: | ---: | ---: |")
        for row in ROWS:
            terminalreporter.line(row.line())


@pytest.fixture
def fuzz(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Return a function that runs an attempt on many cases and fails with what it did on the worst.

    area: the row of the table. attempt: takes a Case; it returns where input is accepted, raises EdgeKitError where it
    is refused, and WronglyAcceptedError where what was accepted does not work. whole: how many whole things a case
    chooses from: each, undamaged, must be accepted. slow: a case takes a tenth of a second.
    memory: bytes that the child may have beside what it is forked with.
    """

    def run(
        area: str,
        attempt: Attempt,
        *,
        whole: int = 1,
        slow: bool = False,
        memory: int = MEMORY,
        limit_s: float = LIMIT_S,
    ) -> None:
        if "FUZZ_CASE" in os.environ:
            ALONE.append(f"{area}: {_alone(attempt, read_case(os.environ['FUZZ_CASE']))}")
            return
        seconds, most = _bounds(slow)
        row = Row(area)
        worker = Worker(attempt, limit_s, memory)
        try:
            for case in (Case(which, ()) for which in range(whole)):
                outcome = worker.run(case)
                if outcome.verdict != "accepted":
                    command = _command(case, request.node.nodeid)
                    pytest.fail(f"{area}: what is whole is {outcome.verdict}\n{command}\n{outcome.text}", pytrace=False)
            ROWS.append(row)
            _draw(worker, row, seconds, most)
            faults = [_fault(worker, request.node.nodeid, kind, one) for kind, one in row.worst.items()]
        finally:
            worker.close()
        if faults:
            pytest.fail("\n".join([f"{area}: {len(faults)} kinds of faults; each alone:", *faults]), pytrace=False)
        if not row.cases:
            pytest.fail(f"{area}: no case was run in {seconds:.1f} s; raise FUZZ_SECONDS", pytrace=False)

    return run


def _alone(attempt: Attempt, case: Case) -> str:
    """Return what becomes of a case in this process; a fault is raised."""
    try:
        attempt(case)
    except EdgeKitError as error:
        return f"refused: {error}"
    return "accepted"


def _command(case: Case, node: str) -> str:
    """Return the command line that runs one case."""
    given = shlex.quote(repr((case.which, case.edits)))
    return f"FUZZ_CASE={given} python -m pytest -m fuzz {shlex.quote(node)}"


def _bounds(slow: bool) -> tuple[float, int]:
    """Return the seconds and the cases of a target, whichever is through first."""
    share = max(1, TARGETS[0])
    if "FUZZ_CASES" in os.environ or "FUZZ_SECONDS" in os.environ:
        most = int(os.environ.get("FUZZ_CASES", "1_000_000_000"))
        return float(os.environ.get("FUZZ_SECONDS", "1e9")) / share, most
    return SHORT_SECONDS / share, SHORT_CASES // 10 if slow else SHORT_CASES


def _draw(worker: Worker, row: Row, seconds: float, most: int) -> None:
    end = time.monotonic() + seconds
    number = 0
    while row.cases < most and time.monotonic() < end:

        @seed(number)
        @settings(settings.get_profile("fuzz"), max_examples=min(ROUND, most - row.cases))
        @given(cases())
        def one(case: Case) -> None:
            if time.monotonic() < end:
                row.count(case, worker.run(case))

        before = row.cases
        one()
        number += 1
        if row.cases == before:
            return  # all there is


def _fault(worker: Worker, node: str, kind: str, worst: tuple[Case, Outcome, int]) -> str:
    """Return the text of a fault, its case as simple as a few seconds make it."""
    case, outcome, number = worst
    end = time.monotonic() + SHRINK_S
    simpler = outcome.verdict != "hang"
    while simpler and time.monotonic() < end:
        simpler = False
        for smaller_case in smaller(case):
            result = worker.run(smaller_case)
            if f"{result.verdict}: {result.where}" == kind:
                case, outcome, simpler = smaller_case, result, True
                break
    return f"\n{kind} ({number} cases)\n{_command(case, node)}\n{outcome.text}"
