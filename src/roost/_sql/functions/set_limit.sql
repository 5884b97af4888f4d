-- Set limits of a task for all workers, whatever their code declares. Null: that limit stays as it is. The
-- parameters are public and have the names of columns, so that statements qualify them.
create or replace function roost.set_limit(
    task text, max_concurrency integer default null, rate_per_minute integer default null
)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    problem text;
begin
    problem := case
        when task is null or length(task) not between 1 and 200
            then 'task must have 1 to 200 characters'
        when task ~ '[[:cntrl:]]' then 'task must be one line without control characters'
        when btrim(task) = '' then 'task must not be blank'
        when max_concurrency is null and rate_per_minute is null
            then 'pass max_concurrency, rate_per_minute or both; clear_limit removes what was set'
        when max_concurrency < 1 then 'max_concurrency must be 1 or more'
        when rate_per_minute < 1 then 'rate_per_minute must be 1 or more'
    end;
    if problem is not null then
        raise exception '%', problem using errcode = 'check_violation';
    end if;
    insert into roost.limits as known (task, set_max_concurrency, set_rate_per_minute)
    values (set_limit.task, set_limit.max_concurrency, set_limit.rate_per_minute)
    on conflict on constraint limits_pkey do update
    set set_max_concurrency = coalesce(excluded.set_max_concurrency, known.set_max_concurrency),
        set_rate_per_minute = coalesce(excluded.set_rate_per_minute, known.set_rate_per_minute);
    perform roost.announce_limit(set_limit.task);
end
$$;

revoke execute on function roost.set_limit(text, integer, integer) from public;

comment on function roost.set_limit is
    'Set limits of a task for all workers, whatever their code declares; null: that limit stays as it is.';
