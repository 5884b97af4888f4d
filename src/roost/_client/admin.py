"""The verbs of `AsyncRoost` that change queues, limits and cron, or requeue discarded jobs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import anyio
from pydantic import BaseModel

from roost._client import admin_calls, calls
from roost._client.admin_calls import FIRST_PAUSE_DELAY, MAX_PAUSE_DELAY, PAUSE_TIMEOUT
from roost._model.cron import CronEntry, Misfire, Overlap
from roost._model.job import DEFAULT_MAX_ATTEMPTS, DEFAULT_PRIORITY, DEFAULT_QUEUE
from roost._model.registry import HandlerRegistry
from roost._model.telemetry import sending_cron

T = TypeVar("T")


class AsyncAdmin:
    """The verbs; the subclass says in ``_run`` how a database call is made."""

    _registry: HandlerRegistry

    async def _run(
        self, call: calls.DatabaseCall[T], conn: Any | None = None, *, transactional: bool = True
    ) -> T:
        raise NotImplementedError

    async def requeue_discarded(
        self, *, queue: str | None = None, task: str | None = None, limit: int | None = None
    ) -> int:
        """Make discarded jobs available again.

        Works in batches that are committed one by one; a cancel leaves those that were committed.
        Of several jobs with one unique key it takes the oldest, and none if an active job has the
        key.

        :param queue: only jobs of this queue.
        :param task: only jobs of this task.
        :param limit: most jobs to take; default: all.
        :returns: how many jobs were made available.
        """
        return await self._run(admin_calls.requeue_discarded(queue, task, limit))

    async def pause_queue(self, queue: str, *, timeout: float = PAUSE_TIMEOUT) -> None:
        """Stop workers from starting jobs of ``queue``.

        Running jobs go on, and jobs can be enqueued. When this returns, every living worker that
        serves the queue has confirmed that it starts none of its jobs. Jobs that were claimed and
        not started are released without using an attempt. A cancel, or an error while waiting for
        the workers, leaves the queue paused.

        :param queue: the queue's name.
        :param timeout: seconds to wait for the workers.
        :raises PauseNotConfirmedError: some workers did not confirm in time; the queue is paused.
        """
        await self._run(admin_calls.pause_queue(queue))
        end = anyio.current_time() + timeout
        delay = FIRST_PAUSE_DELAY
        while workers := await self._run(admin_calls.unconfirmed_workers(queue)):
            if anyio.current_time() >= end:
                raise admin_calls.pause_not_confirmed(queue, workers, timeout)
            await anyio.sleep(delay)
            delay = min(2 * delay, MAX_PAUSE_DELAY)

    async def resume_queue(self, queue: str) -> None:
        """Undo `pause_queue` and wake the workers."""
        await self._run(admin_calls.resume_queue(queue))

    async def set_limit(
        self,
        task: calls.Task,
        *,
        max_concurrency: int | None = None,
        rate_per_minute: int | None = None,
        conn: Any | None = None,
    ) -> None:
        """Set limits of a task for all workers, whatever their code declares.

        For example:

            await client.set_limit("send_sms", rate_per_minute=300)

        Running workers apply it at once, and it stays over restarts and deploys until
        `clear_limit`. A lower limit stops no running job. A cancel leaves it set or not. With
        ``conn``, claims of the task wait until the transaction ends: commit soon.

        :param task: the task's name or function. It may have no limit in code.
        :param max_concurrency: the most jobs at once, ≥ 1; default: unchanged.
        :param rate_per_minute: the most starts in any 60 seconds, ≥ 1; default: unchanged.
        :param conn: as for `enqueue`.
        :raises InvalidSettingError: a value is out of its range, or no limit was passed.
        """
        call = admin_calls.set_limit(
            task,
            self._registry,
            max_concurrency=max_concurrency,
            rate_per_minute=rate_per_minute,
        )
        await self._run(call, conn)

    async def clear_limit(self, task: calls.Task, *, conn: Any | None = None) -> bool:
        """Undo `set_limit`: the limits of the task are again those that the code declares.

        :param task: the task's name or function.
        :param conn: as for `enqueue`.
        :returns: ``False`` if no limit was set.
        """
        return await self._run(admin_calls.clear_limit(task, self._registry), conn)

    async def add_cron(
        self,
        name: str | CronEntry,
        expression: str | None = None,
        task: str | Callable[..., Any] | None = None,
        *,
        args: dict[str, Any] | BaseModel | None = None,
        queue: str = DEFAULT_QUEUE,
        priority: int = DEFAULT_PRIORITY,
        max_attempts: int = DEFAULT_MAX_ATTEMPTS,
        timezone: str | None = None,
        tags: list[str] | None = None,
        timeout_seconds: int | None = None,
        misfire: Misfire = "last",
        overlap: Overlap = "allow",
        jitter: float = 0.0,
        conn: Any | None = None,
    ) -> None:
        """Add a cron entry that lives in the database, or replace one that was added before.

        For example, a schedule of a tenant:

            await client.add_cron(
                "report of tenant 7", "0 6 * * mon-fri", "send_report", args={"tenant": 7}
            )

        Any worker that knows the task fires it, from the next tick on. Replacing an entry keeps its
        next tick if expression and time zone are the same, and its pause.

        If the call is cancelled, the entry may have been added or not; with ``conn`` the caller's
        commit or rollback decides.

        :param name: identifies the entry; or a `CronEntry`, then only ``tags``,
            ``timeout_seconds`` and ``conn`` may be passed too.
        :param expression: five fields, or six with seconds last; or ``@daily`` and similar names.
        :param task: a registered task name, or a function decorated with ``@job(...)``.
        :param args: the handler's keyword arguments: a dict, or a pydantic model, which is dumped.
        :param queue: the queue that its jobs wait in; as the next two, and tags and
            timeout_seconds, it is taken from the task's ``@job(...)`` if it is not passed.
        :param priority: jobs with a smaller number run first.
        :param max_attempts: attempts after which a failed job is discarded, ≥ 1.
        :param timezone: IANA name of the time zone of the expression; default: UTC.
        :param tags: words to find its jobs by.
        :param timeout_seconds: longest time of one attempt, whole seconds ≥ 1; default: no limit.
        :param misfire: for ticks that were due while no worker ran: ``"skip"`` them, fire the
            ``"last"`` one, or ``"all"``, the newest hundred at most.
        :param overlap: ``"skip"`` fires nothing while the last tick's job has not ended, and never
            two jobs at once.
        :param jitter: longest random delay of a job after its tick, in seconds.
        :param conn: a connection with an open transaction to do it in; the caller commits. Default:
            a transaction of its own.
        :raises InvalidSettingError: a value is not valid; the message names it.
        :raises InvalidJobError: the same, for the args, the tags or the timeout.
        :raises CronDeclaredError: code declares an entry of that name.
        """
        call = admin_calls.add_cron(
            self._registry,
            name,
            expression,
            task,
            args=args,
            queue=queue,
            priority=priority,
            max_attempts=max_attempts,
            timezone=timezone,
            tags=tags,
            timeout_seconds=timeout_seconds,
            misfire=misfire,
            overlap=overlap,
            jitter=jitter,
        )
        await self._run(call, conn)

    async def remove_cron(self, name: str, *, conn: Any | None = None) -> bool:
        """Remove a cron entry: one that `add_cron` added, or a stale one of the code.

        Its jobs stay. If the call is cancelled, the entry may have been removed or not; with
        ``conn`` the caller's commit or rollback decides.

        :param name: the entry's name.
        :param conn: a connection with an open transaction to do it in; the caller commits. Default:
            a transaction of its own.
        :returns: ``False`` if no entry has that name.
        :raises CronDeclaredError: the code of a running worker declares it; pause it instead.
        """
        return await self._run(admin_calls.remove_cron(name), conn)

    async def pause_cron(self, name: str) -> None:
        """Stop a cron entry from firing, on every worker.

        :raises CronNotFoundError: no entry has that name.
        """
        await self._run(admin_calls.pause_cron(name))

    async def resume_cron(self, name: str) -> None:
        """Undo `pause_cron`. Ticks that were due during the pause are not fired.

        :raises CronNotFoundError: no entry has that name.
        """
        await self._run(admin_calls.resume_cron(name))

    async def run_cron_now(self, name: str) -> int:
        """Enqueue a cron entry's job now, once, and return its id. Its schedule is unchanged.

        If a function makes the entry's args, it is called here, with the present time.

        :raises CronNotFoundError: no entry has that name.
        :raises InvalidSettingError: a function makes the args, and this client's registry does not
            have it, or it failed.
        """
        with sending_cron(self._registry.cron_entry(name)) as send:
            call = admin_calls.run_cron_now(self._registry, name, carrier=send.carrier)
            job_id = await self._run(call)
            send.ids = (job_id,)
            return job_id
