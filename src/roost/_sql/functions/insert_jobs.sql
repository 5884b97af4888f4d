-- Insert the jobs of a JSON array of records, as one text: it survives whatever codec the caller's
-- connection has.
create or replace function roost.insert_jobs(content text, out new_ids bigint[])
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    with record as (
        select r.*
        from jsonb_to_recordset(content::jsonb) as r (
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
        insert into roost.jobs as job (
            queue, task, args, priority, max_attempts, scheduled_at, inserted_at,
            unique_key, tags, timeout_seconds, metadata, limited
        )
        select
            record.queue, record.task, record.args, record.priority, record.max_attempts,
            -- Not now(): that is when the caller's transaction began, maybe long ago.
            coalesce(record.scheduled_at, statement_timestamp()), statement_timestamp(),
            record.unique_key, record.tags, record.timeout_seconds, record.metadata,
            exists (select from roost.limits where limits.task = record.task)
        from record
        on conflict (unique_key)
            where unique_key is not null and state in ('available', 'executing', 'retryable')
            do nothing
        returning job.id, job.queue, job.scheduled_at
    ),
    -- One notification a queue, only for what can start now or within a minute: who hears of it looks,
    -- and learns when to look again. Polling finds the rest in time. Sent when the transaction commits.
    notified as (
        select roost.announce(inserted.queue)
        from inserted
        where inserted.scheduled_at <= statement_timestamp() + interval '1 minute'
        group by inserted.queue
    )
    select array_agg(inserted.id order by inserted.id)
    into new_ids
    from inserted
    -- Names the CTE, or Postgres would not run it.
    where (select count(*) from notified) >= 0;
end
$$;

revoke execute on function roost.insert_jobs(text) from public;

comment on function roost.insert_jobs is
    'Insert jobs and return the ids of those that their unique keys did not keep out, or null.';
