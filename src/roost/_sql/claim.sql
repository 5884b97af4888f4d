-- name: claim_jobs
-- $1 worker id, $2 queues, $3 the tasks that the worker knows, $4 the most to take.
--
-- Waiting jobs are found per head: a (queue, priority) that has any. Each costs one index probe, so
-- jobs that are far in the future at one priority are never walked to reach the next.
with recursive head (queue, priority) as (
    select wanted.queue, first.priority
    from unnest($2::text[]) as wanted (queue)
    cross join lateral (
        select job.priority
        from roost.jobs as job
        where job.queue = wanted.queue
            and job.state in ('available', 'retryable')
            and job.pending_parents = 0
            and not job.limited
        order by job.priority
        limit 1
    ) as first
    where not exists (
        select
        from roost.queues as queue
        where queue.name = wanted.queue
            and queue.paused_at is not null
    )
    union all
    select head.queue, next.priority
    from head
    cross join lateral (
        select job.priority
        from roost.jobs as job
        where job.queue = head.queue
            and job.priority > head.priority
            and job.state in ('available', 'retryable')
            and job.pending_parents = 0
            and not job.limited
        order by job.priority
        limit 1
    ) as next
),
-- How many of the first $4 due jobs, over all heads in running order, each head holds.
share as materialized (
    select first.queue, first.priority, count(*) as jobs
    from (
        select head.queue, head.priority
        from head
        cross join lateral (
            select job.scheduled_at, job.id
            from roost.jobs as job
            where job.queue = head.queue
                and job.priority = head.priority
                and job.state in ('available', 'retryable')
                and job.pending_parents = 0
                and not job.limited
                and job.scheduled_at <= now()
                and job.task = any ($3::text[])
            order by job.scheduled_at, job.id
            limit $4::integer
        ) as due
        order by head.priority, due.scheduled_at, due.id
        limit $4::integer
    ) as first
    group by first.queue, first.priority
),
-- A worker whose row is gone holds no leases and may take none; the lock keeps the row until the
-- claim has committed, so that a rescue sees every job that was claimed under it.
alive as materialized (
    select worker.id
    from roost.workers as worker
    where worker.id = $1::bigint
    for key share
),
-- Locks exactly what it returns, and passes over what another claim has locked.
picked as materialized (
    select free.id
    from alive
    cross join share
    cross join lateral (
        select job.id
        from roost.jobs as job
        where job.queue = share.queue
            and job.priority = share.priority
            and job.state in ('available', 'retryable')
            and job.pending_parents = 0
            and not job.limited
            and job.scheduled_at <= now()
            and job.task = any ($3::text[])
        order by job.scheduled_at, job.id
        limit share.jobs
        for update skip locked
    ) as free
),
claimed as (
    update roost.jobs as job
    set state = 'executing',
        attempt = job.attempt + 1,
        lease_no = job.lease_no + 1,
        worker_id = $1::bigint,
        attempted_at = now()
    from picked
    where job.id = picked.id
    returning
        job.id, job.lease_no, job.queue, job.task, job.args::text as args, job.priority,
        job.attempt, job.max_attempts, job.scheduled_at, job.attempted_at, job.errors::text as errors,
        job.unique_key, job.inserted_at, job.tags, job.timeout_seconds, job.cancel_requested,
        job.depends_on, job.metadata::text as metadata
),
-- Seconds until the next job is due; asked only when there was less than could be taken.
upcoming as (
    select extract(epoch from min(soonest.scheduled_at) - now())::double precision as seconds
    from head
    cross join lateral (
        select job.scheduled_at
        from roost.jobs as job
        where job.queue = head.queue
            and job.priority = head.priority
            and job.state in ('available', 'retryable')
            and job.pending_parents = 0
            and not job.limited
            and job.scheduled_at > now()
        order by job.scheduled_at
        limit 1
    ) as soonest
    where (select count(*) from picked) < $4::integer
)
-- Always one row at least: it carries the seconds when nothing was claimed.
select
    (select upcoming.seconds from upcoming),
    exists (select from alive),
    claimed.*
from (values (1)) as one (row)
left join claimed on true
order by claimed.priority, claimed.scheduled_at, claimed.id;
