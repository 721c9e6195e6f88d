"""``edgekit doctor``."""

import json

import click

from edgekit.cli.options import json_option
from edgekit.errors import BackendError


@click.command(
    epilog="\b\nExit codes: 0 a backend can run bundles here; 1 none can; 2 wrong usage.\nExample:    edgekit doctor"
)
@json_option
def doctor(as_json: bool) -> None:
    """Say what this device has, what is missing, and what to type.

    Looks at drivers, CUDA, TensorRT, onnxruntime and its providers, processor, memory, disk and sound. Every library
    is loaded in a process of its own, and every provider has to compute something: some fall back without a word.
    """
    from dataclasses import asdict

    from edgekit.profiler.doctor.examination import examine

    found = examine()
    if as_json:
        click.echo(json.dumps(asdict(found) | {"runs": list(found.runs)}, indent=1))
    else:
        for finding in found.findings:
            click.echo(f"{finding.state:7}  {finding.name}: {finding.text}")
            if finding.fix:
                click.echo(f"         type: {finding.fix}")
        if found.runs:
            click.echo(f"bundles run here on: {', '.join(found.runs)}")
    if not found.runs:
        raise BackendError("backends: none here can run bundles, one must; type what stands above beside onnxruntime")
