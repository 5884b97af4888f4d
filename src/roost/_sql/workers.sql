-- name: register_worker
-- $1 name, $2 queues, $3 concurrency, $4 seconds without a heartbeat after which it counts as dead, $5
-- the tasks that it has handlers for, $6 Roost's version, $7 the driver, $8 the event loop, $9 whether it
-- fires cron entries, $10 the host's name, $11 the process id, $12 a JSON object of the slots of each
-- queue; null: its queues share them, $13 its poll_interval and $14 its
-- heartbeat_interval in seconds.
insert into roost.workers (
    name, queues, concurrency, expires_at, known_tasks, version, driver, event_loop,
    fires_cron, host, pid, slots, poll_interval, heartbeat_interval
)
values (
    $1::text, $2::text[], $3::integer, now() + make_interval(secs => $4::double precision),
    $5::text[], $6::text, $7::text, $8::text, $9::boolean, $10::text, $11::integer,
    $12::text::jsonb, $13::double precision, $14::double precision
)
returning id;

-- name: renew_worker
-- $1 worker id, $2 seconds until it expires, $3 its running jobs, $4 its jobs that wait for a slot, $5
-- the worst lag of its event loop, in seconds, $6 whether it stops. Returns nothing when the row is gone:
-- others may have rescued its jobs.
update roost.workers
set heartbeat_at = now(),
    expires_at = now() + make_interval(secs => $2::double precision),
    running = $3::integer,
    waiting = $4::integer,
    loop_lag = $5::double precision,
    stopping = $6::boolean
where id = $1::bigint
returning id;

-- name: set_queues
-- $1 worker id, $2 the queues that it serves now, $3 its concurrency, $4 a JSON object of the slots of
-- each queue, or null.
update roost.workers
set queues = $2::text[],
    concurrency = $3::integer,
    slots = $4::text::jsonb
where id = $1::bigint
returning id;

-- name: set_wants_notify
-- $1 worker id, $2 whether roost.announce notifies this worker.
update roost.workers
set wants_notify = $2::boolean
where id = $1::bigint;

-- name: mark_started
-- $1 worker id, $2 the place of the last prefetched job that may start from now on, $3 whether the mark
-- must survive a crash of the server: one of the jobs may have its last attempt.
update roost.workers
set prefetch_started = $2::bigint[]
where id = $1::bigint
    and ($3::boolean or set_config('synchronous_commit', 'off', true) is not null)
returning id;

-- name: release_unheld
-- $1 worker id, $2 ids and $3 lease numbers that it knows. Release its other jobs: the answer to a claim
-- was lost.
with unheld as materialized (
    select job.id
    from roost.jobs as job
    where job.state = 'executing'
        and job.worker_id = $1::bigint
        and (job.id, job.lease_no) not in (
            select known.id, known.lease_no
            from unnest($2::bigint[], $3::integer[]) as known (id, lease_no)
        )
    order by job.id
    for update of job
),
released as (
    update roost.jobs as job
    set state = case when job.cancel_requested then 'cancelled' else 'available' end,
        cancelled_at = case when job.cancel_requested then now() end,
        attempt = greatest(job.attempt - 1, 0)
    from unheld
    where job.id = unheld.id
    returning
        job.id, job.queue, job.task, job.state, job.limited, job.limit_key, job.has_children,
        job.awaited
),
notified as (
    select roost.announce(queue)
    from released
    group by queue
    union all
    select roost.announce_room(task)
    from released
    where limited
    group by task
    union all
    -- Room for a job of the same limit key; this one may wait again.
    select roost.wake_key(task, limit_key, queue)
    from released
    where limited
        and limit_key is not null
    group by task, limit_key, queue
    union all
    select pg_notify('roost_finished', id::text)
    from released
    where awaited
        and state = 'cancelled'
    union all
    select roost.report_cancelled(pg_catalog.array_agg(id))
    from released
    where state = 'cancelled'
)
select id, state, has_children
from released
where (select count(*) from notified) >= 0
order by id;

-- name: forget_worker
-- $1 worker id. Jobs that have started are settled already, or left to the rescue.
with gone as (
    delete from roost.workers
    where id = $1::bigint
    returning id, prefetch_started, dispatched_job_id
)
select roost.release_unstarted(gone.id, gone.prefetch_started, gone.dispatched_job_id)
from gone;

-- name: notify_probe
-- $1 a payload. A listener sends it to itself to check that its connection still receives.
select pg_notify('roost_probe', $1::text);

-- name: oldest_transaction
select pg_snapshot_xmin(pg_current_snapshot())::text::bigint;

-- name: next_transaction
-- A number above that of every transaction that has written something by now. The upper end of a
-- snapshot would not do: a running transaction may have a higher number.
select pg_current_xact_id()::text::bigint;

-- name: discard_plans
-- A plan that was cached while the table was empty scans it, until the table is analyzed.
discard plans;

-- name: workers_of_host
-- $1 the host's name. By the database's clock.
select id, name, extract(epoch from now() - heartbeat_at)::double precision
from roost.workers
where host = $1::text
order by id;
