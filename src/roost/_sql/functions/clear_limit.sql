-- Remove what set_limit has set of a task: the limits are again those that code declares. The row stays,
-- since jobs of the task stay marked as limited.
create or replace function roost.clear_limit(task text)
returns boolean
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    update roost.limits as known
    set set_max_concurrency = null,
        set_rate_per_minute = null
    where known.task = clear_limit.task
        and (known.set_max_concurrency is not null or known.set_rate_per_minute is not null);
    if not found then
        return false;
    end if;
    perform roost.announce_limit(clear_limit.task);
    return true;
end
$$;

revoke execute on function roost.clear_limit(text) from public;

comment on function roost.clear_limit is
    'Remove the limits that set_limit has set of a task; false: it has set none.';
