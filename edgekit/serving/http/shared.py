"""Site: what the routes share: the server, its figures, who may come in, and threads that decode recordings."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from edgekit.runtime.model import Model
from edgekit.serving.guard import Access
from edgekit.serving.measures import Measures
from edgekit.serving.server import Server
from edgekit.serving.watch import Watch

_DECODERS = 2
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Site:
    """See the module. ``watch``: the microphone's own stream, where there is one."""

    server: Server
    measures: Measures
    access: Access
    watch: Watch | None = None
    decoding: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(_DECODERS, thread_name_prefix="edgekit-decoder")
    )

    @property
    def model(self) -> Model:
        """The model that new streams are made of. Raises RefusedError while it is loaded."""
        return self.server.loaded

    async def aside(self, work: Callable[[], T]) -> T:
        """Return what some work returns, done on a thread, while others are served."""
        return await asyncio.get_running_loop().run_in_executor(self.decoding, work)
