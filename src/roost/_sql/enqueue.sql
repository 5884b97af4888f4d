-- name: insert_jobs
-- $1: a JSON array of records, as one text: it survives whatever codec the caller's connection has.
with record as (
    select r.*
    from jsonb_to_recordset($1::text::jsonb) as r (
        queue text,
        task text,
        args jsonb,
        priority integer,
        max_attempts integer,
        scheduled_at timestamptz,
        unique_key text,
        tags text[],
        timeout_seconds integer,
        metadata jsonb
    )
),
inserted as (
    insert into roost.jobs (
        queue, task, args, priority, max_attempts, scheduled_at, inserted_at,
        unique_key, tags, timeout_seconds, metadata
    )
    select
        queue, task, args, priority, max_attempts,
        -- Not now(): that is when the caller's transaction began, maybe long ago.
        coalesce(scheduled_at, statement_timestamp()), statement_timestamp(),
        unique_key, tags, timeout_seconds, metadata
    from record
    on conflict (unique_key)
        where unique_key is not null and state in ('available', 'executing', 'retryable')
        do nothing
    returning id, queue, scheduled_at
),
-- One notification a queue, only for what can start now. Sent when the transaction commits.
notified as (
    select pg_notify('roost_jobs', queue)
    from inserted
    where scheduled_at <= statement_timestamp()
    group by queue
)
select id
from inserted
-- Names the CTE, or Postgres would not run it.
where (select count(*) from notified) >= 0
order by id;

-- name: find_active_by_unique_key
select id
from roost.jobs
where unique_key = $1::text
    and state in ('available', 'executing', 'retryable');
