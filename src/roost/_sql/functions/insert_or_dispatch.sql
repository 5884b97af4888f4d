-- Insert one job, and dispatch it to an idle worker that has granted a credit: that worker runs it
-- without a claim. See docs/explanation/decisions/0007-direct-dispatch.md.
create or replace function roost.insert_or_dispatch(content text, out new_id bigint)
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    -- The transaction needs its number before it reads which workers want notifications; see
    -- roost.announce.
    transaction_number xid8 := pg_current_xact_id();
    new_job record;
    receiver_id bigint;
    receiver_credit bigint;
    receiver_channel text;
    receiver_ready boolean;
    receiver_wants_notify boolean;
    notifies boolean := false;
    dispatched boolean := false;
begin
    {{read_new_job}}
    new_id := nextval('roost.jobs_id_seq');

    if new_job.due_at > statement_timestamp() + interval '1 minute' then
        null;  -- workers poll before that
    elsif current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
        notifies := true;  -- its snapshot may miss a worker; see roost.announce
    else
        select
            worker.id,
            worker.credit,
            worker.channel,
            worker.credit is not null
                and new_job.task = any (worker.tasks)
                and (
                    worker.credit_queues is null
                    or new_job.queue = any (worker.credit_queues)
                )
                and new_job.due_at <= statement_timestamp()
                and not new_job.limited
                -- If the worker dies before it accepts the job, the attempt may be used up.
                and new_job.max_attempts > 1
                -- The worker's listening connection holds this lock while it is open.
                and not pg_try_advisory_xact_lock_shared(hashtextextended(worker.channel, 0::bigint))
                as is_ready,
            worker.wants_notify
        into receiver_id, receiver_credit, receiver_channel, receiver_ready,
            receiver_wants_notify
        from roost.workers as worker
        where (worker.wants_notify or worker.credit is not null)
            and worker.expires_at > now()
            and new_job.queue = any (worker.queues)
        order by is_ready desc nulls last, worker.wants_notify desc, worker.heartbeat_at desc
        limit 1;
        notifies := coalesce(receiver_wants_notify, false);
        -- With a unique key the insert may wait for another transaction, for any time. The worker's
        -- row must not be locked meanwhile: its heartbeat writes it. So the credit is consumed after
        -- the insert.
        if receiver_ready and new_job.unique_key is null then
            dispatched := roost.consume_credit(receiver_id, receiver_credit, new_job.queue, new_id);
        end if;
    end if;

    insert into roost.jobs as job (
        id, args, unique_key, limit_key, state, attempt, lease_no, worker_id, attempted_at,
        {{new_job_columns}}
    )
    overriding system value
    values (
        new_id, new_job.args, new_job.unique_key, new_job.limit_key,
        case when dispatched then 'executing' else 'available' end,
        case when dispatched then 1 else 0 end,
        case when dispatched then 1 else 0 end,
        case when dispatched then receiver_id end,
        case when dispatched then statement_timestamp() end,
        {{new_job_values}}
    )
    {{unless_key_is_taken}}
    returning job.id into new_id;

    if new_id is null then
        return;
    end if;
    if new_job.limited and new_job.limit_key is not null then
        perform roost.wake_key(
            new_job.task, new_job.limit_key, new_job.queue, new_job.due_at
        );
    end if;
    if receiver_ready and new_job.unique_key is not null then
        dispatched := roost.consume_credit(receiver_id, receiver_credit, new_job.queue, new_id);
        if dispatched then
            update roost.jobs as job
            set state = 'executing',
                attempt = 1,
                lease_no = 1,
                worker_id = receiver_id,
                attempted_at = statement_timestamp()
            where job.id = new_id;
        end if;
    end if;
    if not dispatched then
        if notifies then
            perform pg_notify('roost_jobs', new_job.queue);
        elsif receiver_ready then
            -- Another producer has consumed the credit. Another worker may want a notification.
            perform roost.announce(new_job.queue);
        end if;
        return;
    end if;
    perform pg_notify(receiver_channel, 'dispatched');
    -- If the worker's event loop is blocked, one of two other workers takes the job over.
    perform pg_notify(watcher.channel, 'watch')
    from (
        select worker.channel
        from roost.workers as worker
        where worker.id <> receiver_id
            and worker.channel is not null
            and worker.expires_at > now()
            and new_job.queue = any (worker.queues)
            and new_job.task = any (worker.tasks)
        -- A worker that has not accepted a job itself may be blocked, too, so it comes last.
        order by worker.dispatched_job_id is null desc, worker.wants_notify desc, random()
        limit 2
    ) as watcher;
end
$$;

revoke execute on function roost.insert_or_dispatch(text) from public;

comment on function roost.insert_or_dispatch is
    'Insert one job, and dispatch it to a worker that has granted a credit. Only in a transaction that commits at once: it locks the worker''s row.';
