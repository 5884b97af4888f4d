"""Put the running job into the log records that are made while it runs."""

import logging
from collections.abc import Mapping

from roost._model.logs import JobFields
from roost._worker.handlers.current import current, log_fields


class JobLogFilter(logging.Filter):
    """Adds the running job to each log record: ``job_id``, ``task``, ``queue`` and ``attempt``.

    Outside of jobs they are ``None``.

    For example:

        import logging

        handler = logging.StreamHandler()
        handler.addFilter(JobLogFilter())
        handler.setFormatter(logging.Formatter("%(message)s job=%(job_id)s"))
        logging.getLogger().addHandler(handler)

    Add it to a handler, so that it sees the records of all loggers: those of the job's handler and
    those of every library that it calls, in coroutines, worker threads and worker processes. It
    keeps every record. A field that the record has already is kept, too; if that is the
    ``job_id`` of another job, the record does not get the fields of the running one. With a
    ``QueueHandler``, add it to that one.

    A thread that a job starts by itself has no context, so its records get no fields. Start it with
    ``contextvars.copy_context().run``.

    :param missing: the value of each field in a record that is not about a job, so that a format
        may name the fields.
    """

    def __init__(self, *, missing: object = None) -> None:
        super().__init__()
        self._missing: dict[str, object] = dict.fromkeys(JobFields.__annotations__, missing)

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields of the running job, and keep the record."""
        job, known = current.get(None), record.__dict__
        fields: Mapping[str, object] = self._missing if job is None else log_fields(job)
        if "job_id" in known and known["job_id"] != fields["job_id"]:
            fields = self._missing
        for name, value in fields.items():
            known.setdefault(name, value)
        return True
