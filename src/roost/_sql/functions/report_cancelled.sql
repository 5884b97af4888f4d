-- Send events of jobs that were cancelled while they waited, if a client listens. Workers send all other
-- events.
create or replace function roost.report_cancelled(p_ids bigint[])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if p_ids is null
        or current_setting('roost.notify', true) = 'off'
        or not roost.is_watched()
    then
        return;
    end if;
    perform pg_notify(
        'roost_events',
        extract(epoch from clock_timestamp())::text
            || ' {"w":null,"g":0,"m":0,"e":['
            || string_agg(each.event, ',' order by each.id)
            || ']}'
    )
    from (
        select
            event.id,
            event.event,
            -- A payload has 8,000 bytes at most, and an event up to 3,500.
            sum(octet_length(event.event) + 1) over (order by event.id) / 3500 as payload_no
        from (
            select
                job.id,
                jsonb_build_array(
                    'cancelled', job.id, job.queue, job.task, job.attempt, job.worker_id, 'cancelled', 0
                )::text as event
            from roost.jobs as job
            where job.id = any (p_ids)
        ) as event
    ) as each
    group by each.payload_no;
end
$$;

comment on function roost.report_cancelled is
    'Send an event of each of these jobs, which this transaction has cancelled, to the clients that listen.';
