"""Ids of the hub against a stand-in of its HTTP interface on loopback; huggingface_hub itself is the client."""

import hashlib
import json
import shutil
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants, errors, file_download

from edgekit.bundle import open_bundle
from edgekit.cli import main
from edgekit.errors import CheckpointError, UsageError
from edgekit.exporter.export import ExportOptions, export
from edgekit.exporter.families import registered
from edgekit.exporter.hub import locate
from tests.exporter import speaking, test_family_records
from tests.reference import checkpoints

QUICK = Path(__file__).parent / "quick.toml"
ID, COMMIT, OLD = "acme/tiny-whisper", "c" * 40, "0" * 40
ERRORS = {"acme/gated": (403, "GatedRepo"), "acme/broken": (500, "")}


class Hub(BaseHTTPRequestHandler):
    """Repositories of the server: id -> commit -> file name -> bytes; ``asked`` are the requests it got."""

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body):
        self.server.asked.append((self.command, self.path, self.headers.get("Range")))
        parts = self.path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self.describe("/".join(parts[2:4]), parts[5] if parts[4:5] == ["revision"] else "main")
        elif parts[2:3] == ["resolve"]:
            self.give("/".join(parts[:2]), parts[3], "/".join(parts[4:]), with_body)
        else:
            self.refuse(404, "EntryNotFound")

    def describe(self, name, revision):
        status, code = ERRORS.get(name, (404, "RepoNotFound"))
        if name not in self.server.held:
            return self.refuse(status, code)
        commit = {"main": COMMIT}.get(revision, revision)
        if commit not in self.server.held[name]:
            return self.refuse(404, "RevisionNotFound")
        files = [{"rfilename": file} for file in self.server.held[name][commit]]
        body = json.dumps({"id": name, "sha": commit, "siblings": files}).encode()
        return self.send(200, {"Content-Type": "application/json", "Content-Length": len(body)}, body)

    def give(self, name, commit, file, with_body):
        commit = {"main": COMMIT}.get(commit, commit)
        data = self.server.held.get(name, {}).get(commit, {}).get(file)
        if data is None:
            return self.refuse(404, "EntryNotFound")
        begin = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": commit}
        headers |= {"Content-Length": len(data) - begin, "Accept-Ranges": "bytes"}
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        body = data[begin:] if with_body else b""
        if with_body and file in self.server.cut:
            self.server.cut.discard(file)
            body = body[: len(body) // 2]
            self.close_connection = True
        return self.send(206 if begin else 200, headers, body)

    def refuse(self, status, code):
        self.send(status, {"X-Error-Code": code, "Content-Length": 0}, b"")

    def send(self, status, headers, body):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def point_at(monkeypatch, endpoint):
    """Do what HF_ENDPOINT does when a process starts."""
    path = constants.HUGGINGFACE_CO_URL_TEMPLATE.partition("/{repo_id}")
    for module in (constants, file_download):  # the second has it before 1.0
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + path[1] + path[2], raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Return the server: a tiny Whisper under ID, with files beside it that an export does not read."""
    folder = checkpoints.write(tmp_path / "made", "whisper-experts")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    files |= {
        "pytorch_model.bin": b"pickle",
        "modeling_tiny.py": b"raise SystemExit",
        "README.md": b"#",
        "onnx/a.onnx": b"o",
        "token2wav/flow.pt": b"of another family",
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.held, server.asked, server.cut = {ID: {COMMIT: files, OLD: files}}, [], set()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    point_at(monkeypatch, f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_id_is_fetched_without_what_an_export_does_not_read(hub):
    found = locate(ID)
    assert found.source == f"{ID}@{COMMIT}"
    here = {path.name for path in found.folder.iterdir()}
    assert here == hub.held[ID][COMMIT].keys() - {
        "pytorch_model.bin", "modeling_tiny.py", "README.md", "onnx/a.onnx", "token2wav/flow.pt",
    }  # fmt: skip
    assert {path.name for path in found.folder.rglob("*")} == here
    for name in here:
        assert (found.folder / name).read_bytes() == hub.held[ID][COMMIT][name]


def test_what_speaks_is_fetched_with_its_recordings(hub, tmp_path):
    folder = speaking.write(tmp_path / "speaking")
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    files["chat_template.jinja"] = b"{{ messages }}"
    others = ("assets/usage.png", "assets/more/a.wav", "token2wav/old/flow.pt", "a.wav")
    hub.held["acme/tiny-step"] = {COMMIT: files | dict.fromkeys(others, b"-")}
    found = locate("acme/tiny-step").folder
    assert {path.relative_to(found).as_posix() for path in found.rglob("*") if path.is_file()} == files.keys()
    assert "token2wav/flow.pt" in files
    assert "assets/default_female.wav" in files
    assert locate("acme/tiny-step", offline=True).folder == found


def test_a_second_checkpoint_that_a_family_keeps_its_words_in_is_fetched_too(hub, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    test_family_records.write(first, second, words_in="acme/words")
    hub.held["acme/words"] = {COMMIT: {path.name: path.read_bytes() for path in second.iterdir()}}
    options = ExportOptions(precision="float32")
    with registered(test_family_records.record(QUICK)):
        with pytest.raises(CheckpointError, match="^acme/words: not in the cache of the hub"):
            export(first, tmp_path / "b", replace(options, offline=True))
        made = export(first, tmp_path / "b", options)
        hub.asked.clear()
        assert export(first, tmp_path / "c", replace(options, offline=True)).files == made.files
    assert not hub.asked


def test_without_weights_the_configs_alone_are_fetched(hub):
    found = locate(ID, weights=False)
    assert found.source == f"{ID}@{COMMIT}"
    assert {path.name for path in found.folder.iterdir()} == {"config.json", "generation_config.json"}
    assert not [path for _, path, _ in hub.asked if path.endswith(("safetensors", "tokenizer.json"))]
    assert locate(ID, weights=False, offline=True) == found


def test_a_fetch_is_logged_and_prints_nothing(hub, caplog, capfd):
    with caplog.at_level("INFO", "edgekit"):
        locate(ID)
        locate(ID, offline=True)
    assert [record.message for record in caplog.records if record.name.startswith("edgekit")] == [f"fetch {ID}"]
    assert capfd.readouterr() == ("", "")


def test_the_command_line_says_what_it_fetches(hub, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["export", ID, "-o", str(tmp_path / "b"), "--recipe", str(QUICK)])
    assert capsys.readouterr().err.splitlines()[0] == f"edgekit: fetch {ID}"


def test_a_second_time_nothing_is_fetched_and_offline_nothing_is_asked(hub):
    first = locate(ID)
    hub.asked.clear()
    assert locate(ID) == first
    assert not [path for command, path, _ in hub.asked if command == "GET" and "resolve" in path]
    hub.asked.clear()
    assert locate(ID, offline=True) == first
    assert hub.asked == []


def test_a_fetch_that_broke_off_goes_on_where_it_was(hub, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 16)  # what has come is kept in pieces of this size
    hub.cut.add("model.safetensors")
    try:
        found = locate(ID)
    except CheckpointError:  # whether the client tries again by itself is its own matter
        found = locate(ID)
    assert (found.folder / "model.safetensors").read_bytes() == hub.held[ID][COMMIT]["model.safetensors"]
    assert [ask for _, path, ask in hub.asked if path.endswith("model.safetensors") and ask not in (None, "bytes=0-")]


def test_shards_are_those_that_the_index_names(hub):
    files = hub.held[ID][COMMIT]
    weights = files.pop("model.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    files |= dict.fromkeys(index["weight_map"].values(), weights) | {"consolidated.safetensors": b"the same again"}
    files["model.safetensors.index.json"] = json.dumps(index).encode()
    names = {path.name for path in locate(ID).folder.iterdir()}
    assert {name for name in names if "safetensors" in name} == {
        *index["weight_map"].values(),
        "model.safetensors.index.json",
    }
    del files["model-00002-of-00002.safetensors"]
    shutil.rmtree(constants.HF_HUB_CACHE)
    with pytest.raises(
        CheckpointError, match="names model-00002-of-00002.safetensors, which is not there at cccccccccccc"
    ):
        locate(ID)


def test_of_a_qwen3_omni_nothing_but_weights_settings_and_tokenizer_is_fetched(hub, tmp_path):
    folder = checkpoints.write(tmp_path / "omni", "omni")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    aside = ("chat_template.json", "chat_template.jinja", "processor_config.json", "video_preprocessor_config.json")
    hub.held["acme/omni"] = {COMMIT: files | dict.fromkeys(aside, b"{}")}
    found = locate("acme/omni").folder
    assert {path.name for path in found.iterdir()} == files.keys()


def test_a_revision_is_pinned_and_kept(hub, tmp_path):
    with pytest.raises(SystemExit) as end:
        main(["export", ID, "-o", str(tmp_path / "b"), "--recipe", str(QUICK), "--revision", OLD])
    assert end.value.code == 0
    manifest = open_bundle(tmp_path / "b").manifest
    assert manifest.source == f"{ID}@{OLD}"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("acme/none", {}, "no such folder here and no such checkpoint on the hub"),
        ("acme/gated", {}, "terms must be accepted"),
        ("acme/broken", {}, "could not be fetched .*try again"),
        (ID, {"revision": "v9"}, "has no revision v9"),
        (ID, {"offline": True}, "not in the cache of the hub"),
    ],
)
def test_what_the_hub_refuses_is_one_line(hub, name, options, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        locate(name, **options)
    assert "\n" not in str(caught.value)


def test_a_hub_that_does_not_answer_is_one_line(hub, monkeypatch):
    point_at(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match=f"^{ID}: no such folder here, and it could not be fetched"):
        locate(ID)


@pytest.mark.parametrize(
    ("files", "said", "fetched"),
    [
        ({"config.json": {"model_type": "moonshine"}}, "'moonshine' is not an architecture", {"config.json"}),
        ({"config.json": {"quantization_config": {"quant_method": "awq"}}}, r"pre-quantised .*awq", {"config.json"}),
        (
            {"config.json": {"model_type": "whisper", "d_model": "wide"}, "generation_config.json": {}},
            "d_model",
            {"config.json", "generation_config.json"},
        ),
        ({"ggml-base.bin": "", "ggml-tiny.bin": ""}, "holds ggml-base.bin, ggml", set()),
        (
            {
                "adapter_config.json": {"base_model_name_or_path": "openai/whisper-base"},
                "adapter_model.safetensors": "",
            },
            "a difference to openai/whisper-base",
            {"adapter_config.json"},
        ),
    ],
    ids=["unknown", "quantised", "contradiction", "ggml", "adapter"],
)
def test_what_no_family_takes_is_refused_before_its_weights_are_fetched(hub, tmp_path, files, said, fetched):
    held = {name: json.dumps(content).encode() for name, content in files.items()}
    hub.held["acme/brought"] = {COMMIT: held | {"model.safetensors": b"weights", "tokenizer.json": b"{}"}}
    if not fetched or "adapter_config.json" in fetched:
        del hub.held["acme/brought"][COMMIT]["model.safetensors"]
    with pytest.raises(CheckpointError, match=said):
        export("acme/brought", tmp_path / "b", ExportOptions(recipe=QUICK))
    assert {path.rpartition("/")[2] for _, path, _ in hub.asked if "/resolve/" in path} == fetched


def test_a_folder_of_ctranslate2_on_the_hub_is_told_by_its_container(hub):
    hub.held["acme/faster"] = {COMMIT: {"config.json": b"{}", "model.bin": b"container", "tokenizer.json": b"{}"}}
    assert {path.name for path in locate("acme/faster").folder.iterdir()} == hub.held["acme/faster"][COMMIT].keys()


def test_weights_that_torch_saved_are_fetched_where_there_are_no_others(hub):
    files = hub.held[ID][COMMIT]
    del files["model.safetensors"]
    assert (locate(ID).folder / "pytorch_model.bin").read_bytes() == b"pickle"
    del files["pytorch_model.bin"]
    index = {"weight_map": {"a": "pytorch_model-00001-of-00001.bin"}}
    files |= {"pytorch_model.bin.index.json": json.dumps(index).encode(), "pytorch_model-00001-of-00001.bin": b"shard"}
    shutil.rmtree(constants.HF_HUB_CACHE)
    names = {path.name for path in locate(ID).folder.iterdir()}
    assert {"pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin"} < names


def test_a_short_name_is_fetched_under_its_id_and_kept_in_a_bundle_made_in_python(hub, tmp_path):
    hub.held["openai/whisper-base"] = hub.held[ID]
    made = export("Whisper-Base", tmp_path / "b", ExportOptions(recipe=QUICK))
    assert made.source == f"openai/whisper-base@{COMMIT}"
    assert open_bundle(tmp_path / "b").manifest.source == made.source
    with pytest.raises(CheckpointError, match="no such checkpoint on the hub; did you mean openai/whisper-small"):
        locate("openai/wisper-small")


def test_python_takes_a_revision_as_the_command_line_does(hub, tmp_path):
    made = export(ID, tmp_path / "b", ExportOptions(recipe=QUICK, revision=OLD))
    assert made.source == f"{ID}@{OLD}"
    dummy = export(ID, tmp_path / "c", ExportOptions(recipe=QUICK, revision=OLD, dummy_weights=True))
    assert dummy.source == f"{ID}@{OLD}"


@pytest.mark.parametrize("kind", errors.HfHubHTTPError.__bases__)
def test_an_error_of_what_fetches_is_one_line_whichever_library_it_is(hub, monkeypatch, kind):
    def cut(*_, **__):
        raise kind("the line was cut\nin two")

    monkeypatch.setattr(HfApi, "model_info", cut)
    with pytest.raises(
        CheckpointError, match=rf"could not be fetched \({kind.__name__}: the line was cut\); try again"
    ):
        locate(ID)


def test_a_hub_that_goes_away_between_two_files_is_one_line_with_the_reason(hub, monkeypatch):
    asked = HfApi.model_info

    def then_away(self, *arguments, **options):
        found = asked(self, *arguments, **options)
        self.endpoint = "http://127.0.0.1:9"
        return found

    monkeypatch.setattr(HfApi, "model_info", then_away)
    with pytest.raises(CheckpointError, match=r"could not be fetched \(Connect\w+: .*\); try again"):
        locate(ID)


@pytest.mark.parametrize("name", ["a--b/c", "a..b/c", "acme/x.git"])
def test_what_the_hub_has_no_ids_like_is_one_line(hub, name):
    with pytest.raises(CheckpointError, match=f"^{name}: no such folder here"):
        locate(name)


def test_a_path_is_a_path(hub, tmp_path):
    (tmp_path / ID).mkdir(parents=True)
    assert locate(ID).folder.samefile(tmp_path / ID)
    for nothing in ("/no/such/folder", "nothing", "./acme/none", tmp_path / "a/b/c"):
        with pytest.raises(CheckpointError, match="no such folder"):
            locate(nothing)
    assert hub.asked == []
    with pytest.raises(UsageError, match="only ids of the hub have revisions"):
        locate(tmp_path, revision="main")


@pytest.mark.parametrize("name", ["a" * 5000, "a\0b", "\ud800", "x/" * 3000])
def test_a_checkpoint_of_a_name_that_no_file_can_have_is_one_line(name):
    with pytest.raises(CheckpointError) as refusal:
        locate(name, offline=True)
    assert str(refusal.value).isprintable()
