"""A damaged bundle whose sizes and hashes are right is refused when it is loaded, or hears a second of sound."""

import json
import os
from contextlib import nullcontext

import edgekit
from edgekit.bundle import hash_file
from tests.fuzz.test_manifest import without_checksum
from tests.fuzz.worker import must_work
from tests.runtime.streams import RATE, sound_of

# what is damaged, the manifest as often as the rest
PARTS = ("manifest.json",) * 5 + ("tokenizer.json", "encoder.onnx", "adapter.onnx", "backbone.onnx", "tokens.bin")


class Copies:
    """Damaged copies of whole bundles, one at a time in one folder: what is not damaged is linked."""

    def __init__(self, folders, place):
        self._folders, self._place = folders, place

    def part(self, case):
        """Return which file is damaged."""
        return PARTS[case.which // len(self._folders) % len(PARTS)]

    def damaged(self, case):
        """Return the folder of a copy: one file is damaged, and the manifest tells its size and hash."""
        whole = self._folders[case.which % len(self._folders)]
        part = self.part(case)
        data = without_checksum(whole) if part == "manifest.json" else (whole / part).read_bytes()
        self._fill(whole, part, case.document(data) if part.endswith(".json") else case.data(data))
        if part != "manifest.json":
            manifest = json.loads(without_checksum(whole))
            for entry in manifest["files"]:
                path = self._place / entry["path"]
                entry["bytes"], entry["sha256"] = path.stat().st_size, hash_file(path)
            (self._place / "manifest.json").write_text(json.dumps(manifest))
        return self._place

    def _fill(self, whole, part, data):
        self._place.mkdir(exist_ok=True)
        for path in self._place.iterdir():
            path.unlink()
        for path in whole.iterdir():
            if path.name not in {part, "manifest.json"}:
                os.link(path, self._place / path.name)
        (self._place / part).write_bytes(data)


def hear(model):
    """Hear a second of noise and its end, and ask where that can be."""
    stream = model.stream()
    sound = sound_of(RATE)
    for at in range(0, len(sound), 4_000):
        for _ in stream.push(sound[at : at + 4_000]):
            pass
    if "user" in model.manifest.protocol.roles:
        for _ in stream.ask("a"):
            pass
    for _ in stream.finish():
        pass
    assert stream.done


def test_a_damaged_bundle_is_refused_or_hears_a_second_of_sound(fuzz, tiny_bundle, tmp_path):
    folders = [tiny_bundle(kind).folder for kind in ("cross", "prefix")]
    folders.append(tiny_bundle("prefix", masks_last_position=True).folder)
    copies = Copies(folders, tmp_path / "damaged")

    def attempt(case):
        model = edgekit.load(copies.damaged(case), threads=1)
        with must_work() if copies.part(case).endswith(".json") else nullcontext():  # graphs and weights fail when run
            hear(model)

    fuzz("load and a second of sound", attempt, whole=3, slow=True, memory=2 << 30)
