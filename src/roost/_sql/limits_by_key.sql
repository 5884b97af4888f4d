-- name: drain_key_wakes
-- $1 tasks with limits by key, locked by this transaction. Move requests to look at keys into ready_keys;
-- returns how many. Keys that wait for the end of a job are ready, too: one may have ended.
with taken as (
    delete from roost.key_wakes
    where ctid = any (array(
        select wake.ctid
        from roost.key_wakes as wake
        where wake.task = any ($1::text[])
        limit 2000
    ))
    returning task, limit_key, queue, ready_at
),
wanted as (
    select task, limit_key, queue, ready_at
    from taken
    union all
    select full_key.task, full_key.limit_key, full_key.queue, statement_timestamp()
    from (select distinct task, limit_key from taken) as key
    cross join lateral (
        select ready.task, ready.limit_key, ready.queue
        from roost.ready_keys as ready
        where ready.task = key.task
            and ready.limit_key = key.limit_key
            and ready.ready_at = '9998-12-31Z'
        limit 1000
    ) as full_key
),
moved as (
    insert into roost.ready_keys as ready (task, limit_key, queue, ready_at)
    select task, limit_key, queue, min(ready_at)
    from wanted
    group by task, limit_key, queue
    on conflict (task, limit_key, queue) do update
    set ready_at = excluded.ready_at
    where ready.ready_at > excluded.ready_at
)
select count(*)
from taken;

-- name: ready_jobs
-- $1 queues, $2 tasks with limits by key, locked by this transaction, $3 the most jobs, $4 the most keys.
-- Returns the ids of jobs that their keys have room for, a JSON object of their keys by id, and the keys
-- looked at: task and key. The keys come in the order in which they were ready, and each gives one job
-- before one gives two. The jobs of a key come in their order over all of the queues.
with recursive served as materialized (
    select wanted.queue
    from pg_catalog.unnest((select $1::text[])) as wanted (queue)
    where not exists (
        select
        from roost.queues as queue
        where queue.name = wanted.queue
            and queue.paused_at is not null
    )
),
key as materialized (
    select first.task, first.limit_key, min(first.ready_at) as ready_at
    from (
        select head.task, head.limit_key, head.ready_at
        from pg_catalog.unnest((select $2::text[])) as known (task)
        cross join served
        cross join lateral (
            select ready.task, ready.limit_key, ready.ready_at
            from roost.ready_keys as ready
            where ready.task = known.task
                and ready.queue = served.queue
                and ready.ready_at <= statement_timestamp()
            order by ready.ready_at
            limit (select $4::integer)
        ) as head
        order by head.ready_at
        limit (select $4::integer)
    ) as first
    group by first.task, first.limit_key
),
room as materialized (
    select
        key.task,
        key.limit_key,
        key.ready_at,
        -- Twice an equal share, since some keys have fewer jobs.
        least(
            known.max_concurrency - executing.jobs,
            known.rate_per_minute - started.jobs,
            greatest(2 * (select $3::integer) / (select count(*) from key), 1)
        ) as jobs
    from key
    join roost.limits as known on known.task = key.task
    cross join lateral (
        select count(*) as jobs
        from roost.jobs as job
        where job.state = 'executing'
            and job.task = key.task
            and job.limit_key = key.limit_key
    ) as executing
    cross join lateral (
        select count(*) as jobs
        from roost.starts
        where starts.task = key.task
            and starts.limit_key = key.limit_key
            and starts.started_at > statement_timestamp() - interval '61 seconds'
    ) as started
),
head (task, limit_key, queue, priority) as (
    select room.task, room.limit_key, served.queue, bigint '-2147483649'
    from room
    cross join served
    where room.jobs > 0
    union all
    select head.task, head.limit_key, head.queue, next.priority
    from head
    cross join lateral (
        select job.priority::bigint
        from roost.jobs as job
        where job.task = head.task
            and job.limit_key = head.limit_key
            and job.queue = head.queue
            and job.priority > head.priority
            and {{claimable_keyed}}
        order by job.priority
        limit 1
    ) as next
),
due as (
    select
        job.id,
        room.ready_at,
        room.jobs,
        room.limit_key,
        row_number() over (
            partition by room.task, room.limit_key
            order by job.priority, job.scheduled_at, job.id
        ) as place
    from room
    cross join lateral (
        select bounded.id, head.priority, bounded.scheduled_at
        from head
        cross join lateral (
            select job.id, job.scheduled_at
            from roost.jobs as job
            where job.task = head.task
                and job.limit_key = head.limit_key
                and job.queue = head.queue
                and job.priority = head.priority
                and {{claimable_keyed}}
                and job.scheduled_at <= now()
            order by job.scheduled_at, job.id
            limit room.jobs
        ) as bounded
        where head.task = room.task
            and head.limit_key = room.limit_key
            and head.priority >= -2147483648
    ) as job
)
select
    chosen.ids,
    chosen.keys::text,
    (select pg_catalog.array_agg(key.task order by key.ready_at, key.limit_key) from key),
    (select pg_catalog.array_agg(key.limit_key order by key.ready_at, key.limit_key) from key)
from (
    select
        pg_catalog.array_agg(first.id) as ids,
        pg_catalog.jsonb_object_agg(first.id, first.limit_key) as keys
    from (
        select due.id, due.limit_key
        from due
        where due.place <= due.jobs
        order by due.place, due.ready_at, due.id
        limit (select $3::integer)
    ) as first
) as chosen;

-- name: settle_keys
-- $1 queues, $2 tasks and $3 keys that ready_jobs has looked at, $4 ids of their claimed jobs, $5 all ids
-- that it has returned. Count the starts, and set when a claim looks at each key again: now, if it has room
-- and a due job; when its rate has room, or its next job is due; or when a job of it has ended.
--
-- A key of which ready_jobs has returned a job goes behind the others, also if that job was not claimed: it
-- may be locked for long. A key that had no turn keeps its place: moved with the others, it would lose
-- against the same key in each claim.
with recursive visited as materialized (
    select key.task, key.limit_key
    from unnest($2::text[], $3::text[]) as key (task, limit_key)
),
had_turn as materialized (
    select distinct job.task, job.limit_key
    from roost.jobs as job
    where job.id = any ((select $5::bigint[])::bigint[])
),
started as materialized (
    select job.task, job.limit_key, job.attempted_at
    from roost.jobs as job
    join roost.limits as known on known.task = job.task
    where job.id = any ((select $4::bigint[])::bigint[])
        and known.rate_per_minute is not null
),
counted as (
    insert into roost.starts (task, started_at, limit_key)
    select task, attempted_at, limit_key
    from started
),
forgotten as (
    delete from roost.starts
    where task = any ($2::text[])
        and started_at < statement_timestamp() - interval '61 seconds'
),
room as materialized (
    select
        visited.task,
        visited.limit_key,
        (visited.task, visited.limit_key) in (
            select had_turn.task, had_turn.limit_key
            from had_turn
        ) as had_turn,
        known.max_concurrency - executing.jobs as jobs,
        known.rate_per_minute - earlier.jobs - fresh.jobs as starts,
        coalesce(earlier.first_at, statement_timestamp()) + interval '61 seconds' as free_at
    from visited
    join roost.limits as known on known.task = visited.task
    cross join lateral (
        select count(*) as jobs
        from roost.jobs as job
        where job.state = 'executing'
            and job.task = visited.task
            and job.limit_key = visited.limit_key
    ) as executing
    cross join lateral (
        select count(*) as jobs, min(starts.started_at) as first_at
        from roost.starts
        where starts.task = visited.task
            and starts.limit_key = visited.limit_key
            and starts.started_at > statement_timestamp() - interval '61 seconds'
    ) as earlier
    cross join lateral (
        select count(*) as jobs
        from started
        where started.task = visited.task
            and started.limit_key = visited.limit_key
    ) as fresh
),
head (task, limit_key, queue, priority) as (
    select visited.task, visited.limit_key, ready.queue, bigint '-2147483649'
    from visited
    cross join unnest($1::text[]) as wanted (queue)
    join roost.ready_keys as ready on ready.task = visited.task
        and ready.limit_key = visited.limit_key
        and ready.queue = wanted.queue
    union all
    select head.task, head.limit_key, head.queue, next.priority
    from head
    cross join lateral (
        select job.priority::bigint
        from roost.jobs as job
        where job.task = head.task
            and job.limit_key = head.limit_key
            and job.queue = head.queue
            and job.priority > head.priority
            and {{claimable_keyed}}
        order by job.priority
        limit 1
    ) as next
),
upcoming as materialized (
    select head.task, head.limit_key, head.queue, min(soonest.scheduled_at) as due_at
    from head
    left join lateral (
        select job.scheduled_at
        from roost.jobs as job
        where job.task = head.task
            and job.limit_key = head.limit_key
            and job.queue = head.queue
            and job.priority = head.priority
            and {{claimable_keyed}}
        order by job.scheduled_at
        limit 1
    ) as soonest on true
    group by head.task, head.limit_key, head.queue
),
emptied as (
    delete from roost.ready_keys as ready
    using upcoming
    where ready.task = upcoming.task
        and ready.limit_key = upcoming.limit_key
        and ready.queue = upcoming.queue
        and upcoming.due_at is null
)
update roost.ready_keys as ready
set ready_at = case
        when room.jobs <= 0 then '9998-12-31Z'
        when room.starts <= 0 then greatest(room.free_at, upcoming.due_at)
        when room.had_turn then greatest(statement_timestamp(), upcoming.due_at)
        else greatest(least(ready.ready_at, statement_timestamp()), upcoming.due_at)
    end
from upcoming
join room on room.task = upcoming.task and room.limit_key = upcoming.limit_key
where ready.task = upcoming.task
    and ready.limit_key = upcoming.limit_key
    and ready.queue = upcoming.queue
    and upcoming.due_at is not null
returning ready.limit_key;

-- name: next_ready_key
-- $1 queues, $2 tasks. Seconds until a key is ready.
select extract(epoch from min(soonest.ready_at) - statement_timestamp())::double precision
from pg_catalog.unnest($1::text[]) as wanted (queue)
cross join pg_catalog.unnest($2::text[]) as known (task)
cross join lateral (
    select ready.ready_at
    from roost.ready_keys as ready
    where ready.task = known.task
        and ready.queue = wanted.queue
    order by ready.ready_at
    limit 1
) as soonest
where soonest.ready_at < '9998-12-31Z'
    and not exists (
        select
        from roost.queues as queue
        where queue.name = wanted.queue
            and queue.paused_at is not null
    );

-- name: queues_of_limited
-- $1 task. The queues in which jobs of it wait.
with recursive head (queue) as (
    (
        select job.queue
        from roost.jobs as job
        where {{claimable_limited}}
        order by job.queue
        limit 1
    )
    union all
    select next.queue
    from head
    cross join lateral (
        select job.queue
        from roost.jobs as job
        where job.queue > head.queue
            and {{claimable_limited}}
        order by job.queue
        limit 1
    ) as next
)
select head.queue
from head
where exists (
    select
    from roost.jobs as job
    where job.queue = head.queue
        and job.task = $1::text
        and {{claimable_limited}}
);

-- name: renew_keys
-- $1 task, $2 queue, $3 to $5 a place (priority, scheduled_at, id), $6 the most jobs. Give waiting jobs
-- behind that place the keys that limit_by says now. Returns the last place looked at, how many jobs were
-- looked at, and how many had another key, locked ones included.
with page as materialized (
    select job.id, job.priority, job.scheduled_at
    from roost.jobs as job
    where job.queue = $2::text
        and job.task = $1::text
        and (job.priority, job.scheduled_at, job.id)
            > ($3::integer, $4::timestamptz, $5::bigint)
        and {{claimable_limited}}
    order by job.priority, job.scheduled_at, job.id
    limit $6::integer
),
stale as materialized (
    select job.id
    from roost.jobs as job
    where job.id = any (array(select page.id from page))
        and job.limit_key is distinct from {{renewed_limit_key}}
),
held as materialized (
    select job.id
    from roost.jobs as job
    where job.id = any (array(select stale.id from stale))
        and {{claimable_limited}}
    for update of job skip locked
),
renewed as (
    update roost.jobs as job
    set limit_key = {{renewed_limit_key}}
    where job.id = any (array(select held.id from held))
    returning job.task, job.limit_key, job.queue, job.scheduled_at
),
woken as (
    select roost.wake_key(task, limit_key, queue, min(scheduled_at))
    from renewed
    where limit_key is not null
    group by task, limit_key, queue
)
select last.priority, last.scheduled_at, last.id, number.jobs, number.stale
from (
    select (select count(*) from page) as jobs, (select count(*) from stale) as stale
    where (select count(*) from woken) >= 0
) as number
left join lateral (
    select page.priority, page.scheduled_at, page.id
    from page
    order by page.priority desc, page.scheduled_at desc, page.id desc
    limit 1
) as last on true;

-- name: renew_running_keys
-- $1 tasks. The same for executing jobs, so that they count for the keys that limit_by says now. Locked
-- ones are left to the next call.
with held as materialized (
    select job.id
    from roost.jobs as job
    where job.state = 'executing'
        and job.limited
        and job.task = any ($1::text[])
        and job.limit_key is distinct from {{renewed_limit_key}}
    for update of job skip locked
)
update roost.jobs as job
set limit_key = {{renewed_limit_key}}
where job.id = any (array(select held.id from held))
returning job.id;

-- name: keyed_tasks
select task
from roost.limits
where limit_by is not null
order by task;

-- name: revisit_keys
-- $1 to $3 a place (task, key, queue), $4 the most keys. Request a look at the keys behind that place
-- that have waiting jobs and are not ready yet: in case that a request was lost. Returns the last place.
with recursive head (task, limit_key, queue, number) as (
    (
        select job.task, job.limit_key, job.queue, 1
        from roost.jobs as job
        where (job.task, job.limit_key, job.queue) > ($1::text, $2::text, $3::text)
            and {{claimable_keyed}}
        order by job.task, job.limit_key, job.queue
        limit 1
    )
    union all
    select next.task, next.limit_key, next.queue, head.number + 1
    from head
    cross join lateral (
        select job.task, job.limit_key, job.queue
        from roost.jobs as job
        where (job.task, job.limit_key, job.queue) > (head.task, head.limit_key, head.queue)
            and {{claimable_keyed}}
        order by job.task, job.limit_key, job.queue
        limit 1
    ) as next
    where head.number < $4::integer
),
woken as (
    select roost.wake_key(head.task, head.limit_key, head.queue)
    from head
    where exists (
            select
            from roost.limits as known
            where known.task = head.task
                and known.limit_by is not null
        )
        and not exists (
            select
            from roost.ready_keys as ready
            where ready.task = head.task
                and ready.limit_key = head.limit_key
                and ready.queue = head.queue
                and ready.ready_at <= statement_timestamp()
        )
)
select head.task, head.limit_key, head.queue
from head
where (select count(*) from woken) >= 0
order by head.number desc
limit 1;

-- name: forget_keys
-- What is left of tasks whose limits no longer apply by key.
with keyed as materialized (
    select known.task
    from roost.limits as known
    where known.limit_by is not null
),
woken as (
    delete from roost.key_wakes
    where task <> all (array(select keyed.task from keyed))
),
ready as (
    delete from roost.ready_keys
    where task <> all (array(select keyed.task from keyed))
)
select
from keyed
limit 0;
