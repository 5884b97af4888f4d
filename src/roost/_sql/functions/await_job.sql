-- Ask for a notification when a job ends, and read its state. The read is a statement of its own, so
-- that it sees an end that was committed before the job was marked.
create or replace function roost.await_job(p_id bigint)
returns table (job_state text, job_result text, job_errors text)
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    skipped_queue text;
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
    into skipped_queue;

    -- A claim skips locked rows, and may have skipped this one just now: let workers claim again.
    if skipped_queue is not null then
        perform roost.announce(skipped_queue);
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
    'Return the state, result and errors of a live or archived job, and request a notification of its end.';
