-- name: write_rollups
-- $1 worker id, $2 the number of this batch, $3 a JSON array of roll-ups, $4 how many seconds ago the
-- middle of the time was that they cover, $5 whether an earlier try of this batch may have written it.
-- Returns the seconds since the minute began.
with written as (
    insert into roost.rollups (
        minute, worker_id, batch, queue, task, outcome, count, wait_seconds, run_seconds, wait, run
    )
    select
        date_trunc('minute', now() - make_interval(secs => $4::double precision)), $1::bigint,
        $2::integer, one.queue, one.task, one.outcome, one.count, one.wait_seconds, one.run_seconds,
        one.wait, one.run
    from jsonb_to_recordset($3::text::jsonb) as one (
        queue text,
        task text,
        outcome text,
        count bigint,
        wait_seconds double precision,
        run_seconds double precision,
        wait numeric,
        run numeric
    )
    where not (
        $5::boolean
        and exists (
            select
            from roost.rollups as before
            where before.seconds = 60
                and before.worker_id = $1::bigint
                and before.batch = $2::integer
        )
    )
)
select date_part('second', now());

-- name: merge_minutes
-- Merge the rows of the oldest minute that several workers have written, which began ten minutes to an
-- hour ago, into one for each queue, task and outcome. Returns how many were merged.
with alone as materialized (
    select pg_try_advisory_xact_lock(hashtextextended('roost.rollups', 0::bigint)) as locked
),
oldest as materialized (
    select rollup.minute
    from roost.rollups as rollup
    where rollup.seconds = 60
        and rollup.worker_id is not null
        and rollup.minute >= now() - interval '1 hour'
        and rollup.minute < now() - interval '10 minutes'
        and (select alone.locked from alone)
    group by rollup.minute
    having min(rollup.worker_id) <> max(rollup.worker_id)
    order by rollup.minute
    limit 1
),
gone as (
    delete from roost.rollups as rollup
    using oldest
    where rollup.minute = oldest.minute
        and rollup.seconds = 60
    returning rollup.*
),
merged as (
    insert into roost.rollups (
        minute, queue, task, outcome, count, wait_seconds, run_seconds, wait, run
    )
    select
        minute, queue, task, outcome, sum(count)::bigint, sum(wait_seconds), sum(run_seconds), sum(wait),
        sum(run)
    from gone
    group by minute, queue, task, outcome
)
select count(*) from gone;

-- name: merge_hours
-- $1 the most rows to merge. Merge the oldest rows of one hour, which has ended two hours ago or earlier,
-- into one for each queue, task and outcome. Returns how many were merged. The lock lets one worker do
-- it at a time: two would leave two rows.
with alone as materialized (
    select pg_try_advisory_xact_lock(hashtextextended('roost.rollups', 0::bigint)) as locked
),
oldest as materialized (
    select date_trunc('hour', rollup.minute, 'UTC') as hour
    from roost.rollups as rollup
    where rollup.seconds = 60
        and rollup.minute < date_trunc('hour', now() - interval '2 hours', 'UTC')
        and (select alone.locked from alone)
    order by rollup.minute
    limit 1
),
picked as materialized (
    select rollup.id
    from oldest
    join roost.rollups as rollup
        on rollup.seconds = 60
        and rollup.minute >= oldest.hour
        and rollup.minute < oldest.hour + interval '1 hour'
    order by rollup.minute, rollup.id
    limit $1::integer
),
gone as (
    delete from roost.rollups as rollup
    where rollup.id = any (array(select picked.id from picked))
    returning rollup.*
),
merged as (
    insert into roost.rollups (
        minute, seconds, queue, task, outcome, count, wait_seconds, run_seconds, wait, run
    )
    select
        (select oldest.hour from oldest), 3600, queue, task, outcome, sum(count)::bigint, sum(wait_seconds),
        sum(run_seconds), sum(wait), sum(run)
    from gone
    group by queue, task, outcome
)
select count(*) from gone;

-- name: delete_rollups
-- $1 the most. Delete rows that are older than 14 days. Returns how many.
with gone as (
    delete from roost.rollups
    where id = any (array(
        select old.id
        from roost.rollups as old
        where old.minute < now() - interval '14 days'
        order by old.minute
        limit $1::integer
    ))
    returning id
)
select count(*) from gone;

-- name: read_bounds
-- The windows of an overview: the time, where the minute ends, and where minute, hour and day begin.
-- Workers write a minute within 20 seconds after its end. The day begins with a whole hour, as older rows
-- do.
select
    now(), bounds.until, bounds.until - interval '1 minute', bounds.until - interval '1 hour',
    date_trunc('hour', bounds.until - interval '23 hours 1 minute', 'UTC')
from (select date_trunc('minute', now() - interval '20 seconds')) as bounds (until);

-- name: read_rollups
-- $1 the end of the minute, $2 to $4 the beginnings of the minute, the hour and the day, which end now.
-- For each of these three the number of attempts and the histograms of their times.
select
    queue, task, outcome,
    coalesce(sum(count) filter (where minute >= $2::timestamptz and minute < $1::timestamptz), 0)::bigint,
    coalesce(sum(wait) filter (where minute >= $2::timestamptz and minute < $1::timestamptz), 0)::text,
    coalesce(sum(run) filter (where minute >= $2::timestamptz and minute < $1::timestamptz), 0)::text,
    coalesce(sum(count) filter (where minute >= $3::timestamptz), 0)::bigint,
    coalesce(sum(wait) filter (where minute >= $3::timestamptz), 0)::text,
    coalesce(sum(run) filter (where minute >= $3::timestamptz), 0)::text,
    sum(count)::bigint, sum(wait)::text, sum(run)::text
from roost.rollups
where minute >= $4::timestamptz
group by queue, task, outcome;
