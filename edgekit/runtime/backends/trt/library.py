"""TensorRT's two modules: the full one and the one for RTX, whose APIs agree in all that is used of them."""

import importlib
from dataclasses import dataclass
from typing import Any

from edgekit.errors import BackendError, MissingPackageError
from edgekit.versions import older


@dataclass(frozen=True, slots=True)
class Kind:
    """One of the two: name of its backend, its module, and the oldest version that is used.

    ``title``: what NVIDIA calls it; ``install``: what to do where it is missing. ``portable``: it builds plans
    anywhere, for devices that are named to it, and measures nothing before a plan first runs; the other one measures
    kernels on the device that a plan is for.
    """

    name: str
    module: str
    title: str
    lowest: str
    install: str
    portable: bool


FULL = Kind(
    "tensorrt",
    "tensorrt",
    "TensorRT",
    "10.3",
    "take the one of JetPack 6 or later, or NVIDIA's package",
    portable=False,
)
RTX = Kind("tensorrt-rtx", "tensorrt_rtx", "TensorRT for RTX", "1.7", "pip install 'edgekit-audio[rtx]'", portable=True)


def load_library(kind: Kind) -> Any:  # noqa: ANN401 - TensorRT's module
    """Return the module of a kind.

    Raises MissingPackageError if it is not installed or does not load, BackendError if it is too old.
    """
    try:
        trt = importlib.import_module(kind.module)
    except ImportError as error:
        raise MissingPackageError(
            f"{kind.name}: {one_line(error)}, and plans are built and run with it; {kind.install}"
        ) from error
    if older(trt.__version__, kind.lowest):
        raise BackendError(f"{kind.name} {trt.__version__}: too old, {kind.lowest} or newer is needed; {kind.install}")
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
