"""``roost demo``: run jobs, kill their worker in the middle, and check that none was lost."""

from roost.cli.demo.command import demo

__all__ = ["demo"]
