"""Cases in a child process: what kills it, waits for ever or takes all memory is counted and ends no run."""

import multiprocessing
import os
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType

from edgekit.errors import EdgeKitError

Attempt = Callable[..., None]
LIMIT_S = 2.0
MEMORY = 512 << 20  # beside what the process has when it is forked
FRESH_AFTER = 5000  # cases of one child, so that what they leave behind does not add up
LONGEST_MESSAGE = 2000
FAULTS = ("traceback", "hang", "accepted wrongly")


class WronglyAcceptedError(AssertionError):
    """What was accepted does not work: it should have been refused at the door."""


class Hang(BaseException):
    """A case took longer than it may; nothing that is fuzzed catches it."""


@contextmanager
def must_work() -> Iterator[None]:
    """Count a refusal, or an assert that fails, as accepted wrongly: what comes inside was accepted before."""
    try:
        yield
    except (EdgeKitError, AssertionError) as error:
        raise WronglyAcceptedError(f"{type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class Outcome:
    """accepted, refused, or one of FAULTS. ``where``: faults of the same kind have the same."""

    verdict: str
    where: str = ""
    text: str = ""

    @property
    def is_fault(self) -> bool:
        """Return whether this must not happen."""
        return self.verdict in FAULTS


class Worker:
    """A child that runs an attempt on case after case, forked anew when it is lost."""

    def __init__(self, attempt: Attempt, limit_s: float = LIMIT_S, memory: int = MEMORY) -> None:
        self._attempt, self._limit_s, self._memory = attempt, limit_s, memory
        self._child, self._done = 0, 0

    def run(self, case: object) -> Outcome:
        """Return what became of a case; a hang or a death is believed when it happens in a new child too."""
        first = self._run(case)
        if not first.is_fault or self._done == 1:
            return first
        if first.verdict == "hang" or first.where.startswith(("MemoryError", "killed")):
            self.close()
            return self._run(case)
        return first

    def close(self) -> None:
        """End the child."""
        if self._child:
            self._pipe.close()
            os.kill(self._child, signal.SIGKILL)
            os.waitpid(self._child, 0)
            self._child = 0

    def _run(self, case: object) -> Outcome:
        if not self._child or self._done >= FRESH_AFTER:
            self.close()
            self._fork()
        self._done += 1
        self._pipe.send(case)
        if not self._pipe.poll(self._limit_s + 1):
            self.close()
            return Outcome("hang", "outside Python", "no answer, and no Python code ran that could be interrupted")
        try:
            return Outcome(*self._pipe.recv())
        except EOFError:
            self._pipe.close()
            _, status = os.waitpid(self._child, 0)
            self._child = 0
            name = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"exit {status >> 8}"
            return Outcome("traceback", f"killed by {name}", f"the process died of {name}")

    def _fork(self) -> None:
        self._pipe, own = multiprocessing.Pipe()
        self._done = 0
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python 3.12 warns of threads, which a BLAS may have
            self._child = os.fork()
        if self._child:
            own.close()
            return
        try:
            self._pipe.close()
            _serve(own, self._attempt, self._limit_s, self._memory)
        finally:
            os._exit(0)


def _serve(pipe, attempt: Attempt, limit_s: float, memory: int) -> None:
    if "FUZZ_SHOW" not in os.environ:
        silent = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(silent, stream)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limit = _address_space() + memory
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    signal.signal(signal.SIGALRM, _interrupt)
    while True:
        try:
            case = pipe.recv()
        except EOFError:
            return
        outcome = outcome_of(attempt, case, limit_s)
        pipe.send((outcome.verdict, outcome.where, outcome.text))


def outcome_of(attempt: Attempt, case: object, limit_s: float) -> Outcome:
    """Run an attempt in this process, whose SIGALRM raises Hang."""
    start = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, limit_s)
        try:
            attempt(case)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except EdgeKitError as error:
        outcome = _refused(error)
    except Hang as error:
        outcome = Outcome("hang", _where(error.__traceback__), _text(error))
    except WronglyAcceptedError as error:
        outcome = Outcome("accepted wrongly", f"{error.args[0]:.80}", _text(error))
    except BaseException as error:  # noqa: BLE001 - a panic of Rust is no Exception
        outcome = Outcome("traceback", f"{type(error).__name__} {_where(error.__traceback__)}", _text(error))
    else:
        outcome = Outcome("accepted")
    if not outcome.is_fault and time.monotonic() - start > limit_s:
        return Outcome("hang", "took too long", f"took {time.monotonic() - start:.1f} s, then {outcome.verdict}")
    return outcome


def _refused(error: EdgeKitError) -> Outcome:
    """An error is one line that a terminal and a log can show."""
    message = str(error)
    fault = ""
    if not message.isprintable():
        fault = "message that cannot be printed in one line"
    elif len(message) > LONGEST_MESSAGE:
        fault = f"message of more than {LONGEST_MESSAGE} characters"
    if fault:
        return Outcome("traceback", f"{fault} {_where(error.__traceback__)}", f"{fault}: {message[:300]!r}")
    return Outcome("refused", text=message)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise Hang


def _where(trace: TracebackType | None) -> str:
    """Return the innermost line of the package's own code, of any code if there is none."""
    frames = traceback.extract_tb(trace)
    own = [frame for frame in frames if "/edgekit/" in frame.filename] or frames
    return f"at {'/'.join(Path(own[-1].filename).parts[-3:])}:{own[-1].lineno}" if own else ""


def _text(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))[-3000:]


def _address_space() -> int:
    with Path("/proc/self/statm").open(encoding="ascii") as stream:
        return int(stream.read().split()[0]) * resource.getpagesize()
