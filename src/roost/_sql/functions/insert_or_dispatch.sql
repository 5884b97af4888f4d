-- A job that is enqueued alone goes straight to a worker that waits for one: it needs no claim.
create or replace function roost.insert_or_dispatch(content text, out new_id bigint)
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    -- First the transaction has its number, then it asks who sleeps; see roost.announce.
    transaction_number xid8 := pg_current_xact_id();
    new_job record;
    receiver_id bigint;
    receiver_credit bigint;
    receiver_channel text;
    receiver_ready boolean;
    receiver_sleeps boolean;
    somebody_sleeps boolean := false;
    dispatched boolean := false;
begin
    new_id := nextval('roost.jobs_id_seq');
    select
        {{new_job}}
    into new_job
    from jsonb_to_record(content::jsonb -> 0) as encoded (
        {{new_job_fields}}
    );

    if new_job.due_at > statement_timestamp() + interval '1 minute' then
        null;  -- whoever sleeps looks before that
    elsif current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
        somebody_sleeps := true;  -- who can't see it assumes it; see there, too
    else
        select
            worker.id,
            worker.credit,
            worker.channel,
            worker.credit is not null
                and new_job.task = any (worker.tasks)
                and new_job.due_at <= statement_timestamp()
                and not new_job.limited
                -- Should the worker die before it hears of it, that attempt is used up.
                and new_job.max_attempts > 1
                -- Who can share the lock knows that the worker's listening connection is gone.
                and not pg_try_advisory_xact_lock_shared(hashtextextended(worker.channel, 0::bigint))
                as is_ready,
            worker.wants_notify
        into receiver_id, receiver_credit, receiver_channel, receiver_ready, receiver_sleeps
        from roost.workers as worker
        where (worker.wants_notify or worker.credit is not null)
            and worker.expires_at > now()
            and new_job.queue = any (worker.queues)
        order by is_ready desc nulls last, worker.wants_notify desc, worker.heartbeat_at desc
        limit 1;
        somebody_sleeps := coalesce(receiver_sleeps, false);
        -- With a key the insert may have to wait for another transaction, for any time, and the
        -- worker's row must not be locked then: it needs it for its heartbeat.
        if receiver_ready and new_job.unique_key is null then
            dispatched := roost.consume_credit(receiver_id, receiver_credit, new_job.queue, new_id);
        end if;
    end if;

    insert into roost.jobs as job (
        id, args, unique_key, state, attempt, lease_no, worker_id, attempted_at,
        {{new_job_columns}}
    )
    overriding system value
    values (
        new_id, new_job.args, new_job.unique_key,
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
        if somebody_sleeps then
            perform pg_notify('roost_jobs', new_job.queue);
        elsif receiver_ready then
            -- It was awake, and somebody else has consumed its credit: another one may sleep.
            perform roost.announce(new_job.queue);
        end if;
        return;
    end if;
    perform pg_notify(receiver_channel, 'dispatched');
    -- Should its event loop stand still, another worker takes the job over.
    perform pg_notify(witness.channel, 'watch')
    from (
        select worker.channel
        from roost.workers as worker
        where worker.id <> receiver_id
            and worker.channel is not null
            and worker.expires_at > now()
            and new_job.queue = any (worker.queues)
            and new_job.task = any (worker.tasks)
        -- One that has not accepted a job yet may stand still, too; it is better than none.
        order by worker.dispatched_job_id is null desc, worker.wants_notify desc, random()
        limit 2
    ) as witness;
end
$$;

revoke execute on function roost.insert_or_dispatch(text) from public;

comment on function roost.insert_or_dispatch is
    'Insert one job, and give it to a worker that has offered to run one. Only in a transaction that commits at once: it locks the worker''s row.';
