"""Measures: what a server does, in figures, for Prometheus and for the page. No text, no name of anybody, in any."""

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.serving.latencies import Latencies
from edgekit.serving.served import Served
from edgekit.serving.server import STUCK_S, Server
from edgekit.versions import VERSION

if TYPE_CHECKING:
    from prometheus_client import Metric

QUANTILES = (0.5, 0.95, 0.99)


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the smallest value that so large a share of all are not above; None of no values."""
    return float(np.quantile(values, share, method="inverted_cdf")) if len(values) else None


class Measures:
    """Reads a Server's figures whenever it is asked; keeps none."""

    def __init__(self, server: Server) -> None:
        self._server = server

    @property
    def healthy(self) -> bool:
        """Whether the server's threads run and none is stuck in an engine."""
        return self._server.alive and not self._server.stuck(STUCK_S)

    def facts(self, served: Served | None) -> dict[str, Any]:
        """Return what the page shows of a stream and of the server, as plain data."""
        server = self._server
        facts: dict[str, Any] = {
            "streams": len(server.streams), "most_streams": server.limits.streams, "busy": round(server.busy, 3),
            "behind_s": round(server.behind_s, 3), "latencies": _latencies(server.latencies),
        }  # fmt: skip
        if served is not None:
            stream = served.stream
            facts["stream"] = {
                "level": stream.level.name, "talking": stream.talking, "behind_s": round(served.behind_s, 3),
                "speech_probability": round(float(stream.speech_probability), 3),
                "latencies": _latencies(served.latencies),
            }  # fmt: skip
        return facts

    def exposition(self) -> tuple[bytes, str]:
        """Return the figures in Prometheus' text format, and its content type."""
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest

        registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=registry)
        registry.register(_Collector(self._server))
        return generate_latest(registry), CONTENT_TYPE_LATEST


class _Collector:
    """A collector of prometheus-client."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def describe(self) -> Iterable["Metric"]:
        """Return nothing: every name is this collector's own."""
        return []

    def collect(self) -> Iterator["Metric"]:
        """Yield every figure as it is now."""
        from prometheus_client.core import CounterMetricFamily as Counter
        from prometheus_client.core import GaugeMetricFamily as Gauge
        from prometheus_client.core import InfoMetricFamily as Info

        server, counts = self._server, self._server.counts
        yield Info("edgekit", "What runs here.", value={"version": VERSION})
        yield Gauge("edgekit_ready", "Whether a stream would be taken: a model is loaded.", value=server.ready)
        streams = Gauge("edgekit_streams", "Streams that are open.", labels=["live"])
        for live in (True, False):
            count = sum(served.live == live for served in server.streams)
            streams.add_metric([str(live).lower()], count)
        yield streams
        yield Counter("edgekit_streams_opened", "Streams that were taken.", value=counts.opened)
        for name, meaning, label, counted in (
            ("edgekit_streams_refused", "Streams that were not taken, by reason.", "reason", counts.refused),
            ("edgekit_streams_ended", "Streams that are over, by reason.", "reason", counts.ended),
            ("edgekit_events", "Events of streams, by kind.", "kind", counts.events),
        ):
            family = Counter(name, meaning, labels=[label])
            for key, value in sorted(counted.items()):
                family.add_metric([key], value)
            yield family
        sound = Counter("edgekit_sound_seconds", "Sound, by what became of it; received is all of it.", labels=["fate"])
        for fate in ("received", "heard", "gated", "abandoned"):
            sound.add_metric([fate], getattr(counts, f"{fate}_s"))
        yield sound
        yield Counter("edgekit_work_seconds", "Time that steps of streams took.", value=counts.worked_s)
        yield Gauge("edgekit_busy_ratio", "Share of the last seconds that was work.", value=server.busy)
        yield Gauge("edgekit_behind_seconds", "How far the latest live stream is behind.", value=server.behind_s)
        latency = Gauge(
            "edgekit_latency_seconds",
            "From the last word to its provisional text, its end being decided and the final text; the last 1,000.",
            labels=["until", "quantile"],
        )
        measured = server.latencies
        for until, values in _kinds(measured):
            for share in QUANTILES:
                if (milliseconds := percentile(values, share)) is not None:
                    latency.add_metric([until, str(share)], milliseconds / 1000)
        yield latency
        yield Gauge("edgekit_threads", "Threads of Python in this process.", value=threading.active_count())
        yield Gauge("edgekit_cores", "Cores that this process may use.", value=len(os.sched_getaffinity(0)))


def _kinds(measured: Latencies) -> list[tuple[str, Sequence[float]]]:
    return [
        ("provisional", measured.provisional_ms.copy()), ("decided", measured.decided_ms.copy()),
        ("final", measured.final_ms.copy()),
    ]  # fmt: skip


def _latencies(measured: Latencies) -> dict[str, dict[str, float | int | None]]:
    return {
        name: {
            "count": len(values),
            **{f"p{share * 100:.0f}_ms": _rounded(percentile(values, share)) for share in QUANTILES[:2]},
        }
        for name, values in _kinds(measured)
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
