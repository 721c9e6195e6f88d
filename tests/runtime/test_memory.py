"""What memory there is, from imagined machines; what a bundle takes, from its manifest; and what is refused."""

import json
import math
from pathlib import Path

import msgspec
import pytest

import edgekit
from edgekit.bundle import Bundle, FileEntry, TensorSpec, open_bundle
from edgekit.errors import BackendError
from edgekit.runtime.backends import LoadSettings, load_engines
from edgekit.runtime.backends.ort_cpu import CPU
from edgekit.runtime.backends.sizes import device_need, state_sizes
from edgekit.runtime.memory import (
    MIB,
    available_mib,
    build_peak_mib,
    check_build,
    check_load,
    memory_fits,
    state_bytes,
    total_mib,
)

MEASURED = Path(__file__).parents[2] / "profiles/x86-2core-amx"
MEMINFO = "MemTotal:       8388608 kB\nMemFree:         100000 kB\nMemAvailable:    5242880 kB\n"
V1 = "sys/fs/cgroup/memory"


@pytest.fixture
def machine(tmp_path):
    """Write files below a folder that stands for the root of a machine."""

    def write(**files):
        for name, text in {"proc/meminfo": MEMINFO, **files}.items():
            path = tmp_path / "root" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path / "root"

    return write


def group(folder, limit, used, stat=""):
    """Return the files of a control group of version 2."""
    return {f"{folder}/memory.max": limit, f"{folder}/memory.current": used, f"{folder}/memory.stat": stat}


def of_version_1(limit, used, stat=""):
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat")
    return {f"{V1}/{name}": text for name, text in zip(names, (limit, used, stat), strict=True)}


def test_what_the_kernel_calls_available_is_what_there_is(machine):
    root = machine()
    assert (available_mib(root), total_mib(root)) == (5120.0, 8192)


def test_a_machine_that_does_not_say_is_not_limited(tmp_path):
    assert (available_mib(tmp_path), total_mib(tmp_path)) == (None, 0)


@pytest.mark.parametrize(("files", "available", "total"), [
    (group("sys/fs/cgroup", "max\n", "1"), 5120, 8192),
    (group("sys/fs/cgroup", f"{1024 * MIB}\n", f"{600 * MIB}\n"), 424, 1024),
    # of the 600 used, 100 are pages of files that the kernel would drop
    (group("sys/fs/cgroup", f"{1024 * MIB}", f"{600 * MIB}",
           f"anon 5\ninactive_file {70 * MIB}\nactive_file {30 * MIB}\n"), 524, 1024),
    (group("sys/fs/cgroup", f"{100 * MIB}", f"{101 * MIB}"), 0, 100),
    (group("sys/fs/cgroup", f"{7000 * MIB}", "0"), 5120, 7000),
    (of_version_1("9223372036854771712\n", f"{600 * MIB}"), 5120, 8192),
    (of_version_1(f"{1024 * MIB}", f"{600 * MIB}", f"inactive_file 1\ntotal_inactive_file {50 * MIB}\n"), 474, 1024),
])  # fmt: skip
def test_a_containers_limit_counts_with_what_it_uses(files, available, total, machine):
    root = machine(**files)
    assert (available_mib(root), total_mib(root)) == (available, total)


def test_a_limit_on_the_own_group_or_on_one_above_it_counts(machine):
    own = {"proc/self/cgroup": "0::/user.slice/edgekit.service\n"}
    above = group("sys/fs/cgroup/user.slice", f"{900 * MIB}", f"{100 * MIB}")
    assert available_mib(machine(**own, **above)) == 800
    here = group("sys/fs/cgroup/user.slice/edgekit.service", f"{500 * MIB}", f"{100 * MIB}")
    assert available_mib(machine(**here)) == 400
    assert available_mib(machine(**{"proc/self/cgroup": "4:memory:/x\n0::/\n"})) == 5120


def sized(bundle, mib):
    """Return a bundle whose manifest lists so much for each file of weights; only the manifest is looked at."""
    data = {one.data for one in bundle.manifest.components.values()}
    files = tuple(
        FileEntry(path=entry.path, bytes=mib * MIB, sha256=entry.sha256) if entry.path in data else entry
        for entry in bundle.manifest.files
    )
    return Bundle(bundle.folder, msgspec.structs.replace(bundle.manifest, files=files))


def state(manifest, name, context_tokens):
    return state_bytes(manifest.components[name], state_sizes(manifest, name, context_tokens))


def settings(root, backend=None):
    return LoadSettings(threads=1, context_tokens=64, backend=backend, root=root)


def test_a_bundle_that_cannot_fit_is_refused_in_one_line_before_it_is_loaded(tiny_bundle, machine):
    bundle = sized(open_bundle(tiny_bundle().folder), 2000)
    names = tuple(bundle.manifest.components)
    with pytest.raises(BackendError) as refused:
        load_engines(bundle, names, settings(machine()))
    said = str(refused.value)
    assert said.startswith(f"{bundle.folder}: loading it takes at least 5,")
    assert "this machine has 5,120 MiB available; end other programs, or " in said
    assert "\n" not in said
    fewer = load_engines(bundle, names[:1], settings(machine()))  # one component of it fits
    assert list(fewer.engines) == [names[0]]


def test_what_fits_and_a_machine_that_does_not_say_are_not_refused(tiny_bundle, machine, tmp_path):
    bundle = open_bundle(tiny_bundle().folder)
    for root in (machine(), tmp_path / "nothing"):
        assert load_engines(bundle, ("encoder",), settings(root)).backend == CPU


def test_a_twin_is_not_refused_for_weights_that_stay_in_the_file(tiny_bundle, machine):
    bundle = sized(open_bundle(tiny_bundle(dialect="standard").folder), 100_000)
    assert load_engines(bundle, ("encoder",), settings(machine(), CPU)).backend == CPU


def test_a_gpu_needs_weights_as_in_the_file_and_every_cache(tiny_bundle):
    bundle = sized(open_bundle(tiny_bundle(dialect="standard").folder), 1000)
    names = tuple(bundle.manifest.components)
    need = device_need(bundle.manifest, names, 64)
    assert need.weights == 1000 * sum(one.data is not None for one in bundle.manifest.components.values())
    assert need.state * MIB == sum(state(bundle.manifest, name, 64) for name in names) > 0
    exactly = need.weights + need.state
    check_load(bundle, need, exactly, "the GPU")
    with pytest.raises(BackendError, match=r"at least [\d,]+ MiB .*, the GPU has [\d,]+ MiB available; end other"):
        check_load(bundle, need, exactly - 0.001, "the GPU")


def test_state_counts_carried_buffers_twice_caches_at_their_length_and_the_longest_utterance(tiny_bundle):
    manifest = open_bundle(tiny_bundle().folder).manifest

    def state_of(*inputs, context=7):
        component = msgspec.structs.replace(manifest.components["backbone"], inputs=inputs)
        return state(msgspec.structs.replace(manifest, components={"backbone": component}), "backbone", context)

    cache = TensorSpec(name="past.key.0", dtype="float16", shape=(1, 2, "context", 4), state="in-place")
    assert state_of(cache) == 2 * 7 * 4 * 2
    assert state_of(msgspec.structs.replace(cache, state="carried")) == 2 * 2 * 7 * 4 * 2
    cross = TensorSpec(name="cross.0", dtype="float32", shape=(1, 2, "sound", 4))
    assert state_of(cross) == 2 * manifest.grid.max_positions * 4 * 4
    assert state_of(TensorSpec(name="embeds", dtype="float32", shape=("tokens", 8))) == 0
    assert state_of() == 0


def test_a_build_that_does_not_fit_is_refused_with_what_it_would_take(tiny_bundle):
    bundle = sized(open_bundle(tiny_bundle(dialect="standard").folder), 2000)
    peak = build_peak_mib(bundle.manifest, "encoder")
    assert peak > 2000
    assert check_build(bundle, "encoder", peak + 5) == pytest.approx(5)
    assert check_build(bundle, "encoder", None) is None
    with pytest.raises(
        BackendError, match=r"plan of 'encoder' is predicted to take [\d,]+ MiB, this machine has [\d,]+"
    ):
        check_build(bundle, "encoder", peak - 1)


@pytest.mark.parametrize(("precision", "advice"), [
    ("float32", "export it with --precision int8 or int4"),
    ("int8", "export it with --precision int4"),
    ("int4", "choose a smaller model"),
])  # fmt: skip
def test_the_advice_is_a_precision_that_the_bundle_could_have(precision, advice, tiny_bundle):
    whole = sized(open_bundle(tiny_bundle(dialect="standard").folder), 1)
    components = {
        name: msgspec.structs.replace(one, precision=precision) for name, one in whole.manifest.components.items()
    }
    bundle = Bundle(whole.folder, msgspec.structs.replace(whole.manifest, components=components))
    need = device_need(bundle.manifest, components, 64)
    with pytest.raises(
        BackendError, match=rf"; end other programs, shorten the cache with --context-tokens, or {advice}$"
    ):
        check_load(bundle, need, 0.0)


def test_a_load_through_the_package_looks_at_this_machine(tiny_bundle):
    assert edgekit.load(tiny_bundle().folder, threads=1).backend == CPU


def figures(name):
    record = json.loads((MEASURED / f"{name}.json").read_text(encoding="utf-8"))
    found = {}
    for one in record["figures"]:
        found.setdefault(one["subject"], {})[one["name"]] = one
    return record["details"]["fit"], found


def test_what_loading_is_said_to_take_was_measured_and_is_never_more_than_that():
    fits, found = figures("load-memory")
    shares = memory_fits().loading.weights
    assert {name: one["weights"] for name, one in fits.items()} == shares
    for subject, one in found.items():
        assert shares[subject.split()[-1]] * one["Weights"]["p50"] <= one["Peak: allocated"]["min"], subject


def test_whole_models_at_their_real_size_would_not_have_been_refused():
    record = json.loads((MEASURED / "real-size.json").read_text(encoding="utf-8"))
    assert record["details"]
    for row in record["details"].values():
        allocated_mib = row["run"]["peak_anonymous_mib"]
        share = memory_fits().loading.weights[row["precision"]]
        assert 0.6 * allocated_mib < share * row["weight_bytes"] / MIB <= allocated_mib


def test_what_building_is_predicted_to_take_was_measured_and_is_never_less_than_that():
    fits, found = figures("build-memory")
    assert {name: [one["weights"], one["graph"], one["base_mib"]] for name, one in fits.items()} == {
        name: [one.weights, one.graph, one.base_mib] for name, one in memory_fits().building.peaks.items()
    }
    for subject, one in found.items():
        fit = memory_fits().building.peaks[subject.split()[-1]]
        weights, graph = (one[f"Largest component: {part}"]["p50"] for part in ("weights", "graph"))
        predicted = fit.weights * weights + fit.graph * graph + fit.base_mib
        assert math.floor(one["Peak: allocated"]["max"]) <= predicted * 1.001, subject  # figures have five digits


@pytest.mark.parametrize("text", ["819\x12", "\u00b2", "9" * 5000, "-5", "1e9"])
def test_a_limit_that_is_no_number_limits_nothing(machine, text):
    root = machine(**group("sys/fs/cgroup", text, "1"), **{"proc/self/cgroup": "0::/\n"})
    assert (available_mib(root), total_mib(root)) == (5120, 8192)


def test_a_use_that_is_no_number_is_none(machine):
    root = machine(
        **group("sys/fs/cgroup", f"{1024 * MIB}", "9" * 5000, f"inactive_file {'9' * 5000}\nactive_file x\n")
    )
    assert available_mib(root) == 1024
