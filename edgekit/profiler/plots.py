"""Draw Profiles as SVG text with matplotlib. The same Profile gives the same bytes; no display and no global state."""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit.errors import MissingPackageError
from edgekit.profiler.markdown import number
from edgekit.profiler.profiles import Metric, Profile, Timeline
from edgekit.spans import ADAPTER, DECODE, ENCODER, FEATURES, GATE, PREFILL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH_IN = 9.6
_INK, _FAINT, _GRID = "#1c2733", "#5b6875", "#d9dfe5"
_SPEECH, _WAIT = "#9fb3c8", "#e8edf2"
_LANES = {
    GATE: "#7a8793",
    FEATURES: "#5b7c99",
    ENCODER: "#1f6fb2",
    ADAPTER: "#17808a",
    PREFILL: "#c46a12",
    DECODE: "#a8322d",
}
_SHADES = ("#1f6fb2", "#79aad3", "#c9dded")
_LINES = "lines: gate closed, first token, final text"
_STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _GRID,
    "xtick.color": _FAINT,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@dataclass(frozen=True, slots=True)
class Bar:
    """One row of ``bars``: a label and the Metric it shows; ``group`` starts a new block of rows where it changes."""

    group: str
    label: str
    metric: Metric


def timeline(utterance: Timeline, title: str, name: str) -> str:
    """Return one utterance as SVG: speech and every span of work, whole above and its end enlarged below."""
    with _drawing(4.9, name) as figure:
        whole, end = figure.subplots(2, 1, gridspec_kw={"hspace": 0.55})
        last = utterance.final_text_ms
        _lanes(whole, utterance, 0.0, 1000)
        _lanes(end, utterance, utterance.speech_end_ms, 1)
        whole.set_xlim(0.0, last * 1.02 / 1000)
        end.set_xlim(-250.0, last + 30 - utterance.speech_end_ms)
        whole.set_xlabel(f"s since the first sample   ({_LINES})")
        end.set_xlabel(f"ms after the last speech sample   ({_LINES})")
        whole.set_title(title, loc="left", fontsize=10)
        end.set_title("The same, from the end of speech", loc="left", fontsize=10)
        return _svg(figure)


def bars(rows: Sequence[Bar], title: str, name: str) -> str:
    """Return horizontal bars as SVG: up to the median, then to p90 and p99 in lighter shades."""
    with _drawing(0.9 + 0.27 * len(rows) + 0.12 * len({row.group for row in rows}), name) as figure:
        axes = figure.subplots()
        at, places, group = 0.0, [], None
        for row in rows:
            at += 0 if group is None else 1 if row.group == group else 1.5
            group = row.group
            places.append(at)
            _percentile_bar(axes, at, row.metric)
        axes.set_yticks(places, [f"{row.group}, {row.label}" if row.label else row.group for row in rows])
        axes.set_ylim(at + 0.7, -0.7)
        axes.set_xlim(0, max(row.metric.p99 for row in rows) * 1.25 or 1.0)
        axes.set_xlabel(f"{rows[0].metric.unit}: median (dark), p90, p99 (lightest)")
        axes.set_title(title, loc="left", fontsize=10)
        _grid(axes)
        return _svg(figure)


def latency_rows(profiles: Sequence[Profile], labels: Sequence[str], titles: dict[str, str]) -> list[Bar]:
    """Return the Bars of the metrics named by ``titles``, every Profile side by side."""
    return [
        Bar(title, label if len(profiles) > 1 else "", metric)
        for name, title in titles.items()
        for profile, label in zip(profiles, labels, strict=True)
        if (metric := profile.metric(name))
    ]


def level_rows(profiles: Sequence[Profile], labels: Sequence[str], name: str) -> list[Bar]:
    """Return the Bars of one metric at every compute level, for every Profile."""
    return [
        Bar(f"{metric.level}, {metric.pace}", label if len(profiles) > 1 else "", metric)
        for profile, label in zip(profiles, labels, strict=True)
        for metric in profile.metrics
        if metric.name == name
    ]


def _lanes(axes: "Axes", utterance: Timeline, origin_ms: float, unit_ms: float) -> None:
    lanes = [lane for lane in _LANES if any(span.name == lane for span in utterance.spans)]

    def place(moment_ms: float) -> float:
        return (moment_ms - origin_ms) / unit_ms

    axes.barh(0, utterance.speech_end_ms / unit_ms, left=place(0), height=0.7, color=_SPEECH, linewidth=0)
    wait_ms = utterance.closed_ms - utterance.speech_end_ms
    axes.barh(0, wait_ms / unit_ms, left=place(utterance.speech_end_ms), height=0.7, color=_WAIT, linewidth=0)
    for index, lane in enumerate(lanes, start=1):
        bars = [(place(span.start_ms), span.ms / unit_ms) for span in utterance.spans if span.name == lane]
        axes.broken_barh(bars, (index - 0.35, 0.7), facecolor=_LANES[lane], edgecolor=_LANES[lane], linewidth=0.6)
    for moment_ms, style in (
        (utterance.closed_ms, ":"),
        (utterance.first_token_ms, "--"),
        (utterance.final_text_ms, "-"),
    ):
        axes.axvline(place(moment_ms), color=_INK, linewidth=0.8, linestyle=style)
    axes.set_yticks(range(len(lanes) + 1), ["speech", *lanes])
    axes.set_ylim(len(lanes) + 0.6, -0.6)
    _grid(axes)


def _percentile_bar(axes: "Axes", at: float, metric: Metric) -> None:
    values = (metric.p50, metric.p90, metric.p99)
    for left, value, shade in zip((0.0, *values), values, _SHADES, strict=False):
        axes.barh(at, value - left, left=left, height=0.72, color=shade, linewidth=0)
    text = "  " + " / ".join(map(number, values))
    axes.text(metric.p99, at, text, va="center", ha="left", fontsize=8, color=_FAINT)


def _grid(axes: "Axes") -> None:
    axes.grid(axis="x", color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(axis="both", length=0)


@contextmanager
def _drawing(height_in: float, name: str) -> "Iterator[Figure]":
    """Give a Figure whose style and ids depend on nothing outside; ``name`` keeps the ids of one page's plots apart."""
    try:
        from matplotlib import style
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackageError(
            f"matplotlib is not installed, the plot '{name}' needs it; pip install 'edgekit-audio[report]'"
        ) from error
    with style.context(["default", {**_STYLE, "svg.hashsalt": name}]):
        yield Figure(figsize=(_WIDTH_IN, height_in))


def _svg(figure: "Figure") -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    body = text.getvalue()
    return re.sub(r"<metadata>.*?</metadata>\s*", "", body[body.index("<svg") :], flags=re.DOTALL)
