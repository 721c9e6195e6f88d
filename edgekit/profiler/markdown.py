"""What reports share: tables, numbers, what a bundle lost, and the facts of where a measurement comes from."""

from collections.abc import Mapping, Sequence

from edgekit.profiler.profiles import BundleFacts, Device, Software


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table, the first column to the left and the others to the right."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    sides = ["---" if index == 0 else "---:" for index in range(len(head))]
    return [line(head), "|" + "|".join(sides) + "|", *(line(row) for row in rows)]


def number(value: float) -> str:
    """Return three significant digits as people write them: 1,010 and never 1.01e+03."""
    if abs(value) >= 99.95:  # 100 and more with three digits
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1e-3 or value == 0 else f"{value:.6f}"


def percent(share: float) -> str:
    """Return a share of 0 to 1 in percent: 0.3 %, 21 %."""
    return f"{number(round(100 * share, 1))} %"


def loss(bundle: BundleFacts, level: str = "") -> str:
    """Return what the export of a bundle found it to lose, as the sentence that heads every report.

    ``level``: the one that was measured, which may lose more than the fullest.
    """
    if bundle.words_changed:
        at = level if level in bundle.words_changed else list(bundle.words_changed)[-1]
        several = f" at level `{at}`" if len(bundle.words_changed) > 1 else ""
        changed = percent(bundle.words_changed[at])
        return f"Words changed against float{several}: {changed}, on its export's check clips."
    if bundle.dummy_seed is not None or bundle.twin == "none":
        return "Words changed against float: of no meaning, its weights are noise."
    if bundle.twin == "weights":
        return (
            "Words changed against float: not measured, its export ran no float twin beside it; only its weights were "
            "compared."
        )
    if set(bundle.precision.values()) <= {"float32"}:
        return "Words changed against float: none, nothing is rounded."
    return "Words changed against float: not recorded."


def losses(bundles: Mapping[str, BundleFacts], levels: Mapping[str, str] | None = None) -> list[str]:
    """Return ``loss`` of every bundle, by label where there are several."""
    told = {label: loss(bundle, (levels or {}).get(label, "")) for label, bundle in bundles.items()}
    return list(told.values()) if len(told) == 1 else [f"{label}: {text}" for label, text in told.items()]


def waivers(bundles: Mapping[str, BundleFacts]) -> list[str]:
    """Return a warning for each bundle that was published though it failed its export's checks."""
    return [
        f"Waiver: {label} failed its export's checks and was published all the same: {bundle.waiver}."
        for label, bundle in bundles.items()
        if bundle.waiver
    ]


def facts_of_device(device: Device, software: Software) -> dict[str, str]:
    """Return what ran and on what, as text by name."""
    others = "".join(f", {name} {version}" for name, version in sorted(software.others.items()))
    return {
        "Processor": f"{device.cpu}, {device.cores} cores, {', '.join(device.instructions) or 'no known extensions'}",
        "Memory": f"{device.memory_mib:,} MiB",
        "System": f"{device.os}, kernel {device.kernel}, {device.architecture}",
        "Power mode": device.power_mode,
        "Environment": device.environment,
        "Versions": f"EdgeKit {software.edgekit}, onnxruntime {software.onnxruntime}, numpy {software.numpy}, "
        f"Python {software.python}{others}",
    }
