"""Progress on stderr: a bar on a terminal, one line per stage elsewhere."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def terminal() -> bool:
    """Return whether stderr is a terminal that can rewrite a line."""
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


@contextmanager
def show_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function to be called with stage, work done and work in all (0 where unknown)."""
    if not terminal():
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage)
            bars.update(tasks[stage], completed=done, total=total or None)

        yield report


class _Lines:
    """Says each stage once, when it begins."""

    def __init__(self) -> None:
        self._stage = ""

    def __call__(self, stage: str, _done: int, _total: int) -> None:
        if stage != self._stage:
            self._stage = stage
            print(f"edgekit: {stage}", file=sys.stderr, flush=True)
