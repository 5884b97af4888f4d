-- Notify workers that the limits of a task have changed. A worker that knew of none reads them now. If
-- they are higher, waiting jobs may start, of any key.
create or replace function roost.announce_limit(p_task text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    -- The caller has locked the task's row in roost.limits, as a claim does.
    update roost.ready_keys
    set ready_at = statement_timestamp()
    where task = p_task
        and ready_at > statement_timestamp();
    -- As in roost.announce.
    if current_setting('roost.notify', true) = 'off' then
        return;
    end if;
    perform pg_notify('roost_limits', p_task);
    perform roost.announce_room(p_task);
end
$$;

comment on function roost.announce_limit is
    'Notify workers at the commit that the limits of a task have changed.';
