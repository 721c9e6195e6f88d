"""``python program.py serve ...``: the command line, whose HTTP is a neighbour of the tests' own.

It takes one line of JSON from each connection: samples to push, as numbers of seconds of noise; and answers each event
as a line of JSON. So what a process that serves does is tried without a protocol that somebody else defines.
"""

import asyncio
import json
import sys
import types

import numpy as np

from edgekit.errors import EdgeKitError
from edgekit.runtime.events import to_json
from edgekit.serving.reading import Reader

RATE = 16_000


class Http:
    """The neighbour."""

    name = "http"

    def __init__(self, server, settings, *_more, **_named):
        self.server, self.settings = server, settings
        self.listening = None

    async def start(self):
        """Bind."""
        self.listening = await asyncio.start_server(self.connected, self.settings.host, self.settings.port)
        host, port = self.listening.sockets[0].getsockname()[:2]
        return f"http://{host}:{port}"

    async def stop(self):
        """Take nobody else."""
        self.listening.close()

    async def connected(self, lines, writer):
        """Hear what comes, answer what is heard."""

        def say(**fields):
            writer.write((json.dumps(fields) + "\n").encode())

        try:
            async with Reader(self.server, {"sample_rate_hz": RATE}, name="a client") as reader:
                say(options=reader.served.stream.options.language, level=reader.served.stream.level.name)
                task = asyncio.ensure_future(self.push(lines, reader))
                async for event in reader:
                    say(**to_json(event))
                say(ended=reader.ended.reason)
                task.cancel()
        except EdgeKitError as error:
            say(refused=getattr(error, "reason", ""), message=str(error))
        writer.close()

    async def push(self, lines, reader):
        """Push as many seconds of noise as each line says; none ends it."""
        noise = np.random.default_rng(1).uniform(-0.3, 0.3, RATE // 4).astype(np.float32)
        while line := await lines.readline():
            for _ in range(round(float(line) * 4)):
                await reader.push(noise)
            if float(line) == 0:
                reader.served.finish()


if __name__ == "__main__":
    module = types.ModuleType("edgekit.serving.http.neighbour")
    module.Http = Http
    sys.modules[module.__name__] = module
    sys.modules.setdefault("edgekit.serving.http", types.ModuleType("edgekit.serving.http"))
    sys.argv[0] = "edgekit"
    from edgekit.__main__ import main

    main()
