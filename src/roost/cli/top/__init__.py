"""``roost top``: a live view of the queues, the running jobs and the failures in a terminal."""

from roost.cli.top.command import EPILOG, top

__all__ = ["EPILOG", "top"]
