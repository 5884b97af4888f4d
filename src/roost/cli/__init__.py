"""The command ``roost``. Only this package chooses an event loop and handles signals."""

from roost import _interrupt

__all__ = ["main"]


def main() -> None:
    """Run this process's command line and exit: 0 success, 1 failure, 2 wrong usage."""
    with _interrupt.exiting_on_sigint():
        from roost.cli.app import main as command  # slow, so signals are handled before it
    command()
