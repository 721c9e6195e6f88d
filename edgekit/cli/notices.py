"""What the library says by the way, such as that it fetches something: one line each on stderr."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import click


@contextmanager
def show_notices() -> Iterator[None]:
    """Show what EdgeKit logs in the block; the logger is then as before."""
    logger, handler = logging.getLogger("edgekit"), _Lines()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        click.echo(f"edgekit: {record.getMessage()}", err=True)
