"""``roost bench``: measure Roost on this database and machine."""

from roost.cli.bench.command import EPILOG, bench

__all__ = ["EPILOG", "bench"]
