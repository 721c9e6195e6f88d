"""A backend as a stranger adds it: one object, registered once; nothing of EdgeKit is changed for it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgekit
from edgekit.bundle import Bundle, open_bundle
from edgekit.bundle.dialects import DIALECTS
from edgekit.cli import main
from edgekit.errors import BackendError, RegistryError, UsageError
from edgekit.profiler.doctor.examination import examine
from edgekit.recipe import Target
from edgekit.runtime.backends import LoadSettings, Runs, build_plans, register, registered, twin_of
from edgekit.runtime.backends.base import Progress
from edgekit.runtime.backends.examining import Examined, Finding, Machine
from edgekit.runtime.backends.ort_cpu import OrtCpu
from edgekit.runtime.engine import Array, Call, Engine
from edgekit.runtime.events import Text
from edgekit.runtime.memory import Need
from tests.runtime.streams import sound_of

SOUND = sound_of(16_000)


class Counted:
    """An Engine that counts its runs, and leaves them to another."""

    def __init__(self, engine: Engine) -> None:
        self.component, self.notes = engine.component, engine.notes
        self.counts: dict[str, int] = {"runs": 0}
        self.engine = engine

    def bind(self, sizes: Mapping[str, int]) -> Call:
        return CountedCall(self.engine.bind(sizes), self.counts)


class CountedCall:
    """A Call of a Counted engine."""

    def __init__(self, call: Call, counts: dict[str, int]) -> None:
        self.call, self.counts = call, counts

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        self.counts["runs"] += 1
        return self.call.run(inputs)

    def reset(self) -> None:
        self.call.reset()

    def save(self) -> Mapping[str, Array]:
        return self.call.save()

    def load(self, state: Mapping[str, Array]) -> None:
        self.call.load(state)


@dataclass(frozen=True)
class Plan:
    """What the toy builds of a component: a file with its name."""

    component: str
    path: Path
    kept: bool = False
    size_bytes: int = 3
    build_s: float = 0.0
    summary: str = "all layers in wax"
    facts: Mapping[str, Any] = None  # type: ignore[assignment]


class Abacus:
    """A backend that counts."""

    name = "abacus"
    everywhere = False

    def __init__(self, preference: int = 1, absent: str = "", fails: str = "") -> None:
        self.dialects = (Runs("ort-cpu", preference),)
        self.why, self.fails = absent, fails

    def absent(self) -> str:
        return self.why

    def load(self, bundle: Bundle, names: tuple[str, ...], settings: LoadSettings) -> dict[str, Counted]:
        if self.fails:
            raise BackendError(self.fails)
        return {name: Counted(engine) for name, engine in OrtCpu().load(bundle, names, settings).items()}

    def need(self, bundle: Bundle, names: tuple[str, ...], context_tokens: int) -> Need:
        return Need(weights=1.0, state=0.0)

    def examine(self, machine: Machine) -> Examined:
        answer = machine.ask("edgekit.profiler.doctor.probes:package", "json")
        return Examined((Finding("Abacus", "ok", f"ten beads, json {answer.said['version']}"),), here=True)


class Waxing(Abacus):
    """One that builds plans beforehand."""

    def build(
        self, bundle: Bundle, target: Target, folder: Path | None, context_tokens: int | None, progress: Progress
    ) -> list[Plan]:
        made = []
        for name in bundle.manifest.components:
            progress(name, 1, 1)
            path = (folder or bundle.folder) / f"{name}.wax"
            path.write_text(name[:3])
            made.append(Plan(name, path, facts={"wax": name}))
        return made


@pytest.fixture
def command(capsys):
    """Run a command in this process and return what it prints."""

    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        assert end.value.code == 0
        return capsys.readouterr().out

    return run


def texts(model: edgekit.Model) -> list[Text]:
    stream = model.stream(level="full")
    events = [*stream.push(SOUND), *stream.finish()]
    return [event for event in events if isinstance(event, Text)]


def test_it_streams_what_another_backend_streams(tiny_bundle):
    folder = tiny_bundle().folder
    with registered(Abacus()):
        model = edgekit.load(folder, threads=1, backend="abacus")
        assert (model.backend, model.fallback) == ("abacus", "")
        said = texts(model)
    assert said == texts(edgekit.load(folder, threads=1))
    assert said
    assert model.engines["backbone"].counts["runs"] > 0


def test_the_preferred_one_that_is_here_is_meant_where_none_is_named(tiny_bundle):
    folder = tiny_bundle().folder
    for backend, meant in (
        (Abacus(preference=1), "onnxruntime-cpu"),
        (Abacus(preference=-1), "abacus"),
        (Abacus(preference=-1, absent="no beads; buy some"), "onnxruntime-cpu"),
    ):
        with registered(backend):
            assert edgekit.load(folder, threads=1).backend == meant


def test_an_error_names_it_among_those_that_run_the_dialect(tiny_bundle):
    with registered(Abacus()), pytest.raises(UsageError, match=r"which runs on onnxruntime-cpu, abacus; choose one of"):
        edgekit.load(tiny_bundle().folder, backend="onnxruntime")


def test_it_falls_back_where_that_is_allowed(tiny_bundle):
    folder = tiny_bundle().folder
    with registered(Abacus(fails="abacus: no bead moves; oil it")):
        with pytest.raises(BackendError, match=r"^abacus: no bead moves; oil it$"):
            edgekit.load(folder, threads=1, backend="abacus")
        model = edgekit.load(folder, threads=1, backend="abacus", allow_fallback=True)
    assert (model.backend, model.fallback) == ("onnxruntime-cpu", "abacus: no bead moves; oil it")


def test_the_doctor_looks_at_it(tmp_path, command):
    with registered(Abacus()):
        found = examine(tmp_path, tmp_path)
        printed = command("doctor")
    assert Finding("Abacus", "ok", "ten beads, json 2.0.9") in found.findings
    assert "abacus" in found.runs
    assert "ok       Abacus: ten beads" in printed
    assert printed.endswith("bundles run here on: onnxruntime-cpu, abacus\n")


def test_its_plans_are_built_for_a_target_that_names_it(tiny_bundle, tmp_path, command):
    bundle = open_bundle(tiny_bundle().folder)
    toml = tmp_path / "desk.toml"
    toml.write_text(
        'name = "desk"\ndescription = "a desk"\ndialect = "ort-cpu"\nbackends = ["abacus", "onnxruntime-cpu"]\n'
        "min_memory_mib = 1\ntested = true\n"
    )
    with registered(Waxing()):
        arguments = ("build", bundle.folder, "--target", toml, "-o", tmp_path)
        printed, as_json = command(*arguments), command(*arguments, "--json")
    assert f"encoder: 0.0 MB, all layers in wax, built in 0.0 s: {tmp_path / 'encoder.wax'}\n" in printed
    assert '"wax": "encoder"' in as_json
    assert (tmp_path / "encoder.wax").read_text() == "enc"


def test_who_builds_plans_is_handed_them_and_who_does_not_refuses_them(tiny_bundle, tmp_path):
    folder = tiny_bundle().folder
    settings = {"backend": "abacus", "plans": tmp_path}
    with registered(Waxing()):
        assert edgekit.load(folder, **settings).backend == "abacus"
    line = f"plans: {tmp_path}, abacus runs the bundle as it is; leave them out"
    with registered(Abacus()), pytest.raises(UsageError, match=re.escape(line)):
        edgekit.load(folder, **settings)


def test_one_without_plans_needs_none(tiny_bundle):
    target = Target(
        name="desk", description="", dialect="ort-cpu", backends=("abacus",), min_memory_mib=1, tested=False
    )
    bundle = open_bundle(tiny_bundle().folder)
    with registered(Abacus()), pytest.raises(BackendError, match=r"'desk': runs on abacus, which needs no plans; "):
        build_plans(bundle, target)


def test_a_dialect_runs_on_what_says_so_and_nowhere_else(tiny_bundle, tmp_path):
    class Tablet(OrtCpu):
        """onnxruntime's CPU backend, for one dialect more."""

        name = "tablet"
        dialects = (Runs("cuneiform"),)

    with DIALECTS.registered(replace(DIALECTS.get("ort-cpu"), name="cuneiform")):
        folder = tiny_bundle(dialect="cuneiform").folder
        with pytest.raises(BackendError, match=r"of dialect 'cuneiform', which no backend runs; register one"):
            edgekit.load(folder, threads=1)
        with pytest.raises(BackendError, match=r"dialect 'cuneiform': no backend runs it without a device"):
            twin_of("cuneiform")
        with registered(Tablet()):
            assert edgekit.load(folder, threads=1).backend == "tablet"
            assert twin_of("cuneiform") == "tablet"
            assert np.isfinite(Tablet().need(open_bundle(folder), ("encoder",), 8).weights)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"load": None}, "backend 'abacus': load is None, must be a method"),
        ({"dialects": ()}, "backend 'abacus': dialects is empty"),
        ({"dialects": ("ort-cpu",)}, r"backend 'abacus': dialects is \('ort-cpu',\), must be tuple\["),
        ({"everywhere": "yes"}, "backend 'abacus': everywhere is 'yes', must be bool"),
    ],
)
def test_what_is_missing_or_wrong_is_refused_by_name(changes, fault):
    broken = Abacus()
    for name, value in changes.items():
        setattr(broken, name, value)
    with pytest.raises(RegistryError, match=rf"^{fault}.*; Backend in edgekit\.runtime\.backends\.base says"):
        register(broken)
