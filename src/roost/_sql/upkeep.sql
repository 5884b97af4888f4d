-- name: notify_probe
-- $1: what a listener waits to hear, to know that it hears.
select pg_notify('roost_probe', $1::text);

-- name: discard_plans
-- A plan that was cached while the table was empty scans it, and is kept until it is analysed.
discard plans;

-- name: register_worker
-- $1 name, $2 queues, $3 concurrency, $4 seconds after which silence means death, $5 the tasks that it
-- knows, $6 Roost's version, $7 the driver, $8 the event loop.
insert into roost.workers (
    name, queues, concurrency, expires_at, known_tasks, version, driver, event_loop
)
values (
    $1::text, $2::text[], $3::integer, now() + make_interval(secs => $4::double precision),
    $5::text[], $6::text, $7::text, $8::text
)
returning id;

-- name: renew_worker
-- Returns nothing when the row is gone: others may have taken the jobs.
update roost.workers
set heartbeat_at = now(),
    expires_at = now() + make_interval(secs => $2::double precision)
where id = $1::bigint
returning id;

-- name: set_asleep
-- Whether roost.announce is to notify this worker.
update roost.workers
set asleep = $2::boolean
where id = $1::bigint;

-- name: next_transaction
-- Every transaction that wrote something before this has a smaller number. Not the end of a snapshot:
-- that is the last number that is known to have ended, and what runs may be above it.
select pg_current_xact_id()::text::bigint;

-- name: oldest_transaction
select pg_snapshot_xmin(pg_current_snapshot())::text::bigint;

-- name: forget_worker
-- Its started jobs are settled, or left to the rescue.
with gone as (
    delete from roost.workers
    where id = $1::bigint
    returning id, prefetch_started, handed
)
select roost.give_back_unstarted(gone.id, gone.prefetch_started, gone.handed)
from gone;

-- name: expire_workers
-- From here on the dead worker can claim nothing and renew nothing. Its started jobs are left to the
-- rescue; the others are available again, and counted.
with silent as materialized (
    select worker.id, worker.prefetch_started, worker.handed
    from roost.workers as worker
    where worker.expires_at < now()
    order by worker.id
    for update skip locked
),
gone as (
    delete from roost.workers as worker
    using silent
    where worker.id = silent.id
    returning worker.id, worker.name
)
select
    gone.id, gone.name,
    roost.give_back_unstarted(silent.id, silent.prefetch_started, silent.handed)
from gone
join silent on silent.id = gone.id
order by gone.id;

-- name: mark_started
-- $1 worker id, $2 how far its prefetched jobs may start from now on, $3 whether one of them may have
-- its last attempt: that mark must outlive a crash of the server.
update roost.workers
set prefetch_started = $2::bigint[]
where id = $1::bigint
    and ($3::boolean or set_config('synchronous_commit', 'off', true) is not null)
returning id;

-- name: rescue_jobs
-- $1 the most to take, $2 how many errors a row keeps, $3 ids to leave out, $4 a JSON object: the
-- names of dead workers by id. An orphan is a job whose worker has no row; its own age says nothing.
with orphan as materialized (
    select job.id
    from roost.jobs as job
    where job.state = 'executing'
        and not exists (select from roost.workers as worker where worker.id = job.worker_id)
        and job.id <> all ($3::bigint[])
    order by job.id
    limit $1::integer
    for update of job skip locked
),
rescued as (
    update roost.jobs as job
    set state = case
            when job.cancel_requested then 'cancelled'
            when job.attempt >= job.max_attempts then 'discarded'
            else 'retryable'
        end,
        scheduled_at = case
            when job.cancel_requested or job.attempt >= job.max_attempts then job.scheduled_at
            else now()
        end,
        cancelled_at = case when job.cancel_requested then now() end,
        discarded_at = case
            when not job.cancel_requested and job.attempt >= job.max_attempts then now()
        end,
        errors = (
            select pg_catalog.jsonb_agg(kept.record order by kept.n)
            from (
                select all_records.record, all_records.n
                from jsonb_array_elements(
                    coalesce(job.errors, '[]') || pg_catalog.jsonb_build_object(
                        'attempt', job.attempt,
                        'at', now(),
                        'started_at', job.attempted_at,
                        'worker_id', job.worker_id,
                        'worker', $4::text::jsonb -> job.worker_id::text,
                        'error', 'WorkerCrash: worker ' || job.worker_id::text
                            || ' died, was cut off, or had its event loop blocked while it ran this job',
                        'trace', ''
                    )
                ) with ordinality as all_records (record, n)
                order by all_records.n desc
                limit $2::integer
            ) as kept
        )
    from orphan
    where job.id = orphan.id
    returning
        job.id, job.queue, job.task, job.state, job.attempt, job.max_attempts, job.worker_id,
        job.limited, job.has_children, job.awaited
),
notified as (
    select roost.announce(queue)
    from rescued
    where state = 'retryable'
    group by queue
    union all
    select roost.announce_room(task)
    from rescued
    where limited
    group by task
    union all
    select pg_notify('roost_finished', id::text)
    from rescued
    where awaited
        and state in ('discarded', 'cancelled')
)
select id, state, has_children, queue, task, attempt, max_attempts, worker_id
from rescued
where (select count(*) from notified) >= 0
order by id;

-- name: release_unheld
-- Give back what this worker has claimed and doesn't know of: the answer to a claim was lost.
-- $1 worker id, $2 ids and $3 lease numbers that it knows.
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
        job.id, job.queue, job.task, job.state, job.limited, job.has_children, job.awaited
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
    select pg_notify('roost_finished', id::text)
    from released
    where awaited
        and state = 'cancelled'
)
select id, state, has_children
from released
where (select count(*) from notified) >= 0
order by id;

-- name: archive_jobs
-- $1 seconds since the end, $2 the most.
with old as materialized (
    select job.id
    from roost.jobs as job
    where job.state in ('completed', 'discarded', 'cancelled')
        and greatest(job.completed_at, job.cancelled_at, job.discarded_at)
            < now() - make_interval(secs => $1::double precision)
    order by greatest(job.completed_at, job.cancelled_at, job.discarded_at)
    limit $2::integer
    for update of job skip locked
),
moved as (
    delete from roost.jobs as job
    using old
    where job.id = old.id
    returning job.*
)
insert into roost.jobs_archive (
    id, scheduled_at, inserted_at, attempted_at, completed_at, cancelled_at, discarded_at, worker_id,
    lease_no, priority, attempt, max_attempts, timeout_seconds, pending_parents, cancel_requested,
    state, queue, task, unique_key, args, metadata, tags, depends_on, errors, result, has_children,
    limited
)
select
    id, scheduled_at, inserted_at, attempted_at, completed_at, cancelled_at, discarded_at, worker_id,
    lease_no, priority, attempt, max_attempts, timeout_seconds, pending_parents, cancel_requested,
    state, queue, task, unique_key, args, metadata, tags, depends_on, errors, result, has_children,
    limited
from moved
returning id;

-- name: forget_results
-- $1 seconds since the end, $2 the most. Live jobs and archived ones.
with old as materialized (
    select job.id
    from roost.jobs as job
    where job.state = 'completed'
        and job.result is not null
        and job.completed_at < now() - make_interval(secs => $1::double precision)
    order by job.completed_at
    limit $2::integer
    for update of job skip locked
)
update roost.jobs as job
set result = null
from old
where job.id = old.id
returning job.id;

-- name: forget_archived_results
-- $1 seconds since the end, $2 the most.
with old as materialized (
    select job.id
    from roost.jobs_archive as job
    where job.result is not null
        and job.completed_at < now() - make_interval(secs => $1::double precision)
    limit $2::integer
    for update of job skip locked
)
update roost.jobs_archive as job
set result = null
from old
where job.id = old.id
returning job.id;
