"""``python -m edgekit.atomic NEW PLACE``: let a folder take a place at once, and what stood there be gone.

For ``runtimes/place.sh``: no shell command does that everywhere. Both lie on one file system.
"""

import sys
from pathlib import Path

from edgekit.atomic import draft_folder
from edgekit.errors import OutputError


def main(arguments: list[str]) -> tuple[int, str]:
    """Return the exit code, and a line on what failed."""
    if len(arguments) != 2:
        return 2, "usage: python -m edgekit.atomic NEW PLACE"
    new, place = map(Path, arguments)
    try:
        with draft_folder(place) as draft:
            new.rename(draft.path)  # which is empty
            draft.publish()
    except OutputError as error:
        return 1, f"edgekit: {error}"
    except OSError as error:
        return 1, f"edgekit: {error.filename or place}: {error.strerror or error}; check the path and the disk"
    return 0, ""


if __name__ == "__main__":
    _code, _line = main(sys.argv[1:])
    if _line:
        print(_line, file=sys.stderr)
    sys.exit(_code)
