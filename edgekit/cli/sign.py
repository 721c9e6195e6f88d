"""``edgekit sign``."""

import os
import sys
from pathlib import Path

import click

from edgekit.cli.options import bundle_argument
from edgekit.cli.paths import FilePath

_PASSPHRASE = "EDGEKIT_PASSPHRASE"  # noqa: S105 - where it is, not what


@click.command(epilog="\b\nExample: edgekit sign bundles/base-int8 --key acme.key")
@bundle_argument
@click.option(
    "--key",
    required=True,
    metavar="FILE",
    type=FilePath(),
    help="The private key, from `edgekit keygen` or OpenSSL; its passphrase, if any, is asked for on a terminal, else "
    "that of EDGEKIT_PASSPHRASE.",
)
@click.option("--overwrite", is_flag=True, help="Replace another signature that is there.")
def sign(bundle: Path, key: Path, overwrite: bool) -> None:
    """Sign a bundle, so that a device can tell whose it is.

    Every file is checked first. Writes manifest.sig beside the manifest, which holds the hash of every other file: no
    file can change unseen. What signed bundles are required with is told by `edgekit verify --help`.
    """
    from edgekit.bundle.keys import read_private
    from edgekit.bundle.signing import sign_bundle

    private = read_private(key, lambda: _passphrase(key))
    replaced = sign_bundle(bundle, private, overwrite=overwrite)
    how = "" if not replaced else ", in place of the signature that was there" if overwrite else ", as it was already"
    click.echo(f"{bundle}: signed by {key} {private.public.fingerprint}{how}")


def _passphrase(key: Path) -> str | None:
    if (given := os.environ.get(_PASSPHRASE)) is not None:
        return given
    if not sys.stdin.isatty():
        return None
    return str(click.prompt(f"Passphrase of {key}", hide_input=True, err=True))
