"""What every test may rely on."""

import signal


def pytest_sessionstart() -> None:
    """Let an interrupt interrupt: a shell that starts tests in the background makes them ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
