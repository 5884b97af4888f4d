-- Insert the jobs of an encoded array. The parameter is text, not jsonb: the caller's connection may
-- have a codec of its own for jsonb.
create or replace function roost.insert_jobs(content text, out new_ids bigint[])
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    with inserted as (
        insert into roost.jobs as job (
            args, unique_key, limit_key,
            {{new_job_columns}}
        )
        select
            new_job.args, new_job.unique_key,
            {{new_limit_key}},
            {{new_job_values}}
        from (
            select
                {{new_job}}
            from jsonb_to_recordset(content::jsonb) as encoded (
                {{new_job_fields}}
            )
        ) as new_job
        where
            {{key_is_unused}}
        {{unless_key_is_taken}}
        returning job.id, job.task, job.queue, job.scheduled_at, job.limited, job.limit_key
    ),
    -- One notification a queue, and only for jobs that are due within a minute: the worker's claim then
    -- tells it when the next one is due. Polling finds later jobs in time.
    notified as (
        select roost.announce(inserted.queue)
        from inserted
        where inserted.scheduled_at <= statement_timestamp() + interval '1 minute'
        group by inserted.queue
        union all
        {{wake_inserted}}
    )
    select array_agg(inserted.id order by inserted.id)
    into new_ids
    from inserted
    -- Postgres skips a select CTE that is not referenced.
    where (select count(*) from notified) >= 0;
end
$$;

revoke execute on function roost.insert_jobs(text) from public;

comment on function roost.insert_jobs is
    'Insert jobs and return the ids of the inserted ones, or null; a job is left out if an active job has its unique key.';
