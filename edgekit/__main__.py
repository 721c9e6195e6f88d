"""``python -m edgekit`` and the ``edgekit`` command."""

from edgekit.ending import take_signals_for_good


def main() -> None:
    """Run the command line of this process and exit; see ``edgekit.cli.main``."""
    take_signals_for_good()  # before what takes its time to load
    from edgekit.cli import main as run

    run()


if __name__ == "__main__":
    main()
