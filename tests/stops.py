"""Stop a writer at every step that it asks of the system, and look at what is there then.

As a program, for a process that may fork: ``python -m tests.stops WHAT WAY FAULT FOLDER`` prints one JSON object.
WHAT is ``folder`` or ``file``, WAY ``exchange`` or ``renames`` (a kernel that cannot exchange), FAULT one of FAULTS.
"""

import errno
import fcntl
import json
import os
import signal
import sys
from pathlib import Path

from edgekit import atomic
from edgekit.atomic import draft_file, draft_folder, exchanging
from edgekit.ending import ended_by_signals

FAULTS = ("SIGINT", "SIGTERM", "SIGTERM for ever", "SIGKILL", "EIO", "EIO for ever")
CODES = {
    "SIGINT": {128 + signal.SIGINT}, "SIGTERM": {128 + signal.SIGTERM}, "SIGKILL": {-signal.SIGKILL},
    "EIO": {0, 1},  # what cannot be cleared away spoils nothing
}  # fmt: skip
STEPS = (
    *((os, name) for name in ("mkdir", "open", "fsync", "fchmod", "rename", "replace", "unlink", "rmdir")),
    (fcntl, "flock"), (exchanging, "_renameat2"),
)  # fmt: skip
NAMES = ("manifest.json", "encoder.onnx", "goldens/logits.npy")


class Steps:
    """Counts the steps from now on and lets the ``at``-th be the fault, before or behind what it does."""

    def __init__(self, fault: str, at: int, *, behind: bool) -> None:
        self._kind, _, self._ever = fault.partition(" ")
        self._at, self._behind = at, behind
        self.taken: list[str] = []
        for module, name in STEPS:
            setattr(module, name, self._counted(name, getattr(module, name)))

    def _counted(self, name, step):
        def counted(*arguments, **options):
            self.taken.append(name)
            now = len(self.taken) == self._at or (self._ever and len(self.taken) > self._at)
            if now and self._kind == "EIO":
                if name == "_renameat2":
                    return errno.EIO
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            if now and not self._behind:
                os.kill(os.getpid(), getattr(signal, self._kind))
            try:
                return step(*arguments, **options)
            finally:
                if now and self._behind:
                    os.kill(os.getpid(), getattr(signal, self._kind))

        return counted


def write(what: str, place: Path, content: str) -> None:
    """Put a folder of several files, or a file, at a place."""
    if what == "file":
        with draft_file(place, private=True) as draft:
            draft.write(content.encode())
            draft.publish()
        return
    with draft_folder(place) as draft:
        (draft.path / "goldens").mkdir()
        for name in NAMES:
            (draft.path / name).write_text(content)
        (draft.path.parent / "twin").mkdir()  # what is needed meanwhile
        draft.publish()


def found(what: str, place: Path) -> str:
    """Return the content of what is there, if it is whole and all of one kind; else what it is."""
    if not place.exists():
        return "missing"
    if what == "file":
        return place.read_text()
    names = {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}
    contents = {(place / name).read_text() for name in names}
    return contents.pop() if names == set(NAMES) and len(contents) == 1 else f"half: {sorted(names)} {contents}"


def stopped(what: str, fault: str, place: Path, at: int, *, behind: bool) -> tuple[int, bool]:
    """Write in a child that the fault strikes; return its exit code and whether it came so far."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        code = 70
        steps = Steps(fault, at, behind=behind)
        try:
            ended_by_signals(lambda: write(what, place, "new"))
            code = 0
        except KeyboardInterrupt as end:
            code = 128 + getattr(end, "number", signal.SIGINT)
        except OSError as error:
            code = 1 if len(str(error).splitlines()) == 1 else 70
        finally:
            os.write(writer, b"x" * (len(steps.taken) >= at))
            os._exit(code)
    os.close(writer)
    came = os.read(reader, 1)
    os.close(reader)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code, bool(came) or code < 0


def every_step(what: str, fault: str, folder: Path) -> dict[str, object]:
    """Let the fault strike at each step in turn; return how often, what was there, and all that was wrong."""
    place, count, wrong = folder / "b", 0, []
    seen: dict[str, int] = {}
    for behind in (False, True) if fault.startswith("SIG") else (False,):
        for at in range(1, 1000):
            write(what, place, "old")
            code, came = stopped(what, fault, place, at, behind=behind)
            if not came:
                break
            count += 1
            left = sorted(path.name for path in folder.iterdir() if path.name != "b")
            first = found(what, place)
            if first not in {"old", "new"}:
                last = [found(what, path / "old") for path in folder.glob(".b.*.partial")]
                first = f"{first}, {last} to be put back"
            seen[first] = seen.get(first, 0) + 1
            atomic.clear_leftovers(place)
            repaired = found(what, place)
            write(what, place, "next")
            after = sorted(path.name for path in folder.iterdir())
            if repaired not in {"old", "new"} or found(what, place) != "next" or after != ["b"]:
                wrong.append([at, behind, code, first, repaired, after])
            if code not in CODES[fault.partition(" ")[0]] or (left and code > 1):
                wrong.append([at, behind, code, left])
    return {"stops": count, "seen": seen, "wrong": wrong}


def main(what: str, way: str, fault: str, folder: str) -> None:
    """Print what ``every_step`` finds."""
    if way == "renames":
        exchanging._renameat2 = lambda _one, _other: errno.ENOSYS
    print(json.dumps(every_step(what, fault, Path(folder))))


if __name__ == "__main__":
    main(*sys.argv[1:])
