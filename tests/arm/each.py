"""Verify every bundle in a folder with whatever Python runs this, and print a line of JSON for each.

One process for all of them: under emulation it is the start that takes longest.
"""

import json
import sys
from pathlib import Path

from edgekit.errors import EdgeKitError
from edgekit.runtime.judge.verify import verify


def main(folder: Path) -> None:
    """Print name, failed checks with their errors, and all checks of each bundle."""
    for bundle in sorted(path.parent for path in folder.glob("*/manifest.json")):
        try:
            checks = verify(bundle).checks
            facts = {check.name: [check.error, check.tolerance, check.passed] for check in checks}
        except EdgeKitError as error:
            facts = {str(error): [1.0, 0.0, False]}
        print(json.dumps({"bundle": bundle.name, "checks": facts}), flush=True)


main(Path(sys.argv[1]))
