"""What a process that runs handlers does before its first call, such as to configure logging.

The command uses it; a program of the user's own does this at the import of its modules.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable

_setups: list[Callable[[], object]] = []


def run_in_each_process(setup: Callable[[], object]) -> None:
    """Call ``setup`` in each process that is started from now on. It must be picklable."""
    _setups.append(setup)


def pickled_setups() -> bytes:
    """Return the functions for a new process."""
    return pickle.dumps(_setups)
