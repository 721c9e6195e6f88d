"""``edgekit report``."""

from pathlib import Path

import click

from edgekit.cli.paths import FilePath
from edgekit.errors import ProfileError, UsageError

_FORMATS = {".md": "md", ".html": "html", ".json": "json"}


@click.command(epilog="\b\nExample: edgekit report profile.json -o report.html")
@click.argument("profiles", metavar="PROFILE...", nargs=-1, required=True, type=FilePath())
@click.option("-o", "--output", metavar="FILE", type=FilePath(), help="The file to write; else stdout.")
@click.option(
    "-f", "--format", "kind", type=click.Choice(["md", "html", "json"]), help="Else as FILE ends, or Markdown."
)
def report(profiles: tuple[Path, ...], output: Path | None, kind: str | None) -> None:
    """Render profiles for a reader.

    PROFILE is what `edgekit profile` wrote; several stand side by side. HTML is one file with plots that needs
    nothing else; JSON is an array of the profiles.
    """
    from edgekit.atomic import write_whole

    if kind is None:
        suffix = output.suffix.lower() if output else ".md"
        if suffix not in _FORMATS:
            raise UsageError(f"{output}: ends in '{suffix}', known are {', '.join(_FORMATS)}; or pass --format")
        kind = _FORMATS[suffix]
    text = _render(profiles, kind)
    if output is None:
        click.echo(text, nl=False)
    else:
        write_whole(output, text.encode(), private=kind == "json")  # which quotes what was heard
        click.echo(f"{output}: written")


def _render(paths: tuple[Path, ...], kind: str) -> str:
    from edgekit.profiler import load_profile, render_html, render_markdown

    try:
        loaded = [load_profile(path) for path in paths]
    except IsADirectoryError as error:
        raise ProfileError(
            f"{error.filename}: is a folder, a profile is needed; of a bundle make one with "
            f"`edgekit profile {error.filename} -o profile.json`"
        ) from error
    except OSError as error:
        name, reason = error.filename, error.strerror
        raise ProfileError(
            f"{name}: {reason}, a profile is needed; make one with `edgekit profile BUNDLE -o {name}`"
        ) from error
    if kind == "json":
        import msgspec

        return msgspec.json.format(msgspec.json.encode(loaded), indent=1).decode() + "\n"
    return render_html(loaded) if kind == "html" else render_markdown(loaded)
