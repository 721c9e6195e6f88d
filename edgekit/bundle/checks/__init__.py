"""Whether a manifest can be meant: its values against each other, before a file is opened or anything is allocated.

What a single value may be stands at its field. Everything here is known from the manifest alone; graphs and files are
compared with it later, by who opens them.
"""

from itertools import chain

from edgekit.bundle.checks.answering import answering_faults
from edgekit.bundle.checks.components import component_faults
from edgekit.bundle.checks.files import file_faults
from edgekit.bundle.checks.hearing import front_end_fault, hearing_faults
from edgekit.bundle.checks.results import result_faults
from edgekit.bundle.checks.speaking import speaking_faults
from edgekit.bundle.checks.tables import embedding_fault, table_faults
from edgekit.bundle.manifest import Manifest
from edgekit.errors import BundleFormatError

__all__ = ["check_manifest", "embedding_fault", "front_end_fault"]

_CHECKS = (
    file_faults,
    component_faults,
    table_faults,
    hearing_faults,
    answering_faults,
    speaking_faults,
    result_faults,
)


def check_manifest(manifest: Manifest) -> None:
    """Raise BundleFormatError, without the file's name, for the first fault: value, rule and JSON path."""
    first = next(chain.from_iterable(faults(manifest) for faults in _CHECKS), None)
    if first is not None:
        raise BundleFormatError(f"{first}; export it again")
