"""Files: each listed once, all that is used among them, and the census no larger than what holds it."""

from collections import Counter
from itertools import chain

from edgekit.bundle.faults import Faults, fault, first_twice
from edgekit.bundle.manifest import MANIFEST, Component, Manifest


def file_faults(manifest: Manifest) -> Faults:
    """Yield what is wrong with the list of files and with what refers to it."""
    paths = [entry.path for entry in manifest.files]
    if (twice := first_twice(paths)) is not None:
        yield fault("files", f"'{twice}' is listed twice")
    if MANIFEST in paths:
        yield fault("files", f"'{MANIFEST}' lists itself, which no hash can hold")
    tables = [ref for table in manifest.tables().values() for ref in (table.weight, table.scales) if ref]
    used = {
        *chain.from_iterable(_files(component) for component in manifest.components.values()),
        *(ref.file for ref in tables),
        *(manifest.speech.files() if manifest.speech else ()),
    }
    if missing := sorted(used - set(paths)):
        yield f"'{missing[0]}' is used by a component but not listed under files"
        return
    yield from _census_faults(manifest)


def _census_faults(manifest: Manifest) -> Faults:
    sizes = {entry.path: entry.bytes for entry in manifest.files}
    present = {name: sum(sizes[file] for file in _files(one)) for name, one in manifest.components.items()}
    present |= {
        name: sum(sizes[file] for file in {ref.file for ref in (table.weight, table.scales) if ref})
        for name, table in manifest.tables().items()
    }
    rows: Counter[str] = Counter()
    for index, row in enumerate(manifest.census):
        if row.component not in present:
            yield fault(
                f"census[{index}].component", f"'{row.component}' is no component, there are {', '.join(present)}"
            )
        rows[row.component] += row.bytes
    for name, size in rows.items():
        if size > present.get(name, size):
            yield fault("census", f"tensors of '{name}' have {size} bytes, its files have {present[name]}")


def _files(component: Component) -> tuple[str, ...]:
    return (component.graph, *((component.data,) if component.data else ()))
