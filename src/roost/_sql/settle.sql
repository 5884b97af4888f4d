-- name: complete
-- $1 ids, $2 worker ids, $3 lease numbers, $4 a JSON object of results by id:worker:lease, or null, $5
-- true: only jobs with children; false: only jobs without. Returns the ids that were written: the
-- lease held, and the row was not locked.
with verdict as (
    select *
    from unnest($1::bigint[], $2::bigint[], $3::integer[]) as v (id, worker_id, lease_no)
),
-- Locked rows are skipped. An enqueue of a child locks its parent until the user's transaction ends, and
-- the rest of the batch must not wait for that.
held as materialized (
    select verdict.id
    from verdict
    cross join lateral (
        select
        from roost.jobs as job
        where {{holds_lease}}
            and job.has_children = $5::boolean
        limit 1
        for update of job skip locked
    ) as job
),
completed as (
    update roost.jobs as job
    set state = 'completed',
        completed_at = now(),
        result = case
            when $4::text is not null
                then (select $4::text::jsonb)
                    -> pg_catalog.concat_ws(':', job.id, job.worker_id, job.lease_no)
        end
    -- Not a join: the planner made a hash join over a scan of the table.
    where job.id = any (array(select held.id from held))
    returning job.id, job.queue, job.task, job.limited, job.limit_key, job.awaited
),
-- The end of a limited job makes room for another one, in any queue. `awaited`: a client waits for
-- this job.
notified as (
    select roost.announce_room(task)
    from completed
    where limited
    group by task
    union all
    -- Room for a job of the same limit key; this one may wait again.
    select roost.wake_key(task, limit_key, queue)
    from completed
    where limited
        and limit_key is not null
    group by task, limit_key, queue
    union all
    select pg_notify('roost_finished', id::text)
    from completed
    where awaited
        and current_setting('roost.notify', true) is distinct from 'off'
)
select id
from completed
where (select count(*) from notified) >= 0;

-- name: delete_completed
-- $1 ids, $2 worker ids, $3 lease numbers, $4 as $5 of `complete`. Like `complete`, but the jobs are
-- deleted. Not those that a client waits for: `complete` ends them, so that the client can read the
-- result. Returns the ids that were deleted.
with verdict as (
    select *
    from unnest($1::bigint[], $2::bigint[], $3::integer[]) as v (id, worker_id, lease_no)
),
held as materialized (
    select verdict.id
    from verdict
    cross join lateral (
        select
        from roost.jobs as job
        where {{holds_lease}}
            and job.has_children = $4::boolean
            and not job.awaited
        limit 1
        for update of job skip locked
    ) as job
),
deleted as (
    delete from roost.jobs as job
    where job.id = any (array(select held.id from held))
    returning job.id, job.queue, job.task, job.limited, job.limit_key
),
notified as (
    select roost.announce_room(task)
    from deleted
    where limited
    group by task
    union all
    select roost.wake_key(task, limit_key, queue)
    from deleted
    where limited
        and limit_key is not null
    group by task, limit_key, queue
)
select id
from deleted
where (select count(*) from notified) >= 0;

-- name: finish_unsuccessful
-- Every other end of an attempt. $1 a JSON array of verdicts, $2 how many errors a row keeps, $3 as $5
-- of `complete`. A job with a cancel request is cancelled instead of waiting for another attempt.
with verdict as (
    select *
    from jsonb_to_recordset($1::text::jsonb) as v (
        id bigint,
        worker_id bigint,
        lease_no integer,
        state text,
        attempt integer,
        delay double precision,
        error jsonb
    )
),
held as materialized (
    select
        verdict.id,
        verdict.delay,
        verdict.error,
        greatest(job.attempt + verdict.attempt, 0) as attempt,
        case
            when job.cancel_requested and verdict.state in ('available', 'retryable')
                then 'cancelled'
            else verdict.state
        end as state
    from verdict
    cross join lateral (
        select job.attempt, job.cancel_requested
        from roost.jobs as job
        where {{holds_lease}}
            and job.has_children = $3::boolean
        limit 1
        for update of job skip locked
    ) as job
),
finished as (
    update roost.jobs as job
    set state = held.state,
        attempt = held.attempt,
        scheduled_at = case
            when held.state in ('available', 'retryable') and held.delay is not null
                then now() + make_interval(secs => held.delay)
            else job.scheduled_at
        end,
        cancelled_at = case when held.state = 'cancelled' then now() end,
        discarded_at = case when held.state = 'discarded' then now() end,
        errors = case
            when held.error is null then job.errors
            else (
                select pg_catalog.jsonb_agg(kept.record order by kept.n)
                from (
                    select all_records.record, all_records.n
                    from jsonb_array_elements(
                        coalesce(job.errors, '[]')
                        || (
                            pg_catalog.jsonb_build_object(
                                'attempt', job.attempt,
                                'at', now(),
                                'started_at', job.attempted_at,
                                'worker_id', job.worker_id,
                                'worker', (
                                    select worker.name
                                    from roost.workers as worker
                                    where worker.id = job.worker_id
                                )
                            )
                            || held.error
                        )
                    ) with ordinality as all_records (record, n)
                    order by all_records.n desc
                    limit $2::integer
                ) as kept
            )
        end
    from held
    where job.id = held.id
    returning
        job.id, job.queue, job.task, job.state, job.scheduled_at, job.limited, job.limit_key, job.awaited
),
notified as (
    select roost.announce(queue)
    from finished
    where state in ('available', 'retryable')
        and scheduled_at <= now() + interval '1 minute'
    group by queue
    union all
    select roost.announce_room(task)
    from finished
    where limited
    group by task
    union all
    -- Room for a job of the same limit key; this one may wait again.
    select roost.wake_key(task, limit_key, queue)
    from finished
    where limited
        and limit_key is not null
    group by task, limit_key, queue
    union all
    select pg_notify('roost_finished', id::text)
    from finished
    where awaited
        and state in ('discarded', 'cancelled')
)
select id, state
from finished
where (select count(*) from notified) >= 0;

-- name: still_held
-- $1 ids, $2 worker ids, $3 lease numbers. Of the leases whose verdicts were not written: those that
-- still hold. Their jobs have children, or their rows were locked.
select verdict.id, verdict.lease_no, job.has_children
from unnest($1::bigint[], $2::bigint[], $3::integer[]) as verdict (id, worker_id, lease_no)
cross join lateral (
    select job.has_children
    from roost.jobs as job
    where {{holds_lease}}
    limit 1
) as job;

-- name: begin_parents
savepoint roost_parents;

-- name: undo_parents
rollback to savepoint roost_parents;

-- name: hold_lease
-- $1 id, $2 worker id, $3 lease number. Lock the row until the transaction ends. Waits for other
-- transactions that hold it, for example an enqueue of a child.
select job.id
from roost.jobs as job
where job.id = $1::bigint
    and job.worker_id = $2::bigint
    and job.lease_no = $3::integer
    and job.state = 'executing'
for update of job;
