"""``edgekit verify``."""

import json
import math
from pathlib import Path
from typing import Any

import click

from edgekit.cli.options import backend_options, bundle_argument, json_option, loading, warn_fallback
from edgekit.cli.paths import NameOrPath
from edgekit.errors import UsageError, VerifyError


@click.command(epilog="\b\nExample: edgekit verify bundles/base-int8")
@bundle_argument
@click.option(
    "--reference",
    metavar="CHECKPOINT",
    type=NameOrPath(),
    help="Compare with this checkpoint (folder, id of the hub or short name), run live by torch and transformers.",
)
@backend_options
@json_option
def verify(bundle: Path, reference: str | None, as_json: bool, **options: Any) -> None:
    """Check that a bundle is the one that was judged, and still gives what it gave when it was made.

    Compares its files and settings with the record of what was judged, runs it on this machine and compares with the
    results stored in it; needs no torch. With --trust or --require-signature its signature is checked before all else.
    """
    how = loading(options)
    ran: dict[str, str] = {}
    judged: bool | None = None
    if reference is None:
        from edgekit.runtime.judge.verify import verify as compare

        verified = compare(bundle, **how)
        checks, judged, compared, signer = verified.checks, verified.judged, verified.compared, verified.signer
        ran = {"backend": verified.backend, "fallback": verified.fallback}
        warn_fallback(verified)
    elif any(value for name, value in how.items() if name != "trust"):
        raise UsageError("--reference: compares on the CPU; leave out what chooses a backend")
    else:
        from edgekit.bundle import open_bundle
        from edgekit.cli.notices import show_notices
        from edgekit.cli.progress import terminal
        from edgekit.exporter.checks.verify import verify_reference

        compared = f"compared with {reference}"
        with show_notices():
            signer = str(open_bundle(bundle, check_hashes=False, trust=how["trust"]).signer or "")
            checks = verify_reference(bundle, reference, bars=terminal(), trust=how["trust"])
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
        signed = {"signer": signer} if signer else {}
        facts = {"bundle": str(bundle), "compared": compared} | signed | ran | {"checks": found}
        click.echo(json.dumps(facts, indent=1, allow_nan=False))
    else:
        if signer:
            click.echo(f"{bundle}: signed by {signer}")
        click.echo(f"{bundle}: {compared}")
        for check in checks:
            verdict = "ok    " if check.passed else "FAILED"
            click.echo(f"{verdict}  {check.name}: {check.error:.3g}, allowed {check.tolerance:.3g}")
    if failed := [check.name for check in checks if not check.passed]:
        raise VerifyError(
            f"{bundle}: {len(failed)} of {len(checks)} checks failed, first '{failed[0]}'; {_next_step(judged)}"
        )


def _next_step(judged: bool | None) -> str:
    """Return what to do about a failed check; judged: whether the bundle is what was judged, None if unknown."""
    if judged:
        return (
            "the bundle is the one that was judged: try another backend or version of it, or export it for this device"
        )
    return "export it again" if judged is None else "copy or export it again"
