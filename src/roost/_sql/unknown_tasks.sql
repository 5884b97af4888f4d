-- name: unknown_tasks
-- $1 worker id, $2 its queues. Due jobs for which no living worker of their queue has a handler: queue,
-- task, count, and seconds since the oldest was due. Of each queue's workers only the oldest checks it.
--
-- Claims skip such jobs, so they gather at the head of their (queue, priority). The first 1,000 jobs of
-- each head are read, of 100 heads at most.
with recursive served (queue) as materialized (
    select wanted.queue
    from pg_catalog.unnest($2::text[]) as wanted (queue)
    where not exists (
            select
            from roost.workers as elder
            where elder.id < $1::bigint
                and elder.expires_at > now()
                and wanted.queue = any (elder.queues)
        )
        and not exists (
            select
            from roost.queues as paused
            where paused.name = wanted.queue
                and paused.paused_at is not null
        )
),
known as materialized (
    select distinct served.queue, has.task
    from served
    join roost.workers as worker on served.queue = any (worker.queues)
    cross join lateral pg_catalog.unnest(worker.known_tasks) as has (task)
    where worker.expires_at > now()
),
head (queue, priority) as (
    select served.queue, first.priority
    from served
    cross join lateral (
        select job.priority
        from roost.jobs as job
        where job.queue = served.queue
            and {{claimable}}
        order by job.priority
        limit 1
    ) as first
    union all
    select head.queue, next.priority
    from head
    cross join lateral (
        select job.priority
        from roost.jobs as job
        where job.queue = head.queue
            and job.priority > head.priority
            and {{claimable}}
        order by job.priority
        limit 1
    ) as next
),
limited_head (queue, task) as (
    select served.queue, first.task
    from served
    cross join lateral (
        select job.task
        from roost.jobs as job
        where job.queue = served.queue
            and {{claimable_limited}}
        order by job.task
        limit 1
    ) as first
    union all
    select head.queue, next.task
    from limited_head as head
    cross join lateral (
        select job.task
        from roost.jobs as job
        where job.queue = head.queue
            and job.task > head.task
            and {{claimable_limited}}
        order by job.task
        limit 1
    ) as next
),
due as (
    select head.queue, job.task, job.scheduled_at
    from (select queue, priority from head limit 100) as head
    cross join lateral (
        select job.task, job.scheduled_at
        from roost.jobs as job
        where job.queue = head.queue
            and job.priority = head.priority
            and {{claimable}}
            and job.scheduled_at <= now()
        order by job.scheduled_at, job.id
        limit 1000
    ) as job
    union all
    select head.queue, head.task, job.scheduled_at
    from (select queue, task from limited_head limit 100) as head
    cross join lateral (
        select job.scheduled_at
        from roost.jobs as job
        where job.queue = head.queue
            and job.task = head.task
            and {{claimable_limited}}
            and job.scheduled_at <= now()
        limit 1000
    ) as job
)
select
    due.queue,
    due.task,
    count(*),
    extract(epoch from now() - min(due.scheduled_at))::double precision
from due
where not exists (
    select
    from known
    where known.queue = due.queue
        and known.task = due.task
)
group by due.queue, due.task
order by due.queue, due.task
limit 100;
