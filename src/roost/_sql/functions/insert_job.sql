-- Insert the one job of a JSON array of one record: it takes the server half of the time of insert_jobs.
-- The job is announced by itself, since there is nothing to group.
create or replace function roost.insert_job(content text, out new_id bigint)
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    due_at timestamptz;
    its_queue text;
begin
    insert into roost.jobs as job (
        queue, task, args, priority, max_attempts, scheduled_at, inserted_at,
        unique_key, tags, timeout_seconds, metadata, limited
    )
    select
        record.queue, record.task, record.args, record.priority, record.max_attempts,
        coalesce(record.scheduled_at, statement_timestamp()), statement_timestamp(),
        record.unique_key, record.tags, record.timeout_seconds, record.metadata,
        exists (select from roost.limits where limits.task = record.task)
    from jsonb_to_record(content::jsonb -> 0) as record (
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
    on conflict (unique_key)
        where unique_key is not null and state in ('available', 'executing', 'retryable')
        do nothing
    returning job.id, job.scheduled_at, job.queue
    into new_id, due_at, its_queue;
    if due_at <= statement_timestamp() + interval '1 minute' then
        perform roost.announce(its_queue);
    end if;
end
$$;

revoke execute on function roost.insert_job(text) from public;

comment on function roost.insert_job is
    'Insert one job and return its id; null: an active job has the unique key.';
