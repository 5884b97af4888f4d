-- A notification costs its transaction a lock that all commits share: only workers that sleep are
-- notified.
create or replace function roost.announce(p_queue text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    -- Called after the rows are written, so their transaction has its number, and with a snapshot of
    -- its own: a worker that falls asleep too late to be seen here waits for this very transaction
    -- (see the worker's module alertness). Only a snapshot that is kept can miss it altogether.
    --
    -- A transaction that notifies can't be prepared for a two-phase commit: it says so by
    -- "set local roost.notify = off", and its jobs are found when a worker polls.
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
    'Tell the workers that sleep that a job of the queue can start, or will soon; sent at the commit.';
