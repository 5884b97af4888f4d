-- Notify workers that a limited task may have room: a job of it has ended, or its limit was raised. Any
-- worker may start the next one, in any queue.
--
-- It does not check whether a job waits. It would not see a job that another transaction enqueues at
-- the same time, and that job's worker would not see the room yet: both would go on waiting. A worker
-- that knows of no waiting job of the task ignores the notification.
create or replace function roost.announce_room(p_task text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    -- As in roost.announce.
    if current_setting('roost.notify', true) = 'off' then
        return;
    end if;
    if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted')
        or exists (
            select
            from roost.workers as worker
            where worker.wants_notify
                and worker.expires_at > now()
        )
    then
        perform pg_notify('roost_room', p_task);
    end if;
end
$$;

comment on function roost.announce_room is
    'Notify workers at the commit that a limited task may have room for a job.';
