-- Find the job that keeps new jobs with its unique key out of the table.
create or replace function roost.active_job(p_unique_key text, out job_id bigint)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    select job.id
    into job_id
    from roost.jobs as job
    where job.unique_key = p_unique_key
        and job.state in ('available', 'executing', 'retryable');
end
$$;

revoke execute on function roost.active_job(text) from public;

comment on function roost.active_job is
    'Return the id of the active job that has a unique key, or null.';
