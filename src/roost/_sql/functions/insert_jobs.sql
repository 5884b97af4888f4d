-- Insert the jobs of a JSON array of records, as one text: it survives whatever codec the caller's
-- connection has.
create or replace function roost.insert_jobs(content text, out new_ids bigint[])
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    with inserted as (
        insert into roost.jobs as job (
            args, unique_key,
            {{new_job_columns}}
        )
        select
            new_job.args, new_job.unique_key,
            {{new_job_values}}
        from (
            select
                {{new_job}}
            from jsonb_to_recordset(content::jsonb) as encoded (
                {{new_job_fields}}
            )
        ) as new_job
        {{unless_key_is_taken}}
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
