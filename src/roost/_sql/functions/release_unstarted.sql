-- Release the jobs that a worker without a row had claimed and certainly not started. Their attempt
-- does not count.
--
-- A worker starts its prefetched jobs in claim order. Before it starts some it writes into its row how
-- far it will go (prefetch_started). A dispatched job that it has not accepted did not start either.
-- Locked rows and jobs with a cancel request are left to the rescue.
create or replace function roost.release_unstarted(
    p_worker_id bigint, p_started bigint[], p_dispatched_job_id bigint
)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    number_released bigint;
begin
    with unstarted as materialized (
        select job.id
        from roost.jobs as job
        where job.state = 'executing'
            and job.worker_id = p_worker_id
            and not job.cancel_requested
            and (
                job.id = p_dispatched_job_id
                or roost.is_unstarted(
                    job.prefetch_no, job.priority, job.scheduled_at, job.id,
                    p_started
                )
            )
        order by job.id
        for update of job skip locked
    ),
    released as (
        update roost.jobs as job
        set state = 'available',
            attempt = greatest(job.attempt - 1, 0)
        from unstarted
        where job.id = unstarted.id
        returning job.queue, job.task, job.limit_key
    ),
    notified as (
        select roost.announce(queue)
        from released
        group by queue
        union all
        select roost.wake_key(task, limit_key, queue)
        from released
        where limit_key is not null
        group by task, limit_key, queue
    )
    select count(*)
    into number_released
    from released
    where (select count(*) from notified) >= 0;
    return number_released;
end
$$;

comment on function roost.release_unstarted is
    'Make the jobs available again that a worker without a row had claimed and not started; their attempt does not count.';
