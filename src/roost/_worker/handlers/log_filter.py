"""Put the running job into the log records that are made while it runs."""

import logging

from roost._worker.handlers.current import current, log_fields


class JobLogFilter(logging.Filter):
    """Adds the running job to each log record: ``job_id``, ``task``, ``queue`` and ``attempt``.

    For example:

        import logging

        handler = logging.StreamHandler()
        handler.addFilter(JobLogFilter())
        logging.getLogger().addHandler(handler)

    Add it to a handler, so that it sees the records of all loggers: those of the job's handler and
    those of every library that it calls, in coroutines, worker threads and worker processes. It
    keeps every record. A record that is made outside of jobs is not changed, and neither is a field
    that the record has already. With a ``QueueHandler``, add it to that one.

    A thread that a job starts by itself has no context, so its records get no fields. Start it with
    ``contextvars.copy_context().run``.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields of the running job, and keep the record."""
        job = current.get(None)
        if job is None:
            return True
        fields, known = log_fields(job), record.__dict__
        if known.get("job_id", fields["job_id"]) == fields["job_id"]:
            for name, value in fields.items():
                known.setdefault(name, value)
        return True
