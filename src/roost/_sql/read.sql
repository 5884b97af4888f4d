-- name: get_job
-- $1 id of a live or archived job.
select
    {{job_columns}}
from roost.jobs as job
where job.id = $1::bigint
union all
select
    {{job_columns}}
from roost.jobs_archive as job
where job.id = $1::bigint;

-- name: count_by_state
select state, count(*)
from roost.jobs
where queue = any ($1::text[])
group by state;

-- name: list_queues
select
    queue, paused_at, available, scheduled, retryable, blocked, executing, prefetched,
    discarded, oldest_due_seconds, capped
from roost.list_queues();

-- name: list_workers
select
    worker.id, worker.name, worker.queues, worker.concurrency, worker.started_at,
    worker.heartbeat_at, worker.heartbeat_interval, worker.expires_at, held.executing,
    held.prefetched, worker.known_tasks, worker.version, worker.driver, worker.event_loop, worker.host,
    worker.pid, worker.running, worker.waiting, worker.loop_lag, worker.slots::text
from roost.workers as worker
cross join lateral (
    select
        count(*) filter (where not job.waits) as executing,
        count(*) filter (where job.waits) as prefetched
    from (
        select
            -- A call of the function takes 10 microseconds.
            job.prefetch_no is not null
                and roost.is_unstarted(
                    job.prefetch_no, job.priority, job.scheduled_at, job.id, worker.prefetch_started
                ) as waits
        from roost.jobs as job
        where job.state = 'executing'
            and job.worker_id = worker.id
    ) as job
) as held
order by worker.id;

-- name: await_job
select job_state, job_result, job_errors
from roost.await_job($1::bigint);
