"""Find the folders that ship beside the code, in a checkout or in a wheel."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def resource(name: str) -> Path:
    """Return the path of a shipped file or folder such as ``export`` or ``runtimes/cpu/target.toml``.

    A wheel carries them under ``edgekit/_resources``; a checkout has them beside the package.
    """
    packed = _PACKAGE / "_resources" / name
    return packed if packed.exists() else _PACKAGE.parent / name
