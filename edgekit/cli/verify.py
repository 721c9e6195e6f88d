"""``edgekit verify``."""

import json
import math
from pathlib import Path

import click

from edgekit.cli.options import backend_options, bundle_argument, json_option, warn_fallback
from edgekit.errors import UsageError, VerifyError


@click.command(epilog="\b\nExample: edgekit verify bundles/base-int8")
@bundle_argument
@click.option(
    "--reference",
    metavar="CHECKPOINT",
    help="Compare with this checkpoint (folder or id of the hub), run live by torch and transformers.",
)
@backend_options
@json_option
def verify(bundle: Path, reference: str | None, backend: str | None, allow_fallback: bool, as_json: bool) -> None:
    """Check that a bundle still gives what it gave when it was made.

    Runs the bundle on this machine and compares with the results stored in it; needs no torch.
    """
    ran: dict[str, str] = {}
    if reference is None:
        from edgekit.runtime.verify import verify as compare

        verified = compare(bundle, backend=backend, allow_fallback=allow_fallback)
        checks, ran = verified.checks, {"backend": verified.backend, "fallback": verified.fallback}
        warn_fallback(verified)
    elif backend or allow_fallback:
        raise UsageError("--reference: compares on the CPU; leave out --backend and --allow-fallback")
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
        click.echo(json.dumps({"bundle": str(bundle)} | ran | {"checks": found}, indent=1, allow_nan=False))
    else:
        for check in checks:
            verdict = "ok    " if check.passed else "FAILED"
            click.echo(f"{verdict}  {check.name}: {check.error:.3g}, allowed {check.tolerance:.3g}")
    if failed := [check.name for check in checks if not check.passed]:
        raise VerifyError(
            f"{bundle}: {len(failed)} of {len(checks)} checks failed, first '{failed[0]}'; export it again"
        )
