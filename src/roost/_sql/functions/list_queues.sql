-- Count the waiting and executing jobs of each queue. capped: one of the numbers may be larger.
--
-- Each number is counted up to 10,000; with more than two queues up to 20,000 / queues, at least 500.
-- To count a million waiting jobs takes 0.3 s, and 20 full queues with 1,000 of each number 30 ms, half
-- of it for due jobs, whose state is in no index (November 2026).
--
-- Waiting jobs are found as a claim finds them. A head is a (queue, priority) with a claimable job, and
-- costs one index probe. Other states are counted in the index jobs_counted.
--
-- jit is off because compiling took 1.5 s of 1.9 s. Bitmap scans are off because a bitmap of all
-- retryable jobs is built before the limit applies.
create or replace function roost.list_queues()
returns table (
    queue text,
    paused_at timestamptz,
    available bigint,
    scheduled bigint,
    retryable bigint,
    blocked bigint,
    executing bigint,
    prefetched bigint,
    discarded bigint,
    oldest_due_seconds double precision,
    capped boolean
)
language sql
stable
set jit = off
set enable_bitmapscan = off
set enable_seqscan = off
set search_path = pg_catalog, pg_temp
as $$
    with recursive head (queue, priority) as (
        (
            select job.queue, job.priority
            from roost.jobs as job
            where {{claimable}}
            order by job.queue, job.priority
            limit 1
        )
        union all
        select next.queue, next.priority
        from head
        cross join lateral (
            select job.queue, job.priority
            from roost.jobs as job
            where (job.queue, job.priority) > (head.queue, head.priority)
                and {{claimable}}
            order by job.queue, job.priority
            limit 1
        ) as next
    ),
    limited_head (queue, task, priority) as (
        (
            select job.queue, job.task, job.priority
            from roost.jobs as job
            where {{claimable_limited}}
            order by job.queue, job.task, job.priority
            limit 1
        )
        union all
        select next.queue, next.task, next.priority
        from limited_head as head
        cross join lateral (
            select job.queue, job.task, job.priority
            from roost.jobs as job
            where (job.queue, job.task, job.priority) > (head.queue, head.task, head.priority)
                and {{claimable_limited}}
            order by job.queue, job.task, job.priority
            limit 1
        ) as next
    ),
    counted_head (state, queue) as (
        (
            select job.state, job.queue
            from roost.jobs as job
            where {{counted}}
            order by job.state, job.queue
            limit 1
        )
        union all
        select next.state, next.queue
        from counted_head as head
        cross join lateral (
            select job.state, job.queue
            from roost.jobs as job
            where (job.state, job.queue) > (head.state, head.queue)
                and {{counted}}
            order by job.state, job.queue
            limit 1
        ) as next
    ),
    -- The limit ends the recursion early where each job has a priority of its own.
    waiting as materialized (
        (select queue, null as task, priority from head limit 2000)
        union all
        (select queue, task, priority from limited_head limit 2000)
    ),
    executing as materialized (
        select
            held.queue,
            count(*) filter (where not held.waits) as jobs,
            count(*) filter (where held.waits) as prefetched
        from (
            select
                job.queue,
                -- A call of the function takes 10 microseconds.
                worker.id is not null
                    and job.prefetch_no is not null
                    and roost.is_unstarted(
                        job.prefetch_no, job.priority, job.scheduled_at, job.id,
                        worker.prefetch_started
                    ) as waits
            from roost.jobs as job
            left join roost.workers as worker on worker.id = job.worker_id
            where job.state = 'executing'
        ) as held
        group by held.queue
    ),
    named as materialized (
        select queue from waiting
        union
        select queue from executing
        union
        (select queue from counted_head limit 2000)
        union
        select name from roost.queues where paused_at is not null
        union
        select served.queue
        from roost.workers as worker
        cross join lateral unnest(worker.queues) as served (queue)
    ),
    most as materialized (
        select least(10000, greatest(500, 20000 / greatest(count(*), 1)))::integer as jobs
        from named
    )
    select
        named.queue,
        (select queues.paused_at from roost.queues as queues where queues.name = named.queue),
        due.available,
        later.scheduled,
        counted.retryable,
        counted.blocked,
        coalesce(
            (select executing.jobs from executing where executing.queue = named.queue), 0
        ),
        coalesce(
            (select executing.prefetched from executing where executing.queue = named.queue), 0
        ),
        counted.discarded,
        extract(epoch from now() - due.oldest_at)::double precision,
        greatest(
            due.jobs, later.jobs, counted.retryable, counted.blocked, counted.discarded
        ) >= (select most.jobs from most)
    from named
    cross join lateral (
        select
            count(*) as jobs,
            count(*) filter (where job.state = 'available') as available,
            min(job.oldest_at) as oldest_at
        from (
            select job.state, job.scheduled_at as oldest_at
            from waiting
            cross join lateral (
                select job.state, job.scheduled_at
                from roost.jobs as job
                where job.queue = waiting.queue
                    and job.priority = waiting.priority
                    and {{claimable}}
                    and job.scheduled_at <= now()
                    and waiting.task is null
                order by job.scheduled_at
                limit 10000
            ) as job
            where waiting.queue = named.queue
            union all
            select job.state, job.scheduled_at
            from waiting
            cross join lateral (
                select job.state, job.scheduled_at
                from roost.jobs as job
                where job.queue = waiting.queue
                    and job.task = waiting.task
                    and job.priority = waiting.priority
                    and {{claimable_limited}}
                    and job.scheduled_at <= now()
                order by job.scheduled_at
                limit 10000
            ) as job
            where waiting.queue = named.queue
            limit (select most.jobs from most)
        ) as job
    ) as due
    cross join lateral (
        select
            count(*) as jobs,
            count(*) filter (where job.state = 'available') as scheduled
        from (
            select job.state
            from waiting
            cross join lateral (
                select job.state
                from roost.jobs as job
                where job.queue = waiting.queue
                    and job.priority = waiting.priority
                    and {{claimable}}
                    and job.scheduled_at > now()
                    and waiting.task is null
                order by job.scheduled_at
                limit 10000
            ) as job
            where waiting.queue = named.queue
            union all
            select job.state
            from waiting
            cross join lateral (
                select job.state
                from roost.jobs as job
                where job.queue = waiting.queue
                    and job.task = waiting.task
                    and job.priority = waiting.priority
                    and {{claimable_limited}}
                    and job.scheduled_at > now()
                order by job.scheduled_at
                limit 10000
            ) as job
            where waiting.queue = named.queue
            limit (select most.jobs from most)
        ) as job
    ) as later
    cross join lateral (
        select
            (
                select count(*)
                from (
                    select
                    from roost.jobs as job
                    where job.state = 'retryable'
                        and job.queue = named.queue
                        and {{counted}}
                    limit (select most.jobs from most)
                ) as job
            ) as retryable,
            (
                select count(*)
                from (
                    select
                    from roost.jobs as job
                    where job.state = 'discarded'
                        and job.queue = named.queue
                        and {{counted}}
                    limit (select most.jobs from most)
                ) as job
            ) as discarded,
            (
                select count(*)
                from (
                    select
                    from roost.jobs as job
                    where job.state = 'available'
                        and job.queue = named.queue
                        and {{counted}}
                    limit (select most.jobs from most)
                ) as job
            ) as blocked
        -- Else each is counted again where its number is used again.
        offset 0
    ) as counted
    order by named.queue;
$$;

comment on function roost.list_queues is
    'Count the jobs of each queue, each number up to 10,000. capped: one of them may be larger.';
