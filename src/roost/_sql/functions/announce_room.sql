-- The end of a limited job may let a job of the same task start in any queue, by any worker.
--
-- It is announced by the task's name, without a look at who waits: a job that is enqueued beside this
-- transaction would not be seen, its worker would not see the room yet, and both would go on waiting.
-- A worker that knows of no waiting job of the task asks nothing when it hears of it.
create or replace function roost.announce_room(p_task text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    -- As in roost.announce. A worker that is awake looks by itself.
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
    'Tell the workers that sleep that a limited task may have room for a job; sent at the commit.';
