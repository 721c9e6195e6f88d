"""TensorRT's two modules: the full one and the one for RTX, whose APIs agree in all that is used of them."""

import importlib
from typing import Any

from edgekit.errors import BackendError, MissingPackageError
from edgekit.versions import older

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
_LOWEST = {"tensorrt": "10.3", "tensorrt-rtx": "1.7"}
_INSTALL = {
    "tensorrt": "take the one of JetPack 6 or later, or NVIDIA's package",
    "tensorrt-rtx": "pip install 'edgekit-audio[rtx]'",
}


def load_library(kind: str) -> Any:  # noqa: ANN401 - TensorRT's module
    """Return the module of a backend.

    Raises MissingPackageError if it is not installed or does not load, BackendError if it is too old.
    """
    try:
        trt = importlib.import_module(MODULES[kind])
    except ImportError as error:
        raise MissingPackageError(
            f"{kind}: {one_line(error)}, and plans are built and run with it; {_INSTALL[kind]}"
        ) from error
    if older(trt.__version__, _LOWEST[kind]):
        raise BackendError(f"{kind} {trt.__version__}: too old, {_LOWEST[kind]} or newer is needed; {_INSTALL[kind]}")
    return trt


def make_logger(trt: Any, *, verbose: bool) -> Any:  # noqa: ANN401 - a subclass of TensorRT's
    """Return a logger that prints nothing: it keeps the first error and, if ``verbose``, every line."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []
            self.first = ""  # error since the last one that was asked for

        def log(self, severity: Any, message: str) -> None:  # noqa: ANN401
            if verbose:
                self.lines.append(message)
            if not self.first and severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.first = message

        def error(self) -> str:
            """Return the first error since the last time this was asked, on one line."""
            said, self.first = self.first, ""
            return one_line(said) or "no reason given"

    return Logger()


def one_line(text: object) -> str:
    """Return a text with every run of blanks and line ends as one blank."""
    return " ".join(str(text).split())
