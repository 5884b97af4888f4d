-- From here on the end of the job is announced. The look is a statement of its own, so that it sees an
-- end that came first.
create or replace function roost.await_job(p_id bigint)
returns table (job_state text, job_result text, job_errors text)
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    passed_over text;
begin
    update roost.jobs as job
    set awaited = true
    where job.id = p_id
        and not job.awaited
        and job.state in ('available', 'executing', 'retryable')
    returning case
        when job.state in ('available', 'retryable')
            and job.pending_parents = 0
            and job.scheduled_at <= statement_timestamp()
            then job.queue
    end
    into passed_over;

    -- A claim passes over a row that is locked, and may have done so just now.
    if passed_over is not null then
        perform roost.announce(passed_over);
    end if;

    return query
    select job.state::text, job.result::text, job.errors::text
    from roost.jobs as job
    where job.id = p_id
    union all
    select job.state::text, job.result::text, job.errors::text
    from roost.jobs_archive as job
    where job.id = p_id;
end
$$;

revoke execute on function roost.await_job(bigint) from public;

comment on function roost.await_job is
    'Return the state, result and errors of a job, live or archived, and have its end announced.';
