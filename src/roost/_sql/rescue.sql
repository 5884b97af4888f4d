-- name: expire_workers
-- Remove the rows of workers that have expired: they can claim and renew nothing any more. Jobs that
-- they had started are left to the rescue; the others are available again, and counted.
with expired as materialized (
    select worker.id, worker.prefetch_started, worker.dispatched_job_id
    from roost.workers as worker
    where worker.expires_at < now()
    order by worker.id
    for update skip locked
),
gone as (
    delete from roost.workers as worker
    using expired
    where worker.id = expired.id
    returning worker.id, worker.name
)
select
    gone.id, gone.name,
    roost.release_unstarted(expired.id, expired.prefetch_started, expired.dispatched_job_id)
from gone
join expired on expired.id = gone.id
order by gone.id;

-- name: rescue_jobs
-- $1 the most to take, $2 how many errors a row keeps, $3 ids to leave out, $4 a JSON object: the names
-- of dead workers by id. An orphan is an executing job whose worker has no row, however long it runs.
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
        job.limited, job.limit_key, job.has_children, job.awaited
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
    -- Room for a job of the same limit key; this one may wait again.
    select roost.wake_key(task, limit_key, queue)
    from rescued
    where limited
        and limit_key is not null
    group by task, limit_key, queue
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
