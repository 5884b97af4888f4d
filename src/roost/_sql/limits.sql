-- name: publish_limits
-- $1 tasks, $2 starts a minute, $3 jobs at once; null: no such limit. $4 the field of args by which they
-- apply. The worker that starts last wins; what set_limit has set stays.
insert into roost.limits as known (
    task, declared_rate_per_minute, declared_max_concurrency, limit_by
)
select *
from unnest($1::text[], $2::integer[], $3::integer[], $4::text[])
order by 1
on conflict (task) do update
set declared_rate_per_minute = excluded.declared_rate_per_minute,
    declared_max_concurrency = excluded.declared_max_concurrency,
    limit_by = excluded.limit_by,
    {{mark_again}}
where (known.declared_rate_per_minute, known.declared_max_concurrency, known.limit_by)
    is distinct from (
        excluded.declared_rate_per_minute, excluded.declared_max_concurrency, excluded.limit_by
    )
returning roost.announce_limit(known.task);

-- name: lift_limits
-- $1 tasks for which a starting worker declares no limit. The rows stay, since jobs of these tasks stay
-- marked as limited.
with excluded as (
    select task, null::text as limit_by
    from unnest($1::text[]) as lifted (task)
)
update roost.limits as known
set declared_rate_per_minute = null,
    declared_max_concurrency = null,
    limit_by = null,
    {{mark_again}}
from excluded
where known.task = excluded.task
    and (
        known.declared_rate_per_minute is not null
        or known.declared_max_concurrency is not null
        or known.limit_by is not null
    )
returning roost.announce_limit(known.task);

-- name: set_limit
-- As in enqueue.sql: only a call of a function, since it may run on a caller's connection.
select roost.set_limit($1::text, $2::integer, $3::integer);

-- name: clear_limit
select roost.clear_limit($1::text);

-- name: list_limits
select
    known.task, known.max_concurrency, known.rate_per_minute, known.declared_max_concurrency,
    known.declared_rate_per_minute, known.set_max_concurrency, known.set_rate_per_minute,
    known.limit_by, coalesce(executing.jobs, 0), started.jobs
from roost.limits as known
left join (
    select job.task, count(*) as jobs
    from roost.jobs as job
    where job.state = 'executing'
    group by job.task
) as executing on executing.task = known.task
cross join lateral (
    select count(*) as jobs
    from roost.starts
    where starts.task = known.task
        and starts.started_at > now() - interval '1 minute'
) as started
where known.max_concurrency is not null
    or known.rate_per_minute is not null
order by known.task;

-- name: limited_tasks
select task
from roost.limits;

-- name: stamp_limits
-- A statement whose snapshot is older than the limit may still insert jobs without the mark. When no
-- such snapshot is left, the current transaction id is higher than that of every such statement.
update roost.limits as known
set snapshots_gone = true,
    published_by = pg_current_xact_id()
where not known.snapshots_gone
    and not exists (
        select
        from pg_stat_activity as other
        where other.datname = current_database()
            and other.pid <> pg_backend_pid()
            and age(other.backend_xmin) >= age(known.published_by::xid)
    );

-- name: unmarked_limits
-- Tasks that may have unmarked jobs, from transactions that could not see the limit. The second column
-- is true when every such transaction has ended, so that no more unmarked jobs can appear; the third, if
-- jobs may have keys of an earlier limit_by.
select
    task,
    snapshots_gone and published_by < pg_snapshot_xmin(pg_current_snapshot()),
    has_stale_keys
from roost.limits
where not all_marked;

-- name: mark_jobs
-- $1 tasks, $2 the most waiting and the most executing jobs. Executing jobs too, since they may wait again
-- for a retry. Blocked jobs are marked when they are released.
with waiting as materialized (
    select job.id
    from roost.jobs as job
    where {{claimable}}
        and job.task = any ($1::text[])
    limit $2::integer
    for update of job skip locked
),
running as materialized (
    select job.id
    from roost.jobs as job
    where job.state = 'executing'
        and not job.limited
        and job.task = any ($1::text[])
    limit $2::integer
    for update of job skip locked
)
update roost.jobs as job
set limited = true,
    limit_key = {{limit_key}}
where job.id = any (array(select id from waiting union all select id from running))
returning
    job.id,
    case
        when job.limit_key is not null and job.state <> 'executing'
            then roost.wake_key(job.task, job.limit_key, job.queue, job.scheduled_at)
    end;

-- name: finish_marking
-- $1 tasks. Skips a task with unmarked jobs: they were locked when mark_jobs ran.
update roost.limits as known
set all_marked = true,
    has_stale_keys = false
where known.task = any ($1::text[])
    and not exists (
        select
        from roost.jobs as job
        where {{claimable}}
            and job.task = known.task
    )
    and not exists (
        select
        from roost.jobs as job
        where job.state = 'executing'
            and not job.limited
            and job.task = known.task
    );

-- name: lock_limits
-- $1 queues, $2 tasks. Lock the limits of those tasks that have waiting jobs, in the order of the tasks.
-- The second column: whether the limits apply by key.
select known.task, known.limit_by is not null
from roost.limits as known
where known.task = any ($2::text[])
    and exists (
        select
        from pg_catalog.unnest($1::text[]) as wanted (queue)
        cross join lateral (
            select
            from roost.jobs as job
            where job.queue = wanted.queue
                and job.task = known.task
                and {{claimable_limited}}
            -- Without the order Postgres may scan the table for the first row.
            order by job.priority, job.scheduled_at, job.id
            limit 1
        ) as waiting
    )
order by known.task
for update of known;

-- name: claim_limited_jobs
-- $1 worker id, $2 queues, $3 tasks whose limits this transaction has locked, $4 all tasks that the
-- worker knows, $5 the most jobs, $6 ids and $7 their keys from ready_jobs: jobs with limit keys that have
-- room. A statement of its own after the lock: only so does it see what the claim before it took.
--
-- Takes the limited jobs that are among the first $5 of all due jobs; the others are claimed by
-- claim_jobs, in what room is left. The first jobs of all queues of a priority come before the second
-- ones, so a queue with a backlog does not keep out the limited jobs of another. See decision 0015.
--
-- Heads, arrays, (select $n) and the limits: as in claim.sql, or the estimates grow with the table until
-- the JIT compiles the plan.
with recursive head (queue, task, priority) as (
    -- One below the smallest integer, so that the step finds the first priority, too.
    select wanted.queue, known.task, bigint '-2147483649'
    from pg_catalog.unnest((select $2::text[])) as wanted (queue)
    cross join pg_catalog.unnest((select $3::text[])) as known (task)
    where not exists (
        select
        from roost.queues as queue
        where queue.name = wanted.queue
            and queue.paused_at is not null
    )
    union all
    select head.queue, head.task, next.priority
    from head
    cross join lateral (
        select job.priority::bigint
        from roost.jobs as job
        where job.queue = head.queue
            and job.task = head.task
            and job.priority > head.priority
            and {{claimable_limited}}
        order by job.priority
        limit 1
    ) as next
),
heads as materialized (
    select
        pg_catalog.array_agg(queue order by priority, queue, task) as queues,
        pg_catalog.array_agg(task order by priority, queue, task) as tasks,
        pg_catalog.array_agg(priority::integer order by priority, queue, task) as priorities
    from head
    where priority >= -2147483648
),
-- A start counts for 61 s, not 60, since a claimed job may wait in the worker for a second before it
-- starts. The executing jobs are counted in the table: a counter could drift.
room as materialized (
    select
        known.task,
        known.rate_per_minute is not null as rated,
        least(
            known.max_concurrency - executing.jobs,
            known.rate_per_minute - started.jobs,
            (select $5::integer)
        ) as jobs,
        known.rate_per_minute - started.jobs as starts,
        coalesce(started.first_at, statement_timestamp()) as first_at
    from roost.limits as known
    cross join lateral (
        select count(*) as jobs
        from roost.jobs as job
        where job.state = 'executing'
            and job.task = known.task
    ) as executing
    cross join lateral (
        select count(*) as jobs, min(starts.started_at) as first_at
        from roost.starts
        where starts.task = known.task
            and starts.started_at > statement_timestamp() - interval '61 seconds'
    ) as started
    where known.task = any ($3::text[])
),
-- Of each task its first jobs, over all queues, as many as it has room for.
allowed as (
    select ranked.id, ranked.queue, ranked.priority, ranked.scheduled_at
    from (
        select
            due.id, due.scheduled_at, head.queue, head.priority, room.jobs,
            row_number() over (
                partition by head.task order by head.priority, due.scheduled_at, due.id
            ) as place
        from heads
        cross join lateral unnest(heads.queues, heads.tasks, heads.priorities)
            as head (queue, task, priority)
        join room on room.task = head.task and room.jobs > 0
        cross join lateral (
            select bounded.id, bounded.scheduled_at
            from (
                select job.id, job.scheduled_at
                from roost.jobs as job
                where job.queue = head.queue
                    and job.task = head.task
                    and job.priority = head.priority
                    and {{claimable_limited}}
                    and job.scheduled_at <= now()
                order by job.scheduled_at, job.id
                limit 1000
            ) as bounded
            limit room.jobs
        ) as due
    ) as ranked
    where ranked.place <= ranked.jobs
    union all
    select job.id, job.queue, job.priority, job.scheduled_at
    from roost.jobs as job
    where job.id = any ((select $6::bigint[])::bigint[])
),
-- The heads of jobs without a limit.
other (queue, priority) as (
    select wanted.queue, bigint '-2147483649'
    from pg_catalog.unnest((select $2::text[])) as wanted (queue)
    where not exists (
        select
        from roost.queues as queue
        where queue.name = wanted.queue
            and queue.paused_at is not null
    )
    union all
    select other.queue, next.priority
    from other
    cross join lateral (
        select job.priority::bigint
        from roost.jobs as job
        where job.queue = other.queue
            and job.priority > other.priority
            and {{claimable}}
        order by job.priority
        limit 1
    ) as next
),
others as materialized (
    select
        pg_catalog.array_agg(queue order by priority, queue) as queues,
        pg_catalog.array_agg(priority::integer order by priority, queue) as priorities
    from other
    where priority >= -2147483648
),
first as (
    select due.id, due.limited
    from (
        select allowed.id, allowed.queue, allowed.priority, allowed.scheduled_at, true as limited
        from allowed
        union all
        select due.id, other.queue, other.priority, due.scheduled_at, false
        from others
        cross join lateral unnest(others.queues, others.priorities) as other (queue, priority)
        cross join lateral (
            select bounded.id, bounded.scheduled_at
            from (
                select job.id, job.scheduled_at
                from roost.jobs as job
                where job.queue = other.queue
                    and job.priority = other.priority
                    and {{claimable}}
                    and job.scheduled_at <= now()
                    and job.task = any ($4::text[])
                order by job.scheduled_at, job.id
                limit 1000
            ) as bounded
            limit (select $5::integer)
        ) as due
    ) as due
    order by
        due.priority,
        row_number() over (partition by due.queue, due.priority order by due.scheduled_at, due.id),
        due.scheduled_at,
        due.id
    limit (select $5::integer)
),
alive as materialized (
    select worker.id
    from roost.workers as worker
    where worker.id = $1::bigint
    for key share
),
picked as materialized (
    select job.id
    from roost.jobs as job
    where job.id = any (array(select first.id from first where first.limited))
        -- Again, for the row as it is now: another transaction may have changed it since it was chosen.
        -- Not in the words of the index, or the planner may walk all waiting jobs of limited tasks.
        and job.state in ('available', 'retryable')
        and job.limited
        and job.pending_parents + 0 = 0
        and job.scheduled_at <= now()
        and job.queue || '' = any ((select $2::text[])::text[])
        and (
            job.task || '' = any ((select $3::text[])::text[])
            or (select $7::text::jsonb) ->> job.id::text = job.limit_key
        )
        and exists (select from alive)
    for update of job skip locked
),
claimed as (
    update roost.jobs as job
    set state = 'executing',
        -- At the end of its type attempt stays and lease_no begins again: an overflow would end every
        -- worker that claims the row.
        attempt = least(job.attempt, 2147483646) + 1,
        lease_no = job.lease_no % 2147483647 + 1,
        worker_id = $1::bigint,
        attempted_at = statement_timestamp(),
        prefetch_no = null
    where job.id = any (array(select picked.id from picked))
    returning
        {{claimed_columns}}
),
counted as (
    insert into roost.starts (task, started_at)
    select claimed.task, statement_timestamp()
    from claimed
    join room on room.task = claimed.task and room.rated
),
forgotten as (
    delete from roost.starts
    where task = any ($3::text[])
        and started_at < statement_timestamp() - interval '61 seconds'
)
select
    extract(epoch from least(
        -- Now, if there is room for more: they come behind jobs without a limit.
        case
            when (select count(*) from allowed) > (select count(*) from first where first.limited)
                then statement_timestamp()
        end,
        -- When a rate that is used up, maybe by this claim, has room again.
        (
            select min(room.first_at) + interval '61 seconds'
            from room
            where room.starts <= (select count(*) from claimed where claimed.task = room.task)
        ),
        -- When the next limited job is due.
        (
            select min(soonest.scheduled_at)
            from heads
            cross join lateral unnest(heads.queues, heads.tasks, heads.priorities)
                as head (queue, task, priority)
            cross join lateral (
                select job.scheduled_at
                from roost.jobs as job
                where job.queue = head.queue
                    and job.task = head.task
                    and job.priority = head.priority
                    and {{claimable_limited}}
                    and job.scheduled_at > now()
                order by job.scheduled_at
                limit 1
            ) as soonest
        )
    ) - statement_timestamp())::double precision,
    (select coalesce(worker.credit, 0) from roost.workers as worker where worker.id = $1::bigint),
    claimed.*
from (values (1)) as one (row)
left join claimed on true
order by claimed.priority, claimed.scheduled_at, claimed.id;

-- name: count_start_now
-- $1 id, $2 worker id, $3 lease number. Move the start that the claim has counted to now. The rate need
-- not be checked again: every claim since then has counted this start, as long as it is in the window.
-- Returns nothing if the start has left the window or was not counted, or if the lease does not hold.
with held as materialized (
    select job.task, job.attempted_at, job.limit_key
    from roost.jobs as job
    where job.id = $1::bigint
        and job.worker_id = $2::bigint
        and job.lease_no = $3::integer
        and job.state = 'executing'
),
counted as materialized (
    select starts.ctid
    from held
    join roost.starts on starts.task = held.task
        and starts.started_at = held.attempted_at
        -- A start that was counted before the task had keys has none.
        and coalesce(starts.limit_key, held.limit_key, '') = coalesce(held.limit_key, '')
    where starts.started_at > statement_timestamp() - interval '60 seconds'
    -- A claim of several jobs has counted several starts with the same time.
    limit 1
    for update of starts skip locked
),
moved as (
    update roost.starts
    set started_at = statement_timestamp()
    where starts.ctid = any (array(select counted.ctid from counted))
    returning starts.task
)
select held.task
from held
where exists (select from moved)
    or not exists (
        select
        from roost.limits as known
        where known.task = held.task
            and known.rate_per_minute is not null
    );
