-- Insert the one job of an encoded array: half of the server's time of insert_jobs.
create or replace function roost.insert_job(content text, out new_id bigint)
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    due_at timestamptz;
    job_queue text;
begin
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
        from jsonb_to_record(content::jsonb -> 0) as encoded (
            {{new_job_fields}}
        )
    ) as new_job
    where
        {{key_is_unused}}
    {{unless_key_is_taken}}
    returning job.id, job.scheduled_at, job.queue
    into new_id, due_at, job_queue;
    if due_at <= statement_timestamp() + interval '1 minute' then
        perform roost.announce(job_queue);
    end if;
end
$$;

revoke execute on function roost.insert_job(text) from public;

comment on function roost.insert_job is
    'Insert one job and return its id, or null if an active job has the unique key.';
