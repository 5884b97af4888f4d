"""Publish the options that a worker's code declares for its tasks.

An enqueue by a client that does not know the task fills from them what was not passed.
"""

from __future__ import annotations

from collections.abc import Mapping

from roost._model.codec import encode
from roost._ops.query import Op, Query
from roost._sql import statements

_SQL = statements("tasks")


def publish_options(worker_id: int, declared: Mapping[str, Mapping[str, object]]) -> Op[None]:
    """Declare the options of each task; ``{}``: the usual defaults.

    Options that were not declared before replace the known ones. Options that were replaced before
    come from older code: they replace the newer ones only when no living worker declares those.

    :param worker_id: the worker that declares them. Call it again while the worker lives, since
        older options may count again later.
    """
    options = [encode(dict(values)) for values in declared.values()]
    yield Query(_SQL["publish_options"], (worker_id, list(declared), options))
