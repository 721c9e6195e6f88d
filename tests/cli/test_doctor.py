"""``edgekit doctor`` prints every finding, and exits 0 only where bundles can run."""

import json
import re


def test_every_finding_is_printed_and_a_machine_with_onnxruntime_runs_bundles(cli):
    code, out, err = cli("doctor")
    assert (code, err) == (0, "")
    for name in ("driver|Jetson Linux", "TensorRT", "CPU", "memory", "disk", "soundfile", "PortAudio"):
        assert re.search(rf"^(ok     |missing|wrong  )  ({name}): \S", out, re.MULTILINE), name
    assert out.endswith("bundles run here on: onnxruntime-cpu\n")


def test_json_says_the_same(cli):
    code, out, _ = cli("doctor", "--json")
    said = json.loads(out)
    assert code == 0
    assert said["runs"] == ["onnxruntime-cpu"]
    assert {"name": "onnxruntime-cpu", "here": True} in said["backends"]
    assert {finding["state"] for finding in said["findings"]} <= {"ok", "missing", "wrong"}


def test_a_machine_without_a_backend_exits_1_in_one_line(cli, tmp_path, monkeypatch):
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('libonnxruntime.so: wrong ELF class')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    code, out, err = cli("doctor")
    assert code == 1
    assert "wrong    onnxruntime: does not load: ImportError: libonnxruntime.so: wrong ELF class" in out
    assert err.startswith("edgekit: backends: none here can run bundles")
    assert err.count("\n") == 1
