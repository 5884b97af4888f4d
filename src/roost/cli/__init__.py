"""The command ``roost``. The only place that chooses an event loop and handles signals."""

from roost import _interrupt

__all__ = ["main"]


def main() -> None:
    """Run the command line of this process and exit: 0 done, 1 failed, 2 asked wrongly."""
    if _interrupt.is_command():
        _interrupt.exit_on_sigint()
    from roost.cli.app import main as command  # which takes a while

    _interrupt.restore_sigint()
    command()
