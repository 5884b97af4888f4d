-- Notify the workers of a queue that want notifications. Others poll every few milliseconds; to notify
-- them would cost the transaction a lock that all commits of the server share.
create or replace function roost.announce(p_queue text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    -- Call it after the rows are written: then the transaction has its number, and this statement has
    -- a snapshot of its own. A worker that asks for notifications too late to be seen here waits until
    -- this transaction has ended (see docs/explanation/decisions/0005-notify-idle-workers.md). With
    -- repeatable read or serializable the snapshot is older and may miss the worker: always notify.
    --
    -- A transaction that notifies can't be prepared for a two-phase commit. It sets
    -- "set local roost.notify = off", and workers find its jobs when they poll.
    if current_setting('roost.notify', true) = 'off' then
        return;
    end if;
    if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted')
        or exists (
            select
            from roost.workers as worker
            where worker.wants_notify
                and worker.expires_at > now()
                and p_queue = any (worker.queues)
        )
    then
        perform pg_notify('roost_jobs', p_queue);
    end if;
end
$$;

comment on function roost.announce is
    'Notify workers at the commit that a job of the queue can start now or within a minute.';
