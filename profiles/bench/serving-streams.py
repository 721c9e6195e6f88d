#!/usr/bin/env python3
"""Measure what a service does with as many clients as it takes, with one more, with rude ones, with none, and killed.

    make speech-data
    python profiles/bench/serving-streams.py --int8 bundles/edgekit-tiny-int8 --speech data/asterisk-en

Starts `edgekit serve` and speaks to it as others would: websockets that push recorded prompts at real time, as many as
it takes at once; one more; a thousand that come and go; one that never reads. Then `edgekit listen` hears the noise of
a room, and is killed and started again. Writes JSON and Markdown under profiles/<device>/.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import soundfile

import edgekit
from edgekit.profiler.bench import bundle_facts
from edgekit.profiler.clips import faint_noise, read_clip
from edgekit.profiler.comparison import Findings, make_comparison, save_comparison
from edgekit.profiler.steadiness import holding

ROOT = Path(__file__).resolve().parents[2]
RATE_HZ, BLOCK_S = 16_000, 0.02
NOISE_DB = -50.0  # a room with a fan: far above what a quiet room's microphone hears
READY_S, IDLE_S, SETTLE_S = 60.0, 60.0, 3.0
LAG, WAIT, BESIDE = "Lag of a stream", "Last word to final text", "Last word to final text, beside one that never reads"
IDLE, START, CONNECT = "Idle listening", "Killed until it listens again", "Connect and disconnect"


class Service:
    """`edgekit serve` in a process of its own."""

    def __init__(self, bundle: Path, *arguments: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [sys.executable, "-m", "edgekit", "serve", str(bundle), "--http", str(self.port), *arguments]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def url(self, path: str, scheme: str = "http") -> str:
        """Return an address of it."""
        return f"{scheme}://127.0.0.1:{self.port}{path}"

    def end(self) -> int:
        """End it in good order; return its exit code."""
        self.process.terminate()
        return self.process.wait(READY_S)


@contextmanager
def service(bundle: Path, *arguments: str) -> Iterator[Service]:
    """Yield a service that is ready."""
    import httpx

    started = Service(bundle, *arguments)
    try:
        end = time.monotonic() + READY_S
        while True:
            with suppress(httpx.TransportError):
                if httpx.get(started.url("/ready")).status_code == httpx.codes.OK:
                    break
            assert time.monotonic() < end, "the service is not ready"
            time.sleep(0.05)
        yield started
    finally:
        started.end()


async def stream(url: str, sound: np.ndarray, findings: Findings, subject: str, wait: str) -> None:
    """Push sound at real time through a websocket, and keep its lag and how long its texts take."""
    from websockets.asyncio.client import connect

    begun_s = time.perf_counter()
    async with connect(url, max_size=None) as connection:

        async def push() -> None:
            size = round(BLOCK_S * RATE_HZ)
            for start in range(0, len(sound), size):
                due_s = begun_s + (start + size) / RATE_HZ
                await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
                await connection.send((sound[start : start + size] * 32767).astype("<i2").tobytes())
            await connection.send(json.dumps({"type": "finish"}))

        pushing = asyncio.ensure_future(push())
        ended = None
        async for message in connection:
            event = json.loads(message)
            now_s = time.perf_counter() - begun_s
            if event["event"] == "status":
                findings.add(LAG, subject, "ms", event["behind_s"] * 1000)
            elif event["event"] == "speech_stopped":
                ended = event["at_s"]
            elif event["event"] == "text" and event["final"] and ended is not None:
                findings.add(wait, subject, "ms", (now_s - ended) * 1000)
                ended = None
        await pushing


async def refused(url: str) -> bool:
    """Return whether a further stream is refused by name."""
    from websockets.asyncio.client import connect

    async with connect(url) as connection:
        return json.loads(await connection.recv()).get("reason") == "streams"


async def come_and_go(url: str, times: int, findings: Findings) -> None:
    """Connect and disconnect, in half of them after some sound."""
    from websockets.asyncio.client import connect

    for index in range(times):
        begun = time.perf_counter()
        async with connect(url) as connection:
            await connection.recv()
            if index % 2:
                await connection.send(bytes(2 * 1600))
        findings.add(CONNECT, "one client", "ms", (time.perf_counter() - begun) * 1000)


async def beside_a_deaf_one(started: Service, sound: np.ndarray, findings: Findings) -> str:
    """Push sound through one websocket while another pushes and reads nothing; return what became of the latter."""
    reader, writer = await asyncio.open_connection("127.0.0.1", started.port)
    writer.write(
        b"GET /v1/listen?status=true HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n" % started.port
    )
    await reader.readuntil(b"\r\n\r\n")
    payload = (sound[: RATE_HZ // 2] * 32767).astype("<i2").tobytes()
    frame = b"\x82\xfe" + len(payload).to_bytes(2, "big") + bytes(4) + payload

    async def push_without_reading() -> None:
        with suppress(OSError):
            while True:
                writer.write(frame)
                await writer.drain()

    deaf = asyncio.ensure_future(push_without_reading())
    try:
        await stream(started.url("/v1/listen?status=true", "ws"), sound, findings, "one stream", BESIDE)
        return "ended by the service" if deaf.done() else "still connected"
    finally:
        deaf.cancel()
        await asyncio.gather(deaf, return_exceptions=True)
        writer.close()


def listening(bundle: Path, noise: Path, notify: socket.socket, path: str) -> tuple["subprocess.Popen[bytes]", float]:
    """Start `edgekit listen` on noise; return it with the seconds until it says that it listens."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "edgekit", "listen", str(bundle), "--simulate", str(noise)]
    process = subprocess.Popen(
        command, env=os.environ | {"NOTIFY_SOCKET": path}, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    while b"READY=1" not in notify.recv(4096):
        pass
    return process, time.perf_counter() - begun


def processor_s(pid: int) -> float:
    """Return the seconds of processor that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure_clients(args: argparse.Namespace, findings: Findings, many: str) -> list[str]:
    """Measure a service under its clients; return what no figure says."""
    notes = []
    clips = sorted(args.speech.glob("*.wav"))
    rng = np.random.default_rng(0)
    sounds = [speech(clips, args.seconds, rng) for _ in range(args.streams)]
    with service(args.int8, "--max-streams", str(args.streams)) as started:
        url = started.url("/v1/listen?status=true", "ws")

        async def all_at_once() -> bool:
            streams = [asyncio.ensure_future(stream(url, sound, findings, many, WAIT)) for sound in sounds]
            await asyncio.sleep(args.seconds / 2)
            one_more = await refused(url)
            await asyncio.gather(*streams)
            return one_more

        notes.append(f"One more than {many}: {'refused by name' if asyncio.run(all_at_once()) else 'NOT REFUSED'}.")
        asyncio.run(stream(url, sounds[0], findings, "one stream", WAIT))
        asyncio.run(come_and_go(url, args.connects // 10, findings))
        time.sleep(SETTLE_S)
        before = holding(started.process.pid)
        asyncio.run(come_and_go(url, args.connects, findings))
        time.sleep(SETTLE_S)
        after = holding(started.process.pid)
        notes.append(
            f"{args.connects} connects and disconnects: descriptors {before.descriptors} to {after.descriptors}, "
            f"threads {before.threads} to {after.threads}, "
            f"resident {before.memory_mib:.1f} to {after.memory_mib:.1f} MiB."
        )
        notes.append(f"One that never reads: {asyncio.run(beside_a_deaf_one(started, sounds[0], findings))}.")
    return notes


def measure_listening(args: argparse.Namespace, findings: Findings) -> None:
    """Measure what `edgekit listen` takes where nobody speaks, and how soon it is back when it was killed."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        path = str(Path(folder, "notify"))
        notify.bind(path)
        notify.settimeout(READY_S)
        noise = Path(folder, "room.wav")
        sound = faint_noise(IDLE_S + 60, RATE_HZ) * 10 ** ((NOISE_DB + 70) / 20)
        soundfile.write(noise, sound, RATE_HZ)
        process, _ = listening(args.int8, noise, notify, path)
        time.sleep(SETTLE_S)
        for _ in range(6):
            had_s, since = processor_s(process.pid), time.perf_counter()
            time.sleep(IDLE_S / 6)
            share = (processor_s(process.pid) - had_s) / (time.perf_counter() - since)
            findings.add(IDLE, "a room's noise", "% of a core", share * 100)
        for _ in range(args.restarts):
            process.send_signal(signal.SIGKILL)
            process.wait()
            process, seconds = listening(args.int8, noise, notify, path)
            findings.add(START, "listen", "s", seconds)
        process.terminate()
        process.wait()


def main() -> None:
    """Measure, write and say where."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--int8", type=Path, required=True, help="the bundle to measure")
    parser.add_argument("--speech", type=Path, default=ROOT / "data/asterisk-en", help="folder of prompts")
    parser.add_argument("--streams", type=int, default=4, help="as many as the service is told to take")
    parser.add_argument("--seconds", type=float, default=60.0, help="of speech, for each stream")
    parser.add_argument("--connects", type=int, default=1000)
    parser.add_argument("--restarts", type=int, default=20)
    parser.add_argument("--output", type=Path, default=ROOT / "profiles")
    args = parser.parse_args()

    findings, many = Findings(), f"{args.streams} streams"
    notes = measure_clients(args, findings, many)
    measure_listening(args, findings)
    for name, subject in ((LAG, many), (LAG, "one stream"), (WAIT, many), (WAIT, "one stream"), (BESIDE, "one stream")):
        p50, p95, p99 = np.percentile(findings.samples(name, subject), (50, 95, 99))
        notes.append(f"{name}, {subject}: p50 {p50:.0f}, p95 {p95:.0f}, p99 {p99:.0f} ms.")
    model = edgekit.load(args.int8)
    comparison = make_comparison(
        title=f"A service of {model.manifest.name} under its clients",
        question="How late is each of as many clients as it takes, who disturbs whom, and what is it when idle?",
        settings={
            "Settings": f"`edgekit serve --max-streams {args.streams}`, else as by default; clients here too",
            "Pace": f"real time, blocks of {BLOCK_S * 1000:.0f} ms, {args.seconds:g} s for each stream",
            "Noise": f"white, {NOISE_DB:g} dB of full scale",
        },
        figures=findings.figures(),
        ratios=[],
        definitions={
            LAG: "Sound that came and was neither heard nor gated, as the service's own status says every second.",
            WAIT: "From the end of speech by the bundle's own gate, on the client's clock, to the final text there.",
            BESIDE: "The same while another websocket pushes without end and reads nothing.",
            CONNECT: "A websocket from its first byte to its last, every second one with 0.1 s of sound.",
            IDLE: "Processor time of `edgekit listen --simulate` over ten seconds, by /proc.",
            START: "From the start of a process to its READY=1, the one before having been killed.",
        },
        bundles={"measured": bundle_facts(model)},
        clips=[],
        notes=notes,
    )
    print("\n".join(notes))
    print(save_comparison(comparison, args.output, f"{model.manifest.name}-serving-streams"))


def speech(clips: list[Path], seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Return prompts one after the other, 1.2 s of faint noise between, of exactly so many seconds."""
    pause = faint_noise(1.2, RATE_HZ)
    parts: list[np.ndarray] = [pause]
    while sum(map(len, parts)) < seconds * RATE_HZ:
        parts += [read_clip(clips[int(rng.integers(len(clips)))], RATE_HZ).samples, pause]
    sound = np.concatenate(parts)[: round(seconds * RATE_HZ)]
    sound[-round(1.2 * RATE_HZ) :] = pause[: round(1.2 * RATE_HZ)]
    return sound


if __name__ == "__main__":
    main()
