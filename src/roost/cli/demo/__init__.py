"""``roost demo``: index a real folder tree with real jobs, and check every count without them."""

from roost.cli.demo.command import demo

__all__ = ["demo"]
