-- Find the job that keeps new jobs with its unique key out of the table: the one that holds the key, or
-- one that held it until its first claim.
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
        and job.state in ('available', 'executing', 'retryable')
    order by case when job.unique_waiting and job.lease_no > 0 then job.id else 0 end
    limit 1;
end
$$;

revoke execute on function roost.active_job(text) from public;

comment on function roost.active_job is
    'Return the id of the active job that has a unique key, or null.';
