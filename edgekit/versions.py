"""Versions: EdgeKit's own, compared by their numbers, and of what is installed. Knows no other package and no bound."""

VERSION = "0.1.0"


def numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version: (10, 3, 0) for "10.3.0rc1", none where it begins with something else."""
    import re  # not with `import edgekit`, which takes the version from here

    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in found.group().split(".")) if found else ()


def older(version: str, than: str) -> bool:
    """Return whether a version's numbers are below another's; where one has fewer, zeros follow: "1.31" is "1.31.0"."""
    pair = numbers(version), numbers(than)
    size = max(map(len, pair))
    here, there = (one + (0,) * (size - len(one)) for one in pair)
    return here < there


def begins(version: str, beginning: str) -> bool:
    """Return whether a version is one of those that begin so: 36.4.3 is a 36.4, and 36.40 is none."""
    wanted = numbers(beginning)
    return bool(wanted) and numbers(version)[: len(wanted)] == wanted


def installed(distribution: str) -> str | None:
    """Return the version of a package in this Python, by the name that pip knows; None if it is not installed."""
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
