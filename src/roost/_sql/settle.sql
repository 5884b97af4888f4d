-- name: complete
-- $1 ids, $2 worker ids, $3 lease numbers, $4 results as JSON texts (null: no result).
-- Returns the ids whose lease still held; the others are not touched.
with verdict as (
    select *
    from unnest($1::bigint[], $2::bigint[], $3::integer[], $4::text[])
        as v (id, worker_id, lease_no, result)
),
-- Batches lock in the order of ids, so that two of them never wait for each other.
held as materialized (
    select job.id, verdict.result
    from verdict
    join roost.jobs as job
        on job.id = verdict.id
        and job.worker_id = verdict.worker_id
        and job.lease_no = verdict.lease_no
    where job.state = 'executing'
    order by job.id
    for update of job
)
update roost.jobs as job
set state = 'completed',
    completed_at = now(),
    result = held.result::jsonb
from held
where job.id = held.id
returning job.id;

-- name: conclude
-- Every other end of an attempt. $1: a JSON array of records, $2: how many errors a row keeps.
-- A job whose cancel was requested is cancelled instead of waiting for another attempt.
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
        job.id,
        verdict.delay,
        verdict.error,
        greatest(job.attempt + verdict.attempt, 0) as attempt,
        case
            when job.cancel_requested and verdict.state in ('available', 'retryable')
                then 'cancelled'
            else verdict.state
        end as state
    from verdict
    join roost.jobs as job
        on job.id = verdict.id
        and job.worker_id = verdict.worker_id
        and job.lease_no = verdict.lease_no
    where job.state = 'executing'
    order by job.id
    for update of job
),
concluded as (
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
                select jsonb_agg(kept.record order by kept.n)
                from (
                    select all_records.record, all_records.n
                    from jsonb_array_elements(
                        coalesce(job.errors, '[]')
                        || (jsonb_build_object('attempt', job.attempt, 'at', now()) || held.error)
                    ) with ordinality as all_records (record, n)
                    order by all_records.n desc
                    limit $2::integer
                ) as kept
            )
        end
    from held
    where job.id = held.id
    returning job.id, job.queue, job.state, job.scheduled_at
),
notified as (
    select pg_notify('roost_jobs', queue)
    from concluded
    where state in ('available', 'retryable')
        and scheduled_at <= now()
    group by queue
)
select id
from concluded
where (select count(*) from notified) >= 0
order by id;
