-- Remove a cron entry. Returns 'removed'; 'declared' if a living worker's code declares it, and then it
-- stays; or null if there is none.
create or replace function roost.remove_cron(p_name text, p_stale_after double precision)
returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    -- Locked first: a worker declares the entry under the same lock.
    perform from roost.cron where name = p_name for update;
    if not found then
        return null;
    end if;
    if exists (
        select
        from roost.cron_declarations as living
        where living.name = p_name
            and living.declared_at >= now() - make_interval(secs => p_stale_after)
    ) then
        return 'declared';
    end if;
    delete from roost.cron_declarations where name = p_name;
    delete from roost.cron where name = p_name;
    -- A worker's code may declare an entry that was added under its name.
    perform pg_notify('roost_cron', '');
    return 'removed';
end
$$;

revoke execute on function roost.remove_cron(text, double precision) from public;

comment on function roost.remove_cron is
    'Remove a cron entry, unless the code of a living worker declares it. p_stale_after: seconds after which a declaration counts as gone.';
