"""Comparison: subjects measured side by side in interleaved rounds, as plain data, JSON and Markdown.

What the scripts in ``profiles/bench/`` write. Knows medians and ratios of rounds; measures nothing itself.
"""

import os
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgekit.atomic import write_whole
from edgekit.errors import ProfileError
from edgekit.profiler.device import describe_device, describe_software
from edgekit.profiler.markdown import facts_of_device, losses, markdown_table, number, waivers
from edgekit.profiler.profiles import (
    SCHEMA_VERSION,
    BundleFacts,
    ClipFacts,
    Device,
    Profile,
    Software,
    Struct,
    encode_record,
)

_DIGITS = 5


class Figure(Struct, frozen=True):
    """One figure of one subject: order statistics of ``n`` samples."""

    name: str
    subject: str
    unit: str
    n: int
    p50: float
    min: float
    max: float


class Ratio(Struct, frozen=True):
    """A ratio of two medians; ``low`` and ``high`` are its bounds, of what kind ``interval`` says."""

    name: str
    value: float
    low: float
    high: float
    interval: str
    n: int
    limit: float | None = None


class Comparison(Struct, frozen=True, tag_field="kind", tag="comparison"):
    """What one script found. ``settings`` say how, ``details`` hold what no table shows, such as texts."""

    schema_version: int
    title: str
    question: str
    date: str
    device: Device
    software: Software
    bundles: dict[str, BundleFacts]
    clips: tuple[ClipFacts, ...]
    settings: dict[str, str]
    figures: tuple[Figure, ...]
    ratios: tuple[Ratio, ...]
    definitions: dict[str, str]
    notes: tuple[str, ...]
    details: dict[str, Any]


class Findings:
    """Samples in the making: one list for each figure and subject, in the order of the rounds."""

    def __init__(self) -> None:
        self._samples: dict[tuple[str, str], list[float]] = {}
        self._units: dict[str, str] = {}

    def add(self, name: str, subject: str, unit: str, *values: float) -> None:
        """Take samples of one round."""
        self._units[name] = unit
        self._samples.setdefault((name, subject), []).extend(values)

    def samples(self, name: str, subject: str) -> list[float]:
        """Return the samples so far."""
        return self._samples[name, subject]

    def figures(self) -> tuple[Figure, ...]:
        """Return every figure, in the order in which they first came."""
        return tuple(
            Figure(
                name=name,
                subject=subject,
                unit=self._units[name],
                n=len(values),
                p50=_rounded(float(np.median(values))),
                min=_rounded(min(values)),
                max=_rounded(max(values)),
            )
            for (name, subject), values in self._samples.items()
        )

    def ratio(self, name: str, figure: str, above: str, below: str, *, limit: float | None = None) -> Ratio:
        """Return median(above) / median(below) of a figure, bounded by the ratios of single rounds."""
        upper, lower = self._samples[figure, above], self._samples[figure, below]
        rounds = [one / other for one, other in zip(upper, lower, strict=True)]
        return Ratio(
            name=name,
            value=_rounded(float(np.median(upper) / np.median(lower))),
            low=_rounded(min(rounds)),
            high=_rounded(max(rounds)),
            interval="lowest and highest round",
            n=len(rounds),
            limit=limit,
        )


def bootstrap_ratio(
    name: str,
    parts: Sequence[float],
    wholes: Sequence[float],
    *,
    resamples: int = 1000,
    seed: int = 0,
    limit: float | None = None,
) -> Ratio:
    """Return sum(parts) / sum(wholes) with the 95 % interval of a bootstrap over items, seeded."""
    above, below = np.asarray(parts, np.float64), np.asarray(wholes, np.float64)
    picks = np.random.default_rng(seed).integers(0, len(above), (resamples, len(above)))
    low, high = np.percentile(above[picks].sum(axis=1) / below[picks].sum(axis=1), (2.5, 97.5))
    return Ratio(
        name=name,
        value=_rounded(float(above.sum() / below.sum())),
        low=_rounded(float(low)),
        high=_rounded(float(high)),
        interval=f"95 %, bootstrap of {resamples} over clips",
        n=len(above),
        limit=limit,
    )


def make_comparison(
    *,
    title: str,
    question: str,
    settings: Mapping[str, str],
    figures: Sequence[Figure],
    ratios: Sequence[Ratio],
    definitions: Mapping[str, str],
    bundles: Mapping[str, BundleFacts] | None = None,
    clips: Sequence[ClipFacts] = (),
    packages: Sequence[str] = (),
    notes: Sequence[str] = (),
    details: Mapping[str, Any] | None = None,
) -> Comparison:
    """Return a Comparison made here and now; ``packages``: further distributions whose versions count."""
    return Comparison(
        schema_version=SCHEMA_VERSION,
        title=title,
        question=question,
        date=datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        device=describe_device(),
        software=describe_software(packages),
        bundles=dict(bundles or {}),
        clips=tuple(clips),
        settings=dict(settings),
        figures=tuple(figures),
        ratios=tuple(ratios),
        definitions=dict(definitions),
        notes=tuple(notes),
        details=dict(details or {}),
    )


def save_comparison(comparison: Comparison, profiles: str | os.PathLike[str], name: str) -> Path:
    """Write ``<profiles>/<device slug>/<name>.json`` and ``.md``; return the path of the latter. Raises OutputError."""
    folder = Path(profiles, comparison.device.slug)
    write_whole(folder / f"{name}.json", encode_record(comparison))
    write_whole(folder / f"{name}.md", render_comparison(comparison).encode())
    return folder / f"{name}.md"


def load_record(path: str | os.PathLike[str]) -> Profile | Comparison:
    """Return what a JSON file under ``profiles/`` holds; raises ProfileError if it is neither."""
    try:
        record = msgspec.json.decode(Path(path).read_bytes(), type=Profile | Comparison)
    except msgspec.MsgspecError as error:
        raise ProfileError(f"{path}: {error}; make it again with the EdgeKit that reads it") from error
    if record.schema_version != SCHEMA_VERSION:
        raise ProfileError(
            f"{path}: schema version {record.schema_version}, this EdgeKit reads {SCHEMA_VERSION}; repeat it"
        )
    return record


def render_comparison(comparison: Comparison) -> str:
    """Return a Comparison as Markdown: the same Comparison gives the same text."""
    subjects = list(dict.fromkeys(figure.subject for figure in comparison.figures))
    names = dict.fromkeys((figure.name, figure.unit) for figure in comparison.figures)
    cells = {(figure.name, figure.subject): _cell(figure) for figure in comparison.figures}
    rows = [(name, unit, *(cells.get((name, subject), "-") for subject in subjects)) for name, unit in names]
    lines = [f"# {comparison.title}", "", comparison.question, ""]
    lines += [line for warning in waivers(comparison.bundles) for line in (f"**{warning}**", "")]
    lines += [line for sentence in losses(comparison.bundles) for line in (sentence, "")]
    if rows:
        lines += [
            *markdown_table(("Figure", "Unit", *subjects), rows),
            "",
            "Cells: median (lowest to highest; samples).",
        ]
    if comparison.ratios:
        lines += ["", "## Ratios", "", *markdown_table(_RATIO_HEAD, [_ratio_row(ratio) for ratio in comparison.ratios])]
    if comparison.notes:
        lines += ["", "## What this tells", "", *(f"- {note}" for note in comparison.notes)]
    lines += ["", "## Definitions", "", *(f"- **{name}**: {text}" for name, text in comparison.definitions.items())]
    lines += ["", "## Where it comes from", "", *markdown_table(("", ""), list(_facts(comparison).items()))]
    return "\n".join(lines) + "\n"


_RATIO_HEAD = ("Ratio", "value", "interval", "kind of interval", "n", "limit")


def _ratio_row(ratio: Ratio) -> tuple[str, ...]:
    interval = f"{number(ratio.low)} to {number(ratio.high)}"
    limit = "-" if ratio.limit is None else f"{ratio.limit:g}"
    return ratio.name, number(ratio.value), interval, ratio.interval, str(ratio.n), limit


def _cell(figure: Figure) -> str:
    if figure.n == 1:
        return f"{number(figure.p50)} (1)"
    return f"{number(figure.p50)} ({number(figure.min)} to {number(figure.max)}; {figure.n})"


def _facts(comparison: Comparison) -> dict[str, str]:
    facts = {"Date": comparison.date, **facts_of_device(comparison.device, comparison.software), **comparison.settings}
    for subject, bundle in comparison.bundles.items():
        size = f"{bundle.bytes / 2**20:.1f} MiB" + (", dummy weights" if bundle.dummy_seed is not None else "")
        facts[f"Bundle {subject}"] = (
            f"{bundle.name} ({bundle.family}), {size}, manifest SHA-256 {bundle.manifest_sha256}"
        )
    facts |= {f"Clip {clip.name}": f"{clip.seconds:.2f} s, SHA-256 {clip.sha256}" for clip in comparison.clips}
    return facts


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
