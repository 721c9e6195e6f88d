"""A damaged file of torch.save is refused, runs nothing, or every tensor of it is read."""

import io
import pickletools
import zipfile

import numpy as np

from edgekit.exporter.sources.pickled import open_pickled
from tests.exporter.pickles import ordered, save, tensor, whole, write
from tests.fuzz.test_safetensors import read_all

DRAWS = np.random.default_rng(5)
OPCODES = sorted(code.code.encode("latin-1") for code in pickletools.opcodes)
ARGUMENTS = (
    b"",
    b"\0",
    b"\xff" * 4,
    b"\xff" * 8,
    b"\1\0\0\0a",
    b"0\n",
    b"cos\nsystem\n",
    b"\x01\x00",
    b"9" * 5000 + b"\n",
)


def with_opcodes(pickle, case):
    """Return a pickle with opcodes put in, taken out or said again, each between two others."""
    for kind, place, how in case.edits:
        try:
            starts = [at for _, _, at in pickletools.genops(pickle)]
        except Exception:  # noqa: BLE001 - what was put in before ends it
            return pickle
        at = starts[place % len(starts)]
        match kind % 4:
            case 0:
                pickle = (
                    pickle[:at] + OPCODES[how % len(OPCODES)] + ARGUMENTS[how // 256 % len(ARGUMENTS)] + pickle[at:]
                )
            case 1:
                pickle = pickle[:at] + pickle[starts[min(place % len(starts) + how % 9, len(starts) - 1)] :]
            case 2:
                other = starts[how % len(starts)]
                pickle = pickle[:at] + pickle[other : other + how % 40] + pickle[at:]
            case _:
                pickle = pickle[:at] + OPCODES[how % len(OPCODES)] * (how // 256 % 3000 + 1) + pickle[at:]
    return pickle


def test_a_damaged_pickle_is_refused_or_read(fuzz, tmp_path):
    arrays = {
        "a.weight": DRAWS.standard_normal((3, 4)).astype(np.float32),
        "a.bias": DRAWS.standard_normal(5).astype(np.float16),
        "count": np.array([3, 4]),
        "scalar": np.array(2.5, np.float32),
    }
    base = np.arange(24, dtype=np.float32)
    views = ordered(
        {"turned": tensor("0", "FloatStorage", 24, (4, 3), (1, 4), first=2), "in": ordered({"w": whole("0", base)})}
    )
    paths = [save(tmp_path / "a.pt", arrays), write(tmp_path / "b.pt", views, {"0": base})]
    files = [path.read_bytes() for path in paths]
    path = tmp_path / "damaged.pt"

    def attempt(case):
        data = case.chosen(files)
        if case.which // 2 % 3:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
            pickle = entries["archive/data.pkl"]
            entries["archive/data.pkl"] = case.data(pickle) if case.which // 6 % 2 else with_opcodes(pickle, case)
            made = io.BytesIO()
            with zipfile.ZipFile(made, "w") as archive:
                for name, content in entries.items():
                    archive.writestr(name, content)
            path.write_bytes(made.getvalue())
        else:
            path.write_bytes(case.data(data))
        read_all(open_pickled(path))

    fuzz("pickle", attempt, whole=12)  # both files, each damaged in three ways
