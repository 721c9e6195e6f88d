"""``edgekit keygen``."""

from pathlib import Path

import click

from edgekit.cli.paths import FilePath


@click.command(epilog="\b\nExample: edgekit keygen -o acme")
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="NAME",
    type=FilePath(),
    help="Write NAME.key and NAME.pub.",
)
def keygen(output: Path) -> None:
    """Make a pair of keys that bundles are signed and checked with.

    NAME.key signs, and stays with who makes bundles. NAME.pub checks; it goes to every device that takes them, into
    /etc/edgekit/trust or behind --trust. Ed25519, as OpenSSL writes it. A key is never replaced.
    """
    from edgekit.bundle.keys import make_keys

    public = make_keys(output)
    click.echo(f"{public.path}: {public.fingerprint}")
