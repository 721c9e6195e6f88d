"""The runtime side stays light: importing it loads no heavy package, and it keeps to Python 3.10's grammar."""

import ast
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = (
    "cryptography", "jinja2", "matplotlib", "ml_dtypes", "onnx", "onnxruntime", "optimum", "rich", "safetensors",
    "sounddevice", "soundfile", "soxr", "tensorrt", "tokenizers", "torch", "transformers",
)  # fmt: skip
# What the extra `serve` installs, which Python 3.10 has not: only these rooms load it.
SERVE = (
    "h11", "prometheus_client", "python_multipart", "starlette", "uvicorn", "websockets", "wyoming", "zeroconf",
)  # fmt: skip
NEIGHBOURS = ("edgekit.serving.http", "edgekit.serving.wyoming")
LIGHT_SIDE = sorted(path for path in (ROOT / "edgekit").rglob("*.py") if "exporter" not in path.parts)
PROGRAM = """
import importlib, sys
for name in sys.argv[2:]:
    importlib.import_module(name)
    if loaded := sorted(set(sys.argv[1].split(",")) & sys.modules.keys()):
        sys.exit(f"import {name} loads {', '.join(loaded)}")
"""


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _imports(modules, unwanted):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, ",".join(unwanted), *modules],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def _modules():
    modules = [_module(path) for path in LIGHT_SIDE if path.name != "__main__.py"]
    assert {"edgekit.cli", "edgekit.profiler", "edgekit.runtime.stream", *NEIGHBOURS} <= set(modules)
    return modules


def test_importing_the_runtime_side_loads_nothing_heavy_and_no_package_of_the_neighbours():
    modules = [name for name in _modules() if not name.startswith(NEIGHBOURS)]
    done = _imports(modules, (*HEAVY, *SERVE))
    assert done.returncode == 0, done.stderr


def test_importing_what_the_neighbours_are_made_of_loads_nothing_heavy():
    if missing := [name for name in SERVE if find_spec(name) is None]:
        pytest.skip(f"the extra serve is not installed: {', '.join(missing)}")
    done = _imports([name for name in _modules() if name.startswith(NEIGHBOURS)], HEAVY)
    assert done.returncode == 0, done.stderr


def test_a_command_loads_what_serves_only_if_it_does():
    done = _imports(["edgekit", "edgekit.cli", "edgekit.cli.run", "edgekit.cli.listen"], ("edgekit.serving", *SERVE))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", LIGHT_SIDE, ids=_module)
def test_the_runtime_side_keeps_to_the_grammar_of_python_3_10(path):
    ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 10))


def test_the_export_side_says_in_one_line_that_python_3_10_is_too_old_for_it():
    code = "import sys; sys.version_info = (3, 10, 12); import edgekit.exporter"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].startswith("edgekit.errors.MissingPackageError: Python 3.10: runs bundles only")


@pytest.mark.parametrize(("given", "expected"), [(None, "1"), ("0", "0")])
def test_onnxruntime_sends_nothing_unless_the_user_lets_it(given, expected):
    script = "import os, edgekit.runtime.backends.ort; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"ORT_DISABLE_TELEMETRY": given} if given else {}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == expected
