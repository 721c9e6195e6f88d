"""A component's graph as a library is given it: its bytes, and its data file open, so that no path is opened again."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgekit.bundle import Bundle, Component
from edgekit.bundle.files import BundleFiles, HeldFile
from edgekit.errors import BundleFormatError
from edgekit.runtime.graphs.check import Checked, check_graph


@dataclass(frozen=True, slots=True)
class GraphSource:
    """A graph and its data.

    ``path``: where the graph lies, for messages; ``location``: what it must call its data file, None if there is none;
    ``dialect``: whose ops it may hold, None for one that was just written and is no bundle's.
    """

    path: Path
    graph: bytes
    data: HeldFile | None
    location: str | None
    dialect: str | None

    def check(self) -> Checked:
        """Return what is known of the graph; raise BundleFormatError if it may not be loaded, see ``check_graph``."""
        return check_graph(self.graph, self.path, self.location, self.data.bytes if self.data else 0, self.dialect)


def bundle_graph(bundle: Bundle, name: str) -> GraphSource:
    """Return the graph of a bundle's component: the bytes that were hashed.

    Raises BundleFormatError for a component that the bundle lacks, and for files that are not what was checked.
    """
    component = bundle.manifest.components.get(name)
    if component is None:
        raise BundleFormatError(
            f"{bundle.folder}: no component '{name}', it has {', '.join(bundle.manifest.components)}; export it again"
        )
    data = bundle.open(component.data) if component.data else None
    return GraphSource(
        bundle.file(component.graph), bundle.read(component.graph), data, _location(component), bundle.manifest.dialect
    )


def written_graph(folder: Path, component: Component, dialect: str | None = None) -> GraphSource:
    """Return the graph of a component that was just written into a folder."""
    files = BundleFiles(folder)
    data = files.open(component.data) if component.data else None
    graph = files.open(component.graph).read()
    return GraphSource(folder / component.graph, graph, data, _location(component), dialect)


def _location(component: Component) -> str | None:
    """Return how a graph must name its data file: a library looks beside the graph."""
    if component.data is None:
        return None
    if PurePosixPath(component.graph).parent != PurePosixPath(component.data).parent:
        raise BundleFormatError(
            f"{component.graph}: external data '{component.data}' is not beside it; export it again"
        )
    return PurePosixPath(component.data).name
