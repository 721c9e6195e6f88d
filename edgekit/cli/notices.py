"""What the library says by the way, such as that it fetches something: one line each on stderr."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click


@contextmanager
def show_notices(clear: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Show what EdgeKit logs in the block; the logger is then as before. ``clear``: makes room for a line."""
    logger, handler = logging.getLogger("edgekit"), _Lines(clear)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


class _Lines(logging.Handler):
    def __init__(self, clear: Callable[[], None]) -> None:
        super().__init__()
        self._clear = clear

    def emit(self, record: logging.LogRecord) -> None:
        self._clear()
        click.echo(f"edgekit: {record.getMessage()}", err=True)
