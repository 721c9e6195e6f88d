"""What Markdown reports share: tables, numbers, and the facts of where a measurement comes from."""

from collections.abc import Sequence

from edgekit.profiler.profiles import Device, Software


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table, the first column to the left and the others to the right."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    sides = ["---" if index == 0 else "---:" for index in range(len(head))]
    return [line(head), "|" + "|".join(sides) + "|", *(line(row) for row in rows)]


def number(value: float) -> str:
    """Return three significant digits, without an exponent."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1e-3 or value == 0 else f"{value:.6f}"


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
