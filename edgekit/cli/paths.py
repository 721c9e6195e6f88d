"""The types of every argument and option that is a path, or may be one."""

from pathlib import Path
from typing import Any

import click


class FilePath(click.Path):
    """A path of a file or folder, which an empty text is not: ``Path("")`` is the current folder.

    An empty text is what the shell makes of "$NAME" where NAME is not set.
    """

    def __init__(self, *, file_okay: bool = True, readable: bool = True) -> None:
        super().__init__(file_okay=file_okay, readable=readable, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the Path; refuses an empty text."""
        if value == "":
            self.fail("is empty, a path is needed; is a variable unset?", param, ctx)
        return super().convert(value, param, ctx)


class NameOrPath(click.types.StringParamType):
    """A text that is a name or, where it is none, a path."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the text; refuses an empty one."""
        if value == "":
            self.fail("is empty, a name or path is needed; is a variable unset?", param, ctx)
        return super().convert(value, param, ctx)
