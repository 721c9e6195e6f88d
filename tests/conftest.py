"""What every test may rely on."""

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest


def pytest_sessionstart() -> None:
    """Let signals end what they end: a shell that starts tests in the background, or nohup, makes them ignore some.

    Under emulation (``arm/root.sh``) skip what starts a child process, a compiler for this machine included.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if "EDGEKIT_EMULATED" in os.environ:
        subprocess.Popen.__init__ = _no_children  # type: ignore[method-assign]


@pytest.fixture(scope="session", autouse=True)
def _own_plan_key(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Seal plans with a key of the tests' own; who runs them keeps theirs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEKIT_PLAN_KEY", str(tmp_path_factory.mktemp("key") / "plan.key"))
        yield


def _no_children(*_: object, **__: object) -> None:
    pytest.skip("an emulated Python starts no child processes")
