-- name: claim_jobs
-- $1 worker id, $2 queues, $3 the tasks that the worker knows, $4 the most to take (1 to 1000),
-- $5 to $8 positions to go on behind (queue, priority, scheduled_at, id), or none: from the heads,
-- $9 how many of the jobs start at once, $10 the number of this claim, for the others, $11 whether
-- these start within moments: then it is noted only of those on their last attempt.
--
-- Claimed jobs leave dead entries in the index until a vacuum, for as long as anybody keeps an old
-- snapshot: a claim that goes on behind the last one does not walk over them.
--
-- Waiting jobs are found per head: a (queue, priority) that has any. Each costs one index probe, so
-- jobs that are far in the future at one priority are never walked to reach the next. The walk over
-- the heads is pulled by the outer limit: exactly the returned rows are locked, and rows that
-- another claim holds are passed over.
--
-- How it is written keeps the plan good on any table that has jobs in it; see decision 0003, also for
-- a plan that was cached while the table was empty:
--   where id = any (array(...))   never a hash join over the table
--   heads in arrays             the planner takes the recursion for a thousand rows, these for ten
--   limit 1000                  bounds the estimate for a head
--   (select $n)                 hides a parameter, so that the cached plan is kept
with recursive head (queue, priority) as (
    select wanted.queue, first.priority
    from pg_catalog.unnest((select $2::text[])) as wanted (queue)
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
    where (select pg_catalog.cardinality($5::text[])) = 0
        and not exists (
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
-- Arrays, because the planner takes the recursion for a thousand rows and these for ten.
heads as materialized (
    select
        pg_catalog.array_agg(head.queue order by head.priority, head.queue) as queues,
        pg_catalog.array_agg(head.priority order by head.priority, head.queue) as priorities,
        pg_catalog.array_agg(head.from_at order by head.priority, head.queue) as from_ats,
        pg_catalog.array_agg(head.from_id order by head.priority, head.queue) as from_ids,
        pg_catalog.array_agg(distinct head.priority order by head.priority) as levels,
        count(*) > pg_catalog.count(distinct head.priority) as tied
    from (
        select queue, priority, timestamptz '-infinity', bigint '0'
        from head
        union all
        select known.queue, known.priority, known.scheduled_at, known.id
        from unnest($5::text[], $6::integer[], $7::timestamptz[], $8::bigint[])
            as known (queue, priority, scheduled_at, id)
        where not exists (
            select
            from roost.queues as queue
            where queue.name = known.queue
                and queue.paused_at is not null
        )
    ) as head (queue, priority, from_at, from_id)
),
-- The exact order across queues matters only where two of them share a priority: then how far each
-- head may go before the next has its turn.
share as materialized (
    select distinct on (due.queue, due.priority)
        due.queue, due.priority, due.scheduled_at as last_at, due.id as last_id
    from (
        select level_due.queue, level_due.priority, level_due.scheduled_at, level_due.id
        from heads
        -- One priority after the other, as far as the outer limit pulls: what stands in worse ones is
        -- not walked.
        cross join lateral pg_catalog.unnest(heads.levels) as level (priority)
        cross join lateral (
            select head.queue, head.priority, due.scheduled_at, due.id
            from unnest(heads.queues, heads.priorities, heads.from_ats, heads.from_ids)
                as head (queue, priority, from_at, from_id)
            cross join lateral (
                select bounded.scheduled_at, bounded.id
                from (
                    select job.scheduled_at, job.id
                    from roost.jobs as job
                    where job.queue = head.queue
                        and job.priority = head.priority
                        and job.state in ('available', 'retryable')
                        and job.pending_parents = 0
                        and not job.limited
                        and job.scheduled_at <= now()
                        and job.task = any ($3::text[])
                        and (job.scheduled_at, job.id) > (head.from_at, head.from_id)
                    order by job.scheduled_at, job.id
                    limit 1000
                ) as bounded
                limit (select $4::integer)
            ) as due
            where head.priority = level.priority
            order by due.scheduled_at, due.id
            limit 1000
        ) as level_due
        where (select heads.tied from heads)
        limit (select $4::integer)
    ) as due
    order by due.queue, due.priority, due.scheduled_at desc, due.id desc
),
plan as materialized (
    select
        pg_catalog.array_agg(queue order by priority, queue) as queues,
        pg_catalog.array_agg(priority order by priority, queue) as priorities,
        pg_catalog.array_agg(from_at order by priority, queue) as from_ats,
        pg_catalog.array_agg(from_id order by priority, queue) as from_ids,
        pg_catalog.array_agg(last_at order by priority, queue) as last_ats,
        pg_catalog.array_agg(last_id order by priority, queue) as last_ids
    from heads
    cross join lateral unnest(heads.queues, heads.priorities, heads.from_ats, heads.from_ids)
        as head (queue, priority, from_at, from_id)
    left join share using (queue, priority)
),
-- A worker whose row is gone holds no leases and may take none; the lock keeps the row until the
-- claim has committed, so that a rescue sees every job that was claimed under it. To lock is to write:
-- it is asked for when there is something to claim, and a look that finds nothing costs no flush.
alive as materialized (
    select worker.id
    from roost.workers as worker
    where worker.id = $1::bigint
    for key share
),
-- Pulled lazily, in the order of the arrays: the limit ends the walk and with it the locking. First
-- what `share` grants; then, where there is none or rows were locked by another claim, what follows.
picked as materialized (
    -- In the order in which they run, which is not the order of the walks: those go queue by queue.
    select
        pulled.id,
        row_number() over (order by pulled.priority, pulled.scheduled_at, pulled.id) as place
    from (
        select both_walks.id, both_walks.priority, both_walks.scheduled_at
        from (
            select due.id, head.priority, due.scheduled_at
            from plan
            cross join lateral unnest(
                plan.queues, plan.priorities, plan.from_ats, plan.from_ids, plan.last_ats, plan.last_ids
            ) as head (queue, priority, from_at, from_id, last_at, last_id)
            cross join lateral (
                select job.id, job.scheduled_at
                from roost.jobs as job
                where job.queue = head.queue
                    and job.priority = head.priority
                    and job.state in ('available', 'retryable')
                    and job.pending_parents = 0
                    and not job.limited
                    and job.scheduled_at <= now()
                    and job.task = any ($3::text[])
                    and (job.scheduled_at, job.id) > (head.from_at, head.from_id)
                    and (job.scheduled_at, job.id) <= (head.last_at, head.last_id)
                order by job.scheduled_at, job.id
                limit 1000
                for update skip locked
            ) as due
            union all
            select due.id, head.priority, due.scheduled_at
            from plan
            cross join lateral unnest(
                plan.queues, plan.priorities, plan.from_ats, plan.from_ids, plan.last_ats, plan.last_ids
            ) as head (queue, priority, from_at, from_id, last_at, last_id)
            cross join lateral (
                select job.id, job.scheduled_at
                from roost.jobs as job
                where job.queue = head.queue
                    and job.priority = head.priority
                    and job.state in ('available', 'retryable')
                    and job.pending_parents = 0
                    and not job.limited
                    and job.scheduled_at <= now()
                    and job.task = any ($3::text[])
                    and (job.scheduled_at, job.id)
                        > (coalesce(head.last_at, head.from_at), coalesce(head.last_id, head.from_id))
                order by job.scheduled_at, job.id
                limit 1000
                for update skip locked
            ) as due
        ) as both_walks
        limit (select $4::integer)
    ) as pulled
    -- With a column of the row, or it would be asked first.
    where (select true from alive where pulled.id is not null)
),
claimed as (
    update roost.jobs as job
    set state = 'executing',
        -- At the end of their type the first stays and the second begins again: an overflow would end
        -- every worker that claims the row.
        attempt = least(job.attempt, 2147483646) + 1,
        lease_no = job.lease_no % 2147483647 + 1,
        worker_id = $1::bigint,
        attempted_at = now(),
        prefetch_no = case
            when ($11::boolean and job.attempt + 1 < job.max_attempts)
                or job.id = any (array(select picked.id from picked where place <= $9::integer))
                then null
            else $10::integer
        end
    -- Not a join: that became a hash join over a scan of the table. Not ctid:
    -- a row that moved under the lock would stay locked and unreturned.
    where job.id = any (array(select picked.id from picked))
    returning
        job.id, job.lease_no, job.queue, job.task,
        case
            -- As stored, which is cheap to ask. Only what is large so is unpacked to be measured.
            when pg_catalog.pg_column_size(job.args) < 8192
                or pg_catalog.pg_column_size(job.args || jsonb '{}') <= 33554432
                then job.args::text
            else pg_catalog.format('"%s"', pg_catalog.pg_column_size(job.args || jsonb '{}'))
        end as args,
        job.priority,
        job.attempt, job.max_attempts,
        -- Microseconds since 1970: a worker that needs no datetime does not pay for three. As a double,
        -- which is exact beyond the year 2200: extract's numeric takes three times the time.
        (date_part('epoch', job.scheduled_at) * 1000000::double precision)::bigint as scheduled_at,
        (date_part('epoch', job.attempted_at) * 1000000::double precision)::bigint as attempted_at,
        job.errors::text as errors, job.unique_key,
        (date_part('epoch', job.inserted_at) * 1000000::double precision)::bigint as inserted_at,
        job.tags, job.timeout_seconds, job.cancel_requested,
        job.depends_on, job.metadata::text as metadata, job.prefetch_no
),
-- Seconds until the next job is due; asked only when there was less than could be taken.
upcoming as (
    select extract(epoch from min(soonest.scheduled_at) - now())::double precision as seconds
    from heads
    cross join lateral unnest(heads.queues, heads.priorities) as head (queue, priority)
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
    where (select count(*) from picked) < (select $4::integer)
)
-- Always one row at least: it carries the seconds when nothing was claimed.
select
    (select upcoming.seconds from upcoming),
    -- The worker's credit, 0 if a producer has consumed it, null if the worker is taken for dead.
    (select coalesce(worker.credit, 0) from roost.workers as worker where worker.id = $1::bigint),
    claimed.*
from (values (1)) as one (row)
left join claimed on true
order by claimed.priority, claimed.scheduled_at, claimed.id;
