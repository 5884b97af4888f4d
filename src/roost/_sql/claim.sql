-- name: claim_jobs
-- Lease due jobs to a worker: best priority first, and by (scheduled_at, id) within a queue. Queues that
-- share a priority follow one another in the order of $2, or of $5; the worker passes last those that it
-- has served last. See decision 0015.
--
-- $1 worker id, $2 queues, $3 tasks that the worker knows, $4 the most jobs (1 to 1000),
-- $5 to $8 positions to go on behind (queue, priority, scheduled_at, id); none: start from the heads,
-- $9 how many of the jobs start at once; the others are prefetched, $10 the number of this claim, for
-- the prefetched ones, $11 whether these start within moments: then only those on their last attempt
-- get the number.
--
-- Claimed jobs leave dead entries in the index until a vacuum, which can't remove them while any
-- transaction keeps an old snapshot. A claim behind a position does not walk over them.
--
-- A head is a (queue, priority) with waiting jobs. Each is found by one index probe, so future jobs at
-- one priority are not walked to reach the next. The outer limit pulls the walk over the heads: it
-- locks exactly the rows that are returned, and passes over rows that another claim has locked.
--
-- These forms keep the plan good on any table that has jobs in it. See decision 0003, also for a plan
-- that was cached while the table was empty:
--   id = any (array(...))       never a hash join over the table
--   heads in arrays             the planner expects a thousand rows of the recursion, and ten of these
--   limit 1000                  bounds the estimate for a head
--   a limit around that limit   the index in its order, never a bitmap of the whole head
--   (select $n)                 hides a parameter, so that the cached plan is kept
with recursive head (queue, turn, priority) as (
    -- One below the smallest integer, so that the step finds the first priority, too.
    select wanted.queue, wanted.turn, bigint '-2147483649'
    from pg_catalog.unnest((select $2::text[])) with ordinality as wanted (queue, turn)
    where (select pg_catalog.cardinality($5::text[])) = 0
    union all
    select head.queue, head.turn, next.priority
    from head
    cross join lateral (
        select job.priority::bigint
        from roost.jobs as job
        where job.queue = head.queue
            and job.priority > head.priority
            and {{claimable}}
        order by job.priority
        limit 1
    ) as next
),
heads as materialized (
    select
        pg_catalog.array_agg(head.queue order by head.priority, head.turn) as queues,
        pg_catalog.array_agg(head.priority order by head.priority, head.turn) as priorities,
        pg_catalog.array_agg(head.from_at order by head.priority, head.turn) as from_ats,
        pg_catalog.array_agg(head.from_id order by head.priority, head.turn) as from_ids
    from (
        select queue, turn, priority::integer, timestamptz '-infinity', bigint '0'
        from head
        where priority >= -2147483648
        union all
        select queue, turn, priority, scheduled_at, id
        from unnest($5::text[], $6::integer[], $7::timestamptz[], $8::bigint[])
            with ordinality as known (queue, priority, scheduled_at, id, turn)
    ) as head (queue, turn, priority, from_at, from_id)
    where not exists (
        select
        from roost.queues as queue
        where queue.name = head.queue
            and queue.paused_at is not null
    )
),
-- A worker whose row is gone holds no leases and may take none. The lock keeps the row until the claim
-- has committed, so that a rescue sees every job that was claimed under it. A lock is a write, so it is
-- taken only when there is a job to claim: a claim that finds nothing costs no flush.
alive as materialized (
    select worker.id
    from roost.workers as worker
    where worker.id = $1::bigint
    for key share
),
picked as materialized (
    select
        pulled.id,
        -- Jobs start in this order, which is not the order of the walk.
        row_number() over (order by pulled.priority, pulled.scheduled_at, pulled.id) as place
    from (
        select due.id, head.priority, due.scheduled_at
        from heads
        cross join lateral unnest(heads.queues, heads.priorities, heads.from_ats, heads.from_ids)
            as head (queue, priority, from_at, from_id)
        cross join lateral (
            select bounded.id, bounded.scheduled_at
            from (
                select job.id, job.scheduled_at
                from roost.jobs as job
                where job.queue = head.queue
                    and job.priority = head.priority
                    and {{claimable}}
                    and job.scheduled_at <= now()
                    and job.task = any ($3::text[])
                    and (job.scheduled_at, job.id) > (head.from_at, head.from_id)
                order by job.scheduled_at, job.id
                limit 1000
                for update skip locked
            ) as bounded
            limit (select $4::integer)
        ) as due
        limit (select $4::integer)
    ) as pulled
    -- With a column of the row, or the planner would ask for the worker before there is a row.
    where (select true from alive where pulled.id is not null)
),
claimed as (
    update roost.jobs as job
    set state = 'executing',
        -- At the end of its type attempt stays and lease_no begins again: an overflow would end every
        -- worker that claims the row.
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
    -- Not a join: that became a hash join over a scan of the table. Not ctid: a row that moved under
    -- the lock would stay locked and unreturned.
    where job.id = any (array(select picked.id from picked))
    returning
        {{claimed_columns}}, job.prefetch_no
),
-- Seconds until the next job is due; looked for only when fewer jobs were found than allowed.
upcoming as (
    select extract(epoch from min(soonest.scheduled_at) - now())::double precision as seconds
    from heads
    cross join lateral unnest(heads.queues, heads.priorities) as head (queue, priority)
    cross join lateral (
        select job.scheduled_at
        from roost.jobs as job
        where job.queue = head.queue
            and job.priority = head.priority
            and {{claimable}}
            and job.scheduled_at > now()
        order by job.scheduled_at
        limit 1
    ) as soonest
    where (select count(*) from picked) < (select $4::integer)
)
-- Always at least one row: it carries the seconds when nothing was claimed.
select
    (select upcoming.seconds from upcoming),
    -- The worker's credit, 0 if a producer has consumed it, null if the worker's row is gone.
    (select coalesce(worker.credit, 0) from roost.workers as worker where worker.id = $1::bigint),
    claimed.*
from (values (1)) as one (row)
left join claimed on true
order by claimed.priority, claimed.scheduled_at, claimed.id;
