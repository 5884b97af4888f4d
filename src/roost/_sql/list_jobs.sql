-- name: begin_snapshot
-- All statements of the transaction see the jobs as they are now: a job that is archived or retried
-- meanwhile is neither lost nor doubled.
set transaction isolation level repeatable read, read only;

-- name: bound_search
-- $1 milliseconds that each statement may take, $2 'on' if it may scan the table and sort, else 'off'.
-- Each is planned for its own parameters, and not compiled: that takes longer than most of them. The
-- planner expects matches everywhere in the table, so that a scan and a sort would look cheaper than an
-- index.
select
    set_config('statement_timeout', $1::text, true),
    set_config('plan_cache_mode', 'force_custom_plan', true),
    set_config('jit', 'off', true),
    set_config('enable_seqscan', $2::text, true),
    set_config('enable_bitmapscan', 'off', true),
    set_config('enable_sort', $2::text, true);

-- name: edge_of_newest
-- The id behind the $3 newest jobs with ids between $1 and $2; none: there are no more.
select job.id
from roost.jobs as job
where job.id < $1::bigint
    and job.id > $2::bigint
order by job.id desc
offset $3::integer
limit 1;

-- name: edge_of_newest_archived
-- The same of archived jobs.
select job.id
from roost.jobs_archive as job
where job.id < $1::bigint
    and job.id > $2::bigint
order by job.id desc
offset $3::integer
limit 1;

-- name: walk_jobs
-- Jobs that fit a filter, newest first: $1 to $12 the filter, $13 and $14 ids between these, $15 the
-- most. The planner takes the order of the primary key, unless it may scan and expects few jobs.
select
    {{job_columns}}
from roost.jobs as job
where job.id < $13::bigint
    and job.id > $14::bigint
    and {{matches}}
order by job.id desc
limit $15::integer;

-- name: walk_archive
-- The same of archived jobs.
select
    {{job_columns}}
from roost.jobs_archive as job
where job.id < $13::bigint
    and job.id > $14::bigint
    and {{matches}}
order by job.id desc
limit $15::integer;

-- name: indexed_jobs
-- The same as walk_jobs of jobs that are available, executing, retryable or discarded, which partial
-- indexes hold: $16 to $18 whether available ones, executing ones, and those of the index jobs_counted
-- may fit.
--
-- The fences (offset 0) keep the planner from walking the primary key instead: it expects matches
-- everywhere in the table. A head is a (state, queue) of the index jobs_counted, whose entries are in the
-- order of the ids.
with recursive head (state, queue) as (
    (
        select job.state::text, job.queue::text
        from roost.jobs as job
        where $18::boolean
            and $3::text[] is null
            and {{counted}}
        order by job.state, job.queue
        limit 1
    )
    union all
    select next.state, next.queue
    from head
    cross join lateral (
        select job.state::text, job.queue::text
        from roost.jobs as job
        where (job.state, job.queue) > (head.state, head.queue)
            and {{counted}}
        order by job.state, job.queue
        limit 1
    ) as next
),
counted (id) as (
    select newest.id
    from (
        select head.state, head.queue
        from head
        where head.state = any ($2::text[])
        union all
        select wanted.state, named.queue
        from (
            select distinct given.state
            from pg_catalog.unnest($2::text[]) as given (state)
        ) as wanted
        cross join (
            select distinct given.queue
            from pg_catalog.unnest($3::text[]) as given (queue)
        ) as named
        where $18::boolean
    ) as head
    cross join lateral (
        select job.id
        from roost.jobs as job
        where job.state = head.state
            and job.queue = head.queue
            and {{counted}}
            and job.id < $13::bigint
            and job.id > $14::bigint
            and {{matches}}
        order by job.id desc
        limit $15::integer
    ) as newest
),
found (id) as (
    select counted.id
    from counted
    union all
    select waiting.id
    from (
        select job.id
        from roost.jobs as job
        where $16::boolean
            and {{claimable}}
            and job.state = 'available'
            and job.id < $13::bigint
            and job.id > $14::bigint
            and {{matches}}
        offset 0
    ) as waiting
    union all
    select waiting.id
    from (
        select job.id
        from roost.jobs as job
        where $16::boolean
            and {{claimable_limited}}
            and job.state = 'available'
            and job.id < $13::bigint
            and job.id > $14::bigint
            and {{matches}}
        offset 0
    ) as waiting
    union all
    select running.id
    from (
        select job.id
        from roost.jobs as job
        where $17::boolean
            and job.state = 'executing'
            and job.id < $13::bigint
            and job.id > $14::bigint
            and {{matches}}
        offset 0
    ) as running
)
select
    {{job_columns}}
from roost.jobs as job
where job.id = any (array(
        select found.id
        from found
        order by found.id desc
        limit $15::integer
    ))
order by job.id desc;

-- name: count_ended
-- Up to $4 jobs in the states $1 that ended at or after $2, and before $3.
select count(*)
from (
    select
    from roost.jobs as job
    where job.state in ('completed', 'discarded', 'cancelled')
        and job.state = any ($1::text[])
        and ($2::timestamptz is null or {{ended_at}} >= $2::timestamptz)
        and ($3::timestamptz is null or {{ended_at}} < $3::timestamptz)
    limit $4::integer
) as job;

-- name: count_ended_archived
-- The same of archived jobs.
select count(*)
from (
    select
    from roost.jobs_archive as job
    where job.state = any ($1::text[])
        and ($2::timestamptz is null or {{ended_at}} >= $2::timestamptz)
        and ($3::timestamptz is null or {{ended_at}} < $3::timestamptz)
    limit $4::integer
) as job;

-- name: few_jobs
-- The same as walk_jobs by an index of which few entries fit: all that fit are found and sorted. The
-- range of ids stands behind the fence, or the planner may walk the primary key.
select
    {{job_columns}}
from roost.jobs as job
where job.id = any (array(
        select fitting.id
        from (
            select job.id
            from roost.jobs as job
            where {{matches}}
            offset 0
        ) as fitting
        where fitting.id < $13::bigint
            and fitting.id > $14::bigint
        order by fitting.id desc
        limit $15::integer
    ))
order by job.id desc;

-- name: few_archived_jobs
-- The same of archived jobs.
select
    {{job_columns}}
from roost.jobs_archive as job
where job.id = any (array(
        select fitting.id
        from (
            select job.id
            from roost.jobs_archive as job
            where {{matches}}
            offset 0
        ) as fitting
        where fitting.id < $13::bigint
            and fitting.id > $14::bigint
        order by fitting.id desc
        limit $15::integer
    ))
order by job.id desc;
