"""The file of measured memory: where it is from, how it is written, and that a broken one is refused in one line."""

from pathlib import Path

import msgspec
import pytest

import edgekit
from edgekit.bundle import open_bundle
from edgekit.errors import ProfileError
from edgekit.profiler.comparison import load_record
from edgekit.profiler.fits import write_fit
from edgekit.resources import resource
from edgekit.runtime import memory
from edgekit.runtime.backends import BACKENDS
from edgekit.runtime.memory import FILE, build_peak_mib, memory_fits, read_fits

ROOT = Path(__file__).parents[2]
SHIPPED = (ROOT / FILE).read_text(encoding="utf-8")
PARTS = {"loading": "load-memory", "building": "build-memory"}


def comparison(part):
    """Return the comparison that a part was fitted to, and its numbers."""
    source = getattr(memory_fits(), part).source
    path = (ROOT / source.report).with_suffix(".json")
    record = load_record(path)
    if part == "loading":
        return record, path, {name: one["weights"] for name, one in record.details["fit"].items()}
    kept = ("weights", "graph", "base_mib")
    return record, path, {name: {key: one[key] for key in kept} for name, one in record.details["fit"].items()}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_says_on_what_when_and_by_what_it_was_measured(part):
    source = getattr(memory_fits(), part).source
    record, path, _ = comparison(part)
    assert (path.parent.name, path.stem) == (source.device, PARTS[part])
    assert (source.device, source.cpu, source.date) == (record.device.slug, record.device.cpu, record.date)
    assert source.versions.items() >= {"onnxruntime": record.software.onnxruntime, **record.software.others}.items()
    target = source.command.removeprefix("make ")
    assert f"\n{target}:" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_the_file_is_what_its_reports_make_of_it_in_either_order(tmp_path):
    for order in (PARTS, reversed(PARTS)):
        path = tmp_path / "memory.toml"
        path.unlink(missing_ok=True)
        for part in order:
            record, report, numbers = comparison(part)
            write_fit(path, part, record, report.with_suffix(".md"), dict(reversed(numbers.items())))
        assert path.read_text(encoding="utf-8") == SHIPPED


def test_a_part_that_is_measured_again_leaves_the_other_and_mends_a_broken_file(tmp_path):
    path = tmp_path / "memory.toml"
    path.write_text(SHIPPED.replace("weights = 1.32", "weights = 'heavy'"), encoding="utf-8")
    record, report, _ = comparison("loading")
    write_fit(path, "loading", record, report, {"float32": 0.9, "int8": 0.8, "int4": 0.7})
    with pytest.raises(ProfileError, match="missing required field `building`"):
        read_fits(path)
    record, report, numbers = comparison("building")
    write_fit(path, "building", record, report, numbers)
    assert read_fits(path).loading.weights == {"float32": 0.9, "int8": 0.8, "int4": 0.7}
    assert read_fits(path).building.peaks == memory_fits().building.peaks
    before = path.read_bytes()
    with pytest.raises(ProfileError, match="int4: left out, .* is needed; measure every shape and precision"):
        write_fit(path, "loading", record, report, {"float32": 0.9, "int8": 0.8})
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("float32 = 0.958\n", ""), r"float32: left out, each of float32, int8, int4 is needed - at `\$.loading`"),
        (("int8 = 0.842", "int9 = 0.842"), r"Invalid enum value 'int9' - at `key` in `\$.loading.weights`"),
        (("int8 = 0.842", "int8 = -0.842"), r"Expected `float` >= 0.0 - at `\$.loading.weights\[...\]`"),
        (("int8 = 0.842", "int8 = nan"), r"Expected `float` .= "),
        (("int8 = 0.842", "int8 = inf"), r"Expected `float` <= "),
        (("graph = 1717.96\n", ""), "missing required field `graph`"),
        (('device = "x86-2core-amx"', 'devise = "x86"'), "missing required field `device`|unknown field `devise`"),
        (('date = "2026-11-22"', 'date = "yesterday"'), "Expected `str` matching regex"),
        (("schema_version = 1", "schema_version = 2"), "schema version 2, this EdgeKit reads 1"),
        (("[loading.weights]", "[loading.weights"), "line 1[0-9]"),
    ],
)
def test_a_broken_file_is_refused_in_one_line_when_it_is_needed(change, message, tmp_path):
    path = tmp_path / "memory.toml"
    assert change[0] in SHIPPED
    path.write_text(SHIPPED.replace(*change), encoding="utf-8")
    with pytest.raises(
        ProfileError, match=f"^{path}: .*({message}).*; install EdgeKit again, or measure them"
    ) as refused:
        read_fits(path)
    assert "\n" not in str(refused.value)


def test_a_missing_file_is_refused_in_one_line(tmp_path):
    with pytest.raises(ProfileError, match=r"memory.toml: No such file or directory, .*; install EdgeKit again"):
        read_fits(tmp_path / "memory.toml")


def test_it_is_read_when_it_is_needed_and_not_before(tiny_bundle, tmp_path, monkeypatch):
    """Only a run on the CPU and a build ask for it; a package without the file still runs everything else."""
    bundle = open_bundle(tiny_bundle().folder)
    gpu = open_bundle(tiny_bundle(dialect="standard").folder)
    monkeypatch.setattr(memory, "resource", lambda name: tmp_path / name)
    memory_fits.cache_clear()
    try:
        names = tuple(bundle.manifest.components)
        assert BACKENDS.get("tensorrt").need(gpu, names, 64).weights > 0
        for ask in (
            lambda: edgekit.load(bundle.folder, threads=1),
            lambda: build_peak_mib(gpu.manifest, "encoder"),
        ):
            with pytest.raises(ProfileError, match=f"{FILE}: No such file"):
                ask()
    finally:
        memory_fits.cache_clear()


def test_the_shipped_numbers_decide(tiny_bundle):
    bundle = open_bundle(tiny_bundle().folder)
    sizes = memory.weight_bytes(bundle.manifest)
    share = memory_fits().loading.weights
    expected = sum(share[bundle.manifest.components[name].precision] * size for name, size in sizes.items())
    assert BACKENDS.get("onnxruntime-cpu").need(bundle, sizes, 64).weights * memory.MIB == pytest.approx(expected)
    assert resource(FILE) == ROOT / FILE
    assert msgspec.toml.decode(SHIPPED)["loading"]["weights"] == share
