"""What people bring in place of a checkpoint: one line each, which says what it is and what to do."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from safetensors.numpy import load_file

from edgekit.errors import CheckpointError, MissingPackageError
from edgekit.exporter import hub
from edgekit.exporter.export import ExportOptions, export
from edgekit.exporter.families import FAMILIES, short_names
from edgekit.exporter.hub import locate
from edgekit.exporter.layout import checkpoint_folder, refuse_others
from tests.exporter import pickles
from tests.exporter.test_hub import QUICK
from tests.reference import checkpoints

CONFIG = json.dumps({"model_type": "whisper"})
CASES = {
    "bundle": (
        {"manifest.json": "{}", "encoder.onnx": "", "config.json": CONFIG},
        "is a bundle.*`edgekit run .* FILE`",
    ),
    "adapter": (
        {"adapter_config.json": '{"base_model_name_or_path": "openai/whisper-base"}', "adapter_model.safetensors": ""},
        "holds an adapter .*a difference to openai/whisper-base; merge them with peft's merge_and_unload",
    ),
    "adapter beside weights": (
        {"adapter_config.json": "{}", "adapter_model.safetensors": "", "config.json": CONFIG, "model.safetensors": ""},
        "holds an adapter .*a difference to its base model",
    ),
    "gguf": ({"ggml-tiny.en-q5_1.gguf": ""}, "GGUF, made for .*`edgekit export whisper-tiny.en -o BUNDLE`"),
    "ggml": ({"ggml-large-v3-turbo.bin": ""}, "ggml, made for .*`edgekit export whisper-large-v3-turbo -o BUNDLE`"),
    "openai": ({"small.pt": ""}, "OpenAI's own.*`edgekit export whisper-small -o BUNDLE`"),
    "optimum": (
        {"config.json": CONFIG, "encoder_model.onnx": ""},
        "ONNX graph, as optimum.*take the checkpoint that it was made of",
    ),
    "optimum on the hub": ({"config.json": CONFIG, "onnx/encoder_model.onnx": ""}, "holds onnx/encoder_model.onnx, an"),
    "tensorrt-llm": ({"config.json": "{}", "rank0.safetensors": ""}, "rank0.safetensors, a checkpoint of TensorRT-LLM"),
    "tensorrt-llm's engine": ({"config.json": "{}", "rank0.engine": ""}, "rank0.engine, an engine of TensorRT"),
    "mlx": ({"config.json": CONFIG, "weights.npz": ""}, "weights of MLX"),
    "flax": ({"config.json": CONFIG, "flax_model.msgpack": ""}, "weights of Flax"),
    "tensorflow": ({"config.json": CONFIG, "tf_model.h5": ""}, "weights of TensorFlow"),
    "one level up": (
        {"mine/config.json": CONFIG, "mine/model.safetensors": ""},
        "its folder mine has one; give .*/mine$",
    ),
    "a cache of the hub": (
        {"snapshots/abc/config.json": CONFIG, "refs/main": "abc"},
        "its folder snapshots/abc has one; give .*/snapshots/abc$",
    ),
    "empty": ({}, "is empty; put config.json, weights and tokenizer there"),
    "weights alone": ({"model.safetensors": ""}, "has weights and no config.json"),
    "something else": ({"notes.txt": ""}, "has no config.json; give the folder"),
}
WHOLE = (
    {"config.json": CONFIG, "model.safetensors": ""},
    {
        "config.json": CONFIG,
        "model.safetensors": "",
        "onnx/encoder_model.onnx": "",
        "flax_model.msgpack": "",
        "a.pt": "",
    },
    {"config.json": CONFIG, "model-00001-of-00002.safetensors": "", "model.safetensors.index.json": "{}"},
    {"config.json": CONFIG, "pytorch_model-00001-of-00002.bin": "", "pytorch_model.bin.index.json": "{}"},
    {"config.json": CONFIG, "model.bin": "", "vocabulary.txt": ""},
    {"config.json": CONFIG},
)


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def reason(call, *arguments, **options):
    with pytest.raises(CheckpointError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", CASES)
def test_a_folder_that_is_no_checkpoint_says_what_it_is_and_what_to_do(name, tmp_path):
    files, said = CASES[name]
    folder = write(tmp_path / "brought", files)
    line = reason(export, folder, tmp_path / "b")
    assert line.startswith(f"{folder}: ")
    assert re.search(said, line), line
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("name", CASES)
def test_the_names_of_a_repository_say_the_same(name):
    files, said = CASES[name]
    line = reason(refuse_others, "acme/brought", files.keys(), lambda name: json.loads(files[name]))
    assert re.search(said, line), line


@pytest.mark.parametrize("files", WHOLE, ids=lambda files: list(files)[-1])
def test_what_may_be_a_checkpoint_is_not_refused_by_its_names(files):
    refuse_others("acme/whole", files.keys(), lambda name: json.loads(files[name]))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("base.pt", "OpenAI's own.*`edgekit export whisper-base -o BUNDLE`"),
        ("ggml-base.en.bin", "ggml.*`edgekit export whisper-base.en -o"),
        ("model.onnx", "an ONNX graph.*with config.json and safetensors$"),
        ("model.safetensors", "is a file, export starts from a folder; give the one that it lies in: "),
        ("whisper.tar.gz", "is an archive, .*unpack it"),
        ("canary.nemo", "an archive of NeMo"),
    ],
)
def test_a_file_in_place_of_a_folder_says_what_to_give(name, said, tmp_path):
    (tmp_path / name).write_bytes(b"")
    assert re.search(said, reason(export, tmp_path / name, tmp_path / "b"))


def test_an_unknown_model_is_refused_before_a_byte_of_its_weights_is_read(tmp_path):
    folder = write(tmp_path / "brought", {"config.json": '{"model_type": "moonshine"}'})
    os.mkfifo(folder / "model.safetensors")  # whoever opens it waits for ever
    code = f"from edgekit.exporter.export import export; export({str(folder)!r}, {str(tmp_path / 'b')!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False, env=_path()
    )
    assert "model_type 'moonshine' is not an architecture EdgeKit knows" in done.stderr


def test_a_config_that_its_family_refuses_is_refused_before_its_weights_too(tmp_path):
    folder = checkpoints.write(tmp_path / "brought", "whisper-dense")
    config = json.loads((folder / "config.json").read_text())
    (folder / "model.safetensors").write_bytes(b"damaged")
    assert "damaged" in reason(checkpoint_and_weights, folder)
    (folder / "config.json").write_text(json.dumps(config | {"d_model": "wide"}))
    assert "d_model" in reason(checkpoint_and_weights, folder)
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "awq"}}))
    assert "pre-quantised checkpoint (awq)" in reason(checkpoint_and_weights, folder)


def checkpoint_and_weights(folder):
    return export(folder, folder.parent / "b", ExportOptions(recipe=QUICK))


def test_a_config_without_a_model_type_is_told_so(tmp_path):
    folder = write(tmp_path / "brought", {"config.json": '{"n_mels": 80}', "model.safetensors": ""})
    assert "names no model_type" in reason(checkpoint_folder, folder)


def test_weights_that_torch_saved_give_the_bundle_of_the_same_safetensors(tmp_path):
    first = checkpoints.write(tmp_path / "first" / "same", "whisper-dense")
    second = shutil.copytree(first, tmp_path / "second" / "same")
    pickles.save(second / "pytorch_model.bin", load_file(first / "model.safetensors"))
    (second / "model.safetensors").unlink()
    made = [export(one, one.parent / "b", ExportOptions(recipe=QUICK)) for one in (first, second)]
    assert made[0].files == made[1].files


def test_every_published_checkpoint_has_a_short_name_of_its_own():
    published = [name for family in FAMILIES for name in family.published]
    assert len(short_names()) == len(published)
    assert short_names()["whisper-base"] == "openai/whisper-base"
    assert short_names()["step-audio-2-mini"] == "stepfun-ai/Step-Audio-2-mini"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("whispr-base", "whispr-base: no such folder here, and no short name; did you mean whisper-base?"),
        ("xyz", "no short name; short names are edgekit-tiny, qwen3-omni"),
        ("https://huggingface.co/openai/whisper-base/tree/main", "give the id that it shows: openai/whisper-base"),
        ("bundles/of/mine", "no such folder; give the checkpoint's folder"),
    ],
)
def test_a_name_that_is_nothing_says_what_there_is(text, said):
    assert said in reason(locate, text)


def test_the_checkpoint_that_ships_is_found_by_its_name(tmp_path, monkeypatch):
    assert (locate("edgekit-tiny").folder / "config.json").is_file()
    assert locate("EdgeKit-Tiny").source == ""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "edgekit-tiny").mkdir()  # a folder of that name comes first
    assert locate("edgekit-tiny").folder.samefile(tmp_path / "edgekit-tiny")
    monkeypatch.setitem(sys.modules, "edgekit_tiny", None)
    monkeypatch.setattr(hub, "resource", tmp_path.joinpath)
    (tmp_path / "edgekit-tiny").rmdir()
    with pytest.raises(MissingPackageError, match="edgekit_tiny is not installed.*pip install ./models/edgekit-tiny"):
        locate("edgekit-tiny")


def test_without_huggingface_hub_the_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        MissingPackageError, match=r"openai/whisper-base: no such folder here; .*edgekit-audio\[export\]"
    ):
        locate("whisper-base")


def _path():
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
