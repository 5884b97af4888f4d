"""The command ``roost``. The only place that chooses an event loop and handles signals."""

from roost.cli.app import main

__all__ = ["main"]
