"""``edgekit verify``."""

import json
import math
from pathlib import Path

import click

from edgekit.cli.options import bundle_argument, json_option
from edgekit.errors import VerifyError


@click.command(epilog="\b\nExample: edgekit verify bundles/base-int8")
@bundle_argument
@click.option(
    "--reference",
    metavar="CHECKPOINT",
    help="Compare with this checkpoint (folder or id of the hub), run live by torch and transformers.",
)
@json_option
def verify(bundle: Path, reference: str | None, as_json: bool) -> None:
    """Check that a bundle still gives what it gave when it was made.

    Runs the bundle on this machine and compares with the results stored in it; needs no torch.
    """
    if reference is None:
        from edgekit.runtime.verify import verify as compare

        checks = compare(bundle)
    else:
        from edgekit.exporter.verify import verify_reference

        checks = verify_reference(bundle, reference)
    if as_json:
        found = [
            {
                "name": check.name,
                "error": check.error if math.isfinite(check.error) else None,  # JSON knows no infinity
                "tolerance": check.tolerance,
                "passed": check.passed,
            }
            for check in checks
        ]
        click.echo(json.dumps({"bundle": str(bundle), "checks": found}, indent=1, allow_nan=False))
    else:
        for check in checks:
            verdict = "ok    " if check.passed else "FAILED"
            click.echo(f"{verdict}  {check.name}: {check.error:.3g}, allowed {check.tolerance:.3g}")
    if failed := [check.name for check in checks if not check.passed]:
        raise VerifyError(
            f"{bundle}: {len(failed)} of {len(checks)} checks failed, first '{failed[0]}'; export it again"
        )
