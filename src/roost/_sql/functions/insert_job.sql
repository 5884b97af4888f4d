-- Insert the one job of an encoded array: half of the server's time of insert_jobs.
create or replace function roost.insert_job(content text, out new_id bigint)
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    new_job record;
begin
    {{read_new_job}}

    insert into roost.jobs as job (
        args, unique_key, limit_key,
        {{new_job_columns}}
    )
    values (
        new_job.args, new_job.unique_key, new_job.limit_key,
        {{new_job_values}}
    )
    {{unless_key_is_taken}}
    returning job.id
    into new_id;
    if new_id is null then
        return;
    end if;
    if new_job.limited and new_job.limit_key is not null then
        perform roost.wake_key(
            new_job.task, new_job.limit_key, new_job.queue, new_job.due_at
        );
    end if;
    if new_job.due_at <= statement_timestamp() + interval '1 minute' then
        perform roost.announce(new_job.queue);
    end if;
end
$$;

revoke execute on function roost.insert_job(text) from public;

comment on function roost.insert_job is
    'Insert one job and return its id, or null if an active job has the unique key.';
