"""The house rules that a linter does not know: sizes, docstrings, the README's tree, words that must not appear."""

import ast
import re
from pathlib import Path

import pytest
import tomllib

import edgekit
from edgekit.recipe import load_recipe
from edgekit.recordings import named
from edgekit.spans import span_kind

ROOT = Path(__file__).resolve().parent.parent
MAX_LINES = 400
MAX_FILES = 12  # of one folder
MODULES = sorted((ROOT / "edgekit").rglob("*.py"))
RECIPES = sorted((ROOT / "export").rglob("*.toml"))
SYSTEMS = sorted({path.parent for path in RECIPES})
# Built from pieces, so that this file does not match itself.
MACHINE_PATH = re.compile(
    r"(^|[^A-Za-z0-9_.])/(" + "|".join(["wo" + "rk/", "ro" + "ot/", "ho" + "me/[a-z]", "tm" + "p/w"]) + ")"
)
LATER = re.compile(r"\b(TO" + "DO|FIX" + "ME|XX" + "X)\b")

# What tells members of the four axes apart, and who may say it: owners, registries, and others for the reason given.
MEMBERS = {
    r"ort-cpu": (
        "bundle/dialects.py", "exporter/dialects/__init__.py", "exporter/dialects/ort_cpu.py",
        "exporter/dialects/ort_cuda/", "runtime/backends/ort_cpu.py",
    ),
    r"ort-cuda": (
        "bundle/dialects.py", "exporter/dialects/__init__.py", "exporter/dialects/ort_cuda/",
        "runtime/backends/ort_cpu.py", "runtime/backends/ort_cuda.py",
    ),
    r'"standard"': (
        "bundle/dialects.py", "exporter/dialects/standard/", "runtime/backends/ort_cpu.py", "runtime/backends/trt/",
    ),
    r"onnxruntime-c": (
        "runtime/backends/ort_cpu.py", "runtime/backends/ort_cuda.py",
        "profiler/profiles.py",  # what profiles ran on that do not say it
    ),
    r"tensorrt": (
        "runtime/backends/trt/",
        "bundle/manifest.py",  # the field of a version that a bundle requires
        "exporter/dialects/standard/dialect.py",  # which fills it in
        "recipe.py",  # the field of a version that a device comes with
        "profiler/doctor/nvidia.py",  # which shows it
    ),
    r'TalkerSpeech|"talker"|code_predictor': (
        "bundle/speech/", "runtime/speak/talker.py", "runtime/speak/frames.py", "exporter/families/qwen3_omni/",
        "exporter/reference/qwen3_omni.py",
        # a published model_type, beside those of all other text models of Qwen's
        "exporter/families/qwen.py", "exporter/families/qwen_keys.py",
    ),
    r'FlowSpeech|flow_step|"vocoder"': (
        "bundle/speech/", "runtime/speak/flow.py", "runtime/speak/matching.py", "exporter/speech/flow.py",
        "exporter/families/step_audio/",
    ),
    r"attention == ": (),
    r"\bwhisper\b": (
        "exporter/families/__init__.py", "exporter/families/whisper.py", "exporter/families/whisper_keys.py",
        "exporter/families/whisper_tokens.py",
        "exporter/sources/ctranslate2.py",  # whose converted checkpoints are Whisper's
        "cli/export.py",  # an example's checkpoint
        "profiler/words.py",  # a package's name
        "serving/http/transcriptions.py",  # what OpenAI's clients ask for where they cannot be told another name
    ),
    r"\bstep_audio(_2)?\b": ("exporter/families/__init__.py", "exporter/families/step_audio/"),
    r"\bqwen3_omni\b": (
        "exporter/families/__init__.py", "exporter/families/qwen3_omni/", "exporter/reference/qwen3_omni",
    ),
}  # fmt: skip


def test_there_is_something_to_check():
    assert MODULES
    assert RECIPES


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_is_short_and_says_what_it_knows(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_LINES, "look for the seam"
    assert ast.get_docstring(ast.parse(text)), "no module docstring"


def test_a_room_of_the_runtime_has_few_files():
    rooms = {path.parent for path in MODULES if (ROOT / "edgekit" / "runtime") in path.parents}
    crowded = {room.name: len(list(room.glob("*.py"))) for room in rooms}
    assert {name: count for name, count in crowded.items() if count > MAX_FILES} == {}


def test_no_modules_import_each_other_in_a_circle_not_even_for_their_types():
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in MODULES}
    arrows = {name: _imported(path, names) - {name} for name, path in names.items()}
    while leaves := {name for name, targets in arrows.items() if not targets}:
        arrows = {name: targets - leaves for name, targets in arrows.items() if name not in leaves}
    # What is left leads into a circle, or is on one.
    assert arrows == {}


def _imported(path, names):
    """Return the modules of the package that one imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = [f"{node.module}.{alias.name}" for alias in node.names]  # modules, or names in one
            found |= {name if name in names else node.module for name in inside}
    return {name for name in found if name in names}


def test_one_module_alone_imports_onnxruntime():
    """There its telemetry is turned off before it is loaded; and nobody may register ops of a library's own."""
    importing = {
        path.relative_to(ROOT).as_posix()
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "onnxruntime" for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "onnxruntime")
        or (isinstance(node, ast.Call) and "import_module('onnxruntime" in ast.unparse(node))
    }
    assert importing == {"edgekit/runtime/graphs/library.py", "edgekit/runtime/hear/detectors/vad.py"}
    vad = (ROOT / "edgekit" / "runtime" / "hear" / "detectors" / "vad.py").read_text(encoding="utf-8")
    assert "if TYPE_CHECKING:\n    from onnxruntime import InferenceSession" in vad  # for its type only
    assert not [path for path in MODULES if "register_custom_ops_library" in path.read_text(encoding="utf-8")]


def test_one_type_alone_says_what_a_path_of_the_command_line_is():
    """Click's own takes an empty text for the current folder."""
    named = [
        path.name for path in (ROOT / "edgekit/cli").rglob("*.py") if re.search(r"\bclick\.Path\b", path.read_text())
    ]
    assert named == ["paths.py"]


def test_no_module_is_named_like_a_standard_one():
    import sys

    named = {path.stem for path in MODULES} - {"__init__", "__main__"}
    assert not named & sys.stdlib_module_names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_library_function_returns_or_logs_and_only_the_command_line_prints(path):
    """What a module does as a program of its own is its own."""
    if path.is_relative_to(ROOT / "edgekit" / "cli"):
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    library = [node for node in tree.body if not (isinstance(node, ast.If) and "__main__" in ast.unparse(node.test))]
    said = [
        ast.unparse(node) for part in library for node in ast.walk(part) if isinstance(node, (ast.Name, ast.Attribute))
    ]
    assert not {"print", "sys.stdout", "sys.stderr"} & set(said)


@pytest.mark.parametrize("name", MEMBERS)
def test_the_name_of_a_member_of_an_axis_stands_with_its_owners(name):
    said = {
        path.relative_to(ROOT / "edgekit").as_posix()
        for path in MODULES
        if re.search(name, path.read_text(encoding="utf-8"))
    }
    assert [path for path in sorted(said) if not path.startswith(MEMBERS[name])] == [], "ask its record instead"
    assert [owner for owner in MEMBERS[name] if not any(path.startswith(owner) for path in said)] == [], (
        "says it no more"
    )


def test_the_readme_marks_the_spans_of_the_common_path_in_the_order_of_the_flow():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    marked = re.findall(r"^\* (\w+) ", text, re.MULTILINE)
    assert all(span_kind(name).unit for name in marked)
    assert len(marked) == len(set(marked)) == 10


def test_what_the_readme_and_the_package_show_of_the_library_is_python():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = [*re.findall(r"```python\n(.*?)```", readme, re.DOTALL), edgekit.__doc__.partition("\n\n")[2]]
    assert len(shown) > 1
    for code in shown:
        assert "model.stream(" in code
        ast.parse(code)


def test_no_file_names_a_path_of_one_machine_or_leaves_work_for_later():
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in _texts()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if MACHINE_PATH.search(line) or LATER.search(line)
    ]
    assert not found


def test_a_file_of_this_repository_that_a_page_or_a_module_names_is_there():
    named_file = re.compile(
        r"(?<![\w/.-])(?:(?:docs|profiles/bench|tests)/[\w./-]+\.(?:md|py|png)|\$\(BENCH\)/[\w-]+\.py)"
    )
    missing = {
        f"{path.relative_to(ROOT)} names {name}"
        for path in _texts()
        if path.suffix in {".md", ".py"} or path.name == "Makefile"
        for name in named_file.findall(path.read_text(encoding="utf-8"))
        if not (ROOT / name.replace("$(BENCH)", "profiles/bench")).exists()
    }
    assert missing == set()


def test_what_is_tried_with_the_newest_and_the_oldest_packages_has_the_extras_that_their_tests_need():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    others = {"gpu", "rtx", "reference"}  # in place of `cpu`; needs a GPU or torch
    wanted = ",".join(sorted(project["optional-dependencies"].keys() - others))
    lines = [
        line for line in (ROOT / "Makefile").read_text().splitlines() if "pip install -q" in line and "'.[" in line
    ]
    assert [f"'.[{wanted}]'" in line for line in lines if "3.10" not in line] == [True, True]


def test_the_locks_name_no_server():
    for path in (ROOT / "requirements").iterdir():
        assert "://" not in path.read_text(encoding="utf-8"), path.name


def test_the_readme_shows_every_folder_and_nothing_that_is_not_there():
    shown = _tree((ROOT / "README.md").read_text(encoding="utf-8"))
    missing = [path for path in sorted(shown) if not (ROOT / path).exists()]
    assert not missing, "shown but not there"
    there = {f"{path.name}/" for path in _shipped_folders()}
    there |= {f"{path.parent.relative_to(ROOT).as_posix()}/" for path in MODULES}
    assert not there - shown, "there but not shown"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_recipe_loads_and_its_clips_are_there(path):
    recipe = load_recipe(path)
    judged, fitted = (named(one.clips, "clips") for one in (recipe.check, recipe.calibrate))
    for clip in (*judged, *fitted):
        assert clip.path.is_file(), clip
    if "export" in path.parts:
        assert not set(judged) & set(fitted), "what a bundle was fitted to cannot judge it"
        assert [one.name for one in named(recipe.check.transcripts, "transcripts") if one.words]


@pytest.mark.parametrize("folder", SYSTEMS, ids=lambda folder: folder.name)
def test_every_system_has_a_readme_and_short_scripts_that_nobody_imports(folder):
    assert (folder / "README.md").is_file()
    scripts = sorted(folder.glob("*.py"))
    assert scripts
    for script in scripts:
        assert "-" in script.stem, script.name
        assert len(script.read_text(encoding="utf-8").splitlines()) <= 40, script.name


@pytest.mark.parametrize("folder", ["export", "models", "profiles", "runtimes", "tests"])
def test_the_readme_of_a_data_folder_points_to_its_code_in_the_first_line(folder):
    first = (ROOT / folder / "README.md").read_text(encoding="utf-8").splitlines()[0]
    assert "edgekit" in first
    for link in re.findall(r"\]\(([^)]+)\)", first):
        assert (ROOT / folder / link).exists(), link


def _tree(readme: str) -> set[str]:
    """Return the paths in the README's tree: two spaces a level, `name  what it is`, a folder ends in a slash."""
    block = re.search(r"```tree\n(.*?)```", readme, re.DOTALL)
    assert block, "README.md has no ```tree block"
    paths, folders = set(), []
    for line in block[1].splitlines():
        name = line.split()[0]
        level = (len(line) - len(line.lstrip(" "))) // 2
        path = "".join(folders[:level]) + name
        if name.endswith("/"):
            folders[level:] = [name]
        paths.add(path)
    return paths


def _shipped_folders() -> list[Path]:
    """Return the top-level folders that belong to the project: neither hidden nor ignored."""
    ignored = {line.strip("/\n") for line in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()}
    return [
        path
        for path in sorted(ROOT.iterdir())
        if path.is_dir() and not path.name.startswith(".") and path.name not in ignored
    ]


def _texts() -> list[Path]:
    """Return every text file of the project, caches and built things left out."""
    kinds = {".py", ".md", ".toml", ".in", ".sh", ".service", ".cfg", ".json", ""}
    files = [path for folder in _shipped_folders() for path in folder.rglob("*")]
    files += [path for path in ROOT.iterdir() if path.name != ".git"]
    return [
        path
        for path in files
        if path.is_file()
        and path.suffix in kinds
        and path.stat().st_size < 1 << 20
        and not any(part == "__pycache__" or part.endswith(".egg-info") for part in path.parts)
    ]


def test_what_asyncio_gives_up_on_is_caught_in_python_3_10_too():
    """Until Python 3.11 its TimeoutError was not the built-in one: `except TimeoutError` let it through."""
    caught = []
    for path in sorted((ROOT / "edgekit/serving").rglob("*.py")):
        tree = ast.parse(path.read_text())
        if any(isinstance(node, ast.Import) and node.names[0].name == "asyncio" for node in ast.walk(tree)):
            names = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "TimeoutError"]
            caught += [f"{path.name}:{node.lineno}" for node in names]
    assert not caught
