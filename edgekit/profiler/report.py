"""Render Profiles for a reader: Markdown, or one HTML file that needs nothing else. The same Profiles, the same bytes.

Knows layout only: what figures mean comes from ``profiles.DEFINITIONS``, what they tell from ``diagnosis.py``.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from edgekit.errors import MissingPackageError, UsageError
from edgekit.profiler.diagnosis import diagnose
from edgekit.profiler.markdown import facts_of_device, losses, markdown_table, number, waivers
from edgekit.profiler.plots import bars, latency_rows, level_rows, timeline
from edgekit.profiler.profiles import DEFINITIONS, BundleFacts, Metric, Pace, Profile, Settings

_TEMPLATE = "report.html.j2"
_LATENCIES = (
    "first_token_ms",
    "first_token_with_decision_ms",
    "final_text_ms",
    "final_text_with_decision_ms",
    "first_audio_ms",
    "first_audio_with_decision_ms",
)
_DRAFTS = ("first_draft_ms", "drafted_final_text_ms")
_COSTS = (
    "decode_ms",
    "real_time_factor",
    "speech_real_time_factor",
    "silence_cost",
    "peak_memory_mib",
    "load_s",
    "import_ms",
)
_HEADLINES = (*_LATENCIES, *_DRAFTS, *_COSTS)
_HINT = (
    "Cells: median / p90 / p99. Ratios: of the medians; the profiles were made one after another, so a ratio near 1 "
    "tells nothing."
)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: what it is, and a cell of text for each column."""

    title: str
    name: str
    unit: str
    cells: tuple[str, ...]


def render_markdown(profiles: Sequence[Profile]) -> str:
    """Return one or more Profiles as Markdown, several side by side; raises UsageError for none."""
    _check(profiles)
    labels = column_labels(profiles)
    head, rows = _columns(labels), _rows(profiles)
    lines = [f"# {_title(profiles)}", ""]
    lines += [line for warning in _warnings(profiles) for line in (f"**{warning}**", "")]
    lines += [line for sentence in _losses(profiles) for line in (sentence, "")]
    lines += markdown_table(("Figure", "Unit", *head), [(row.title, row.unit, *row.cells) for row in rows])
    if len(profiles) > 1:
        lines += ["", _HINT]
    for profile, label in zip(profiles, labels, strict=True):
        lines += ["", f"## What {label} tells" if len(profiles) > 1 else "## What this tells", ""]
        lines += [f"- {sentence}" for sentence in (*diagnose(profile), *profile.notes)]
    lines += ["", "## Definitions", ""]
    lines += [f"- **{title}** (`{name}`): {text}" for name, title, text in _definitions(profiles)]
    lines += ["", "## Where it comes from", ""]
    lines += markdown_table(("", *labels), [(key, *values) for key, values in _provenance(profiles)])
    return "\n".join(lines) + "\n"


def render_html(profiles: Sequence[Profile]) -> str:
    """Return one or more Profiles as a self-contained HTML page with inline SVG plots; raises UsageError for none."""
    _check(profiles)
    try:
        import jinja2
        from markupsafe import escape
    except ImportError as error:
        raise MissingPackageError(
            "jinja2 is not installed, the HTML report needs it; pip install 'edgekit-audio[report]'"
        ) from error
    labels = column_labels(profiles)
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["code"] = lambda text: re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text)))
    template = environment.from_string(files("edgekit.profiler").joinpath(_TEMPLATE).read_text(encoding="utf-8"))
    return template.render(
        title=_title(profiles),
        several=len(profiles) > 1,
        labels=labels,
        subtitle=_subtitle(profiles),
        warnings=_warnings(profiles),
        losses=_losses(profiles),
        hint=_HINT,
        headlines=_rows(profiles, headlines=True),
        head=_columns(labels),
        rows=_rows(profiles),
        plots=_plots(profiles, labels),
        diagnoses=[(label, (*diagnose(p), *p.notes)) for p, label in zip(profiles, labels, strict=True)],
        definitions=_definitions(profiles),
        provenance=_provenance(profiles),
    )


def column_labels(profiles: Sequence[Profile]) -> list[str]:
    """Return a short name for each Profile: what tells them apart, numbered where nothing does."""
    kept = [
        column
        for index, column in enumerate(zip(*map(_marks, profiles, _precisions(profiles)), strict=True))
        if index < _ALWAYS or len(set(column)) > 1
    ]
    labels = [" ".join(filter(None, words)) for words in zip(*kept, strict=True)]
    hashes = [profile.bundle.manifest_sha256[:_HASH_DIGITS] for profile in profiles]
    if len(set(labels)) < len(labels) and len(set(hashes)) > 1:
        labels = [f"{label} {digest}" for label, digest in zip(labels, hashes, strict=True)]
    return [
        label if labels.count(label) == 1 else f"{label} #{labels[: index + 1].count(label)}"
        for index, label in enumerate(labels)
    ]


_ALWAYS = 2  # marks that every label has: name and precision
_HASH_DIGITS = 8


def _marks(profile: Profile, precision: str) -> tuple[str, ...]:
    """Return what may tell a Profile from another, in the order in which labels have it."""
    bundle, settings = profile.bundle, profile.settings
    return (
        bundle.name,
        precision,
        bundle.dialect,
        f"chunks of {bundle.chunk_ms:,} ms",
        f"gate {bundle.gate}",
        profile.device.slug,
        settings.backend,
        "" if settings.context_tokens is None else f"{settings.context_tokens:,} tokens of context",
        f"{settings.threads} threads",
        settings.level,
        "real time" if settings.paced else "not paced",
        f"onnxruntime {profile.software.onnxruntime}",
        f"EdgeKit {profile.software.edgekit}",
        profile.date,
    )


def _precisions(profiles: Sequence[Profile]) -> list[str]:
    """Return the precision of each bundle in short; of those that look alike and differ in groups, these groups."""
    short = [_precision(profile) for profile in profiles]
    every = [profile.bundle.precision for profile in profiles]
    if len(set(short)) == len({tuple(sorted(kinds.items())) for kinds in every}):
        return short
    groups = sorted({group for kinds in every for group in kinds})
    differing = [group for group in groups if len({kinds.get(group) for kinds in every}) > 1]
    return [", ".join(f"{group} {kinds.get(group, '-')}" for group in differing) for kinds in every]


def _check(profiles: Sequence[Profile]) -> None:
    if not profiles:
        raise UsageError(
            "profiles: none given, a report needs at least one; make one with `edgekit profile BUNDLE -o p.json`"
        )


def _title(profiles: Sequence[Profile]) -> str:
    return f"Latency of {' and '.join(dict.fromkeys(profile.bundle.name for profile in profiles))}"


def _subtitle(profiles: Sequence[Profile]) -> str:
    first = profiles[0]
    if len(profiles) > 1:
        return "Side by side: " + ", ".join(column_labels(profiles))
    paced = "input paced at real time" if first.settings.paced else "input not paced"
    return f"{_precision(first)} on {first.device.cpu}, {first.settings.threads} threads, {paced}, {first.date}"


def _warnings(profiles: Sequence[Profile]) -> list[str]:
    """Return a sentence for each bundle of dummy weights, for each waiver and for each fallback."""
    dummy = [
        f"Dummy weights: {name} holds noise in the shape of a model. Its text means nothing and its answers have a set "
        "length; which experts a trained model of this shape picks, and when its answers end, is not measured here."
        for name in dict.fromkeys(p.bundle.name for p in profiles if p.bundle.dummy_seed is not None)
    ]
    fallen = dict.fromkeys((p.settings.backend, p.settings.fallback) for p in profiles if p.settings.fallback)
    fallbacks = [f"Fallback: measured on {backend}, because of {reason}." for backend, reason in fallen]
    return dummy + waivers(_bundles(profiles)) + fallbacks


def _bundles(profiles: Sequence[Profile]) -> dict[str, BundleFacts]:
    return dict(zip(column_labels(profiles), (profile.bundle for profile in profiles), strict=True))


def _losses(profiles: Sequence[Profile]) -> list[str]:
    """Return what each bundle lost; and a sentence where the Profiles did not hear the same."""
    bundles = _bundles(profiles)
    told = losses(bundles, dict(zip(bundles, (profile.settings.level for profile in profiles), strict=True)))
    if len({tuple(clip.sha256 for clip in profile.settings.clips) for profile in profiles}) > 1:
        told.append("These profiles were measured on different clips: their latencies do not compare.")
    return told


def _precision(profile: Profile) -> str:
    kinds = list(dict.fromkeys(profile.bundle.precision.values()))
    return kinds[0] if len(kinds) == 1 else "mixed " + "+".join(kinds)


def _columns(labels: Sequence[str]) -> tuple[str, ...]:
    ratios = [f"{label} / {labels[0]}" for label in labels[1:]]
    return (*labels, *ratios) if ratios else ("median", "p90", "p99", "min", "max", "n")


def _keys(profiles: Sequence[Profile]) -> list[tuple[str, str, Pace]]:
    """Return name, level and pace of every figure, in the order of the definitions; levels as the first Profile has."""
    found: dict[tuple[str, str, Pace], None] = dict.fromkeys(
        (m.name, m.level, m.pace) for profile in profiles for m in profile.metrics
    )
    order = {name: index for index, name in enumerate(DEFINITIONS)}
    return sorted(found, key=lambda key: order.get(key[0], len(order)))


def _rows(profiles: Sequence[Profile], *, headlines: bool = False) -> list[Row]:
    rows = []
    keys = _keys(profiles)
    levels_of = {
        (name, pace): len({key[1] for key in keys if key[0] == name and key[2] == pace}) for name, _, pace in keys
    }
    for name, level, pace in keys:
        found = [profile.metric(name, pace=pace, level=level) for profile in profiles]
        if headlines and (name not in _HEADLINES or all(level != profile.settings.level for profile in profiles)):
            continue
        if headlines and name == "decode_ms" and any(key[0] == name and key[2] < pace for key in keys):
            continue
        detail = [level] if levels_of[name, pace] > 1 else []
        detail += [pace] if len({key[2] for key in keys if key[0] == name}) > 1 else []
        title = DEFINITIONS[name].title if name in DEFINITIONS else name
        unit = next(metric.unit for metric in found if metric)
        cells = _one_profile(found[0]) if len(profiles) == 1 and found[0] else _side_by_side(found)
        rows.append(Row(f"{title} ({', '.join(detail)})" if detail and not headlines else title, name, unit, cells))
    return rows


def _one_profile(metric: Metric) -> tuple[str, ...]:
    values = (metric.p50, metric.p90, metric.p99, metric.min, metric.max)
    return (*(number(value) for value in values), str(metric.n))


def _side_by_side(metrics: Sequence[Metric | None]) -> tuple[str, ...]:
    first = metrics[0]
    ratios = (number(m.p50 / first.p50) if m and first and first.p50 else "-" for m in metrics[1:])
    return (*map(_cell, metrics), *ratios)


def _cell(metric: Metric | None) -> str:
    return "-" if metric is None else " / ".join(number(value) for value in (metric.p50, metric.p90, metric.p99))


def _plots(profiles: Sequence[Profile], labels: Sequence[str]) -> list[str]:
    drawn = []
    for index, (profile, label) in enumerate(zip(profiles, labels, strict=True)):
        if profile.timeline:
            title = f"Work while the user talks: {profile.timeline.clip}" + (f", {label}" if len(profiles) > 1 else "")
            drawn.append(timeline(profile.timeline, title, f"timeline-{index}"))
    titles = {name: DEFINITIONS[name].title for name in _LATENCIES}
    if rows := latency_rows(profiles, labels, titles):
        drawn.append(bars(rows, "Latency after the end of speech", "latency"))
    if rows := level_rows(profiles, labels, "decode_ms"):
        drawn.append(bars(rows, "Decode, per token", "decode"))
    return drawn


def _definitions(profiles: Sequence[Profile]) -> list[tuple[str, str, str]]:
    texts = {name: text for profile in profiles for name, text in profile.definitions.items()}
    known = [name for name in DEFINITIONS if name in texts] + sorted(texts.keys() - DEFINITIONS.keys())
    return [(name, DEFINITIONS[name].title if name in DEFINITIONS else name, texts[name]) for name in known]


def _provenance(profiles: Sequence[Profile]) -> list[tuple[str, list[str]]]:
    rows = [_facts(profile) for profile in profiles]
    return [(key, [row.get(key, "-") for row in rows]) for key in dict.fromkeys(key for row in rows for key in row)]


def _backend(settings: Settings) -> str:
    told = [settings.backend + (f" (fallback: {settings.fallback})" if settings.fallback else "")]
    if settings.context_tokens is not None:
        told.append(f"a KV cache of {settings.context_tokens:,} tokens")
    for name, counts in settings.engines.items():
        told.append(f"{name}: {', '.join(f'{count:,} {what}' for what, count in counts.items())}")
    return "; ".join(told)


def _facts(profile: Profile) -> dict[str, str]:
    bundle, settings = profile.bundle, profile.settings
    seconds = sum(clip.seconds for clip in settings.clips)
    return {
        "Date": profile.date,
        "Simulated": "yes" if profile.simulated else "no",
        **facts_of_device(profile.device, profile.software),
        "Bundle": f"{bundle.name} ({bundle.family}), {bundle.bytes / 2**20:.1f} MiB, "
        + ", ".join(f"{part} {precision}" for part, precision in bundle.precision.items()),
        "Manifest SHA-256": bundle.manifest_sha256,
        "Grid and gate": f"{bundle.grid}, chunks of {bundle.chunk_ms} ms; gate {bundle.gate}",
        "Backend": _backend(settings),
        "Settings": f"{settings.threads} threads, level {settings.level}, {settings.warmup} warm-up, "
        f"{settings.repeat} repeats, "
        f"blocks of {settings.block_ms} ms, {'paced at real time' if settings.paced else 'not paced'}",
        "Clips": f"{len(settings.clips)}, {seconds:.1f} s in all, each cut at its last speech sample and followed by "
        f"{settings.silence_after_s:g} s of silence in latency passes",
        **{f"Clip {clip.name}": f"{clip.seconds:.2f} s, SHA-256 {clip.sha256}" for clip in settings.clips},
    }
